"""Yield, escape rate and false reject rate with exact intervals. Pure: knows nothing of files, models or the gate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

CONFIDENCE = 0.95
"""Two-sided coverage of every interval, unless another is asked for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion and its interval.

    hits, total: counts, 0 <= hits <= total.
    low, high: ends of the two-sided interval, 0..1; 0 and 1 where nothing was counted.
    """

    hits: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """hits / total; None where nothing was counted."""
        return self.hits / self.total if self.total else None


def rate(hits: int, total: int, confidence: float = CONFIDENCE) -> Rate:
    """The proportion hits / total with its Clopper-Pearson interval.

    confidence: two-sided coverage, 0..1; the true proportion lies inside at least this often.
    Raises ValueError unless 0 <= hits <= total.
    Source: Clopper and Pearson, Biometrika 26 (1934), in its beta form: Brown, Cai and DasGupta, Statistical
    Science 16 (2001), section 4.2.1.
    """
    if not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is no proportion")
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, total - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, total - hits, 1 - tail)) if hits < total else 1.0
    return Rate(hits, total, low, high)


def escape_rate(clean: ArrayLike, accepted: ArrayLike, confidence: float = CONFIDENCE) -> Rate:
    """Artifacts among the accepted; lower is better.

    clean: bool (n,), what people say of each candidate.
    accepted: bool (n,), what the gate decided of the same candidates.
    """
    truth, chosen = _pair(clean, accepted)
    return rate(int(np.sum(chosen & ~truth)), int(np.sum(chosen)), confidence)


def false_reject_rate(clean: ArrayLike, accepted: ArrayLike, confidence: float = CONFIDENCE) -> Rate:
    """Clean ones that were not accepted among all clean ones; lower is better. Arguments as in `escape_rate`."""
    truth, chosen = _pair(clean, accepted)
    return rate(int(np.sum(truth & ~chosen)), int(np.sum(truth)), confidence)


def accepted_at(clean_probs: Iterable[float | None] | NDArray[np.floating], thresholds: Sequence[float]) -> list[int]:
    """How many candidates each threshold would accept.

    clean_probs: 0..1, higher is better; None or NaN where a candidate could not be judged: no threshold accepts it.
    thresholds: 0..1. Compared in float64, as `qgate.gate.decide.decide` does: a float32 comparison would round them.
    """
    ranked = np.sort(_judged(clean_probs))
    return [int(ranked.size - np.searchsorted(ranked, threshold, side="left")) for threshold in thresholds]


def yield_sweep(
    clean_probs: Sequence[float | None] | NDArray[np.floating],
    thresholds: Sequence[float],
    confidence: float = CONFIDENCE,
) -> list[Rate]:
    """The yield at each threshold, over all candidates given; it never rises with the threshold.

    Arguments as in `accepted_at`; candidates that could not be judged count in `total`.
    """
    return [rate(hits, len(clean_probs), confidence) for hits in accepted_at(clean_probs, thresholds)]


def threshold_for(clean_probs: Iterable[float | None] | NDArray[np.floating], count: int) -> float | None:
    """The largest threshold with which at least `count` of the candidates would have been accepted.

    clean_probs: as in `accepted_at`.
    count: at least 1.
    Returns None where fewer than `count` candidates could be judged.
    """
    if count < 1:
        raise ValueError(f"count = {count}: at least 1 is expected")
    judged = _judged(clean_probs)
    if judged.size < count:
        return None
    return float(np.partition(judged, judged.size - count)[judged.size - count])


def _judged(clean_probs: Iterable[float | None] | NDArray[np.floating]) -> NDArray[np.float64]:
    given = clean_probs if isinstance(clean_probs, np.ndarray) else list(clean_probs)
    values = np.asarray(given, dtype=np.float64)
    return values[~np.isnan(values)]


def _pair(clean: ArrayLike, accepted: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    truth, chosen = np.asarray(clean, dtype=np.bool_), np.asarray(accepted, dtype=np.bool_)
    if truth.shape != chosen.shape or truth.ndim != 1:
        raise ValueError(f"one judgement per decision is expected: {truth.shape} and {chosen.shape}")
    return truth, chosen
