"""The embedded default generator, ready to draw: MobileStyleGAN with its weights, truncation and device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qgate.config import GeneratorSettings
from qgate.generators import mobile_stylegan, random_face
from qgate.generators.base import Drawn, GeneratorInfo, Nonfinite
from qgate.generators.mobile_stylegan_fused import FusedMobileStyleGan
from qgate.latents import draw_z
from qgate.runtime import HALF, expect_rows, make_executor, pick_precision

LICENSE = (
    "MobileStyleGAN weights from the PyPI package random-face (Apache-2.0), distilled from NVIDIA's StyleGAN2 FFHQ "
    "model, which is for non-commercial use"
)


class EmbeddedGenerator:
    """`mobile-stylegan`: 1024x1024 faces."""

    def __init__(self, path: str | None, settings: GeneratorSettings, device: torch.device) -> None:
        model = mobile_stylegan.build(random_face.load_arrays(path))
        self.precision = pick_precision(settings.precision, device)
        self._psi = settings.truncation_psi
        example = (torch.zeros(1, mobile_stylegan.Z_DIM), torch.ones(1, 1))
        self._execute = make_executor(
            model, example, device, self.precision, lambda: FusedMobileStyleGan(model, HALF.get(self.precision))
        )
        self.info = GeneratorInfo(
            name="mobile-stylegan",
            digest=random_face.WHEEL.sha256,
            resolution=mobile_stylegan.RESOLUTION,
            license=LICENSE,
        )

    def expect(self, rows: int) -> None:
        expect_rows(self._execute, rows)

    def draw(self, seeds: Sequence[int]) -> Drawn:
        z = torch.from_numpy(draw_z(seeds, mobile_stylegan.Z_DIM))
        images, means = self._execute(z, torch.full((len(seeds), 1), self._psi))
        return Drawn(images=images, faults=Nonfinite(means), sources=[""] * len(seeds))
