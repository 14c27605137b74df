"""MobileStyleGAN, 1024x1024 FFHQ: the embedded default generator. Knows nothing of files.

Legend of shapes: n images, c channels, (h, w) pixels of a level.
Source: Belousov, MobileStyleGAN (arXiv 2104.04767); the layers as the weights of `random-face` 2021.7.21.1 show them.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgate.generators.mobile_stylegan.weights import NUM_BLOCKS, Arrays
from qgate.generators.pixels import to_pixels

Z_DIM = 512
RESOLUTION = 1024
W_AVG_SAMPLES = 10_000


class Affine(nn.Module):
    """w -> one factor for each channel, (n, c, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, Z_DIM))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, w: Tensor) -> Tensor:
        return F.linear(w, self.weight, self.bias)[:, :, None, None]


class Up(nn.Module):
    """Modulation and the inverse Haar transform: (n, c, h, w) -> (n, c / 4, 2h, 2w)."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.affine = Affine(c_in)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return inverse_haar(x * self.affine(w))


class StyleConv(nn.Module):
    """Modulation, [depthwise 3x3], convolution, fixed noise, bias, leaky ReLU.

    The official scale of the modulation, 1 / sqrt(c_in * kernel area), is folded into the affine by `build`.
    """

    def __init__(self, c_in: int, c_out: int, resolution: int, depthwise: bool) -> None:
        super().__init__()
        self.affine = Affine(c_in)
        self.depthwise = nn.Parameter(torch.empty(c_in, 1, 3, 3)) if depthwise else None
        kernel = 1 if depthwise else 3
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(c_out))
        self.noise = nn.Parameter(torch.empty(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x * self.affine(w)
        if self.depthwise is not None:
            x = F.conv2d(x, self.depthwise, padding=1, groups=x.shape[1])
        x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        return F.leaky_relu(x + self.noise + self.bias[None, :, None, None], 0.2)


class Block(nn.Module):
    """Inverse Haar transform x2 up, then two separable convolutions."""

    def __init__(self, c_in: int, c_out: int, resolution: int) -> None:
        super().__init__()
        self.up = Up(c_in)
        self.conv1 = StyleConv(c_in // 4, c_out, resolution, depthwise=True)
        self.conv2 = StyleConv(c_out, c_out, resolution, depthwise=True)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(self.up(x, w), w), w)
        return out


class ToRgb(nn.Module):
    """Modulation and a 1x1 convolution to the twelve subbands of RGB."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.affine = Affine(c_in)
        self.weight = nn.Parameter(torch.empty(12, c_in, 1, 1))
        self.bias = nn.Parameter(torch.empty(12))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return inverse_haar(F.conv2d(x * self.affine(w), self.weight, self.bias))


class MobileStyleGan(nn.Module):
    """The whole generator: z -> pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.ModuleList(nn.Linear(Z_DIM, Z_DIM) for _ in range(8))
        self.const = nn.Parameter(torch.empty(1, 512, 4, 4))
        self.conv = StyleConv(512, 512, 4, depthwise=False)
        channels = [512, 512, 512, 512, 512, 256, 128, 64]
        self.blocks = nn.ModuleList(
            Block(c_in, c_out, 8 << index) for index, (c_in, c_out) in enumerate(itertools.pairwise(channels))
        )
        self.to_rgb = ToRgb(channels[-1])
        self.w_avg = nn.Buffer(torch.zeros(Z_DIM))

    def map(self, z: Tensor) -> Tensor:
        """z (n, 512) -> w (n, 512), before truncation."""
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            x = F.leaky_relu(layer(x), 0.2) * math.sqrt(2.0)
        return x

    def synthesize(self, w: Tensor) -> Tensor:
        """w (n, 512) -> RGB (n, 3, 1024, 1024), about -1..1, not clamped."""
        x = self.conv(self.const, w)
        for block in self.blocks:
            x = block(x, w)
        out: Tensor = self.to_rgb(x, w)
        return out

    def forward(self, z: Tensor, truncation_psi: Tensor) -> tuple[Tensor, Tensor]:
        """z (n, 512), truncation_psi (n, 1) -> uint8 RGB (n, 3, 1024, 1024) and the mean of the unclamped RGB (n,)."""
        w = self.map(z).float()  # half precision where a caller's autocast computes in it, which lerp does not take
        return to_pixels(self.synthesize(self.w_avg.lerp(w, truncation_psi)).float())


def inverse_haar(x: Tensor) -> Tensor:
    """Subbands (n, 4c, h, w) -> (n, c, 2h, 2w), twice as large as the orthonormal transform.

    The subbands stand in four runs of c channels: low, vertical, horizontal, diagonal detail.
    """
    low, vertical, horizontal, diagonal = x.chunk(4, 1)
    top, bottom = low + vertical, low - vertical
    top_detail, bottom_detail = horizontal + diagonal, horizontal - diagonal
    n, c, h, w = low.shape
    pixels = torch.cat([top + top_detail, top - top_detail, bottom + bottom_detail, bottom - bottom_detail], 1)
    return pixels.view(n, 2, 2, c, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c, 2 * h, 2 * w)


def build(arrays: Arrays) -> MobileStyleGan:
    """The network with the weights of `weights.load_arrays`, in eval mode, on the CPU."""
    model = MobileStyleGan()
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    _fold_scales(state)
    _group_subbands(state)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or missing != ["w_avg"]:
        raise ValueError(f"weights do not fit the network: missing {missing}, unexpected {unexpected}")
    z = np.random.RandomState(0).randn(W_AVG_SAMPLES, Z_DIM).astype(np.float32)
    with torch.inference_mode():
        model.w_avg.copy_(model.map(torch.from_numpy(z)).mean(0))
    return model.eval().requires_grad_(False)


def _fold_scales(state: dict[str, Tensor]) -> None:
    """Fold each modulation's constant factor into its affine: the convolutions' gains, and the Haar transform's 1/2."""
    for name in list(state):
        if name.endswith(".affine.weight"):
            layer = name.removesuffix(".affine.weight")
            if layer.endswith(".up"):
                factor = 0.5
            elif f"{layer}.depthwise" in state:
                factor = 1 / math.sqrt(9 * state[f"{layer}.depthwise"].shape[0])
            else:
                factor = 1 / math.sqrt(state[f"{layer}.weight"][0].numel())
            state[name] *= factor
            state[f"{layer}.affine.bias"] *= factor
    for name in ("to_rgb.weight", "to_rgb.bias"):
        state[name] *= 0.5


def _group_subbands(state: dict[str, Tensor]) -> None:
    """Reorder channels from the weights' [low | (detail of c, 3)] to four runs, which splits without copying."""
    producers = ["conv", *(f"blocks.{block}.conv2" for block in range(NUM_BLOCKS - 1)), "to_rgb"]
    for index, producer in enumerate(producers):
        names = [f"{producer}.weight", f"{producer}.bias"]
        if producer != "to_rgb":
            names += [f"blocks.{index}.up.affine.weight", f"blocks.{index}.up.affine.bias"]
        c = state[names[0]].shape[0] // 4
        order = torch.cat([torch.arange(c), c + torch.arange(3 * c).view(c, 3).t().reshape(-1)])
        for name in names:
            state[name] = state[name][order]
