"""The small records that travel between the parts. Knows nothing of torch, files or models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

REGIONS = (
    "forehead",
    "eyes",
    "mouth",
    "skin",
    "ears",
    "hair",
    "headwear",
    "hand",
    "person",
    "background",
    "clothing",
    "shape",
)
"""The regions of the rubric (`training/labels/RUBRIC.md`) in its order, which is that of a bundle's region outputs."""


NONFINITE = "nonfinite"
DEGENERATE = "degenerate"
NO_FACE = "no_face"
FAULTS = (NONFINITE, DEGENERATE, NO_FACE)
"""Why a candidate is rejected whatever the threshold."""

REASONS = (*REGIONS, *FAULTS)
"""Every word that may stand as the reason of a rejection."""


class Verdict(StrEnum):
    """What became of a candidate. Failed is not rejected: it could not be judged."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Score:
    """What the gate says of one candidate, before any threshold.

    clean_prob: calibrated P(clean), 0..1, higher is better, exactly representable as float32; None where the
        candidate could not be judged or must not be (`fault` says why).
    region_probs: P(artifact in the region), 0..1, in the order of `REGIONS`; empty where `fault` is set.
    fault: None; or `nonfinite` / `degenerate` (rejected whatever the threshold); or, for a candidate that
        could not be judged at all, the error in words (verdict failed).
    """

    clean_prob: float | None
    region_probs: tuple[float, ...] = ()
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate in the ledger.

    file_name: path of the image under `dataset/`, "" unless accepted.
    sha256: hex digest of that file's bytes, "" unless accepted.
    source: for judged files the path they came from, "" for drawn candidates.
    """

    seed: int
    score: Score
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    file_name: str = ""
    sha256: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of verdicts; accepted + rejected + failed = judged."""

    accepted: int = 0
    rejected: int = 0
    failed: int = 0

    @property
    def judged(self) -> int:
        return self.accepted + self.rejected + self.failed

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.accepted + other.accepted, self.rejected + other.rejected, self.failed + other.failed)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Tally:
        """Count the verdicts of ledger rows."""
        verdicts = [row.verdict for row in rows]
        return cls(*(verdicts.count(v) for v in (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.FAILED)))


class StageTimes:
    """Busy seconds and candidates of each stage in this process; stages may be told of from several threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.candidates: dict[str, int] = {}
        self._lock = Lock()

    def add(self, stage: str, seconds: float, candidates: int) -> None:
        with self._lock:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self.candidates[stage] = self.candidates.get(stage, 0) + candidates

    def rates(self) -> dict[str, float]:
        """Candidates per busy second of each stage."""
        with self._lock:
            return {stage: self.candidates[stage] / seconds for stage, seconds in self.seconds.items() if seconds > 0}
