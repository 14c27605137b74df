"""`qgate train` from settings to a gate: training, cross-validation, report, tracking and promotion put together."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgate.config import merge_values
from qgate.errors import ConfigError, StoppedError
from qgate.gate.bundle import GateCard, read_bundle
from qgate.gate.classifier import Gate
from qgate.gate.open import REGISTRY, keep_registered, open_bundle
from qgate.labels.advice import Trained
from qgate.labels.store import SUFFIXES
from qgate.labels.trainings import note_training
from qgate.progress import WorkProgress, stop_on_signals, warn
from training.config import TrainConfig, find, gate_is_there, load_train_config
from training.crossfit import CrossValidation
from training.data.pixels import Say
from training.fitting.cpu import keep_freed_memory
from training.metrics.suspects import find_suspects
from training.pipeline import Training, draw, fit_looks, look_names, prepare, write_gate
from training.promotion import Promotion, challenge
from training.report.report import write_report
from training.tracked_run import TrainWatch


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training came to. promotion: None where none was asked for."""

    output: Path
    report: Path
    card: GateCard
    promotion: Promotion | None
    run_id: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """One object: output, report, name, faces, auroc and ece on the test faces, promotion, run_id, seconds."""
        return {
            "output": str(self.output),
            "report": str(self.report / "report.html"),
            "name": self.card.name,
            "faces": self.card.training.faces if self.card.training is not None else {},
            "auroc": self.card.figures["auroc"],
            "ece": self.card.figures["ece"],
            "promotion": self.promotion and self.promotion.to_json(),
            "run_id": self.run_id,
            "seconds": round(self.seconds, 1),
        }

    def in_words(self) -> str:
        """A few lines for a terminal."""
        figures = self.card.figures
        low, high = figures["auroc"]["interval"]
        faces = f"{figures['faces']} test faces"
        lines = [f"AUROC {figures['auroc']['value']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {faces}"]
        if self.promotion is not None:
            lines.append(self.promotion.text)
        lines += [f"gate     {self.output}", f"report   {self.report / 'report.html'}"]
        return "\n".join(lines)


def train_recipe(
    path: Path | None, flags: Mapping[str, Any], assignments: list[str], promote: bool = False
) -> TrainSummary:
    """Train as a recipe says, after the recipes that it starts from, as far as their gates are not there yet.

    Arguments as of `load_train_config` and `train`; the earlier recipes take nothing of them but device and tracking.
    """
    assignments = [*assignments, *_from_registry(path, flags, assignments)]
    config = load_train_config(path, flags, assignments)
    if path is None or config.after is None or gate_is_there(config.pretrained):
        return train(config, promote)
    earlier = path.parent / config.after
    shared = {"device": config.device, "tracking": config.tracking.model_dump(mode="json")}
    output = load_train_config(earlier, shared).output
    if output != config.pretrained:
        raise ConfigError(
            f"after = {config.after!r}: that recipe makes {output}, and this one starts from {config.pretrained} "
            "(pretrained); name the same folder"
        )
    print(f"qgate: {output} is not there yet: training it as {earlier} says", file=sys.stderr, flush=True)
    train_recipe(earlier, shared, [])
    return train(load_train_config(path, flags, assignments), promote)


def train(config: TrainConfig, promote: bool = False) -> TrainSummary:
    """Train a gate, write its bundle and its report, and promote it where that is asked for and earned.

    Raises InputError where settings or labels cannot be used, StoppedError on SIGINT and SIGTERM; the same call goes
    on with what was drawn and the last whole epoch.
    """
    begin, output = time.monotonic(), Path(config.output)
    if promote and not config.tracking.enabled:
        warn("--promote: the registry is MLflow's, and tracking is off; the gate is not registered")
        promote = False
    shipped = open_bundle("default") if promote else None  # now: the output may be this very gate
    _check_output(output)
    keep_freed_memory()
    with interruptible() as say:
        training = prepare(config, say)
        validation = CrossValidation(training) if config.folds else None
        with TrainWatch(training) as watch:
            views = draw(training)
            validated = validation.run(views) if validation else None
            if validated is not None:
                training = training.doubting([validated.rows[position] for position in find_suspects(validated)])
            fits = fit_looks(training, views, watch.epoch)
            card, judged = write_gate(training, fits, views, output)
            bundle = read_bundle(output)
            gate = Gate(bundle, config.device)
            explain = gate.explain_pixels if gate.explains else None
            report = write_report(training, card, judged, validated, explain)
            promotion = challenge(training, bundle, shipped) if shipped is not None else None
            run_id = watch.finish(card, output, report, promotion, config.optimiser.epochs)
            training.forget(look_names(config))
            if validation is not None:
                validation.forget()
    _note_trainings(training, card)
    return TrainSummary(output, config.report_folder, card, promotion, run_id, time.monotonic() - begin)


def _note_trainings(training: Training, card: GateCard) -> None:
    """For the learning curve of each label store that was learned from; label files have none."""
    error, high = 1 - card.figures["auroc"]["value"], 1 - card.figures["auroc"]["interval"][0]
    for source in training.data.labels.facts:
        path = find(source.path)
        if path.suffix not in SUFFIXES:
            continue
        try:
            note_training(path, Trained(source.faces, error, high))
        except OSError as fault:
            warn(f"{path}: the advice when to train next does not know of this training ({fault.strerror})")


def _from_registry(path: Path | None, flags: Mapping[str, Any], assignments: list[str]) -> list[str]:
    """Where the training starts from a gate of the registry: the assignment that starts it from a copy.

    A training reads it more than once, and an alias may move meanwhile.
    """
    first = merge_values(path, flags, assignments).get("pretrained")
    if not (isinstance(first, str) and first.startswith(REGISTRY)):
        return []
    return [f"pretrained={json.dumps(str(keep_registered(first)))}"]


def _check_output(output: Path) -> None:
    """Now rather than after hours: that the bundle can be written where it is wanted. Raises ConfigError."""
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written to" if there.is_dir() else "is no folder"
        raise ConfigError(f"output = {str(output)!r}: {there} {what}; name a folder for the gate")


@contextmanager
def interruptible() -> Iterator[Say]:
    """Progress on stderr that raises StoppedError once SIGINT or SIGTERM came."""
    with stop_on_signals() as stopped, WorkProgress() as progress:

        def say(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
            if stopped():
                raise StoppedError("stopped; the same command goes on")
            progress.say(text, important, done, total)

        yield say
