"""How far annotators agree: percent, Cohen's kappa, Krippendorff's alpha, each with an interval. Pure.

Faces are the units: the bootstrap draws faces with replacement, so votes on one face stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgate.labels.answers import Answer, Decision, Purpose
from qgate.labels.rows import SEVERITIES, Face
from qgate.rates import CONFIDENCE, Rate, rate

RESAMPLES = 2000
"""Bootstrap samples of an interval: its ends move by about a hundredth of its width between seeds."""

MIN_UNITS = 10
"""A bootstrap of fewer faces than this says nothing, and looks sure of it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A coefficient and its percentile bootstrap interval.

    value: None where it is undefined; low, high: None then too, and with fewer than `MIN_UNITS` faces.
    units: faces with at least two votes, which it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    units: int


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two annotators on the faces that both decided: clean or artifact."""

    first: str
    second: str
    percent: Rate
    kappa: Estimate


@dataclass(frozen=True, slots=True)
class Agreement:
    """All annotators together.

    percent: pairs of votes on the same face that are equal, mean over faces.
    alpha: of clean or artifact, nominal; severity_alpha: of severity 0..3, ordinal. Unsure is a missing value.
    gold: annotator -> answers equal to the gold ones; consistency: annotator -> repeats equal to the first answer.
    """

    percent: Estimate
    alpha: Estimate
    severity_alpha: Estimate
    pairs: tuple[PairAgreement, ...]
    gold: dict[str, Rate]
    consistency: dict[str, Rate]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        """A line for each number, for a terminal."""
        lines = [
            f"faces with two votes or more    {self.percent.units}",
            f"equal pairs of votes            {_words(self.percent, '.1%')}",
            f"Krippendorff alpha, artifact    {_words(self.alpha)}",
            f"Krippendorff alpha, severity    {_words(self.severity_alpha)}",
        ]
        for pair in self.pairs:
            who = f"{pair.first} and {pair.second}"
            lines.append(f"{who}: equal on {_share(pair.percent)}, Cohen kappa {_words(pair.kappa)}")
        lines += [f"{name}: gold faces right {_share(found)}" for name, found in self.gold.items()]
        lines += [
            f"{name}: repeated faces judged as before {_share(found)}" for name, found in self.consistency.items()
        ]
        return "\n".join(lines)


def measure(votes: Sequence[Answer], standing: Sequence[Answer] = (), seed: int = 0) -> Agreement:
    """Agreement of the votes; `standing` answers, where given, also tell of gold and repeated faces."""
    decisions = _tables(votes, lambda vote: _CODES.get(vote.decision), 2)
    severities = _tables(votes, lambda vote: vote.severity, len(SEVERITIES))
    return Agreement(
        percent=estimate(decisions, percent_of, seed),
        alpha=estimate(decisions, lambda table: alpha_of(table, nominal(2)), seed),
        severity_alpha=estimate(severities, lambda table: alpha_of(table, ordinal(table)), seed),
        pairs=tuple(_pairs(votes, seed)),
        gold=_compare(standing, Purpose.GOLD, lambda answer: answer.purpose is Purpose.REFERENCE, anyone=True),
        consistency=_compare(standing, Purpose.REPEAT, lambda answer: answer.purpose in _ORDINARY, anyone=False),
    )


def estimate(tables: Floats, statistic: Callable[[Floats], float | None], seed: int = 0) -> Estimate:
    """A statistic of summed tables of units, with its interval.

    tables: (units, k, k), one table a face; statistic: of their sum (k, k), None where it is undefined.
    """
    units = len(tables)
    value = statistic(tables.sum(0)) if units else None
    if value is None:
        return Estimate(None, None, None, units)
    if units < MIN_UNITS:
        return Estimate(value, None, None, units)
    random = np.random.default_rng(seed)
    draws = random.multinomial(units, np.full(units, 1 / units), RESAMPLES)
    sums = np.tensordot(draws.astype(np.float64), tables, axes=1)
    found = [result for table in sums if (result := statistic(table)) is not None]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    return Estimate(value, float(low), float(high), units)


def coincidences(values: Iterable[int], k: int) -> Floats:
    """The coincidence table (k, k) of the values 0..k-1 that one face was given; zero for fewer than two.

    Source: Krippendorff, Computing Krippendorff's alpha-reliability (2011), section D.
    """
    counts = np.bincount(np.fromiter(values, np.int64), minlength=k).astype(np.float64)
    total = counts.sum()
    table: Floats = np.zeros((k, k))
    if total >= 2:
        table = (np.outer(counts, counts) - np.diag(counts)) / (total - 1)
    return table


def percent_of(table: Floats) -> float | None:
    """Share of equal pairs in a coincidence table."""
    return float(np.trace(table) / table.sum()) if table.sum() else None


def alpha_of(table: Floats, distance: Floats) -> float | None:
    """Krippendorff's alpha of a coincidence table; None without pairs, or where all values are the same.

    distance: (k, k), squared differences of the values, 0 on the diagonal.
    Source: as `coincidences`.
    """
    margin = table.sum(0)
    total = margin.sum()
    expected = float((np.outer(margin, margin) * distance).sum())
    if total < 2 or expected == 0:
        return None
    return 1 - float(total - 1) * float((table * distance).sum()) / expected


def nominal(k: int) -> Floats:
    """Every two values differ by 1."""
    return 1 - np.eye(k)


def ordinal(table: Floats) -> Floats:
    """Squared differences of ranks, from how often each value occurs. Source: as `coincidences`, section E."""
    margin = table.sum(0)
    below = np.concatenate([[0.0], np.cumsum(margin)])
    middle = below[:-1] + margin / 2
    distance: Floats = np.square(middle[:, None] - middle[None, :])
    return distance


def kappa_of(table: Floats) -> float | None:
    """Cohen's kappa of a confusion table; None where chance alone would agree always.

    Source: Cohen, Educational and Psychological Measurement 20 (1960).
    """
    total = table.sum()
    if not total:
        return None
    chance = float((table.sum(0) * table.sum(1)).sum() / total**2)
    equal = float(np.trace(table)) / float(total)
    return None if chance == 1 else (equal - chance) / (1 - chance)


def _words(found: Estimate, form: str = ".3f") -> str:
    if found.value is None:
        return "undefined: too few votes, or all the same"
    if found.low is None or found.high is None:
        return f"{found.value:{form}} (too few faces for an interval)"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _share(found: Rate) -> str:
    return f"{found.hits} of {found.total} ({found.low:.0%} to {found.high:.0%})"


_CODES: Mapping[Decision, int] = {Decision.CLEAN: 0, Decision.ARTIFACT: 1}
_ORDINARY = frozenset(Purpose) - {Purpose.GOLD, Purpose.REPEAT, Purpose.REFERENCE, Purpose.REVIEW, Purpose.SUSPECT}


def _tables(votes: Sequence[Answer], code: Callable[[Answer], int | None], k: int) -> Floats:
    """A coincidence table (k, k) for each face with at least two votes."""
    values: dict[Face, list[int]] = {}
    for vote in votes:
        if (value := code(vote)) is not None:
            values.setdefault(vote.face, []).append(value)
    tables = [coincidences(given, k) for given in values.values() if len(given) > 1]
    return np.stack(tables) if tables else np.zeros((0, k, k))


def _pairs(votes: Sequence[Answer], seed: int) -> Iterable[PairAgreement]:
    given: dict[str, dict[Face, int]] = {}
    for vote in votes:
        if vote.decision in _CODES:
            given.setdefault(vote.annotator, {})[vote.face] = _CODES[vote.decision]
    names = sorted(given)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            both = [face for face in given[first] if face in given[second]]
            if both:
                tables = np.zeros((len(both), 2, 2))
                for row, face in enumerate(both):
                    tables[row, given[first][face], given[second][face]] = 1
                equal = int(np.trace(tables.sum(0)))
                yield PairAgreement(first, second, rate(equal, len(both)), estimate(tables, kappa_of, seed))


def _compare(
    standing: Sequence[Answer], purpose: Purpose, is_truth: Callable[[Answer], bool], anyone: bool
) -> dict[str, Rate]:
    """How often answers of one purpose equal the true ones: those of anyone, or of the same annotator."""
    truth: dict[tuple[Face, Hashable], Decision] = {}
    for answer in standing:
        if is_truth(answer):
            truth.setdefault((answer.face, None if anyone else answer.annotator), answer.decision)
    hits: dict[str, list[bool]] = {}
    for answer in standing:
        held = truth.get((answer.face, None if anyone else answer.annotator))
        if answer.purpose is purpose and held is not None:
            hits.setdefault(answer.annotator, []).append(answer.decision is held)
    return {name: rate(sum(found), len(found)) for name, found in sorted(hits.items())}
