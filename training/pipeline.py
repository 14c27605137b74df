"""Labels in, bundle out: draw, split, fit, calibrate, judge the test faces with the bundle itself, write it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qgate.bundle import GateCard, read_bundle, write_bundle
from qgate.classifier import Gate
from qgate.errors import LabelError, QgateError
from qgate.label_store import read_any
from qgate.labels import Face, Label, gather_votes
from qgate.runtime import pick_device
from training.config import TrainConfig
from training.draw import Pixels, Say, draw_faces
from training.fit import EpochEnd, fit, predict
from training.metrics import auroc, figures, fit_platt, threshold_table, to_logits
from training.split import Split, split_rows
from training.targets import Floats, Targets, make_targets

JUDGED_AT_ONCE = 32


class Training:
    """One training, from the label file to the bundle. say: takes progress lines, of which it may drop some."""

    def __init__(self, config: TrainConfig, say: Say) -> None:
        """Reads the labels; raises LabelError where a split lacks clean faces or artifacts."""
        self.config, self._say = config, say
        self._device = pick_device(config.device)
        votes = gather_votes(read_any(Path(config.labels)))
        self.faces: list[Face] = sorted(votes)
        self._votes: list[list[Label]] = [votes[face] for face in self.faces]
        self.targets: Targets = make_targets(self._votes, config.targets)
        self.rows = split_rows(self.faces, config.splits)
        for split in Split:
            clean, _ = self._decided(split)
            if len(clean) == 0 or clean.all() or not clean.any():
                raise LabelError(
                    f"labels {config.labels}: the {split} split has {int(clean.sum())} clean faces and "
                    f"{int((~clean).sum())} artifacts; both kinds are needed: label more faces"
                )
        self.validation_auroc: list[float] = []
        self.seconds: dict[str, float] = {}

    def run(self) -> GateCard:
        """Train and write the bundle."""
        pixels = self._timed("drawing", self.draw)
        network = self._timed("fitting", lambda: self.fit(pixels))
        return self.write(network, pixels)

    def draw(self) -> Pixels:
        """Pixels of all labelled faces, from the cache or drawn now."""
        return draw_faces(self.faces, self.config.preprocessing, self._device, self._say)

    def fit(self, pixels: Pixels, epoch_end: EpochEnd | None = None) -> nn.Module:
        """Train on the train split; after each epoch AUROC on the validation split is noted."""

        def note(epoch: int, network: nn.Module) -> None:
            clean, rows = self._decided(Split.VALIDATION)
            value = auroc(clean, predict(network, self.config, pixels, rows, self._say))
            self.validation_auroc.append(round(value, 5))
            self._say(f"epoch {epoch}: AUROC {value:.4f} on {len(rows)} validation faces", True)
            if epoch_end is not None:
                epoch_end(epoch, network)

        return fit(self.config, pixels, self.targets, self.rows[Split.TRAIN], self._device, self._say, note)

    def write(self, network: nn.Module, pixels: Pixels) -> GateCard:
        """Calibrate, judge the test faces with the bundle as it is shipped, write it with its figures."""
        state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        rows = self.rows[Split.CALIBRATION]
        probs = self._judge(state, self._card(slope=1.0, offset=0.0), pixels, rows)
        slope, offset = fit_platt(to_logits(probs), self.targets.clean_votes[rows])
        if slope <= 0:
            raise QgateError("the network learned nothing: its logits do not rise with clean votes; train longer")
        card = self._card(slope, offset)
        clean, rows = self._decided(Split.TEST)
        probs = self._judge(state, card, pixels, rows)
        psi = np.array([self.faces[row].psi for row in rows])
        facts = {"split": "test", "truth": "majority of votes, ties left out"}
        card["figures"] = facts | figures(clean, probs, psi, self.config.resamples)
        card["thresholds"] = threshold_table(clean, probs)
        output = Path(self.config.output)
        write_bundle(output, state, card)
        return read_bundle(output).card

    def _judge(self, state: dict[str, Tensor], card: dict[str, Any], pixels: Pixels, rows: Sequence[int]) -> Floats:
        """clean_prob of the faces, as a bundle of these weights and this card says, (n,)."""
        with tempfile.TemporaryDirectory() as folder:
            write_bundle(Path(folder), state, card)
            gate = Gate(read_bundle(Path(folder)), self.config.device)
        return score(gate, pixels, rows, self._say)

    def _decided(self, split: Split) -> tuple[Any, list[int]]:
        """Whether clean, and the rows, of the split's faces whose votes are no tie."""
        rows = [row for row in self.rows[split] if self.targets.clean_votes[row] != 0.5]
        return self.targets.clean_votes[rows] > 0.5, rows

    def _card(self, slope: float, offset: float) -> dict[str, Any]:
        config = self.config
        return {
            "name": config.name,
            "architecture": config.architecture,
            "preprocessing": config.preprocessing,
            "calibration": {"slope": slope, "offset": offset},
            "notes": f"{config.label_note} {config.limits}",
            "license": config.license,
            "training": {
                "labels_sha256": hashlib.sha256(Path(config.labels).read_bytes()).hexdigest(),
                "faces": {split.value: len(rows) for split, rows in self.rows.items()},
                "votes": sum(len(votes) for votes in self._votes),
                "tied_faces": int((self.targets.clean_votes == 0.5).sum()),
                "validation_auroc_by_epoch": self.validation_auroc,
                "seconds": self.seconds,
                "recipe": config.model_dump(mode="json", include={"seed", "splits", "targets", "optimiser"}),
            },
            "versions": {name: metadata.version(name) for name in ("qgate", "torch", "timm", "openvino", "numpy")},
        }

    def _timed(self, phase: str, work: Any) -> Any:
        start = time.monotonic()
        result = work()
        self.seconds[phase] = round(time.monotonic() - start, 1)
        self._say(f"{phase} took {self.seconds[phase]:.0f} s", True)
        return result


def score(gate: Gate, pixels: Pixels, rows: Sequence[int], say: Say) -> Floats:
    """clean_prob of faces as the gate judges them, (n,)."""
    probs: list[float] = []
    for start in range(0, len(rows), JUDGED_AT_ONCE):
        images = torch.from_numpy(np.ascontiguousarray(pixels[rows[start : start + JUDGED_AT_ONCE]]))
        for found in gate.score(images):
            if found.clean_prob is None:
                raise QgateError(f"a face could not be judged ({found.fault}): the training went wrong")
            probs.append(found.clean_prob)
        say(f"judging {len(probs)} of {len(rows)} faces")
    return np.array(probs)
