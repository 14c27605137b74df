"""Points of the charts of a report: reliability, ROC, precision and recall, scores. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from qgate.rates import rate
from training.judging import Judged

RELIABILITY_BINS = 10
SCORE_BINS = 40
POINTS = 400
"""The most points of a curve."""


def curves(judged: Judged) -> dict[str, Any]:
    """JSON values.

    reliability: bins of equal mass, each with its mean clean_prob and the share of clean faces with its interval.
    roc: false and true accept rates. precision_recall: purity over the share of clean faces that are accepted.
    scores: counts of clean faces and of artifacts in bins of clean_prob.
    """
    clean, prob = judged.clean, judged.prob
    false, true, _ = roc_curve(clean, prob)
    precision, recall, _ = precision_recall_curve(clean, prob)
    edges = np.linspace(0, 1, SCORE_BINS + 1)
    return {
        "reliability": _reliability(judged),
        "roc": _thin(false, true),
        "precision_recall": _thin(recall[::-1], precision[::-1]),
        "scores": {
            "edges": edges.round(5).tolist(),
            "clean": np.histogram(prob[clean], edges)[0].tolist(),
            "artifact": np.histogram(prob[~clean], edges)[0].tolist(),
        },
    }


def _reliability(judged: Judged) -> list[dict[str, float]]:
    bins = np.array_split(np.argsort(judged.prob, kind="stable"), min(RELIABILITY_BINS, len(judged)))
    points = []
    for rows in bins:
        share = rate(int(judged.clean[rows].sum()), len(rows))
        point = {"mean_prob": judged.prob[rows].mean(), "clean": share.value, "low": share.low, "high": share.high}
        points.append({name: round(float(value or 0.0), 5) for name, value in point.items()} | {"faces": len(rows)})
    return points


def _thin(x: Any, y: Any) -> list[list[float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).astype(int))
    return [[round(float(a), 5), round(float(b), 5)] for a, b in zip(x[kept], y[kept], strict=True)]
