"""The embedded default generator, ready to draw: MobileStyleGAN with its weights, truncation and device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qgate.config import GeneratorSettings
from qgate.generators.base import Drawn, GeneratorInfo, Nonfinite
from qgate.generators.mobile_stylegan import network, weights
from qgate.generators.mobile_stylegan.fused import FusedMobileStyleGan
from qgate.runtime.executor import HALF, expect_rows, make_executor, pick_precision
from qgate.seeds import draw_z

LICENSE = (
    "MobileStyleGAN weights from the PyPI package random-face (Apache-2.0), distilled from NVIDIA's StyleGAN2 FFHQ "
    "model, which is for non-commercial use"
)


class EmbeddedGenerator:
    """`mobile-stylegan`: 1024x1024 faces."""

    def __init__(self, path: str | None, settings: GeneratorSettings, device: torch.device) -> None:
        model = network.build(weights.load_arrays(path))
        self.precision = pick_precision(settings.precision, device)
        self._psi = settings.truncation_psi
        example = (torch.zeros(1, network.Z_DIM), torch.ones(1, 1))
        self._execute = make_executor(
            model, example, device, self.precision, lambda: FusedMobileStyleGan(model, HALF.get(self.precision))
        )
        self.info = GeneratorInfo(
            name="mobile-stylegan",
            digest=weights.WHEEL.sha256,
            resolution=network.RESOLUTION,
            license=LICENSE,
        )

    def expect(self, rows: int) -> None:
        expect_rows(self._execute, rows)

    def draw(self, seeds: Sequence[int]) -> Drawn:
        z = torch.from_numpy(draw_z(seeds, network.Z_DIM))
        images, means = self._execute(z, torch.full((len(seeds), 1), self._psi))
        return Drawn(images=images, faults=Nonfinite(means), sources=[""] * len(seeds))
