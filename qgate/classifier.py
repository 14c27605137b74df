"""Images -> scores: a gate bundle made ready to judge. Knows no threshold."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qgate.bundle import DEFAULT, Architecture, Bundle, read_bundle
from qgate.errors import BundleError
from qgate.heatmap import HeatMapper, has_places
from qgate.preprocess import Preprocessing
from qgate.records import DEGENERATE, NONFINITE, REGIONS, Score
from qgate.runtime import make_executor, pick_device

DEGENERATE_STD = 1.0
"""An image whose pixels vary less than this (standard deviation in levels 0..255) shows nothing."""


def build_network(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """The classifier's network: input (n, 3, S, S) -> logits (n, 1 + regions); BundleError for an unknown backbone."""
    if not timm.is_model(architecture.backbone):
        near = difflib.get_close_matches(architecture.backbone, timm.list_models(), n=3, cutoff=0.0)
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
        logits = self.network(self.preprocessing.normalise(pixels))
        clean = self.calibration.slope * logits[:, 0] + self.calibration.offset
        return clean.sigmoid(), logits[:, 1:].sigmoid()


class Gate:
    """A gate ready to score.

    >>> gate = qgate.load_gate()
    >>> gate.score(images)[0].clean_prob
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        """device: auto, cpu, cuda or cuda:N. The arithmetic is fp32 everywhere, so that scores agree between them."""
        self.card = bundle.card
        self.name, self.digest, self.notes = bundle.card.name, bundle.digest, bundle.card.notes
        self._bundle, self._device = bundle, pick_device(device)
        size = bundle.card.preprocessing.size
        example = (torch.zeros(1, 3, size, size, dtype=torch.uint8),)
        judge = _Judge(bundle).eval().requires_grad_(False)
        self.explains = has_places(judge.network)
        self._execute = make_executor(judge, example, self._device, "fp32")

    def score(self, images: Sequence[Tensor] | Tensor) -> list[Score]:
        """Score images.

        images: uint8 RGB, (n, 3, H, W) or a sequence of (3, H, W) of any sizes.
        Returns one Score each: clean_prob is calibrated P(clean), 0..1, higher is better.
        """
        if len(images) == 0:
            return []
        pixels = self._resize(images)
        spread = pixels.float().flatten(1).std(1)
        clean, regions = self._execute(pixels)
        finite = clean.isfinite() & regions.isfinite().all(1)
        columns = (clean.tolist(), regions.tolist(), finite.tolist(), (spread >= DEGENERATE_STD).tolist())
        return [_score(*row) for row in zip(*columns, strict=True)]

    def explain(self, images: Sequence[Tensor] | Tensor) -> NDArray[np.float32]:
        """Where the gate sees an artifact.

        images: as for `score`.
        Returns maps (n, S, S) over the middle square of each image, S the side of the gate's input: 0..1, the highest
        value of each is 1 - clean_prob, so a clean face stays dark. All zero where an image cannot be judged.
        Raises BundleError where `explains` is false: a transformer that judges by its class token only.
        """
        size = self.card.preprocessing.size
        maps = np.zeros((len(images), size, size), np.float32)
        if len(images) == 0:
            return maps
        for row, pixels in enumerate(torch.split(self._resize(images), 1)):
            if float(pixels.float().std()) >= DEGENERATE_STD:
                maps[row] = self._mapper(pixels)
        return maps

    @functools.cached_property
    def _mapper(self) -> HeatMapper:
        """Maps need what is inside the network, which the executor hides: it is built again when one is asked for."""
        judge = _Judge(self._bundle).eval().requires_grad_(False).to(self._device)
        return HeatMapper(judge.network, judge.preprocessing, judge.calibration)

    def _resize(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        if any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 for image in images):
            raise ValueError("images must be uint8 RGB tensors of shape (3, H, W)")
        resize = self.card.preprocessing.resize
        if len({image.shape for image in images}) == 1:
            return resize(torch.stack(list(images)))
        return torch.cat([resize(image) for image in images])


def _score(clean: float, regions: list[float], finite: bool, varied: bool) -> Score:
    if not varied:
        return Score(None, fault=DEGENERATE)
    if not finite:
        return Score(None, fault=NONFINITE)
    return Score(clean, tuple(regions))


def load_gate(gate: str | Path = "default", device: str = "auto") -> Gate:
    """A gate ready to score.

    gate: `default` (the shipped one) or a bundle folder.
    Raises BundleError where it is missing, corrupted or incompatible.
    """
    return Gate(read_bundle(DEFAULT if str(gate) == "default" else Path(gate)), device)
