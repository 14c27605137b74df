"""The escape rate of a run, from a random sample of its accepted faces that people judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from qgate.labels.answers import Answer, Decision, Purpose
from qgate.labels.rows import Face
from qgate.rates import CONFIDENCE, Rate, escape_rate


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit has found so far.

    wanted, judged: faces of the sample, and those of them that were judged; unsure: those nobody could decide.
    decided: artifacts among the decided faces; cautious: the unsure ones counted as artifacts.
    """

    wanted: int
    judged: int
    unsure: int
    decided: Rate
    cautious: Rate

    @property
    def done(self) -> bool:
        return self.judged >= self.wanted > 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "done": self.done, "value": self.decided.value, "confidence": CONFIDENCE}

    def in_words(self) -> str:
        """A few lines for a terminal."""
        lines = [f"audit: {self.judged} of {self.wanted} accepted faces judged"]
        if self.decided.value is not None:
            lines.append(f"escape rate {_words(self.decided)}")
        if self.unsure:
            lines.append(f"{self.unsure} unsure; counted as artifacts: {_words(self.cautious)}")
        if not self.done:
            lines.append("not finished: the same command goes on")
        return "\n".join(lines)


def audit(sample: Iterable[Face], standing: Iterable[Answer]) -> Audit:
    """The escape rate over the judged faces of a sample; only answers that were given as an audit count.

    Several annotators of a face vote; where they are even, it counts as an artifact.
    """
    wanted = list(sample)
    votes: dict[Face, dict[str, Decision]] = {face: {} for face in wanted}
    for answer in standing:
        if answer.purpose is Purpose.AUDIT and answer.face in votes:
            votes[answer.face][answer.annotator] = answer.decision
    found = [_majority(list(given.values())) for given in votes.values() if given]
    decided = [decision is Decision.CLEAN for decision in found if decision is not Decision.UNSURE]
    unsure = len(found) - len(decided)
    return Audit(
        wanted=len(wanted),
        judged=len(found),
        unsure=unsure,
        decided=escape_rate(decided, [True] * len(decided)),
        cautious=escape_rate(decided + [False] * unsure, [True] * len(found)),
    )


def _majority(given: list[Decision]) -> Decision:
    clean, artifact = given.count(Decision.CLEAN), given.count(Decision.ARTIFACT)
    if clean == artifact == 0:
        return Decision.UNSURE
    return Decision.CLEAN if clean > artifact else Decision.ARTIFACT


def _words(found: Rate) -> str:
    value = "none" if found.value is None else f"{found.value:.2%}"
    return f"{value} ({found.hits} of {found.total}; {CONFIDENCE:.0%} interval {found.low:.2%} to {found.high:.2%})"
