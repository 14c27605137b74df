"""Seeds: which ones a run walks, their text, the class of each, and seeds -> z.

All of it is the same on every machine and in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgate.errors import ConfigError, InputError

SEED_MAX = 2**32 - 1
"""Largest seed: the largest that `numpy.random.RandomState` takes."""

ALL_CLASSES = "all"
"""Asks for every class of a conditional generator in turn."""


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """The seeds a run walks, ascending, as ranges; both ends included.

    Shard k covers the positions [k * shard_size, (k + 1) * shard_size) of this walk.
    """

    ranges: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        """As `parse_seeds` reads it."""
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)

    def slice(self, start: int, stop: int) -> Iterator[int]:
        """The seeds at positions start..stop-1, fewer where the walk ends."""
        position = 0
        for first, last in self.ranges:
            length = last - first + 1
            low, high = max(start - position, 0), min(stop - position, length)
            yield from range(first + low, first + high)
            position += length


def parse_seeds(text: str) -> tuple[tuple[int, int], ...]:
    """Seed ranges from text: "6000-6002,7000" -> ((6000, 6002), (7000, 7000)); both ends included, sorted, merged.

    Raises ConfigError for anything that is no seed or range of seeds in 0..2^32-1.
    """
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not dash:
            last = first
        if not (first.isdecimal() and last.isdecimal()):
            raise ConfigError(f"seeds: {part.strip()!r} is no seed or range; write them as 6000-6500,7000")
        low, high = int(first), int(last)
        if low > high:
            raise ConfigError(f"seeds: {part.strip()!r} runs backwards; write {high}-{low}")
        if high > SEED_MAX:
            raise ConfigError(f"seeds: {high} is too large; seeds are 0..{SEED_MAX}")
        ranges.append((low, high))
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def check_seed(seed: int) -> int:
    """The seed itself; raises InputError outside 0..2^32-1: a seed is never wrapped."""
    if not 0 <= seed <= SEED_MAX:
        raise InputError(f"seed {seed} is out of range; seeds are 0..{SEED_MAX}")
    return seed


def class_of(seed: int, class_idx: int | str, classes: int) -> int:
    """The class of a candidate: the one asked for, or, for `all`, the seed modulo the number of classes.

    So the classes are balanced over any range of seeds, and a seed has its class wherever the walk starts.
    """
    return seed % classes if isinstance(class_idx, str) else class_idx


def draw_z(seeds: Sequence[int], z_dim: int) -> NDArray[np.float32]:
    """Latents of seeds: (n, z_dim) float32, standard normal, row i from seed i alone.

    Raises InputError for a seed outside 0..2^32-1.
    Source: NVIDIA's generate.py, `RandomState(seed).randn(1, z_dim)`.
    """
    rows = [np.random.RandomState(check_seed(seed)).randn(z_dim) for seed in seeds]
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), z_dim)
