"""The layers of StyleGAN2-ADA in the form that a GPU compiler fuses best; the same numbers, tested as the plain ones.

Everything between two convolutions is pointwise or a small stencil, so that torch.compile makes one kernel of it. The
up-sampling filter [1, 3, 3, 1] is [1, 1] * [1, 2, 1], and the plain layers' up-sampling by two takes three taps of
four: [1, 1] goes into the convolution's weights, which costs nothing more, and an up-sampling convolution becomes one
2x2 convolution to four phases of a pixel, whose matrices are wide even where channels are few; [1, 2, 1] stays behind
as a stencil of nine. Run op by op these layers are slower than the plain ones, which everything but CUDA uses.
Legend of shapes: n images, c channels, (h, w) pixels of a level.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgate.generators.stylegan2.layers import SLOPE, Block, Params, StyleConv, ToRgb, Up
from qgate.generators.stylegan2.spec import FILTER, Spec


def fuses(spec: Spec) -> bool:
    """Whether the network has a form for this module: its up-sampling filter is the usual one."""
    return spec.resample_filter == FILTER


class FusedConv(StyleConv):
    """As the plain one. Activations are rounded to half precision twice: before the convolution and after it."""

    def __init__(
        self, params: Params, fir: Tensor | None, clamp: float | None, gain: float, noise: bool, dtype: torch.dtype
    ) -> None:
        super().__init__(params, fir, clamp, gain, noise, dtype)
        self.phases = fir is not None
        if self.phases:
            weight = phase_weights(params["weight"])
            scale = 1 / (weight.abs().max().clamp_min(1e-12).item() * math.sqrt(weight[0].numel()))
            self.weight, self.fir = nn.Parameter((weight * scale).to(dtype)), None
            self.out_gain *= self.scale / (16 * scale)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        style = self.affine(w)
        peak = style.abs().amax(1, keepdim=True).clamp_min(1e-12)
        demodulation = F.linear(style.square(), self.squares).add(1e-8).rsqrt() * (peak * self.out_gain)
        x = (x * (style / peak)[:, :, None, None]).to(self.weight.dtype)
        x = F.conv2d(x, self.weight, padding=1)
        x = smooth(interleave(x).float()) if self.phases else x.float()
        x = x * demodulation[:, :, None, None] + self.bias
        if noise is not None:
            x = x + noise * self.noise_strength
        elif self.noise is not None:
            x = x + self.noise
        x = F.leaky_relu(x, SLOPE)
        x = x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        return x.to(self.weight.dtype, memory_format=torch.channels_last)


class FusedToRgb(ToRgb):
    """As the plain one: three sums over the channels, which join the kernel that makes the activations."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight[:, :, 0, 0].float() * self.affine(w)[:, None]
        rows = [(x * weight[:, color, :, None, None]).sum(1) for color in range(3)]
        rgb = torch.stack(rows, 1) + self.bias.float()[:, None, None]
        return rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)


class FusedUp(Up):
    """As the plain one: a pixel and its neighbours in both directions, as 3 to 1 in each, read where they are."""

    def forward(self, x: Tensor) -> Tensor:
        large = x.float()
        for axis in (2, 3):
            size = large.shape[axis]
            here = torch.arange(2 * size, device=x.device)
            near = here // 2
            there = near + here % 2 * 2 - 1
            part = ((there >= 0) & (there < size)) * 0.25
            part = part[:, None] if axis == 2 else part
            near, there = (index.clamp(0, size - 1) for index in (near, there))
            large = 0.75 * large.index_select(axis, near) + part * large.index_select(axis, there)
        return large.to(x.dtype)


class FusedBlock(Block):
    """A block of these layers."""

    conv, to_rgb, up = FusedConv, FusedToRgb, FusedUp


def phase_weights(weight: Tensor) -> Tensor:
    """Weights (c_out, c_in, 3, 3) that step by two, with the factor [1, 1] of the filter -> (4 c_out, c_in, 2, 2).

    The convolution with them, padded by one, gives for every corner between pixels the four phases (top left, top
    right, bottom left, bottom right), which `interleave` puts side by side.
    """
    for axis in (2, 3):
        zero = torch.zeros_like(weight.narrow(axis, 0, 1))
        weight = torch.cat([weight, zero], axis) + torch.cat([zero, weight], axis)
    # An output 2j + phase takes the tap `phase` of the pixel j and the tap `phase + 2` of the one before it.
    phases = [weight[:, :, [y + 2, y]][:, :, :, [x + 2, x]] for y in (0, 1) for x in (0, 1)]
    return torch.cat(phases)


def interleave(x: Tensor) -> Tensor:
    """Phases (n, 4c, h, w) -> (n, c, 2h, 2w)."""
    n, c, h, w = x.shape
    return x.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def smooth(x: Tensor) -> Tensor:
    """(n, c, h + 2, w + 2) -> (n, c, h, w): [1, 2, 1] in both directions, sum 16."""
    rows = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    return rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
