"""How a training goes, mirrored to MLflow; never stops or slows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgate.config import canonical_digest
from qgate.gate.bundle import GateCard
from qgate.tracking.tracker import IDENTITY, DatasetInput, RegisteredModel, TrackedWork, Tracker, run_key, track
from training.metrics.metrics import METRICS
from training.pipeline import Training
from training.promotion import ALIAS, MODEL, Promotion

EXPERIMENT = "qgate-train"


class TrainWatch(TrackedWork):
    """The MLflow run of one training, a context."""

    def __init__(self, training: Training) -> None:
        super().__init__(_track(training) if training.config.tracking.enabled else Tracker())
        labels = training.data.labels
        names = ", ".join(source.path for source in labels.facts)
        counts = {f"faces in {split.value}": len(rows) for split, rows in training.data.rows.items()}
        profile = {**counts, "sources": [source.model_dump() for source in labels.facts]}
        self.tracker.dataset(DatasetInput("labels", labels.digest, names, profile))

    def epoch(self, number: int, found: dict[str, float]) -> None:
        """Take notice of an epoch's figures on the validation faces."""
        self.tracker.metrics({f"validation.{name}": value for name, value in found.items()}, number)

    def finish(
        self, card: GateCard, folder: Path, report: Sequence[Path], promotion: Promotion | None, epochs: int
    ) -> str | None:
        """Deliver the end of the training; returns the MLflow run id, None where there is none."""
        metrics = headline(card.figures)
        tags = {name: f"{value:.5f}" for name, value in metrics.items()} | {IDENTITY: card.weights_sha256}
        aliases = {ALIAS: promotion.beaten} if promotion is not None and promotion.promoted else {}
        model = RegisteredModel(MODEL, folder, tags, aliases)
        files = [(path, "report") for path in report]
        auroc, faces = card.figures["auroc"], card.figures["faces"]
        low, high = auroc["interval"]
        note = (
            f"Gate **{card.name}**: AUROC {auroc['value']:.3f} ({low:.3f} to {high:.3f}) on {faces} test faces. "
            f"{promotion.text if promotion else ''}\n\nThe report is among the artifacts: `report/report.html`."
        )
        return self.tell(self.tracker.finish("FINISHED", metrics, files, step=epochs, note=note, model=model))


def _track(training: Training) -> Tracker:
    config, output = training.config, Path(training.config.output)
    return track(
        experiment=EXPERIMENT,
        key=run_key(output, canonical_digest([training.facts(), training.data.labels.digest])),
        name=config.gate_name,
        params={**flatten(config.model_dump(mode="json")), "device": training.device, "cores": os.cpu_count()},
        tags={"qgate.output": str(output.absolute()), "qgate.labels": training.data.labels.digest},
    )


def headline(figures: dict[str, Any]) -> dict[str, float]:
    """The numbers of a card that MLflow shows: each metric and the ends of its interval, of all and of agreed faces."""
    found: dict[str, float] = {}
    for prefix, group in (("test", figures), ("test.agreed", figures["agreed"])):
        if group is not None:
            found |= {f"{prefix}.{name}": group[name]["value"] for name in (*METRICS, "ece")}
            for name in METRICS:
                found[f"{prefix}.{name}.low"], found[f"{prefix}.{name}.high"] = group[name]["interval"]
    return found


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` -> value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
