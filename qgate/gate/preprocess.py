"""Images -> what a look sees: cut, resized and normalised as the bundle says.

Training and judging both call it, so what the gate learned is what it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

WHOLE = (0.0, 0.0, 1.0, 1.0)
"""The whole middle square, as left, top, right and bottom."""

Channels = tuple[float, float, float]
Box = tuple[float, float, float, float]


class Preprocessing(BaseModel):
    """size: side of the classifier's input in pixels; mean and std: of RGB in 0..1.

    crop: the part of the middle square that is seen: left, top, right, bottom, 0..1, itself a square.
    interpolation: antialiased.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size: int = Field(ge=32, le=2048)
    crop: Box = WHOLE
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: Channels
    std: Channels

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        left, top, right, bottom = self.crop
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"crop {self.crop}: give left, top, right, bottom from 0 to 1")
        if abs((right - left) - (bottom - top)) > 1e-6:
            raise ValueError(f"crop {self.crop}: is no square")
        return self

    def resize(self, images: Tensor) -> Tensor:
        """uint8 RGB (3, H, W) or (n, 3, H, W) -> uint8 (n, 3, size, size): the crop of the middle square."""
        x = images if images.ndim == 4 else images[None]
        side = min(x.shape[-2:])
        top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
        x0, y0, x1, y1 = (round(edge * side) for edge in self.crop)
        x = x[..., top + y0 : top + y1, left + x0 : left + x1]
        if tuple(x.shape[-2:]) == (self.size, self.size):
            return x
        # CUDA resizes floats only; rounding as the CPU's uint8 kernel does keeps the two within one level.
        x = x.float() if x.is_cuda else x.contiguous(memory_format=torch.channels_last)
        x = F.interpolate(x, (self.size, self.size), mode=self.interpolation, antialias=True)
        return x.round().clamp(0, 255).to(torch.uint8) if x.is_floating_point() else x

    def resize_all(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """Images (3, H, W) of any sizes, at least one -> uint8 (n, 3, size, size)."""
        if isinstance(images, Tensor):
            return self.resize(images)
        if len({image.shape for image in images}) == 1:
            return self.resize(torch.stack(list(images)))
        return torch.cat([self.resize(image) for image in images])

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 (n, 3, size, size) -> float32, zero mean and unit variance over the pretraining data."""
        return (x.float() / 255 - _channels(self.mean, x.device)) / _channels(self.std, x.device)


def _channels(values: Channels, device: torch.device) -> Tensor:
    """A number for each channel, (1, 3, 1, 1), made on the device: a CUDA graph holds no copy from the host."""
    return torch.stack([torch.full((), value, device=device) for value in values]).view(1, 3, 1, 1)
