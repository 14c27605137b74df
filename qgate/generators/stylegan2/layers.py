"""The layers of the StyleGAN2-ADA generator: style convolutions, up-sampling, blocks. Knows no files.

One convolution with shared weights serves the whole batch, since a style scales the channels before it and the
demodulation those after it, which is the same as modulating the weights of each image. Gains are folded into the
weights when the network is built.
Legend of shapes: n images, c channels, (h, w) pixels of a level, r the resolution of a block.
Source: Karras et al., arXiv 1912.04958 (modulation, skip and resnet architectures), 2006.06676 (clamping).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qgate.generators.stylegan2.spec import Spec

Params = Mapping[str, Tensor]

SLOPE = 0.2
GAIN = math.sqrt(2.0)
"""Of the leaky ReLU, so that it keeps the variance; as the ReLU is homogeneous, the gain is folded into its input."""

HALF_CLAMP = 256.0
"""Clamp for float16 where a network was trained without. Source: arXiv 2006.06676."""


class Style(nn.Module):
    """w (n, w_dim) -> a factor for each channel (n, c)."""

    def __init__(self, weight: Tensor, bias: Tensor, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight * (gain / math.sqrt(weight.shape[1])))
        self.bias = nn.Parameter(bias * gain)

    def forward(self, w: Tensor) -> Tensor:
        return F.linear(w, self.weight, self.bias)


class StyleConv(nn.Module):
    """Modulation, 3x3 convolution (twice the size with `fir`), demodulation, noise, bias, leaky ReLU, clamp.

    Weights and styles are scaled to about 1 before the convolution and back after it, so that half precision holds
    them; the demodulation itself is computed in fp32.
    """

    def __init__(
        self, params: Params, fir: Tensor | None, clamp: float | None, gain: float, noise: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        weight = params["weight"]
        c_out, c_in = weight.shape[:2]
        scale = 1 / (weight.abs().max().clamp_min(1e-12).item() * math.sqrt(9 * c_in))
        self.scale = scale
        self.affine = Style(params["affine.weight"], params["affine.bias"])
        self.squares = nn.Buffer(weight.square().sum((2, 3)))
        scaled = (weight * scale).to(dtype)
        self.weight = nn.Parameter(scaled.transpose(0, 1).contiguous() if fir is not None else scaled)
        self.bias = nn.Parameter((params["bias"] * (GAIN * gain)).view(1, c_out, 1, 1).to(dtype))
        self.fir = None if fir is None else nn.Buffer((fir.flip(0, 1) * 4).expand(c_out, 1, 4, 4).to(dtype).clone())
        strength = params["noise_strength"] * (GAIN * gain) if noise else torch.zeros(())
        self.noise_strength = nn.Buffer(strength.to(dtype))
        self.noise = nn.Buffer((params["noise_const"] * strength).to(dtype)[None, None]) if noise else None
        self.out_gain = GAIN * gain / scale
        self.clamp = None if clamp is None else clamp * gain

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """noise: (n, 1, r, r) standard normal; None: the constant noise, where there is one."""
        style = self.affine(w)
        peak = style.abs().amax(1, keepdim=True).clamp_min(1e-12)
        demodulation = F.linear(style.square(), self.squares).add(1e-8).rsqrt() * (peak * self.out_gain)
        x = x * (style / peak).to(x.dtype)[:, :, None, None]
        if self.fir is None:
            x = F.conv2d(x, self.weight, padding=1)
        else:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.fir, padding=1, groups=x.shape[1])
        x = torch.addcmul(self.bias, x, demodulation.to(x.dtype)[:, :, None, None])
        if noise is not None:
            x = x + noise.to(x.dtype) * self.noise_strength
        elif self.noise is not None:
            x = x + self.noise
        x = F.leaky_relu(x, SLOPE)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)

    def extra_repr(self) -> str:
        return f"clamp={self.clamp}, out_gain={self.out_gain}, noise={self.noise is not None}"


class ToRgb(nn.Module):
    """Modulation without demodulation and a 1x1 convolution to RGB, which is fp32."""

    def __init__(self, params: Params, clamp: float | None, dtype: torch.dtype) -> None:
        super().__init__()
        weight = params["weight"]
        self.affine = Style(params["affine.weight"], params["affine.bias"], 1 / math.sqrt(weight.shape[1]))
        self.weight = nn.Parameter(weight.to(dtype))
        self.bias = nn.Parameter(params["bias"].to(dtype))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        rgb = F.conv2d(x * self.affine(w).to(x.dtype)[:, :, None, None], self.weight, self.bias)
        return (rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)).float()

    def extra_repr(self) -> str:
        return f"clamp={self.clamp}"


class Up(nn.Module):
    """Twice the size by the up-sampling filter, each channel for itself."""

    def __init__(self, fir: Tensor, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.fir = nn.Buffer((fir * 4).expand(channels, 1, 4, 4).to(dtype).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.fir, stride=2, padding=1, groups=x.shape[1])


class Block(nn.Module):
    """One resolution: a constant or an up-sampling convolution, a convolution, and what makes the image."""

    conv: ClassVar[type[StyleConv]] = StyleConv
    to_rgb: ClassVar[type[ToRgb]] = ToRgb
    up: ClassVar[type[Up]] = Up

    def __init__(self, params: Params, spec: Spec, r: int, noise: bool, dtype: torch.dtype) -> None:
        super().__init__()
        fir = torch.tensor(spec.resample_filter)
        clamp = spec.conv_clamp
        if clamp is None and dtype == torch.float16:
            clamp = HALF_CLAMP
        residual = spec.architecture == "resnet" and r > 4
        gain = math.sqrt(0.5) if residual else 1.0
        channels = params["conv1.weight"].shape[0]
        self.dtype, self.num_convs = dtype, len(spec.convs(r))
        self.const = nn.Parameter(params["const"][None].to(dtype)) if r == 4 else None
        self.conv0 = self.conv(under(params, "conv0."), fir, clamp, 1.0, noise, dtype) if r > 4 else None
        self.conv1 = self.conv(under(params, "conv1."), None, clamp, gain, noise, dtype)
        skip = params["skip.weight"] if residual else None
        self.skip = None if skip is None else nn.Parameter((skip * (gain / math.sqrt(skip.shape[1]))).to(dtype))
        self.skip_up = self.up(fir, channels, dtype) if residual else None
        self.torgb = self.to_rgb(under(params, "torgb."), clamp, dtype) if spec.has_rgb(r) else None
        self.rgb_up = self.up(fir, 3, torch.float32) if spec.architecture == "skip" and r > 4 else None

    def forward(
        self, x: Tensor | None, rgb: Tensor | None, ws: Tensor, noises: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Activations and image of the block below, ws (n, any, w_dim) from this block on, noise of each layer."""
        first, last = (noises[0], noises[-1]) if noises else (None, None)
        if x is None or self.conv0 is None:
            assert self.const is not None
            x = self.conv1(self.const, ws[:, 0], last)
        else:
            x = x.to(self.dtype)
            straight = self.conv1(self.conv0(x, ws[:, 0], first), ws[:, 1], last)
            if self.skip is not None and self.skip_up is not None:
                straight = straight + self.skip_up(F.conv2d(x, self.skip))
            x = straight
        if rgb is not None and self.rgb_up is not None:
            rgb = self.rgb_up(rgb)
        if self.torgb is not None:
            drawn = self.torgb(x, ws[:, self.num_convs])
            rgb = drawn if rgb is None else rgb + drawn
        return x, rgb

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


def under(params: Params, prefix: str) -> dict[str, Tensor]:
    """The parameters whose names start with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
