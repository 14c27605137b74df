"""The C library's memory, set for training on CPUs. Knows no tensors."""

from __future__ import annotations

import ctypes
import platform

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
