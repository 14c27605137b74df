"""Labels in, bundle out: read, draw, split, fit, calibrate, judge the test faces with the bundle itself, write it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from qgate.config import canonical_digest
from qgate.errors import ConfigError, LabelError, QgateError
from qgate.gate.bundle import Bundle, GateCard, read_bundle, write_bundle
from qgate.gate.classifier import Gate, build_network
from qgate.labels.rows import Face
from qgate.runtime.executor import pick_device
from training.config import TrainConfig, find, first_gate
from training.data.lineage import learned_only, only_learned_sources, taught_facts
from training.data.pixels import Pixels, Say, draw_faces
from training.data.sources import MACHINES, LabelSet, is_shipped, read_sources
from training.data.split import Split, split_rows
from training.data.tables import contents_of
from training.data.targets import Floats, Targets, make_targets
from training.data.taught import read_taught
from training.fitting.checkpoint import Checkpoint
from training.fitting.fit import Fitted, fit, predict
from training.metrics.figures import figures
from training.metrics.judged import Judged, decided, join, score
from training.metrics.metrics import Bools, auroc, brier, fit_platt, lean_on, threshold_table, to_logits

EpochSeen = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its number from 1 and the figures on the validation faces."""

T = TypeVar("T")


class Training:
    """One training, from the labels to the bundle. say: takes progress, see `pixels.Say`."""

    def __init__(self, config: TrainConfig, say: Say) -> None:
        """Reads labels and image files; raises LabelError where a split lacks clean faces or artifacts."""
        self.config, self.say = config, say
        self.device = pick_device(config.device)
        self.first: GateCard | None = first_gate(config.pretrained)
        _check_network(config)  # before any face is drawn
        self.contents = contents_of(config)
        self.labels: LabelSet = read_sources(config, say).learned(learned_only(self.first))
        self.samples = self.labels.samples
        shown = [self.contents.get(sample.face) for sample in self.samples]
        self.targets: Targets = make_targets([sample.votes for sample in self.samples], shown, config.targets)
        self.rows = split_rows(
            [sample.identity for sample in self.samples],
            config.splits,
            [sample.learn_only for sample in self.samples],
        )
        self.taught = self._read_taught()
        self._taught_facts = config.taught and taught_facts(config.taught)  # now: it may change meanwhile
        for split in Split:
            clean, _ = self.decided(self.rows[split])
            if len(clean) == 0 or clean.all() or not clean.any():
                raise LabelError(
                    f"labels: the {split} split ({len(self.samples)} faces in all) has {int(clean.sum())} clean faces "
                    f"and {int((~clean).sum())} artifacts; both kinds are needed: label more faces"
                )
        self.validation: list[dict[str, float]] = []
        self.epoch = 0
        self._checkpoints: list[Checkpoint] = []
        self.seconds: dict[str, float] = {}
        self.platt = (1.0, 0.0)

    def draw(self) -> Pixels:
        """Pixels of all labelled faces, and of those that other gates teach after them, from the cache or drawn now."""
        return self._timed("drawing", self._draw)

    def fit(self, pixels: Pixels, epoch_seen: EpochSeen | None = None) -> nn.Module:
        """Train on the train split, where a face stands as often as it weighs."""

        train, validation = self.rows[Split.TRAIN], self.rows[Split.VALIDATION]
        seen = epoch_seen or (lambda epoch, found: None)
        fitted = self._timed("fitting", lambda: self.fit_rows(pixels, train, validation, "", seen))
        self.validation, self.epoch = fitted.history, fitted.epoch
        return fitted.network

    def fit_rows(
        self,
        pixels: Pixels,
        train: Sequence[int],
        validation: Sequence[int],
        part: str,
        seen: EpochSeen = lambda epoch, found: None,
    ) -> Fitted:
        """Train on some rows, watched on others; a killed training of the same `part` goes on."""
        clean, judged = self.decided(validation)

        def note(epoch: int, network: nn.Module) -> dict[str, float]:
            logits = predict(network, self.config, pixels, judged, self.say)
            found = {"auroc": auroc(clean, logits), "brier": brier(clean, expit(logits))}
            self.say(f"{part}epoch {epoch}: AUROC {found['auroc']:.4f} on {len(judged)} validation faces", True)
            found = {name: round(value, 5) for name, value in found.items()}
            seen(epoch, found)
            return found

        weighted = [row for row in train for _ in range(self.samples[row].weight)]
        weighted += range(len(self.samples), len(pixels))
        state = self.checkpoint(part)
        return fit(self.config, pixels, self.targets, weighted, self.device, self.say, note, checkpoint=state)

    def doubt(self, rows: Sequence[int]) -> None:
        """These faces, whose label is probably wrong, count less in what is fitted from now on."""
        self.targets = self.targets.doubted(rows, self.config.targets.suspect_weight)

    def checkpoint(self, part: str) -> Checkpoint:
        """Where a part of this training keeps its state until `forget`."""
        self._checkpoints.append(Checkpoint({"part": part, **self.facts()}))
        return self._checkpoints[-1]

    def facts(self) -> dict[str, Any]:
        """All that decides the weights: with the same facts the same machine makes the same gate."""
        return {
            "labels": self.labels.digest,
            "weights": canonical_digest(self.targets.weight.tolist()),
            "clean": canonical_digest(self.targets.clean.tolist()),
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

    def write(self, network: nn.Module, pixels: Pixels, output: Path) -> tuple[GateCard, Judged]:
        """Calibrate, judge the test faces with the bundle as it is shipped, write it with its figures."""
        state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        rows = self.rows[Split.CALIBRATION]
        probs = self._judge(state, self._card(), pixels, rows)
        logits, votes = to_logits(probs), self.targets.clean_votes[rows]
        if self.first is not None:
            votes = lean_on(self.first.calibration, logits, votes)
        self.platt = slope, _ = fit_platt(logits, votes)
        if slope <= 0:
            raise QgateError("the network learned nothing: its logits do not rise with clean votes; train longer")
        card = self._card()
        _, rows = self.decided(self.rows[Split.TEST])
        judged = join(self.samples, rows, self._judge(state, card, pixels, rows), self.contents)
        card["figures"] = {"split": "test", **figures(judged, self.config.resamples)}
        card["thresholds"] = threshold_table(judged.clean, judged.prob)
        write_bundle(output, state, card)
        return read_bundle(output).card, judged

    def judge(self, bundle: Bundle, pixels: Pixels, rows: Sequence[int]) -> Judged:
        """What a gate of the same preprocessing says of some rows."""
        _, rows = self.decided(rows)
        return join(self.samples, rows, score(Gate(bundle, self.config.device), pixels, rows, self.say), self.contents)

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

    def _draw(self) -> Pixels:
        pixels = self.labels.pixels(self.config.preprocessing, self.device, self.say)
        return Pixels(pixels.paths + draw_faces(self.taught, self.config.preprocessing, self.device, self.say))

    def _judge(self, state: dict[str, Tensor], card: dict[str, Any], pixels: Pixels, rows: Sequence[int]) -> Floats:
        """clean_prob of the faces, as a bundle of these weights and this card says, (n,)."""
        with tempfile.TemporaryDirectory() as folder:
            write_bundle(Path(folder), state, card)
            gate = Gate(read_bundle(Path(folder)), self.config.device)
        return score(gate, pixels, rows, self.say)

    def _card(self) -> dict[str, Any]:
        config, first, slope_offset = self.config, self.first, self.platt
        return {
            "name": config.gate_name,
            "architecture": config.architecture,
            "preprocessing": config.preprocessing,
            "calibration": dict(zip(("slope", "offset"), slope_offset, strict=True)),
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
                "recipe": config.model_dump(mode="json", include={"seed", "splits", "targets", "augment", "optimiser"}),
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
def _check_network(config: TrainConfig) -> None:
    """Whether timm knows the backbone, and it takes images of the size it is to get. Raises ConfigError."""
    network, size = build_network(config.architecture).eval(), config.preprocessing.size
    try:
        network(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"architecture.backbone = {config.architecture.backbone!r}: takes no images of {size} pixels ({error}); "
            "set preprocessing.size, or architecture.arguments.img_size where the backbone has such"
        ) from error
