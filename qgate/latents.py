"""Seeds -> z, the same on every machine and in every batch. Knows nothing of generators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qgate.errors import InputError
from qgate.records import SEED_MAX


def check_seed(seed: int) -> int:
    """The seed itself; raises InputError outside 0..2^32-1: a seed is never wrapped."""
    if not 0 <= seed <= SEED_MAX:
        raise InputError(f"seed {seed} is out of range; seeds are 0..{SEED_MAX}")
    return seed


def draw_z(seeds: Sequence[int], z_dim: int) -> NDArray[np.float32]:
    """Latents of seeds: (n, z_dim) float32, standard normal, row i from seed i alone.

    Raises InputError for a seed outside 0..2^32-1.
    Source: NVIDIA's generate.py, `RandomState(seed).randn(1, z_dim)`.
    """
    rows = [np.random.RandomState(check_seed(seed)).randn(z_dim) for seed in seeds]
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), z_dim)
