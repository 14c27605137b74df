"""The charts of a report, as SVG for the page and PNG for MLflow. Knows only the content of `report.json`.

matplotlib is imported when a chart is drawn, and only through figures of its own: no pyplot, no global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, ACCENT, MARK = "#3c3c43", "#c9c9ce", "#3d7a68", "#b4533a"
"""Text and axes, grid, data, threshold. On the page each becomes a colour of the page's style sheet."""

PAGE_COLOURS = {INK: "currentColor", FAINT: "var(--line)", ACCENT: "var(--accent)", MARK: "var(--mark)"}
REASON_ROWS = 14
FEW_ROWS = 6
"""Fewer bars than these are no thicker."""

WIDE, SMALL = (10.2, 3.0), (5.0, 3.2)
"""Width and height in inches: of `score_histogram`, which stands alone in its row, and of all others."""


def score_histogram(axes: Axes, report: dict[str, Any]) -> None:
    """How many candidates have which clean_prob, with the threshold."""
    from matplotlib.ticker import MaxNLocator

    histogram = report["clean_prob_histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    axes.bar(edges[:-1], counts, width=0.88 / len(counts), align="edge", color=ACCENT, linewidth=0)
    _mark_threshold(axes, report)
    axes.set(xlim=(0, 1), ylim=(0, max(*counts, 1) * 1.05), xlabel="clean_prob", ylabel="candidates")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def yield_curve(axes: Axes, report: dict[str, Any]) -> None:
    """The yield at each threshold, with its interval."""
    points = report["yield_at"]
    thresholds = [point["threshold"] for point in points]
    axes.fill_between(
        thresholds, [p["low"] for p in points], [p["high"] for p in points], color=ACCENT, alpha=0.2, linewidth=0
    )
    axes.plot(thresholds, [p["value"] or 0.0 for p in points], color=ACCENT, linewidth=2)
    _mark_threshold(axes, report)
    axes.set(xlim=(thresholds[0], 1), ylim=(0, None), xlabel="threshold", ylabel="yield")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def reason_bars(axes: Axes, report: dict[str, Any]) -> None:
    """How often each reason stands in a rejection, the commonest on top."""
    pairs = list(report["reasons"].items())[:REASON_ROWS][::-1]
    names, counts = [name for name, _ in pairs], [count for _, count in pairs]
    bars = axes.barh(names, counts, height=0.7, color=ACCENT, linewidth=0)
    axes.bar_label(bars, padding=4, color=INK, fontsize=9)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.margins(x=0.1)
    axes.set_ylim(min(-0.5, len(names) - FEW_ROWS - 0.5), len(names) - 0.5)


def svg(draw: Callable[[Axes, dict[str, Any]], None], report: dict[str, Any]) -> str:
    """One chart as an `<svg>` element in the colours and fonts of the page; the same bytes for the same report."""
    buffer = io.BytesIO()
    _save(draw, report, buffer, "svg", {"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    for colour, on_page in PAGE_COLOURS.items():
        text = text.replace(colour, on_page)
    return text[text.index("<svg") :]


def png(draw: Callable[[Axes, dict[str, Any]], None], report: dict[str, Any]) -> bytes:
    """One chart as a PNG file on white."""
    buffer = io.BytesIO()
    _save(draw, report, buffer, "png", {"Software": None})
    return buffer.getvalue()


def _save(draw: Callable[..., None], report: dict[str, Any], into: io.BytesIO, kind: str, metadata: Any) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "svg.hashsalt": draw.__name__,
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": FAINT,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=WIDE if draw.__name__ == "score_histogram" else SMALL, layout="constrained")
        FigureCanvasAgg(figure)
        draw(_axes(figure), report)
        figure.savefig(into, format=kind, metadata=metadata, dpi=150, transparent=kind == "svg")


def _axes(figure: Figure) -> Axes:
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _mark_threshold(axes: Axes, report: dict[str, Any]) -> None:
    threshold = report["run"].get("selection", {}).get("threshold")
    if threshold is None:
        return
    axes.axvline(threshold, color=MARK, linewidth=1.5)
    axes.annotate(
        f"threshold {threshold:g}",
        (threshold, 1.02),
        xycoords=("data", "axes fraction"),
        ha="right" if threshold > 0.5 else "left",
        color=MARK,
    )
