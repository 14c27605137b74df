"""Gates on labelled faces, side by side, and the second against the first on the same faces. Trains nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from qgate.errors import ConfigError, LabelError
from qgate.gate.bundle import Bundle
from qgate.gate.classifier import Gate
from qgate.gate.open import open_bundle
from qgate.runtime.executor import pick_device
from training.config import TrainConfig, gate_splits
from training.data.lineage import learned_identities
from training.data.pixels import Say
from training.data.sources import LabelSet, decided, read_sources
from training.data.split import Split, split_of
from training.data.tables import contents_of
from training.metrics.figures import IMAGE_FILES, Figure, apart_figures, compare, figures
from training.metrics.judged import Judged, join, score
from training.metrics.metrics import METRICS, threshold_table
from training.metrics.tone import tones

ALL = "all"
UNSEEN = (Split.TEST, Split.VALIDATION, Split.CALIBRATION)
"""Splits of faces that taught a gate no weights; the last two chose its epoch and its calibration."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """gates: as they were named. results: figures of each. differences: of `compare`, None unless two gates."""

    gates: list[str]
    results: list[dict[str, Any]]
    differences: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        pairs = zip(self.gates, self.results, strict=True)
        return {"gates": [{"gate": name, **found} for name, found in pairs], "differences": self.differences}

    def in_words(self) -> str:
        """A table: figures down, gates across, 95 % intervals beside them."""
        first, differences = self.results[0], _metric_rows(self.differences or {})
        rows = [["", *self.gates, "second - first" if differences else ""]]
        columns = [_cells(found) for found in self.results]
        for name in dict.fromkeys(name for column in columns for name in column):
            cells = [name, *(column.get(name, "-") for column in columns)]
            rows.append([*cells, _in_words(differences[name], "+") if name in differences else ""])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        title = f"{first['faces']} faces, {first['clean']} of them clean; 95 % intervals"
        if first["agreed"]:
            title += f"; agreed: the {first['agreed']['faces']} whose annotators, two or more, say the same"
        return "\n".join([title, *table])


def evaluate(gates: Sequence[str], config: TrainConfig, splits: Collection[str], say: Say) -> Evaluation:
    """Judge gates on the labelled faces of the sources.

    gates: as `--gate` takes them. splits: of `UNSEEN`, faces that lie in one of these for every gate; or `ALL`.
    config: sources and how to read them; what is said of training is not looked at.
    """
    if odd := set(splits) - {*UNSEEN, ALL}:
        raise ConfigError(f"--split {min(odd)}: allowed are {', '.join((*UNSEEN, ALL))}")
    bundles = [open_bundle(gate) for gate in gates]
    labels = read_sources(config.model_copy(update={"rehearse": 0}), say)
    everyone = range(len(labels.samples))
    rows = decided(labels.samples, everyone if ALL in splits else unseen(labels, bundles, splits))
    part = labels.part(rows)
    judged = [judge(bundle, part, config, say) for bundle in bundles]
    others = labels.part(decided(labels.samples, unseen(labels, bundles, (Split.APART,))))
    apart = [judge(bundle, others, config, say) for bundle in bundles]
    if not judged[0].both_kinds:
        raise LabelError(
            f"--split {' --split '.join(splits)}: {len(rows)} faces, {int(judged[0].clean.sum())} of them clean; both "
            "are needed: give more labels, or --split all if no gate was trained on these"
        )
    results = [
        {
            **figures(found, bundle.card.recommended_threshold, config.resamples),
            "thresholds": threshold_table(found.clean, found.prob),
            "apart": apart_figures(more, bundle.card.recommended_threshold, config.resamples),
        }
        for bundle, found, more in zip(bundles, judged, apart, strict=True)
    ]
    two = compare(judged[0], judged[1], config.resamples) if len(judged) == 2 else None
    return Evaluation(list(gates), results, two)


def unseen(labels: LabelSet, bundles: Sequence[Bundle], within: Collection[str] = (Split.TEST,)) -> list[int]:
    """Rows of the faces that are in one of these splits for every gate, as its card says how it was split.

    Faces that this training or one of the gates only learns from, whatever their split, are left out.
    """
    splits = [gate_splits(bundle.card) for bundle in bundles]
    learned = set[str]().union(*(learned_identities(bundle.card, labels.samples) for bundle in bundles))
    return [
        row
        for row, sample in enumerate(labels.samples)
        if sample.identity not in learned
        and all(split_of(sample.identity, split, sample.use) in within for split in splits)
    ]


def judge(bundle: Bundle, labels: LabelSet, config: TrainConfig, say: Say) -> Judged:
    """What a gate says of labelled faces (none a tie), which are drawn or read as its looks want them."""
    device = pick_device(config.device)
    views = labels.views([look.preprocessing for look in bundle.card.looks], device, say)
    rows = range(len(labels.samples))
    prob = score(Gate(bundle, str(device)), views, rows, say)
    skin = tones(views[0], rows, bundle.card.looks[0].preprocessing)
    return join(labels.samples, rows, prob, contents_of(config), skin)


def _cells(found: dict[str, Any]) -> dict[str, str]:
    """What the table says of a gate: name of the figure -> the figure in words."""
    cells = {name: _in_words(figure) for name, figure in _metric_rows(found).items()}
    for psi, group in found["by_psi"].items():
        cells[f"auroc, {psi if psi == IMAGE_FILES else f'psi {psi}'}"] = _in_words(group["auroc"])
    for row in found["thresholds"]:
        for name in ("purity", "clean_accepted"):
            figure = {"value": row[name], "interval": row[f"{name}_interval"]}
            cells[f"{name} at {row['threshold']}"] = _in_words(figure)
    for source, part in found["apart"].items():
        name = f"{source}, {part['faces']} faces"
        if part["auroc"] is not None:
            cells[f"{name}: auroc"] = _in_words(part["auroc"])
        cells |= {f"{name}: {what}": words for what, words in _tables(part).items()}
    return {**cells, **_tables(found)}


def _tables(found: dict[str, Any]) -> dict[str, str]:
    """The shares at the even and at the recommended threshold, which may differ from gate to gate."""
    even, recommended = found["at_threshold"]
    cells = {"recommended threshold": f"{recommended['threshold']:g}"}
    for at, where in ((even, f"at {even['threshold']:g}"), (recommended, "at the recommended")):
        for what in ("accepted", "purity", "sure_artifacts"):
            if at[what] is not None:
                cells[f"{what} {where}"] = _with_counts(at[what])
        for thing, share in at["clean_accepted_by_contents"].items():
            cells[f"clean accepted {where}, {thing}"] = _with_counts(share)
    return cells


def _with_counts(share: Figure) -> str:
    return f"{_in_words(share)} {share['hits']} of {share['faces']}"


def _metric_rows(found: dict[str, Any]) -> dict[str, Figure]:
    """What the table calls a metric -> its figure, or difference, on all faces and on the agreed ones."""
    groups = {"": found, ", agreed": found.get("agreed") or {}}
    names = (*METRICS, "ece")
    return {name + ending: group[name] for ending, group in groups.items() for name in names if name in group}


def _in_words(figure: Figure, sign: str = "") -> str:
    low, high = figure.get("interval") or figure["range_if_calibrated"]
    what = "" if "interval" in figure else "calibrated: "
    return f"{figure['value']:{sign}.3f} ({what}{low:{sign}.3f} to {high:{sign}.3f})"
