"""From data to a bundle: fit the looks, calibrate them, judge the test faces with the bundle itself, write it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from qgate.config import canonical_digest
from qgate.errors import ConfigError
from qgate.gate.bundle import Calibration, GateCard, read_bundle, write_bundle
from qgate.gate.classifier import Gate, build_network
from qgate.gate.lineage import Lineage, Recipe
from qgate.runtime.executor import pick_device
from training.config import LookSettings, TrainConfig, first_gate
from training.data.dataset import TrainingData, read_data
from training.data.lineage import only_learned_sources
from training.data.pixels import Pixels, Say, Views
from training.data.sources import MACHINES, TIE
from training.data.split import Split
from training.fitting.checkpoint import Checkpoint
from training.fitting.fit import Fitted, fit, predict
from training.metrics.figures import apart_figures, figures
from training.metrics.judged import Judged, join, look_logits, score
from training.metrics.metrics import (
    auroc,
    both_kinds,
    brier,
    fit_calibration,
    lean_on,
    recommended_threshold,
    threshold_table,
)
from training.metrics.tone import tones

EpochSeen = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number from 1 and the figures on the validation faces."""

Fits = Mapping[str, Fitted]
"""Name of a look -> what its training came to."""

States = dict[str, dict[str, Tensor]]
"""Name of a look -> the state dict of its network."""


def ignore_epoch(epoch: int, found: dict[str, float]) -> None:
    """An `EpochSeen` that takes no notice."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training: settings, data, and where it runs. Nothing of it changes while it goes on.

    first: card of the gate that it starts from, None where it starts from other weights.
    say: takes progress, see `pixels.Say`.
    """

    config: TrainConfig
    data: TrainingData
    first: GateCard | None
    device: torch.device
    say: Say

    def doubting(self, rows: Sequence[int]) -> Training:
        """The same, where these faces, whose label is probably wrong, count less."""
        return replace(self, data=self.data.doubted(rows, self.config.targets.suspect_weight))

    def facts(self) -> dict[str, Any]:
        """All that decides the weights: with the same facts the same machine makes the same networks.

        Votes on faces that only judge do not, unless a training stops early by them or has folds.
        """
        config, data = self.config, self.data
        judged = config.folds or config.optimiser.patience is not None
        rows = range(len(data.samples)) if judged else data.rows[Split.TRAIN]
        learned = [*rows, *data.taught_rows]
        return {
            "labels": data.labels.part(rows).digest,
            "weights": canonical_digest(data.targets.weight[learned].tolist()),
            "clean": canonical_digest(data.targets.clean[learned].tolist()),
            "first": self.first and self.first.weights_sha256,
            "device": self.device.type,
            **{name: metadata.version(name) for name in ("qgate", "torch", "timm")},
            **config.fit_facts(),
        }

    def checkpoint(self, part: str) -> Checkpoint:
        """Where a part of this training keeps its state until it is forgotten."""
        return Checkpoint({"part": part, **self.facts()})

    def forget(self, parts: Iterable[str]) -> None:
        """All is written: the states of these parts are of no use any more."""
        for part in parts:
            self.checkpoint(part).clear()


def prepare(config: TrainConfig, say: Say) -> Training:
    """Read all that a training needs; raises InputError for settings, gates, labels and images that cannot be used."""
    device, first = pick_device(config.device), first_gate(config.pretrained)
    _check_kept(config, first)
    _check_networks(config)  # before any label is read, or face drawn
    return Training(config, read_data(config, first, say), first, device, say)


def look_names(config: TrainConfig) -> list[str]:
    return [look.name for look in config.looks]


def draw(training: Training) -> Views:
    """What the looks see of all faces, cached or made now."""
    looks = [look.preprocessing for look in training.config.looks]
    return training.data.views(looks, training.device, training.say)


def fit_looks(
    training: Training,
    views: Views,
    seen: EpochSeen = ignore_epoch,
    part: str = "",
    rows: Sequence[int] | None = None,
    watched: Sequence[int] | None = None,
) -> Fits:
    """Train the looks on some rows, and on what other gates said; a killed training of the same `part` goes on.

    rows: each stands in an epoch as often as its face weighs; None: the train split.
    watched: rows of the faces that tell how it goes; None: the validation split.
    """
    config, data = training.config, training.data
    rows = data.rows[Split.TRAIN] if rows is None else rows
    watched = data.rows[Split.VALIDATION] if watched is None else watched
    weighted = [row for row in rows for _ in range(data.samples[row].weight)]
    weighted += data.taught_rows
    fits = {}
    for look, pixels in zip(config.looks, views, strict=True):
        note = functools.partial(_note, training, look, pixels, watched, part, seen)
        state = training.checkpoint(f"{part}{look.name}")
        fits[look.name] = fit(
            config, look, pixels, data.targets, weighted, training.device, training.say, note, checkpoint=state
        )
    return fits


def _note(
    training: Training,
    look: LookSettings,
    pixels: Pixels,
    rows: Sequence[int],
    part: str,
    seen: EpochSeen,
    epoch: int,
    network: nn.Module,
) -> dict[str, float]:
    """Figures of a look alone on the watched faces after an epoch."""
    clean, rows = training.data.decided(rows)
    logits = predict(network, training.config, look, pixels, rows, training.say)[:, 0]
    found = {"auroc": round(auroc(clean, logits), 5), "brier": round(brier(clean, expit(logits)), 5)}
    text = f"{part}{look.name}, epoch {epoch}: AUROC {found['auroc']:.4f} on {len(rows)} validation faces"
    training.say(text, True)
    seen(epoch, {f"{look.name}.{name}": value for name, value in found.items()})
    return found


def write_gate(training: Training, fits: Fits, views: Views, output: Path) -> tuple[GateCard, Judged]:
    """Calibrate the looks, judge the test faces with the bundle as it is shipped, write it with its figures."""
    config, data = training.config, training.data
    states = {
        name: {key: tensor.detach().cpu() for key, tensor in found.network.state_dict().items()}
        for name, found in fits.items()
    }
    card = make_card(training, fits)
    card["calibrations"] = calibrate(training, states, card, views)
    with _gate(training, states, card) as gate:
        judged, apart = (_judge(training, gate, views, data.rows[split]) for split in (Split.TEST, Split.APART))
    recommended = recommended_threshold(judged.prob, config.recommended_purity)
    card["recommended_threshold"] = recommended
    card["figures"] = {
        "split": "test",
        **figures(judged, recommended, config.resamples),
        "apart": apart_figures(apart, recommended, config.resamples),
    }
    card["thresholds"] = threshold_table(judged.clean, judged.prob)
    write_bundle(output, states, card)
    return read_bundle(output).card, judged


def calibrate(training: Training, states: States, card: dict[str, Any], views: Views) -> tuple[Calibration, ...]:
    """One after the other, each on the calibration faces that would come to its look; on all where too few do."""
    looks, data, first = training.config.looks, training.data, training.first
    rows = data.rows[Split.CALIBRATION]
    blank = tuple(Calibration(weights=(1.0,) * (number + 1), offset=0.0) for number in range(len(looks)))
    with _gate(training, states, {**card, "calibrations": blank}) as gate:
        logits = look_logits(gate, views, rows, training.say)
    votes, asked, prob = data.targets.clean_votes[rows], np.arange(len(rows)), np.ones(len(rows), np.float32)
    alike = first if first is not None and [look.name for look in first.looks] == look_names(training.config) else None
    found: list[Calibration] = []
    for number, look in enumerate(looks):
        asked = asked[prob[asked] >= look.ask_from]
        used = asked
        if not both_kinds(votes[asked] > 0.5):
            used = np.arange(len(rows))
            text = f"{look.name}: too few of {len(rows)} calibration faces come to it"
            training.say(f"{text}; it is calibrated on all of them", True)
        part, said = logits[used, : number + 1], votes[used]
        if alike is not None:
            said = lean_on(alike.calibrations[number], part, said)
        found.append(fit_calibration(part, said))
        prob = found[-1].prob(logits[:, : number + 1])
    return tuple(found)


def make_card(training: Training, fits: Fits) -> dict[str, Any]:
    """What the card says before the gate is calibrated and has judged."""
    config, data, first = training.config, training.data, training.first
    sections = config.model_dump(mode="json", include=set(Recipe.model_fields))
    return {
        "name": config.gate_name,
        "looks": [look.look for look in config.looks],
        "notes": f"{config.label_note or _label_note(data)} {config.limits}",
        "license": config.license,
        "training": Lineage(
            labels=data.labels.digest,
            sources=tuple(data.labels.facts),
            taught=data.taught_facts,
            earlier_sources=only_learned_sources(first),
            started_from=f"gate {first.name}, {first.weights_sha256[:12]}" if first else config.pretrained,
            faces={split.value: len(rows) for split, rows in data.rows.items()},
            votes=sum(len(set(sample.votes)) for sample in data.samples),
            tied_faces=int((data.targets.clean_votes == TIE).sum()),
            validation_by_epoch={name: found.history for name, found in fits.items()},
            epoch={name: found.epoch for name, found in fits.items()},
            seconds={name: round(found.seconds, 1) for name, found in fits.items()},
            recipe=Recipe.model_validate(sections),
        ),
        "versions": {name: metadata.version(name) for name in ("qgate", "torch", "timm", "openvino", "numpy")},
    }


def _label_note(data: TrainingData) -> str:
    """Who labelled, from what the sources say; the shipped labels are never taken for people's."""
    notes = []
    for source in data.labels.facts:
        who = ", ".join(sorted(source.annotators))
        machines = all(name.startswith(MACHINES) for name in source.annotators)
        made = " (vision-language models)" if machines else ""
        notes.append(f"{source.faces} faces of {source.path}, labelled by {who}{made}, weight {source.weight}")
    return f"Trained on {'; '.join(notes)}."


def _judge(training: Training, gate: Gate, views: Views, rows: Sequence[int]) -> Judged:
    data = training.data
    _, rows = data.decided(rows)
    prob = score(gate, views, rows, training.say)
    skin = tones(views[0], rows, gate.card.looks[0].preprocessing)
    return join(data.samples, rows, prob, data.contents, skin)


@contextmanager
def _gate(training: Training, states: States, card: dict[str, Any]) -> Iterator[Gate]:
    """A gate as a bundle of these weights and this card is one."""
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder), states, card)
        yield Gate(read_bundle(Path(folder)), training.config.device)


def _check_kept(config: TrainConfig, first: GateCard | None) -> None:
    """Whether looks that are not trained are there to be kept. Raises ConfigError."""
    theirs = {look.name for look in first.looks} if first is not None else set()
    for look in config.looks:
        if look.epochs == 0 and (look.pretrained is not None or look.name not in theirs):
            raise ConfigError(
                f"looks.{look.name}.epochs = 0: keeps that look of the gate which is refined, and pretrained = "
                f"{look.pretrained or config.pretrained!r} has none; give it epochs"
            )


@torch.inference_mode()
def _check_networks(config: TrainConfig) -> None:
    """Whether timm knows the backbones, and they take images of the size they are to get. Raises ConfigError."""
    for look in config.looks:
        network, size = build_network(look.architecture).eval(), look.preprocessing.size
        try:
            network(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"looks.{look.name}.architecture.backbone = {look.architecture.backbone!r}: takes no images of {size} "
                f"pixels ({error}); set the look's preprocessing.size, or architecture.arguments.img_size where the "
                "backbone has such"
            ) from error
