"""Labels in, bundle out: read, draw, split, fit, calibrate, judge the test faces with the bundle itself, write it."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from qgate.config import canonical_digest
from qgate.errors import ConfigError, LabelError
from qgate.gate.bundle import Bundle, Calibration, GateCard, read_bundle, write_bundle
from qgate.gate.classifier import Gate, build_network
from qgate.labels.rows import Face
from qgate.runtime.executor import pick_device
from training.config import LookSettings, TrainConfig, find, first_gate
from training.data.lineage import learned_only, only_learned_sources, taught_facts
from training.data.pixels import Pixels, Say, Views, draw_faces
from training.data.sources import MACHINES, LabelSet, is_shipped, read_sources
from training.data.split import JUDGING, Split, split_rows
from training.data.tables import contents_of
from training.data.targets import Targets, make_targets
from training.data.taught import read_taught
from training.fitting.checkpoint import Checkpoint
from training.fitting.fit import Fitted, fit, predict
from training.metrics.figures import apart_figures, figures
from training.metrics.judged import Judged, decided, join, look_logits, score
from training.metrics.metrics import Bools, auroc, both_kinds, brier, fit_calibration, lean_on, threshold_table
from training.metrics.tone import tones

EpochSeen = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number from 1 and the figures on the validation faces."""

RECIPE = {"seed", "splits", "looks", "targets", "augment", "optimiser"}
"""What the card keeps of the settings."""

Networks = dict[str, nn.Module]
"""Name of a look -> its network."""

States = dict[str, dict[str, Tensor]]
"""Name of a look -> the state dict of its network."""

T = TypeVar("T")


class Training:
    """One training, from the labels to the bundle. say: takes progress, see `pixels.Say`."""

    def __init__(self, config: TrainConfig, say: Say) -> None:
        """Reads labels and image files; raises LabelError where a split lacks clean faces or artifacts."""
        self.config, self.say = config, say
        self.device = pick_device(config.device)
        self.first: GateCard | None = first_gate(config.pretrained)
        _check_networks(config)  # before any face is drawn
        self.contents = contents_of(config)
        self.labels: LabelSet = read_sources(config, say).learned(learned_only(self.first))
        self.samples = self.labels.samples
        shown = [self.contents.get(sample.face) for sample in self.samples]
        votes, trusts = ([getattr(sample, name) for sample in self.samples] for name in ("votes", "trust"))
        self.targets: Targets = make_targets(votes, trusts, shown, config.targets)
        self.rows = split_rows(
            [sample.identity for sample in self.samples],
            config.splits,
            [sample.use for sample in self.samples],
        )
        self.taught = self._read_taught()
        self._taught_facts = config.taught and taught_facts(config.taught)  # now: it may change meanwhile
        for split in (Split.TRAIN, *JUDGING):
            clean, _ = self.decided(self.rows[split])
            if len(clean) == 0 or clean.all() or not clean.any():
                raise LabelError(
                    f"labels: the {split} split ({len(self.samples)} faces in all) has {int(clean.sum())} clean faces "
                    f"and {int((~clean).sum())} artifacts; both kinds are needed: label more faces"
                )
        self.validation: dict[str, list[dict[str, float]]] = {}
        self.epoch: dict[str, int] = {}
        self._checkpoints: list[Checkpoint] = []
        self.seconds: dict[str, float] = {}

    def draw(self) -> Views:
        """What the looks see of all labelled faces, and of those that other gates teach after them, cached or drawn."""
        return self._timed("drawing", self._draw)

    def fit(self, views: Views, epoch_seen: EpochSeen | None = None) -> Networks:
        """Train on the train split, where a face stands as often as it weighs."""
        train, validation = self.rows[Split.TRAIN], self.rows[Split.VALIDATION]
        seen = epoch_seen or (lambda epoch, found: None)
        fitted = self._timed("fitting", lambda: self.fit_rows(views, train, validation, "", seen))
        self.validation = {name: part.history for name, part in fitted.items()}
        self.epoch = {name: part.epoch for name, part in fitted.items()}
        return {name: part.network for name, part in fitted.items()}

    def fit_rows(
        self,
        views: Views,
        train: Sequence[int],
        validation: Sequence[int],
        part: str,
        seen: EpochSeen = lambda epoch, found: None,
    ) -> dict[str, Fitted]:
        """Train the looks on some rows, watched on others; a killed training of the same `part` goes on."""
        weighted = [row for row in train for _ in range(self.samples[row].weight)]
        weighted += range(len(self.samples), len(views[0]))
        fitted = {}
        for look, pixels in zip(self.config.looks, views, strict=True):
            note = functools.partial(self._note, look, pixels, validation, part, seen)
            state = self.checkpoint(f"{part}{look.name}")
            fitted[look.name] = fit(
                self.config, look, pixels, self.targets, weighted, self.device, self.say, note, checkpoint=state
            )
        return fitted

    def _note(
        self,
        look: LookSettings,
        pixels: Pixels,
        rows: Sequence[int],
        part: str,
        seen: EpochSeen,
        epoch: int,
        network: nn.Module,
    ) -> dict[str, float]:
        """Figures of a look alone on the validation faces after an epoch."""
        clean, rows = self.decided(rows)
        logits = predict(network, self.config, look, pixels, rows, self.say)[:, 0]
        found = {"auroc": round(auroc(clean, logits), 5), "brier": round(brier(clean, expit(logits)), 5)}
        self.say(f"{part}{look.name}, epoch {epoch}: AUROC {found['auroc']:.4f} on {len(rows)} validation faces", True)
        seen(epoch, {f"{look.name}.{name}": value for name, value in found.items()})
        return found

    def doubt(self, rows: Sequence[int]) -> None:
        """These faces, whose label is probably wrong, count less in what is fitted from now on."""
        self.targets = self.targets.doubted(rows, self.config.targets.suspect_weight)

    def checkpoint(self, part: str) -> Checkpoint:
        """Where a part of this training keeps its state until `forget`."""
        self._checkpoints.append(Checkpoint({"part": part, **self.facts()}))
        return self._checkpoints[-1]

    def facts(self) -> dict[str, Any]:
        """All that decides the weights: with the same facts the same machine makes the same networks.

        Votes on faces that only judge do not, unless a training stops early by them or has folds.
        """
        judged = self.config.folds or self.config.optimiser.patience is not None
        rows = range(len(self.samples)) if judged else self.rows[Split.TRAIN]
        learned = [*rows, *range(len(self.samples), len(self.targets.clean))]
        return {
            "labels": self.labels.part(rows).digest,
            "weights": canonical_digest(self.targets.weight[learned].tolist()),
            "clean": canonical_digest(self.targets.clean[learned].tolist()),
            "first": self.first and self.first.weights_sha256,
            "device": self.device.type,
            **{name: metadata.version(name) for name in ("qgate", "torch", "timm")},
            **self.config.fit_facts(),
        }

    def forget(self) -> None:
        """All is written: the states of an unfinished training are of no use any more."""
        for checkpoint in self._checkpoints:
            checkpoint.clear()

    def is_shipped(self, row: int) -> bool:
        """Whether a face comes from the labels that come with qgate."""
        return is_shipped(self.samples[row].source)

    def write(self, networks: Networks, views: Views, output: Path) -> tuple[GateCard, Judged]:
        """Calibrate, judge the test faces with the bundle as it is shipped, write it with its figures."""
        states = {
            name: {key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}
            for name, network in networks.items()
        }
        card = {**self._card(), "calibrations": self._calibrate(states, views)}
        with self._gate(states, card) as gate:
            judged, apart = (self._judge(gate, views, self.rows[split]) for split in (Split.TEST, Split.APART))
        card["figures"] = {
            "split": "test",
            **figures(judged, self.config.resamples),
            "apart": apart_figures(apart, self.config.resamples),
        }
        card["thresholds"] = threshold_table(judged.clean, judged.prob)
        write_bundle(output, states, card)
        return read_bundle(output).card, judged

    def judge(self, bundle: Bundle, views: Views, rows: Sequence[int]) -> Judged:
        """What a gate of the same looks says of some rows."""
        return self._judge(Gate(bundle, self.config.device), views, rows)

    def decided(self, rows: Sequence[int]) -> tuple[Bools, list[int]]:
        """Whether clean, and the rows, of those faces whose votes are no tie."""
        kept = decided(self.samples, rows)
        return self.targets.clean_votes[kept] > 0.5, kept

    def _read_taught(self) -> list[Face]:
        """What other gates say joins the targets, after whose rows come those of the faces returned: without votes.

        Of faces that judge, and of others of their seeds, nothing is learned.
        """
        settings = self.config.taught
        if settings is None:
            return []
        judging = {
            self.samples[row].identity for split in Split if split is not Split.TRAIN for row in self.rows[split]
        }
        taught = read_taught(find(settings.path), self.config.generators)
        kept = {face: prob for face, prob in taught.items() if str(face.seed) not in judging}
        self.say(f"{settings.path} teaches {len(kept)} faces, {len(taught) - len(kept)} that judge left out", True)
        said = np.array([kept.pop(sample.face, np.nan) for sample in self.samples])
        self.targets = self.targets.mixed(said, settings.share).followed_by(np.array(list(kept.values())))
        return list(kept)

    def _draw(self) -> Views:
        looks = [look.preprocessing for look in self.config.looks]
        labelled = self.labels.views(looks, self.device, self.say)
        taught = draw_faces(self.taught, looks, self.device, self.say)
        return tuple(Pixels(pixels.paths + more) for pixels, more in zip(labelled, taught, strict=True))

    def _calibrate(self, states: States, views: Views) -> tuple[Calibration, ...]:
        """One after the other, each on the calibration faces that would come to its look; on all where too few do."""
        looks, rows = self.config.looks, self.rows[Split.CALIBRATION]
        blank = tuple(Calibration(weights=(1.0,) * (number + 1), offset=0.0) for number in range(len(looks)))
        with self._gate(states, {**self._card(), "calibrations": blank}) as gate:
            logits = look_logits(gate, views, rows, self.say)
        votes, asked, prob = self.targets.clean_votes[rows], np.arange(len(rows)), np.ones(len(rows), np.float32)
        alike = self.first is not None and [look.name for look in self.first.looks] == [look.name for look in looks]
        found: list[Calibration] = []
        for number, look in enumerate(looks):
            asked = asked[prob[asked] >= look.ask_from]
            used = asked
            if not both_kinds(votes[asked] > 0.5):
                used = np.arange(len(rows))
                text = f"{look.name}: too few of {len(rows)} calibration faces come to it"
                self.say(f"{text}; it is calibrated on all of them", True)
            part, said = logits[used, : number + 1], votes[used]
            if self.first is not None and alike:
                said = lean_on(self.first.calibrations[number], part, said)
            found.append(fit_calibration(part, said))
            prob = found[-1].prob(logits[:, : number + 1])
        return tuple(found)

    def _judge(self, gate: Gate, views: Views, rows: Sequence[int]) -> Judged:
        _, rows = self.decided(rows)
        prob = score(gate, views, rows, self.say)
        return join(self.samples, rows, prob, self.contents, tones(views[0], rows, gate.card.looks[0].preprocessing))

    @contextmanager
    def _gate(self, states: States, card: dict[str, Any]) -> Iterator[Gate]:
        """A gate as a bundle of these weights and this card is one."""
        with tempfile.TemporaryDirectory() as folder:
            write_bundle(Path(folder), states, card)
            yield Gate(read_bundle(Path(folder)), self.config.device)

    def _card(self) -> dict[str, Any]:
        config, first = self.config, self.first
        return {
            "name": config.gate_name,
            "looks": [look.look for look in config.looks],
            "notes": f"{config.label_note or self._label_note()} {config.limits}",
            "license": config.license,
            "training": {
                "labels": self.labels.digest,
                "sources": self.labels.facts,
                "taught": self._taught_facts,
                "earlier_sources": only_learned_sources(first),
                "started_from": f"gate {first.name}, {first.weights_sha256[:12]}" if first else config.pretrained,
                "faces": {split.value: len(rows) for split, rows in self.rows.items()},
                "votes": sum(len(set(sample.votes)) for sample in self.samples),
                "tied_faces": int((self.targets.clean_votes == 0.5).sum()),
                "validation_by_epoch": self.validation,
                "epoch": self.epoch,
                "seconds": self.seconds,
                "recipe": config.model_dump(mode="json", include=RECIPE),
            },
            "versions": {name: metadata.version(name) for name in ("qgate", "torch", "timm", "openvino", "numpy")},
        }

    def _label_note(self) -> str:
        """Who labelled, from what the sources say; the shipped labels are never taken for people's."""
        notes = []
        for source in self.labels.facts:
            who = ", ".join(sorted(source["annotators"]))
            machines = all(name.startswith(MACHINES) for name in source["annotators"])
            made = " (vision-language models)" if machines else ""
            notes.append(
                f"{source['faces']} faces of {source['path']}, labelled by {who}{made}, weight {source['weight']}"
            )
        return f"Trained on {'; '.join(notes)}."

    def _timed(self, phase: str, work: Callable[[], T]) -> T:
        start = time.monotonic()
        result = work()
        self.seconds[phase] = round(time.monotonic() - start, 1)
        self.say(f"{phase} took {self.seconds[phase]:.0f} s", True)
        return result


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
