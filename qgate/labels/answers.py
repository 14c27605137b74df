"""What an annotator says of a face, as it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qgate.errors import LabelError
from qgate.labels.rows import ARTIFACT_SEVERITY, Face, Label


class Decision(StrEnum):
    """What an annotator says of a face; unsure is a state of its own, never forced into a class."""

    CLEAN = "clean"
    ARTIFACT = "artifact"
    UNSURE = "unsure"


class Purpose(StrEnum):
    """Why a face was shown. Only random and audit labels may enter a rate: the others were chosen by their looks."""

    UNCERTAIN = "uncertain"
    RANDOM = "random"
    DIVERSE = "diverse"
    AUDIT = "audit"
    SUSPECT = "suspect"
    REVIEW = "review"
    GOLD = "gold"
    REPEAT = "repeat"
    IMPORT = "import"
    REFERENCE = "reference"


VOTES = frozenset({Purpose.UNCERTAIN, Purpose.RANDOM, Purpose.DIVERSE, Purpose.AUDIT, Purpose.IMPORT})
"""Independent first answers, which agreement is measured on."""


NEVER_SHOWN = frozenset({Purpose.IMPORT, Purpose.REFERENCE})
"""Answers that came from files, not from the page."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on a face where something is wrong.

    region: of `REGIONS`, "" where none was named.
    points: (x, y) as fractions 0..1 of width and height; of a box its two corners, of a stroke its path.
    radius: of a brush stroke, as a fraction of the width; 0: a box.
    """

    region: str
    points: tuple[tuple[float, float], ...]
    radius: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One judgement as it was given.

    key: made by whoever gives the answer; the same key again is the same answer, kept once.
    severity: 0..3, None where the decision is unsure.
    width, height: of the image in pixels, 0 where unknown.
    seconds: from the face's appearance to the answer.
    score_seen: the gate's score was shown before the answer.
    id, time: given by the store; seconds since 1970.
    """

    face: Face
    annotator: str
    decision: Decision
    severity: int | None
    regions: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    purpose: Purpose = Purpose.RANDOM
    width: int = 0
    height: int = 0
    seconds: float | None = None
    score_seen: bool = False
    key: str = ""
    id: int = 0
    time: float = 0.0

    def __post_init__(self) -> None:
        usual = {Decision.CLEAN: range(ARTIFACT_SEVERITY), Decision.ARTIFACT: range(ARTIFACT_SEVERITY, 4)}
        if self.decision in usual and self.severity not in usual[self.decision]:
            raise LabelError(f"severity {self.severity} does not fit {self.decision}; 0 and 1 are clean, 2 and 3 not")
        if self.decision is Decision.UNSURE and self.severity is not None:
            raise LabelError(f"severity {self.severity} does not fit unsure, which has none")

    def to_label(self) -> Label | None:
        """As a row of the label formats; None where the annotator was unsure."""
        return None if self.severity is None else Label(self.face, self.severity, self.regions, self.annotator)
