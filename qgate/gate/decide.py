"""Scores + threshold -> verdicts of a run."""

from __future__ import annotations

from qgate.records import FAULTS, REGIONS, Score, Verdict

REASON_PROB = 0.5
"""A region is named as a reason from this probability on; where none reaches it, the likeliest one is named."""


def decide(score: Score, threshold: float) -> tuple[Verdict, tuple[str, ...]]:
    """Judge one candidate.

    score: what the gate says of it.
    threshold: 0..1; accepted iff `clean_prob >= threshold`, so a higher threshold never accepts more.
    Returns the verdict and, for a rejected candidate, at least one reason, the likeliest region first.
    """
    if score.fault in FAULTS:
        return Verdict.REJECTED, (score.fault,)
    if score.fault is not None:
        return Verdict.FAILED, ()
    if score.clean_prob is None:
        raise ValueError("a score without a fault needs a clean_prob")
    if score.clean_prob >= threshold:
        return Verdict.ACCEPTED, ()
    ranked = sorted(zip(score.region_probs, REGIONS, strict=True), key=lambda pair: -pair[0])
    reasons = tuple(region for prob, region in ranked if prob >= REASON_PROB) or (ranked[0][1],)
    return Verdict.REJECTED, reasons
