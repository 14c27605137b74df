"""Images -> scores: a gate bundle made ready to judge. Knows no threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from qgate.bundle import DEFAULT, Architecture, Bundle, read_bundle
from qgate.errors import BundleError
from qgate.preprocess import Preprocessing
from qgate.records import DEGENERATE, NONFINITE, REGIONS, Score
from qgate.runtime import expect_rows, make_executor, pick_device, pick_precision
from qgate.transfer import HostCopy

DEGENERATE_STD = 1.0
"""An image whose pixels vary less than this (standard deviation in levels 0..255) shows nothing."""


def build_network(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """The classifier's network: input (n, 3, S, S) -> logits (n, 1 + regions); BundleError for an unknown backbone."""
    if not timm.is_model(architecture.backbone):
        near = timm.list_models(f"*{architecture.backbone.split('_')[0]}*")[:3]
        raise BundleError(f"timm {timm.__version__} has no model {architecture.backbone!r}; near: {', '.join(near)}")
    arguments: dict[str, Any] = dict(architecture.arguments)
    network: nn.Module = timm.create_model(
        architecture.backbone, pretrained=pretrained, num_classes=1 + len(REGIONS), **arguments
    )
    return network


class _Judge(nn.Module):
    """Resized pixels -> clean_prob and region probabilities, in one graph."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.preprocessing: Preprocessing = bundle.card.preprocessing
        self.calibration = bundle.card.calibration
        self.network = build_network(bundle.card.architecture)
        try:
            self.network.load_state_dict(bundle.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"gate {bundle.card.name}: the weights do not fit the architecture ({reason})") from error

    def extra_repr(self) -> str:
        # The runtime keeps converted graphs by what a module prints: all that shapes the graph must show here.
        return f"timm {timm.__version__}, {self.preprocessing!r}, {self.calibration!r}"

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (n, 3, S, S) -> clean_prob (n,), region probabilities (n, regions)."""
        logits = self.network(self.preprocessing.normalise(pixels)).float()
        clean = self.calibration.slope * logits[:, 0] + self.calibration.offset
        return clean.sigmoid(), logits[:, 1:].sigmoid()


class Gate:
    """A gate ready to score.

    >>> gate = qgate.load_gate()
    >>> gate.score(images)[0].clean_prob
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        """device: auto, cpu, cuda or cuda:N. The arithmetic is fp32; on GPUs with tensor cores fp16 (see README)."""
        self.card = bundle.card
        self.name, self.digest, self.notes = bundle.card.name, bundle.digest, bundle.card.notes
        size = bundle.card.preprocessing.size
        example = (torch.zeros(1, 3, size, size, dtype=torch.uint8),)
        place = pick_device(device)
        # A CPU computes in bf16 at best, which moves scores more than fp16 does.
        precision = pick_precision("auto", place) if place.type == "cuda" else "fp32"
        self._execute = make_executor(_Judge(bundle).eval().requires_grad_(False), example, place, precision)

    def expect(self, rows: int) -> None:
        """Say how many images are going to come at once."""
        expect_rows(self._execute, rows)

    def score(self, images: Sequence[Tensor] | Tensor) -> list[Score]:
        """Score images.

        images: uint8 RGB, (n, 3, H, W) or a sequence of (3, H, W) of any sizes.
        Returns one Score each: clean_prob is calibrated P(clean), 0..1, higher is better.
        """
        return self.begin(images)()

    @torch.inference_mode()
    def begin(self, images: Sequence[Tensor] | Tensor) -> Callable[[], list[Score]]:
        """As `score`, without waiting for the device: the function that is returned waits and gives the scores."""
        if len(images) == 0:
            return list
        if any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 for image in images):
            raise ValueError("images must be uint8 RGB tensors of shape (3, H, W)")
        resize = self.card.preprocessing.resize
        if isinstance(images, Tensor):
            pixels = resize(images)
        elif len({image.shape for image in images}) == 1:
            pixels = resize(torch.stack(list(images)))
        else:
            pixels = torch.cat([resize(image) for image in images])
        spread = pixels.float().flatten(1).std(1)
        clean, regions = self._execute(pixels)
        # In one tensor, so that one copy brings it to the host.
        rows = HostCopy(torch.cat([spread.to(clean.device)[:, None], clean.float()[:, None], regions.float()], 1))
        return lambda: [_score(*row) for row in rows.wait().tolist()]


def _score(spread: float, clean: float, *regions: float) -> Score:
    if not spread >= DEGENERATE_STD:
        return Score(None, fault=DEGENERATE)
    if not all(map(math.isfinite, (clean, *regions))):
        return Score(None, fault=NONFINITE)
    return Score(clean, regions)


def load_gate(gate: str | Path = "default", device: str = "auto") -> Gate:
    """A gate ready to score.

    gate: `default` (the shipped one) or a bundle folder.
    Raises BundleError where it is missing, corrupted or incompatible.
    """
    return Gate(read_bundle(DEFAULT if str(gate) == "default" else Path(gate)), device)
