"""Images -> scores: a gate bundle made ready to judge. Knows no threshold."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qgate.errors import BundleError
from qgate.gate.bundle import Architecture, Bundle
from qgate.gate.heatmap import HeatMapper, has_places
from qgate.gate.preprocess import Preprocessing
from qgate.images import as_tensor
from qgate.records import DEGENERATE, NONFINITE, REGIONS, Score
from qgate.runtime.executor import expect_rows, make_executor, pick_device, pick_precision
from qgate.runtime.transfer import HostCopy

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
        self._bundle, self._device = bundle, pick_device(device)
        size = bundle.card.preprocessing.size
        example = (torch.zeros(1, 3, size, size, dtype=torch.uint8),)
        judge = _Judge(bundle).eval().requires_grad_(False)
        self.explains = has_places(judge.network)
        # A CPU computes in bf16 at best, which moves scores more than fp16 does.
        precision = pick_precision("auto", self._device) if self._device.type == "cuda" else "fp32"
        self._execute = make_executor(judge, example, self._device, precision)

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
        pixels = self._resize(images)
        spread = pixels.float().flatten(1).std(1)
        clean, regions = self._execute(pixels)
        # In one tensor, so that one copy brings it to the host.
        rows = HostCopy(torch.cat([spread.to(clean.device)[:, None], clean.float()[:, None], regions.float()], 1))
        return lambda: [_score(*row) for row in rows.wait().tolist()]

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

    def explain_pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`explain` of one image as pictures are held outside of torch: RGB (H, W, 3) -> heat (h, w)."""
        (heat,) = self.explain([as_tensor(image)])
        return np.asarray(heat)

    @functools.cached_property
    def _mapper(self) -> HeatMapper:
        """Maps need what is inside the network, which the executor hides: it is built again when one is asked for."""
        judge = _Judge(self._bundle).eval().requires_grad_(False).to(self._device)
        return HeatMapper(judge.network, judge.preprocessing, judge.calibration)

    def _resize(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        if any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 for image in images):
            raise ValueError("images must be uint8 RGB tensors of shape (3, H, W)")
        resize = self.card.preprocessing.resize
        if isinstance(images, Tensor):
            return resize(images)
        if len({image.shape for image in images}) == 1:
            return resize(torch.stack(list(images)))
        return torch.cat([resize(image) for image in images])


def _score(spread: float, clean: float, *regions: float) -> Score:
    if not spread >= DEGENERATE_STD:
        return Score(None, fault=DEGENERATE)
    if not all(map(math.isfinite, (clean, *regions))):
        return Score(None, fault=NONFINITE)
    return Score(clean, regions)
