"""Pixels and targets -> a trained network. Knows nothing of labels, splits, calibration or bundles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models import group_parameters
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import Tensor, nn

from qgate.gate.bundle import Architecture
from qgate.gate.classifier import build_network
from qgate.runtime.executor import pick_precision
from training.config import LookSettings, TrainConfig
from training.data.pixels import Pixels, Say
from training.data.targets import Batch, Floats, Targets
from training.fitting.augment import augment
from training.fitting.checkpoint import Checkpoint
from training.fitting.cpu import speed_up
from training.fitting.pretrained import load_pretrained

Figures = dict[str, float]

EpochEnd = Callable[[int, nn.Module], Figures]
"""Called after each epoch with its number from 1 and the averaged network, ready to judge.

Returns figures on faces that are not learned from, `auroc` among them, by which the best epoch is known.
"""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the training of a look came to.

    network: averaged, in eval mode, as after epoch `epoch`. history: what `epoch_end` found after each epoch.
    seconds: all epochs took, those before a kill too.
    """

    network: nn.Module
    epoch: int
    history: list[Figures]
    seconds: float


def fit(
    config: TrainConfig,
    look: LookSettings,
    pixels: Pixels,
    targets: Targets,
    rows: Sequence[int],
    device: torch.device,
    say: Say,
    epoch_end: EpochEnd,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Train a look on the given rows; a row that stands there several times is seen so often in each epoch.

    pixels: what the look sees, uint8 (n, 3, size, size).
    checkpoint: kept after each epoch; where it holds a state, that is gone on from.
    The same seed gives the same weights on the same machine, whether the training was killed in between or not.
    """
    torch.manual_seed(config.seed)
    settings, epochs = config.optimiser, config.optimiser.epochs if look.epochs is None else look.epochs
    student = _Student(config, look, device, total_steps=max(len(rows) // settings.batch_size, 1) * epochs)
    history: list[Figures] = []
    kept, seconds = (0, student.average_state()), 0.0
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        history, kept, seconds = state["history"], (state["kept_epoch"], state["kept"]), state["seconds"]
        student.restore(state["student"])
    for epoch in range(len(history) + 1, epochs + 1):
        if settings.patience is not None and len(history) - kept[0] > settings.patience:
            say(f"stopped early: no epoch since epoch {kept[0]} was better", True)
            break
        begin = time.monotonic()
        # A seed of its own for each epoch: neither a restart nor what `epoch_end` draws at random changes anything.
        random = np.random.default_rng((config.seed, epoch))
        torch.manual_seed(int(random.integers(2**63)))
        student.train_mode()
        for batch in _batches(random.permutation(np.asarray(rows)), settings.batch_size):
            x = look.preprocessing.normalise(augment(_gather(pixels, batch), config.augment).to(device))
            loss = student.step(x, targets.of(batch, device))
            progress = f"{look.name}, epoch {epoch} of {epochs}, step {student.steps} of {student.total_steps}"
            say(f"{progress}, loss {loss:.3f}", done=student.steps, total=student.total_steps)
        student.settle()
        history.append(epoch_end(epoch, student.average))
        if settings.patience is None or history[-1]["auroc"] >= max(figures["auroc"] for figures in history):
            kept = (epoch, student.average_state())
        seconds += time.monotonic() - begin
        if checkpoint is not None:
            chosen = {"kept_epoch": kept[0], "kept": kept[1]}
            checkpoint.save({"history": history, "seconds": seconds, **chosen, "student": student.state()})
    student.average.load_state_dict(kept[1])
    return Fitted(student.average, kept[0], history, seconds)


class _Student:
    """The network that learns, its optimiser, and the average of its weights.

    average: an exponential moving average of weights and statistics, itself a network in eval mode.
    """

    def __init__(self, config: TrainConfig, look: LookSettings, device: torch.device, total_steps: int) -> None:
        settings = config.optimiser
        self._settings, self._region_weight, self._device = settings, config.targets.region_weight, device
        arguments = look.architecture.arguments | {"drop_rate": settings.drop_rate}
        network = build_network(Architecture(backbone=look.architecture.backbone, arguments=arguments))
        for parameter in network.get_classifier().parameters():  # type: ignore[operator]
            nn.init.zeros_(parameter)  # timm's own start on max-pooled features began at a loss of 31
        self._frozen: list[nn.Module] = []
        if (source := look.pretrained or config.pretrained) != "none":
            load_pretrained(network, look, source)
            self._frozen = freeze(network, settings.frozen_stages)
        self._network = _place(network, device)
        self._half = _in_half(settings.precision, device)
        if self._half and device.type == "cpu":
            speed_up(self._network)
        self._optimiser = create_optimizer_v2(
            self._network,
            opt="adamw",
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
        )
        self._rates = [group["lr"] * group.get("lr_scale", 1.0) for group in self._optimiser.param_groups]
        self.average = _place(build_network(look.architecture), device).eval().requires_grad_(False)
        self.average.load_state_dict(self._network.state_dict())
        self.steps, self.total_steps = 0, total_steps
        self._waiting = 0

    def train_mode(self) -> None:
        """Statistics move, except those of the frozen stages."""
        self._network.train()
        for module in self._frozen:
            module.eval()

    def step(self, x: Tensor, targets: Batch) -> float:
        """Learn from a batch; every `accumulate` batches the optimiser moves the weights. Returns the loss.

        x: normalised images (n, 3, S, S).
        """
        factor = schedule(self.steps, self.total_steps, self._settings.warmup)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            logits = self._network(x.contiguous(memory_format=torch.channels_last)).float()
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], targets.clean, reduction="none")
        loss = (losses * targets.weight).sum() / targets.weight.sum()
        if (named := targets.named).any():
            regions = F.binary_cross_entropy_with_logits(logits[named, 1:], targets.regions[named])
            loss = loss + self._region_weight * regions
        (loss / self._settings.accumulate).backward()  # type: ignore[no-untyped-call]
        self.steps += 1
        self._waiting += 1
        if self._waiting == self._settings.accumulate:
            self.settle()
        return loss.item()

    def settle(self) -> None:
        """Move the weights by the batches that wait: at the end of an epoch, whose state is kept, none does."""
        if self._waiting:
            self._optimiser.step()
            self._optimiser.zero_grad()
            self._update_average()
        self._waiting = 0

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on, as tensors and numbers."""
        return {
            "steps": self.steps,
            "network": self._network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave at the end of an epoch."""
        self.steps = state["steps"]
        self._network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])

    def average_state(self) -> dict[str, Tensor]:
        """A copy of the averaged weights."""
        return {name: tensor.detach().clone() for name, tensor in self.average.state_dict().items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Source of the warm-up: TensorFlow's ExponentialMovingAverage, min(decay, (1 + n) / (10 + n))."""
        decay = min(self._settings.ema_decay, (1 + self.steps) / (10 + self.steps))
        new = self._network.state_dict()
        for name, tensor in self.average.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(new[name], 1 - decay)
            else:
                tensor.copy_(new[name])


@torch.inference_mode()
def predict(
    network: nn.Module, config: TrainConfig, look: LookSettings, pixels: Pixels, rows: Sequence[int], say: Say
) -> Floats:
    """A look's logits (n, 1 + regions), in the arithmetic of the training: to compare epochs by, not for figures.

    network: in eval mode.
    """
    device = next(network.parameters()).device
    half = _in_half(config.optimiser.precision, device)
    logits = []
    for start in range(0, len(rows), config.optimiser.batch_size):
        batch = rows[start : start + config.optimiser.batch_size]
        x = look.preprocessing.normalise(_gather(pixels, batch).to(device))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            found = network(x.contiguous(memory_format=torch.channels_last))
        logits.append(found.double().cpu().numpy())
        say(f"judging {start + len(x)} of {len(rows)} faces")
    return np.concatenate(logits)


def schedule(step: int, total: int, warmup: float) -> float:
    """Factor of the learning rate: linear from 0 to 1 over the share `warmup` of the steps, then half a cosine to 0."""
    done = (step + 1) / total
    if done <= warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup + 1e-9)))


def _batches(order: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """The rows in batches of equal size; what fills none is left out of this epoch."""
    size = min(batch_size, len(order))
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


def _gather(pixels: Pixels, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels[rows]))


def freeze(network: nn.Module, stages: int) -> list[nn.Module]:
    """Fix the stem and the first stages, which see edges and colours: about half of a step's time is saved.

    network: of timm, which says what its stages are. Returns the fixed layers, which must stay in eval mode.
    """
    matcher = network.group_matcher(coarse=True)  # type: ignore[operator]
    groups = group_parameters(network, matcher)
    fixed = {name for stage in sorted(groups)[: stages + 1] for name in groups[stage]}
    for name, parameter in network.named_parameters():
        if name in fixed:
            parameter.requires_grad_(False)
    layers = [layer for layer in network.modules() if not list(layer.children())]
    return [layer for layer in layers if (own := list(layer.parameters())) and not any(p.requires_grad for p in own)]


def _in_half(precision: str, device: torch.device) -> bool:
    """Whether to learn in bf16; with `auto`, on GPUs and on CPUs that compute in it."""
    return precision == "bf16" or (
        precision == "auto" and (device.type == "cuda" or pick_precision("auto", device) == "bf16")
    )


def _place(network: nn.Module, device: torch.device) -> nn.Module:
    placed: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
