"""How good clean_prob is: figures with intervals, on numbers alone. Pure.

Everywhere: `clean` bool (n,), what the votes say; `prob` (n,), clean_prob 0..1, higher is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from qgate.errors import QgateError
from qgate.gate.bundle import Calibration
from qgate.rates import CONFIDENCE, Rate, rate
from training.data.targets import Bools, Floats

ECE_BINS = 15
PRIOR_FACES = 50
RIDGE = 30.0
"""How strongly a calibration's region weights are held near 0; of 3, 10, 30 and 100 it foretold votes best."""

THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99)

RECOMMENDABLE = tuple(step / 20 for step in range(10, 20))
"""Thresholds of which a gate recommends one: round numbers from 0.5 to 0.95."""

Metric = Callable[[Bools, Floats], float]


def fit_calibration(logits: Floats, clean_votes: Floats) -> Calibration:
    """The calibration with the least log loss against the votes, its region weights held near 0.

    logits: (n, looks, 1 + regions). clean_votes: (n,), share of votes that say clean, 0..1.
    Raises QgateError where clean_prob would not rise with any look's logit. Source: Platt (1999), with the votes
    themselves as targets; Hoerl and Kennard (1970) for what holds weights near 0.
    """
    if not np.isfinite(logits).all():
        raise QgateError("the training went wrong: what the network says are no numbers; lower the learning rate")
    flat = logits.reshape(len(logits), -1)
    mean, spread = flat.mean(0), flat.std(0)
    is_clean = np.arange(flat.shape[1]) % logits.shape[2] == 0
    if (spread[is_clean] == 0).any():
        raise QgateError("the network learned nothing: it says the same of every face; train longer")
    spread[spread == 0] = 1.0
    scaled = np.column_stack([(flat - mean) / spread, np.ones(len(flat))])
    ridge = np.append(np.where(is_clean, 0.0, RIDGE / len(flat)), 0.0)

    def loss(x: Floats) -> tuple[float, Floats]:
        z = scaled @ x
        value = np.mean(np.logaddexp(0.0, z) - clean_votes * z) + 0.5 * (ridge * x * x).sum()
        return float(value), scaled.T @ (expit(z) - clean_votes) / len(z) + ridge * x

    start = np.append(is_clean.astype(float), 0.0)
    bounds = [(0.0, None) if clean else (None, 0.0) for clean in is_clean] + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9}).x
    weights = found[:-1] / spread
    if not weights[is_clean].any():
        raise QgateError("the network learned nothing: its logits do not rise with clean votes; train longer")
    table = weights.reshape(logits.shape[1:])
    return Calibration(
        weights=tuple(table[:, 0].tolist()),
        region_weights=tuple(map(tuple, table[:, 1:].tolist())),
        offset=float(found[-1] - weights @ mean),
    )


def lean_on(calibration: Calibration, logits: Floats, clean_votes: Floats) -> Floats:
    """Votes for `fit_calibration` as if `PRIOR_FACES` more faces of the same logits had voted as a calibration says.

    So a few faces hardly move the calibration of the gate that a training started from, and many decide by themselves.
    Source: Clogg et al. (1991), a prior as added data.
    """
    n = len(logits)
    leaning: Floats = (n * clean_votes + PRIOR_FACES * calibration.prob(logits)) / (n + PRIOR_FACES)
    return leaning


def to_logits(prob: Floats) -> Floats:
    """Log odds of probabilities; what float32 cannot tell from 0 or 1 counts as 1e-7 away from it."""
    odds: Floats = logit(np.clip(prob, 1e-7, 1 - 1e-7))
    return odds


def auroc(clean: Bools, prob: Floats) -> float:
    """Probability that a clean face has a higher clean_prob than an artifact, ties half; 0.5 is chance.

    Source: Mann and Whitney (1947), by ranks.
    """
    ones = clean.sum()
    return float((rankdata(prob)[clean].sum() - ones * (ones + 1) / 2) / (ones * (len(clean) - ones)))


def auprc_clean(clean: Bools, prob: Floats) -> float:
    """Average precision of finding clean faces; the share of clean ones is chance."""
    return float(average_precision_score(clean, prob))


def auprc_artifact(clean: Bools, prob: Floats) -> float:
    """Average precision of finding artifacts; their share is chance."""
    return float(average_precision_score(~clean, -prob))


def brier(clean: Bools, prob: Floats) -> float:
    """Mean squared distance of clean_prob from what is true, 0..1, lower is better. Source: Brier (1950)."""
    return float(np.mean((prob - clean) ** 2))


def ece(clean: Bools, prob: Floats) -> float:
    """Expected calibration error over 15 bins of equal mass, 0..1, lower is better.

    Source: Naeini, Cooper and Hauskrecht (AAAI 2015), bins as in Nguyen and O'Connor (EMNLP 2015).
    """
    bins = np.array_split(np.argsort(prob, kind="stable"), min(ECE_BINS, len(prob)))
    gaps = [len(rows) * abs(prob[rows].mean() - clean[rows].mean()) for rows in bins]
    return float(np.sum(gaps) / len(prob))


def purity_threshold(clean: Bools, prob: Floats, purity: float) -> float | None:
    """The lowest threshold that accepts faces of which so large a share is clean; None where no threshold does."""
    order = np.argsort(-prob, kind="stable")
    pure = np.cumsum(clean[order]) / np.arange(1, len(order) + 1) >= purity
    last_of_ties = np.append(np.diff(prob[order]) != 0, True)
    good = np.flatnonzero(pure & last_of_ties)
    return float(prob[order[good[-1]]]) if len(good) else None


def recommended_threshold(prob: Floats, purity: float) -> float:
    """The lowest of `RECOMMENDABLE` whose accepted faces have so high a mean clean_prob; the highest if none does.

    What a calibrated gate itself foretells, so that the purity measured on the same faces stays an honest figure.
    """
    enough = (at for at in RECOMMENDABLE if (prob >= at).any() and prob[prob >= at].mean() >= purity)
    return next(enough, RECOMMENDABLE[-1])


def yield_at_purity(purity: float) -> Metric:
    """A metric: the largest share of faces that a threshold accepts while so large a share of them is clean."""

    def metric(clean: Bools, prob: Floats) -> float:
        threshold = purity_threshold(clean, prob, purity)
        return 0.0 if threshold is None else float(np.mean(prob >= threshold))

    return metric


def clean_accepted_at_purity(purity: float) -> Metric:
    """A metric: the share of the clean faces that are accepted at the threshold of `yield_at_purity`."""

    def metric(clean: Bools, prob: Floats) -> float:
        threshold = purity_threshold(clean, prob, purity)
        return 0.0 if threshold is None else float(np.mean(prob[clean] >= threshold))

    return metric


PURITIES = (0.95, 0.98, 0.99)

METRICS: dict[str, Metric] = {
    "auroc": auroc,
    "auprc_clean": auprc_clean,
    "auprc_artifact": auprc_artifact,
    "brier": brier,
    **{f"yield_at_purity_{purity}": yield_at_purity(purity) for purity in PURITIES},
    **{f"clean_accepted_at_purity_{purity}": clean_accepted_at_purity(purity) for purity in PURITIES},
}


def both_kinds(clean: Bools) -> bool:
    """Whether there are clean faces and artifacts, without which most metrics mean nothing."""
    return bool(0 < clean.sum() < len(clean))


def resampled(clean: Bools, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Rows of so many bootstrap resamples, always the same; those of one kind alone are drawn again.

    Source: Efron (1979). Raises ValueError where all faces are of one kind.
    """
    if not both_kinds(clean):
        raise ValueError(f"a bootstrap needs faces of both kinds, not {int(clean.sum())} clean ones of {len(clean)}")
    random = np.random.default_rng(0)
    left = resamples
    while left:
        rows = random.integers(0, len(clean), len(clean))
        if both_kinds(clean[rows]):
            left -= 1
            yield rows


def bootstrap(metric: Metric, clean: Bools, prob: Floats, resamples: int) -> tuple[float, float]:
    """95 % percentile interval over resamples of the faces."""
    return _interval([metric(clean[rows], prob[rows]) for rows in resampled(clean, resamples)])


def paired_bootstrap(metric: Metric, clean: Bools, a: Floats, b: Floats, resamples: int) -> tuple[float, float]:
    """95 % percentile interval of metric(b) - metric(a), both on the same resamples of the faces."""
    return _interval([metric(clean[r], b[r]) - metric(clean[r], a[r]) for r in resampled(clean, resamples)])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def ece_if_calibrated(prob: Floats, resamples: int) -> tuple[float, float]:
    """The 95 % range of the ECE that a perfect clean_prob would show on so many faces, by simulation.

    ECE grows with chance, so a bootstrap of it lies above it and says nothing; this range tells what chance alone does.
    """
    random = np.random.default_rng(0)
    return _interval([ece(random.random(len(prob)) < prob, prob) for _ in range(resamples)])


def threshold_table(clean: Bools, prob: Floats, thresholds: Sequence[float] = THRESHOLDS) -> list[dict[str, Any]]:
    """Rows for `bundle.ThresholdRow`, intervals exact; a threshold that accepts no face has no row."""
    table = []
    for threshold in thresholds:
        accepted = prob >= threshold
        if not accepted.any():
            continue
        purity = rate(int((accepted & clean).sum()), int(accepted.sum()))
        kept = rate(int((accepted & clean).sum()), int(clean.sum()))
        table.append({"threshold": threshold} | _entry("purity", purity) | _entry("clean_accepted", kept))
    return table


def _entry(name: str, share: Rate) -> dict[str, Any]:
    return {name: round(share.hits / share.total, 5), f"{name}_interval": (round(share.low, 5), round(share.high, 5))}
