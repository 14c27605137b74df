"""Reads a network pickle in a process of its own, whose memory, time and files the system bounds.

The reader runs nothing of a file and keeps its own accounts; this is the second fence, should they be wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qgate.errors import QgateError, WeightsError

SECONDS = 600
"""Processor time; a network of NVIDIA's takes seconds."""

OVERHEAD, COPIES = 2**29, 8
"""Address space on top of what the interpreter has when it begins to read: bytes, and how often the file's size. Where
a system knows no such bound (macOS), the reader's own accounts remain."""

REFUSED = 2

BEYOND = ("MemoryError", "Cannot allocate memory", "File too large")
"""What Python says of the bounds on memory and files; that on time is a signal."""


def read_apart(path: Path, stem: Path) -> None:
    """Convert the pickle at `path` to STEM.json and STEM.safetensors.

    Raises WeightsError where the reader refuses the file or goes beyond its bounds, QgateError for another fault.
    """
    # One thread: each of a numeric library's would take address space.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # -P: modules that lie in the working folder, as a stranger's archive may bring them, are not imported.
    command = [sys.executable, "-P", "-m", __name__, str(path), str(stem)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == REFUSED:
        raise WeightsError(done.stdout.strip())
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        if done.returncode < 0 or any(word in last for word in BEYOND):
            raise WeightsError(f"{path}: reading it took too much memory or time and was stopped ({last})")
        raise QgateError(f"{path}: cannot be read ({last})")


def main() -> None:
    """In the child: PATH STEM."""
    from qgate.generators.stylegan2_files import convert_here

    path, stem = map(Path, sys.argv[1:])
    bound(path.stat().st_size)
    try:
        convert_here(path, stem)
    except WeightsError as error:
        print(error)
        sys.exit(REFUSED)


def bound(size: int) -> None:
    """Limit this process to what reading a file of `size` bytes takes."""
    import resource

    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.exists() else 0
    limits = [(resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, 2**20 + 2 * size)]
    if pages:
        limits.append((resource.RLIMIT_AS, pages * resource.getpagesize() + OVERHEAD + COPIES * size))
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    main()
