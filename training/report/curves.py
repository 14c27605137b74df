"""The curves of a report: their points (reliability, ROC, precision and recall, scores), and the charts drawn of them.

The charts are for `qgate.report.charts` and know only the content of `report.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from qgate.rates import rate
from qgate.report.charts import ACCENT, FAINT, MARK
from training.metrics.judged import Judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def score_histogram(axes: Axes, report: dict[str, Any]) -> None:
    """How many clean faces and artifacts have which clean_prob."""
    scores = report["curves"]["scores"]
    edges = scores["edges"]
    width = edges[1] - edges[0]
    for name, colour, shift in (("clean", ACCENT, 0.0), ("artifact", MARK, 0.5)):
        left = [edge + shift * width for edge in edges[:-1]]
        axes.bar(left, scores[name], width=0.45 * width, align="edge", color=colour, linewidth=0, label=name)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="clean_prob", ylabel="faces")
    axes.legend(frameon=False, loc="upper center")


def reliability(axes: Axes, report: dict[str, Any]) -> None:
    """How many faces are clean among those of a clean_prob, against what a calibrated gate would show."""
    points = report["curves"]["reliability"]
    x, y = [point["mean_prob"] for point in points], [point["clean"] for point in points]
    below, above = [p["clean"] - p["low"] for p in points], [p["high"] - p["clean"] for p in points]
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.5)
    axes.errorbar(x, y, [below, above], color=ACCENT, marker="o", markersize=4, linewidth=1.5, elinewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean clean_prob", ylabel="share of clean faces")


def roc(axes: Axes, report: dict[str, Any]) -> None:
    """Clean faces accepted over artifacts accepted, from threshold to threshold."""
    _curve(axes, report["curves"]["roc"])
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1.5)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="artifacts accepted", ylabel="clean faces accepted")


def precision_recall(axes: Axes, report: dict[str, Any]) -> None:
    """Purity of what is accepted over the share of clean faces that are."""
    points = report["curves"]["precision_recall"]
    _curve(axes, points)
    lowest = min(purity for recall, purity in points if recall > 0.05)
    axes.set(xlim=(0, 1), ylim=(max(lowest - 0.05, 0), 1.005), xlabel="clean faces accepted", ylabel="purity")


CHARTS = (score_histogram, reliability, roc, precision_recall)


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


def _curve(axes: Axes, points: list[list[float]]) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], color=ACCENT, linewidth=2)
