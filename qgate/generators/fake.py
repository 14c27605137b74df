"""A generator and a gate without weights, for tests and for finding what else is slow: `fake` or `fake:RESOLUTION`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qgate.errors import WeightsError
from qgate.generators.base import Drawn, GeneratorInfo
from qgate.records import REGIONS, Score
from qgate.seeds import check_seed


class FakeGenerator:
    """Draws a soft ellipse on a ground, colours and place from the seed alone."""

    def __init__(self, resolution: str | None = None) -> None:
        size = int(text) if (text := resolution or "64").isdecimal() else 0
        if not 16 <= size <= 1024:
            raise WeightsError(f"fake:{resolution}: the resolution is 16..1024, for example fake:64")
        self._size = size
        name = f"fake:{size}"
        self.info = GeneratorInfo(name, hashlib.sha256(name.encode()).hexdigest(), size, "no terms: drawn by a formula")

    def draw(self, seeds: Sequence[int]) -> Drawn:
        images: list[Tensor | None] = [torch.from_numpy(self._draw_one(check_seed(seed))) for seed in seeds]
        return Drawn(images, [None] * len(seeds), [""] * len(seeds))

    def _draw_one(self, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        random = np.random.RandomState(seed)
        ground, face = random.randint(0, 256, (2, 3, 1, 1))
        x0, y0, width, height = random.uniform(0.3, 0.7, 4)
        y, x = np.mgrid[0 : self._size, 0 : self._size] / self._size
        distance = ((x - x0) / width) ** 2 + ((y - y0) / height) ** 2
        weight = 1 / (1 + np.exp(40 * (distance - 0.4)))
        pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (ground + (face - ground) * weight).astype(np.uint8)
        return pixels


class FakeGate:
    """Probabilities from a hash of the pixels: uniform over 0..1, the same in every batch."""

    name = "fake"
    digest = hashlib.sha256(b"fake gate").hexdigest()
    notes = "no classifier: a hash of the pixels"

    def begin(self, images: Sequence[Tensor] | Tensor) -> Callable[[], list[Score]]:
        scores = self.score(images)
        return lambda: scores

    def score(self, images: Sequence[Tensor] | Tensor) -> list[Score]:
        scores = []
        for image in images:
            values = hashlib.sha256(image.cpu().numpy().tobytes()).digest()
            clean, *regions = (float(np.float32(value / 255)) for value in values[: 1 + len(REGIONS)])
            scores.append(Score(clean, tuple(regions)))
        return scores
