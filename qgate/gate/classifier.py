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
from scipy.special import expit
from torch import Tensor, nn

from qgate.errors import BundleError
from qgate.gate.bundle import Architecture, Bundle, Look
from qgate.gate.heatmap import HeatMapper, has_places, place
from qgate.images import as_tensor
from qgate.records import DEGENERATE, NONFINITE, REGIONS, Score
from qgate.runtime.executor import expect_rows, make_executor, pick_device, pick_precision
from qgate.runtime.transfer import HostCopy

DEGENERATE_STD = 1.0
"""An image whose pixels vary less than this (standard deviation in levels 0..255) shows nothing."""

AT_ONCE = 64
"""Images that a device is given at once, where nobody said how many come."""

Rows = list[int]


def build_network(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """A look's network: input (n, 3, S, S) -> logits (n, 1 + regions); BundleError for an unknown backbone."""
    if not timm.is_model(architecture.backbone):
        near = difflib.get_close_matches(architecture.backbone, timm.list_models(), n=3, cutoff=0.0)
        raise BundleError(f"timm {timm.__version__} has no model {architecture.backbone!r}; near: {', '.join(near)}")
    arguments: dict[str, Any] = dict(architecture.arguments)
    network: nn.Module = timm.create_model(
        architecture.backbone, pretrained=pretrained, num_classes=1 + len(REGIONS), **arguments
    )
    return network


class LookNetwork(nn.Module):
    """Cut and resized pixels -> logits, in one graph."""

    def __init__(self, bundle: Bundle, look: Look) -> None:
        super().__init__()
        self.preprocessing = look.preprocessing
        self.network = build_network(look.architecture)
        try:
            self.network.load_state_dict(bundle.weights_of(look))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise BundleError(
                f"gate {bundle.card.name}: the weights of the look {look.name} do not fit its architecture ({reason})"
            ) from error

    def extra_repr(self) -> str:
        # The runtime keeps converted graphs by what a module prints: all that shapes the graph must show here.
        return f"timm {timm.__version__}, {self.preprocessing!r}"

    def example(self) -> Tensor:
        """One row of input."""
        size = self.preprocessing.size
        return torch.zeros(1, 3, size, size, dtype=torch.uint8)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """uint8 (n, 3, S, S) -> logits (n, 1 + regions): of clean, then of an artifact in each region."""
        return (self.network(self.preprocessing.normalise(pixels)).float(),)


class Gate:
    """A gate ready to score.

    >>> gate = qgate.load_gate()
    >>> gate.score(images)[0].clean_prob
    """

    def __init__(self, bundle: Bundle, device: str = "auto", precision: str = "auto") -> None:
        """device: auto, cpu, cuda or cuda:N.

        precision: of the arithmetic, fp32, bf16 or fp16; auto as `pick_precision` says.
        """
        self.card, self.digest = bundle.card, bundle.digest
        self._bundle, self._device = bundle, pick_device(device)
        networks = [LookNetwork(bundle, look).eval().requires_grad_(False) for look in self.card.looks]
        self.explains = all(has_places(network.network) for network in networks)
        arithmetic = pick_precision(precision, self._device)
        self._execute = [make_executor(network, (network.example(),), self._device, arithmetic) for network in networks]
        self._at_once = [AT_ONCE] * len(networks)

    def expect(self, rows: int) -> None:
        """Say how many images are going to come at once."""
        # About half of the candidates of a generator get a second look; a CUDA graph computes all rows it was made for.
        self._at_once = [rows if look.ask_from == 0 else max(rows // 2, 1) for look in self.card.looks]
        for execute, part in zip(self._execute, self._at_once, strict=True):
            expect_rows(execute, part)

    def score(self, images: Sequence[Tensor] | Tensor) -> list[Score]:
        """Score images.

        images: uint8 RGB, (n, 3, H, W) or a sequence of (3, H, W) of any sizes.
        Returns one Score each: clean_prob is calibrated P(clean), 0..1, higher is better.
        """
        return self.begin(images)()

    def begin(self, images: Sequence[Tensor] | Tensor) -> Callable[[], list[Score]]:
        """As `score`, without waiting for the device: the function that is returned waits and gives the scores."""
        if len(images) == 0:
            return list
        _check(images)

        def view(number: int, rows: Rows | None) -> Tensor:
            return self.card.looks[number].preprocessing.resize_all(
                images if rows is None else [images[r] for r in rows]
            )

        return self._begin(view)

    def score_views(self, views: Sequence[Tensor]) -> list[Score]:
        """Score images whose views are at hand.

        views: for each look uint8 (n, 3, S, S), as its preprocessing gives it.
        """
        return self._begin(lambda number, rows: views[number] if rows is None else views[number][rows])()

    @torch.inference_mode()
    def look_logits(self, views: Sequence[Tensor]) -> NDArray[np.float64]:
        """Logits of every look, asked or not, (n, looks, 1 + regions). views: as for `score_views`."""
        return np.stack([self._run(number, view).double().cpu().numpy() for number, view in enumerate(views)], 1)

    @torch.inference_mode()
    def _begin(self, view: Callable[[int, Rows | None], Tensor]) -> Callable[[], list[Score]]:
        """view: the pixels that a look sees, by its number, of some rows or of all."""
        pixels = view(0, None)
        spread = pixels.float().flatten(1).std(1)
        logits = self._run(0, pixels)
        # In one tensor, so that one copy brings it to the host.
        copy = HostCopy(torch.cat([spread.to(logits.device)[:, None], logits], 1))

        @torch.inference_mode()
        def finish() -> list[Score]:
            table = copy.wait().numpy()
            shown = table[:, 0] >= DEGENERATE_STD
            clean, regions = self._look_closer(view, table[:, 1:], np.flatnonzero(shown))
            return [
                _score(*row) if there else Score(None, fault=DEGENERATE)
                for row, there in zip(np.column_stack([clean, regions]).tolist(), shown, strict=True)
            ]

        return finish

    def _look_closer(
        self, view: Callable[[int, Rows | None], Tensor], first: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """clean_prob (n,) and region probabilities (n, regions) after all looks that each face is given.

        first: logits of the first look, (n, 1 + regions). rows: which images show anything.
        """
        logits = np.full((len(first), len(self.card.looks), first.shape[1]), np.nan, np.float32)
        logits[:, 0] = first
        prob, regions = self.card.calibrations[0].prob(logits[:, :1]), first[:, 1:].copy()
        for number, look in enumerate(self.card.looks[1:], 1):
            rows = rows[prob[rows] >= look.ask_from]
            if len(rows) == 0:
                break
            logits[rows, number] = self._run(number, view(number, rows.tolist())).cpu().numpy()
            so_far = logits[rows, : number + 1]
            prob[rows], regions[rows] = self.card.calibrations[number].prob(so_far), so_far[:, :, 1:].mean(1)
        return prob, expit(regions)

    def _run(self, number: int, pixels: Tensor) -> Tensor:
        """Logits of a look, float32 (n, 1 + regions), in batches of the size that was said to come."""
        parts = [self._execute[number](part)[0].float() for part in torch.split(pixels, self._at_once[number])]
        return torch.cat(parts)

    def explain(self, images: Sequence[Tensor] | Tensor) -> NDArray[np.float32]:
        """Where the gate sees an artifact.

        images: as for `score`.
        Returns maps (n, S, S) over the middle square of each image, S the side of the first look's input: 0..1, the
        highest value of each is 1 - clean_prob, so a clean face stays dark. All zero where an image cannot be judged.
        Raises BundleError where `explains` is false: a transformer that judges by its class token only.
        """
        size = self.card.looks[0].preprocessing.size
        maps = np.zeros((len(images), size, size), np.float32)
        for number, (image, score) in enumerate(zip(images, self.score(images), strict=True)):
            if score.clean_prob is not None:
                maps[number] = self._explain(image, score.clean_prob)
        return maps

    def _explain(self, image: Tensor, clean_prob: float) -> NDArray[np.float32]:
        """Heat of all looks that the face is given, each where it looked, in log odds; then scaled."""
        looks, calibrations = self.card.looks, self.card.calibrations
        size, prob, calibration = looks[0].preprocessing.size, 1.0, calibrations[0]
        logits: list[NDArray[np.float32]] = []
        rises: list[NDArray[np.float32]] = []
        for look, calibration, mapper in zip(looks, calibrations, self._mappers, strict=True):
            if prob < look.ask_from:
                break
            found, rise = mapper(look.preprocessing.resize(image))
            logits.append(found)
            rises.append(rise)
            prob = float(calibration.prob(np.stack(logits)[None])[0])
        heat = np.zeros((size, size), np.float32)
        for look, weights, rise in zip(looks, calibration.table, rises, strict=False):
            heat += place(np.tensordot(weights.astype(np.float32), rise, 1), look.preprocessing.crop, size)
        heat = heat.clip(0)
        return heat / heat.max() * (1 - clean_prob) if heat.max() > 0 else heat

    def explain_pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`explain` of one image as pictures are held outside of torch: RGB (H, W, 3) -> heat (h, w)."""
        (heat,) = self.explain([as_tensor(image)])
        return np.asarray(heat)

    @functools.cached_property
    def _mappers(self) -> list[HeatMapper]:
        """Maps need what is inside the networks, which the executors hide: these are built when one is asked for."""
        networks = [LookNetwork(self._bundle, look).eval().requires_grad_(False) for look in self.card.looks]
        return [HeatMapper(network.network.to(self._device), network.preprocessing) for network in networks]


def _score(clean: float, *regions: float) -> Score:
    if not all(map(math.isfinite, (clean, *regions))):
        return Score(None, fault=NONFINITE)
    return Score(clean, regions)


def _check(images: Sequence[Tensor] | Tensor) -> None:
    if any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 for image in images):
        raise ValueError("images must be uint8 RGB tensors of shape (3, H, W)")
