"""Images -> classifier input, as the bundle says: the only resizing and normalisation in the house.

Training and judging both call it, so what the gate learned is what it sees.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Preprocessing(BaseModel):
    """How images become input; travels in `gate.json`.

    size: side of the square input, pixels.
    interpolation: of the resize, always with antialiasing.
    mean, std: of the normalisation, for RGB in 0..1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=32, le=2048)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def resize(self, image: Tensor) -> Tensor:
        """uint8 RGB (3, H, W) or (n, 3, H, W) -> uint8 (n, 3, size, size); the middle square where H != W."""
        x = image if image.ndim == 4 else image[None]
        side = min(x.shape[-2:])
        top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
        x = x[..., top : top + side, left : left + side]
        if side == self.size:
            return x
        # CUDA resizes floats only; rounding as the CPU's uint8 kernel does keeps the two within one level.
        x = x.float() if x.is_cuda else x.contiguous(memory_format=torch.channels_last)
        x = F.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True)
        return x.round().clamp(0, 255).to(torch.uint8) if x.is_floating_point() else x

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> float32, zero mean and unit variance over the pretraining data."""
        return (x.float() / 255 - _channels(self.mean, x.device)) / _channels(self.std, x.device)


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """A number for each channel, (1, 3, 1, 1), made on the device: a CUDA graph holds no copy from the host."""
    return torch.stack([torch.full((), value, device=device) for value in values]).view(1, 3, 1, 1)
