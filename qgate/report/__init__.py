"""Ledger and dataset -> `report.json`, `report.html` and figures.

The same run folder always gives the same bytes: no dates, no durations, no random names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgate import files
from qgate.report import charts
from qgate.report.data import SHEET, Face, read_ledger, read_rejected, read_run, summarize
from qgate.report.pictures import contact_sheet, data_uri, heat_uri

__all__ = ["Explain", "contact_sheet", "report_metrics", "write_figures", "write_report"]

Explain = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""RGB pixels (H, W, 3) -> where the gate sees an artifact, (h, w) over the middle square, 0..1."""

EXPLAINED = 12
"""Rejected faces that are shown with their heat maps: each took 0.4 s of one CPU core."""

THUMBNAIL = 160
"""Edge of a face on the page, pixels; shown a little smaller, so that it stays sharp on dense screens."""

MLFLOW_SHEET = 24
"""Faces on a contact sheet for MLflow: 6 x 4."""


def write_report(root: Path, explain: Explain | None = None) -> dict[str, Any]:
    """Write `report.json` and `report.html` into the output folder of a run.

    root: the output folder; only its sealed shards count.
    explain: where given, each rejected face is shown with its heat map, and fewer of them.
    Returns the content of `report.json`.
    Raises OutputError where the run cannot be read, OutputError or QgateError where the report cannot be written.
    """
    run, ledger = read_run(root), read_ledger(root)
    report = summarize(run, ledger)
    _write(root / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    _write(root / "report.html", _page(report, ledger.faces, read_rejected(root), explain))
    return report


def write_figures(root: Path, into: Path) -> list[Path]:
    """Draw the figures that MLflow shows, outside the output folder.

    root: the output folder of a run.
    into: an existing folder; takes `accepted.png` and `rejected.png` (contact sheets, where there are any
        faces) and `scores.png` (histogram of clean_prob).
    Returns the files written.
    """
    ledger = read_ledger(root)
    paths = []
    for name, faces in (("accepted", ledger.faces), ("rejected", read_rejected(root))):
        if faces:
            tiles = [(face.path, _score(face)) for face in _spread(faces, MLFLOW_SHEET)]
            paths.append(into / f"{name}.png")
            contact_sheet(tiles).save(paths[-1])
    paths.append(into / "scores.png")
    paths[-1].write_bytes(charts.png(charts.score_histogram, summarize(read_run(root), ledger)))
    return paths


def report_metrics(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report that a tracker logs at the end of a run; `reason.NAME` counts rejections by reason."""
    metrics = {key: float(report[key]) for key in ("judged", "accepted", "rejected", "failed")}
    for key in ("yield", "expected_escape_rate"):
        if report[key]["value"] is not None:
            metrics[key] = report[key]["value"]
    return metrics | {f"reason.{name}": float(count) for name, count in report["reasons"].items()}


def _page(report: dict[str, Any], accepted: list[Face], rejected: list[Face], explain: Explain | None) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment.filters["percent"] = lambda value: "none" if value is None else f"{100 * value:.1f} %"
    return environment.from_string(template).render(
        report=report,
        selection=report["run"].get("selection", {}),
        facts=_facts(report["run"]),
        gate_notes=_gate_notes(report["run"].get("gate", {})),
        charts={draw.__name__: charts.svg(draw, report) for draw in _charts(report)},
        accepted=_tiles(accepted),
        rejected=_tiles(_spread(rejected, EXPLAINED) if explain else rejected, explain),
        explained=explain is not None,
        sheet=SHEET,
    )


def _charts(report: dict[str, Any]) -> Iterable[Callable[..., None]]:
    yield charts.score_histogram
    yield charts.yield_curve
    if report["reasons"]:
        yield charts.reason_bars


def _tiles(faces: list[Face], explain: Explain | None = None) -> list[dict[str, str]]:
    """What the page shows of each face whose picture can be read; `heat` is the face with its heat map."""
    tiles = []
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda face: data_uri(face.path, THUMBNAIL), faces))
    for face, picture in zip(faces, pictures, strict=True):
        heat = heat_uri(face.path, THUMBNAIL, explain) if explain and picture else ""
        if picture is not None and heat is not None:
            note = ", ".join(face.reasons) or face.name or f"seed {face.seed}"
            tile = {"picture": picture, "heat": heat, "score": _score(face), "note": note, "seed": str(face.seed)}
            tiles.append(tile)
    return tiles


def _facts(run: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Section -> (name, value) pairs of the plain values in the run header; of the scoring only the seeds."""
    sections = []
    walk = ", ".join(f"{first}-{last}" for first, last in run.get("scoring", {}).get("seeds", []))
    for section, values in {**run, "scoring": {"seeds": walk[:200]} if walk else {}}.items():
        pairs = values if isinstance(values, dict) else {"": values}
        plain = {key: value for key, value in pairs.items() if isinstance(value, str | int | float) and key != "notes"}
        if plain:
            sections.append((section, [(str(key), str(value)) for key, value in plain.items()]))
    return sections


def _gate_notes(gate: dict[str, Any]) -> list[str]:
    notes = gate.get("notes") or []
    return [notes] if isinstance(notes, str) else [str(note) for note in notes]


def _score(face: Face) -> str:
    return "no score" if face.clean_prob is None else f"{face.clean_prob:.3f}"


def _spread(faces: list[Face], count: int) -> list[Face]:
    """`count` of the faces at even steps from first to last, or all where there are fewer."""
    if len(faces) <= count:
        return faces
    return [faces[round(k * (len(faces) - 1) / (count - 1))] for k in range(count)]


def _write(path: Path, text: str) -> None:
    files.replace(path, [text.encode()])
