"""Gates on labelled faces, side by side, and the second against the first on the same faces. Trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qgate.bundle import Bundle
from qgate.classifier import Gate
from qgate.errors import LabelError
from qgate.run import open_bundle
from qgate.runtime import pick_device
from training.config import TrainConfig, gate_splits
from training.contents import contents_of
from training.draw import Say
from training.figures import IMAGE_FILES, Figure, compare, figures
from training.judging import Judged, decided, join, score
from training.lineage import learned_only
from training.metrics import METRICS, threshold_table
from training.sources import LabelSet, read_sources
from training.split import Split, split_of

Which = Literal["test", "all"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """gates: as they were named. results: figures of each. differences: second minus first, None unless two gates."""

    gates: list[str]
    results: list[dict[str, Any]]
    differences: dict[str, Figure] | None

    def to_json(self) -> dict[str, Any]:
        pairs = zip(self.gates, self.results, strict=True)
        return {"gates": [{"gate": name, **found} for name, found in pairs], "differences": self.differences}

    def in_words(self) -> str:
        """A table: figures down, gates across, 95 % intervals beside them."""
        first, differences = self.results[0], self.differences or {}
        rows = [["", *self.gates, "second - first" if differences else ""]]
        columns = [_cells(found) for found in self.results]
        for name in dict.fromkeys(name for column in columns for name in column):
            cells = [name, *(column.get(name, "-") for column in columns)]
            rows.append([*cells, _in_words(differences[name], "+") if name in differences else ""])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{first['faces']} faces, {first['clean']} of them clean; 95 % intervals", *table])


def evaluate(gates: Sequence[str], config: TrainConfig, which: Which, say: Say) -> Evaluation:
    """Judge gates on the labelled faces of the sources.

    gates: as `--gate` takes them. which: test, the faces that none of the gates was trained on, or all.
    config: sources and how to read them; what is said of training is not looked at.
    """
    bundles = [open_bundle(gate) for gate in gates]
    labels = read_sources(config.model_copy(update={"rehearse": 0}), say)
    rows = decided(labels.samples, range(len(labels.samples)) if which == "all" else unseen(labels, bundles))
    part = labels.part(rows)
    judged = [judge(bundle, part, config, say) for bundle in bundles]
    if not judged[0].both_kinds:
        raise LabelError(
            f"--split {which}: {len(rows)} faces, {int(judged[0].clean.sum())} of them clean; both are needed: give "
            "more labels, or --split all if no gate was trained on these"
        )
    results = [
        {**figures(found, config.resamples), "thresholds": threshold_table(found.clean, found.prob)} for found in judged
    ]
    two = compare(judged[0].clean, judged[0].prob, judged[1].prob, config.resamples) if len(judged) == 2 else None
    return Evaluation(list(gates), results, two)


def unseen(labels: LabelSet, bundles: Sequence[Bundle]) -> list[int]:
    """Rows of the faces that are in the test split of every gate, as its card says how it was split.

    Faces that this training or one of the gates only learns from, whatever their split, are left out.
    """
    splits = [gate_splits(bundle.card) for bundle in bundles]
    learned = set[str]().union(*(learned_only(bundle.card) for bundle in bundles))
    return [
        row
        for row, sample in enumerate(labels.samples)
        if not sample.learn_only
        and sample.identity not in learned
        and all(split_of(sample.identity, split) is Split.TEST for split in splits)
    ]


def judge(bundle: Bundle, labels: LabelSet, config: TrainConfig, say: Say) -> Judged:
    """What a gate says of labelled faces (none a tie), which are drawn or read as its preprocessing wants."""
    device = pick_device(config.device)
    pixels = labels.pixels(bundle.card.preprocessing, device, say)
    rows = range(len(labels.samples))
    return join(labels.samples, rows, score(Gate(bundle, str(device)), pixels, rows, say), contents_of(config))


def _cells(found: dict[str, Any]) -> dict[str, str]:
    """What the table says of a gate: name of the figure -> the figure in words."""
    cells = {name: _in_words(found[name]) for name in (*METRICS, "ece")}
    for psi, group in found["by_psi"].items():
        cells[f"auroc, {psi if psi == IMAGE_FILES else f'psi {psi}'}"] = _in_words(group["auroc"])
    for row in found["thresholds"]:
        for name in ("purity", "clean_accepted"):
            figure = {"value": row[name], "interval": row[f"{name}_interval"]}
            cells[f"{name} at {row['threshold']}"] = _in_words(figure)
    at = found["at_threshold"]
    for thing, share in at["false_rejects_by_contents"].items():
        if share is not None:
            name = f"clean rejected at {at['threshold']}, {thing}"
            cells[name] = f"{_in_words(share)} {share['hits']} of {share['faces']}"
    return cells


def _in_words(figure: Figure, sign: str = "") -> str:
    low, high = figure.get("interval") or figure["range_if_calibrated"]
    what = "" if "interval" in figure else "calibrated: "
    return f"{figure['value']:{sign}.3f} ({what}{low:{sign}.3f} to {high:{sign}.3f})"
