"""MobileStyleGAN in the form that a GPU compiler fuses best; the same numbers, tested as the plain form.

Channels stand last, so that 1x1 convolutions are matrix products; depthwise convolutions are stencils and the Haar
transform is a sum with signs, so that torch.compile makes two kernels of everything between two products. Run op by op
it is slower than the plain form, which everything but CUDA uses.
Legend of shapes: n images, (h, w) pixels of a level, c channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgate.generators.mobile_stylegan.network import Block, MobileStyleGan, StyleConv, ToRgb, Up
from qgate.generators.pixels import to_pixels

SLOPE = 0.2
COLUMNS = 16
"""Of the last product: twelve subbands, and zeros up to a size that tensor cores take."""


class FusedConv(nn.Module):
    """Modulation, depthwise 3x3, product, noise, bias, leaky ReLU; sums are fp32, what is stored between is `half`."""

    def __init__(self, plain: StyleConv, half: torch.dtype) -> None:
        super().__init__()
        assert plain.depthwise is not None
        self.affine = plain.affine
        self.taps = nn.Buffer(plain.depthwise.flatten(1).t().contiguous())
        self.weight = nn.Buffer(plain.weight[:, :, 0, 0].to(half))
        self.noise, self.bias = nn.Buffer(plain.noise[0, 0, :, :, None].clone()), plain.bias

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        half = self.weight.dtype
        x = stencil(modulated(x, self.affine(w)).to(half), self.taps)
        return F.leaky_relu(F.linear(x.to(half), self.weight).float() + self.noise + self.bias, SLOPE)


class FusedBlock(nn.Module):
    """Inverse Haar transform x2 up, then two separable convolutions."""

    def __init__(self, plain: Block, half: torch.dtype) -> None:
        super().__init__()
        self.up: Up = plain.up
        self.conv1, self.conv2 = FusedConv(plain.conv1, half), FusedConv(plain.conv2, half)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        half = self.conv1.weight.dtype
        x = haar_sums(modulated(x, self.up.affine(w)).to(half), half)
        out: Tensor = self.conv2(self.conv1(x, w), w)
        return out


class FusedToRgb(nn.Module):
    """Modulation, a product to the twelve subbands of RGB, inverse Haar transform."""

    def __init__(self, plain: ToRgb, half: torch.dtype) -> None:
        super().__init__()
        self.affine, self.bias = plain.affine, plain.bias
        weight = plain.weight[:, :, 0, 0]
        self.bands = len(weight)
        self.weight = nn.Buffer(F.pad(weight, (0, 0, 0, COLUMNS - self.bands)).to(half))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = F.linear(modulated(x, self.affine(w)).to(self.weight.dtype), self.weight)
        return haar_sums(x[..., : self.bands].float() + self.bias, torch.float32)


class FusedMobileStyleGan(nn.Module):
    """The whole generator; mapping, styles and the first convolution at 4x4 are the plain ones, in fp32."""

    def __init__(self, plain: MobileStyleGan, half: torch.dtype | None) -> None:
        """half: of the products and of what is stored between them; None: fp32."""
        super().__init__()
        half = half or torch.float32
        self.plain = plain
        self.blocks = nn.ModuleList(FusedBlock(block, half) for block in plain.blocks)  # type: ignore[arg-type]
        self.to_rgb = FusedToRgb(plain.to_rgb, half)

    def synthesize(self, w: Tensor) -> Tensor:
        """As the plain network."""
        x: Tensor = self.plain.conv(self.plain.const, w).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x, w)
        out: Tensor = self.to_rgb(x, w)
        return out.permute(0, 3, 1, 2).contiguous()

    def forward(self, z: Tensor, truncation_psi: Tensor) -> tuple[Tensor, Tensor]:
        """As the plain network."""
        rgb = self.synthesize(self.plain.w_avg.lerp(self.plain.map(z), truncation_psi))
        return to_pixels(rgb)


def modulated(x: Tensor, style: Tensor) -> Tensor:
    """x (n, h, w, c) times a factor for each image and channel, (n, c, 1, 1)."""
    return x * style.permute(0, 2, 3, 1)


def stencil(x: Tensor, taps: Tensor) -> Tensor:
    """Depthwise 3x3 convolution of x (n, h, w, c), padded by one, with taps (9, c), in fp32."""
    h, w = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    out = torch.zeros((), device=x.device)
    for tap in range(9):
        dy, dx = divmod(tap, 3)
        out = out + padded[:, dy : dy + h, dx : dx + w].float() * taps[tap]
    return out


def haar_sums(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As `inverse_haar`, (n, h, w, 4c) -> (n, 2h, 2w, c): every pixel sums its four subbands with signs of its own.

    The sums are fp32; x and the result, of this dtype, are what the compiler stores.
    """
    n, h, w, c = x.shape
    bands = x.chunk(4, 3)

    def pixel(down: int, right: int) -> Tensor:
        low, vertical, horizontal, diagonal = (band.float() for band in bands)  # here, lest they be stored as fp32
        return (low + down * vertical + right * horizontal + right * down * diagonal).to(dtype)

    rows = [torch.stack([pixel(down, right) for right in (1, -1)], 3) for down in (1, -1)]
    return torch.stack(rows, 2).reshape(n, 2 * h, 2 * w, c // 4)
