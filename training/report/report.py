"""What a training came to -> a folder with report.html, report.json, pictures and the labels to look at again.

Stands beside the bundle, which stays pure.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qgate.gate.bundle import GateCard
from qgate.records import REGIONS
from qgate.report import Explain, charts
from qgate.report.pictures import contact_sheet, data_uri, heat_uri
from training.metrics.figures import figures
from training.metrics.judged import Judged
from training.metrics.metrics import PURITIES
from training.metrics.suspects import find_suspects, write_suspects
from training.pipeline import Training
from training.report.curves import CHARTS, curves

WORST = 24
"""Faces on a contact sheet of errors: 6 x 4."""

THUMBNAIL = 160

HELD_OUT = "They are of the test split alone: --folds K judges all faces by gates that did not learn from them."
OUT_OF_FOLD = "They were judged by gates that did not learn from them."


def write_report(
    training: Training,
    card: GateCard,
    test: Judged,
    out_of_fold: Judged | None,
    explain: Explain | None,
) -> list[Path]:
    """Write the folder anew; returns its files.

    test: of the gate. out_of_fold: of a cross-validation, None where there was none.
    explain: where given, the page shows the gate's worst errors with their heat maps.
    """
    config, folder = training.config, training.config.report_folder
    folder.mkdir(parents=True, exist_ok=True)
    examined = test if out_of_fold is None else out_of_fold
    found = find_suspects(examined)
    files = write_suspects(folder, training.data.samples, examined, found)
    wrong = (("false_accepts", _errors(test, False)), ("false_rejects", _errors(test, True)))
    tiles = {name: _write_faces(folder / name, training, test, rows) for name, rows in wrong}
    for name, shown in tiles.items():
        files.append(folder / f"{name}.png")
        contact_sheet([(path, f"{caption['score']}  {caption['name']}") for path, caption in shown]).save(files[-1])
    report = {
        "name": card.name,
        "test": card.figures,
        "recommended_threshold": card.recommended_threshold,
        "thresholds": [row.model_dump(mode="json") for row in card.thresholds],
        "curves": curves(test),
        "folds": config.folds,
        "cross_validated": None
        if out_of_fold is None
        else figures(out_of_fold, card.recommended_threshold, config.resamples),
        "suspects": {
            "faces": len(found),
            "note": HELD_OUT if out_of_fold is None else OUT_OF_FOLD,
            "weight": config.targets.suspect_weight,
        },
        "training": _lineage(card),
        "left_out": training.data.labels.bad,
    }
    files.append(folder / "report.json")
    files[-1].write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files.append(folder / "report.html")
    files[-1].write_text(_page(report, card, tiles, explain), encoding="utf-8")
    for draw in CHARTS:
        files.append(folder / f"{draw.__name__}.png")
        files[-1].write_bytes(charts.png(draw, report))
    return files


def _errors(judged: Judged, clean: bool) -> list[int]:
    """Positions of the worst errors: artifacts with the highest, or clean faces with the lowest scores."""
    order = np.argsort(judged.prob if clean else -judged.prob, kind="stable")
    return [int(row) for row in order if judged.clean[row] == clean][:WORST]


def _write_faces(
    folder: Path, training: Training, judged: Judged, positions: Sequence[int]
) -> list[tuple[Path, dict[str, str]]]:
    """Faces as PNG files, whole, as the gate is given them; returns each with what is said under it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tiles = []
    pictures = training.data.labels.pictures([judged.rows[position] for position in positions], training.device)
    for rank, (position, picture) in enumerate(zip(positions, pictures, strict=True)):
        sample = training.data.samples[judged.rows[position]]
        path = folder / f"{rank:02d}.png"
        Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(path, compress_level=1)
        named = [region for region, here in zip(REGIONS, judged.regions[position], strict=True) if here]
        score = f"{judged.prob[position]:.3f}"
        tiles.append((path, {"score": score, "name": sample.name, "note": ", ".join(named)}))
    return tiles


def _page(
    report: dict[str, Any],
    card: GateCard,
    tiles: dict[str, list[tuple[Path, dict[str, str]]]],
    explain: Explain | None,
) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda value: "none" if value is None else f"{100 * value:.1f} %"
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    pictures = {
        name: [{**caption, **_pictures(path, explain)} for path, caption in shown] for name, shown in tiles.items()
    }
    return environment.from_string(template).render(
        report=report,
        notes=card.notes,
        style=_style(),
        purities=PURITIES,
        tables=report["test"]["at_threshold"],
        charts={draw.__name__: charts.svg(draw, report) for draw in CHARTS},
        facts=_facts(card),
        **pictures,
    )


def _pictures(path: Path, explain: Explain | None) -> dict[str, str]:
    """A face, and the same with its heat map, "" where there is none, as data URIs."""
    heat = heat_uri(path, THUMBNAIL, explain) if explain else None
    return {"picture": data_uri(path, THUMBNAIL) or "", "heat": heat or ""}


def _style() -> str:
    """The style sheet of a run's report."""
    page = resources.files("qgate.report").joinpath("page.html").read_text(encoding="utf-8")
    return page.partition("<style>")[2].partition("</style>")[0]


def _lineage(card: GateCard) -> dict[str, Any]:
    return card.training.model_dump(mode="json") if card.training is not None else {}


def _facts(card: GateCard) -> list[tuple[str, str]]:
    facts: dict[str, Any] = {
        "looks": "; ".join(
            f"{look.name}: {look.architecture.backbone}, {look.preprocessing.size} pixels" for look in card.looks
        ),
        "license": card.license,
        **_lineage(card),
        **card.versions,
    }
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in facts.items()]
