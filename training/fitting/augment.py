"""Training pixels -> changed pixels that show the same face: what a gate must not mind.

Nothing is cut away, since artifacts at the border count; blur stays milder than what an artifact looks like.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from training.config import AugmentSettings


def augment(pixels: Tensor, settings: AugmentSettings) -> Tensor:
    """Change a batch at random, from torch's global generator.

    pixels: uint8 (n, 3, S, S). Returns float32 (n, 3, S, S), 0..255.
    """
    n = len(pixels)
    x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, pixels.flip(3), pixels)
    x = torch.stack([_jpeg(row) if torch.rand(()) < settings.jpeg else row for row in x]).float()
    if settings.rotation or settings.zoom or settings.shift:
        x = _move(x, settings)
    for row in torch.nonzero(torch.rand(n) < settings.rescaled).flatten().tolist():
        x[row] = _rescale(x[row : row + 1], settings.smallest)[0]
    for row in torch.nonzero(torch.rand(n) < settings.noise).flatten().tolist():
        x[row] += torch.randn_like(x[row]) * 8 * torch.rand(())
    return _colour(x, settings).clamp_(0, 255)


def _spread(n: int, largest: float) -> Tensor:
    """Uniform in -largest..largest, (n, 1, 1, 1)."""
    return largest * (2 * torch.rand(n, 1, 1, 1) - 1)


def _colour(x: Tensor, settings: AugmentSettings) -> Tensor:
    n = len(x)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + _spread(n, settings.jitter))
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle * (1 + _spread(n, settings.jitter)) + (x - middle) * (1 + _spread(n, settings.jitter))
    return x * (1 + _spread(3 * n, settings.tint).view(n, 3, 1, 1))


def _move(x: Tensor, settings: AugmentSettings) -> Tensor:
    n = len(x)
    angle = _spread(n, math.radians(settings.rotation)).flatten()
    scale = 1 / (1 + _spread(n, settings.zoom).flatten())
    shift = 2 * _spread(2 * n, settings.shift).view(n, 2, 1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
    grid = F.affine_grid(torch.cat([turn, shift], 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _rescale(x: Tensor, smallest: float) -> Tensor:
    side = x.shape[-1]
    small = round(side * (smallest + (1 - smallest) * float(torch.rand(()))))
    x = F.interpolate(x, (small, small), mode="bilinear", antialias=True)
    return F.interpolate(x, (side, side), mode="bicubic")


def _jpeg(pixels: Tensor) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=int(torch.randint(40, 96, ())))
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
