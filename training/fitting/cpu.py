"""What makes a training on CPUs fast: depthwise convolutions in bf16, and memory that is kept.

Depthwise convolutions go forward in bf16 and backward in fp32: a training step took half the time of plain bf16
autocast (torch 2.15, two cores with AVX-512 BF16, on a busy machine), whose backward of them is slow.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of glibc's <malloc.h>."""

TOP_PAD = 64 << 20
"""Bytes asked for at once, beyond what is needed."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to its peak, until it ends; nothing where the C library is not glibc.

    Otherwise every large tensor of a step is taken from the system, which fills it with zeros, and given back to it: a
    step on two cores took 1.13 times as long (`tests/benchmarks/training_step.py`). Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD)):
        mallopt(name, value)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: list[int], padding: list[int]) -> Tensor:
        x = x.bfloat16()
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding)
        return F.conv2d(x, weight.bfloat16(), None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        with torch.autocast("cpu", enabled=False):
            dx, dw, _ = torch.ops.aten.convolution_backward(
                grads[0].float(), x.float(), weight, None, stride, padding, [1, 1], False, [0, 0], len(weight),
                [True, True, False],
            )  # fmt: skip
        return dx.bfloat16(), dw, None, None


def speed_up(network: nn.Module) -> None:
    """Replace the forward of every trainable depthwise convolution (square, undilated, without bias), in place."""
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1 and conv.weight.requires_grad:
            conv.forward = _forward.__get__(conv)  # type: ignore[method-assign]


def _forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    padding = [int(side) for side in conv.padding]
    if isinstance(conv, Conv2dSame):
        x, padding = pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation)), [0, 0]
    out: Tensor = _Depthwise.apply(x, conv.weight, list(conv.stride), padding)
    return out
