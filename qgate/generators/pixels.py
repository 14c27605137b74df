"""What a network draws -> pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def to_pixels(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """RGB (n, 3, h, w), about -1..1 -> uint8 RGB and its mean (n,), which is finite only if every pixel is.

    Source of the rounding: NVIDIA's generate.py.
    """
    # Row by row first, so that pixels and means come from one pass over the image.
    return (rgb * 127.5 + 128).clamp(0, 255).to(torch.uint8), rgb.mean(3).mean((1, 2))
