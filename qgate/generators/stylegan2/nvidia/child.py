"""Reads a network pickle in a process of its own, whose memory, time and files the system bounds.

The reader runs nothing of a file and keeps its own accounts; this is the second fence, should they be wrong.

    python -m qgate.generators.stylegan2.nvidia.child PATH STEM    convert PATH to STEM.json and STEM.safetensors

Started by `qgate.generators.stylegan2.files`, which it imports.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from qgate.errors import WeightsError
from qgate.generators.stylegan2.files import REFUSED, convert_here

SECONDS = 600
"""Processor time; a network of NVIDIA's takes seconds."""

OVERHEAD, COPIES = 2**29, 8
"""Address space on top of what the interpreter has when it begins to read: bytes, and how often the file's size. Where
a system knows no such bound (macOS), the reader's own accounts remain."""


def main() -> None:
    """PATH STEM; what is refused is said on stdout, with the status REFUSED."""
    path, stem = map(Path, sys.argv[1:])
    bound(path.stat().st_size)
    try:
        convert_here(path, stem)
    except WeightsError as error:
        print(error)
        sys.exit(REFUSED)


def bound(size: int) -> None:
    """Limit this process to what reading a file of `size` bytes takes."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.exists() else 0
    limits = [(resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, 2**20 + 2 * size)]
    if pages:
        limits.append((resource.RLIMIT_AS, pages * resource.getpagesize() + OVERHEAD + COPIES * size))
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main()
