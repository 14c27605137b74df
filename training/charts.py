"""The four charts of a training's report, for `qgate.report.charts`. Knows only the content of its `report.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qgate.report.charts import ACCENT, FAINT, MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


def _curve(axes: Axes, points: list[list[float]]) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], color=ACCENT, linewidth=2)
