"""Latents from a file: w vectors of projected faces, or of a walk between faces, instead of seeds.

Knows nothing of networks beyond the shape of their w.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qgate.errors import WeightsError

MAX_BYTES = 2**30

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,  # encrypted, or packed in a way that zipfile does not know
    ValueError,
)


def read_latents(path: Path, num_ws: int, w_dim: int) -> NDArray[np.float32]:
    """The array `w` of an .npz file: (n, num_ws, w_dim) float32; a w for all layers is repeated.

    Raises WeightsError where the file cannot be read without unpickling, is too large, or holds other shapes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo("w.npy").file_size
            if size > MAX_BYTES:
                raise WeightsError(f"{path}: w is larger than {MAX_BYTES >> 20} MiB; split it into several files")
            with archive.open("w.npy") as file:
                w = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); give an .npz file with w") from error
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:100]
        raise WeightsError(f"{path}: is no .npz file with an array of numbers named w ({reason})") from error
    if w.dtype.kind not in "fiu":
        raise WeightsError(f"{path}: w holds {w.dtype}; numbers are expected")
    if w.ndim == 2 and w.shape[1] == w_dim:
        w = np.repeat(w[:, None], num_ws, 1)
    if w.ndim != 3 or w.shape[1:] != (num_ws, w_dim) or not len(w):
        raise WeightsError(
            f"{path}: w has the shape {w.shape}; this network takes (faces, {num_ws}, {w_dim}) or (faces, {w_dim})"
        )
    if not np.isfinite(w).all():
        raise WeightsError(f"{path}: w holds values that are not finite")
    return np.ascontiguousarray(w, np.float32)
