"""Faces -> splits, by a hash of the face alone: neither order nor number of the others changes where one belongs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

from qgate.labels import Face
from training.config import SplitSettings


class Split(StrEnum):
    """What a face is used for, never for two of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"


def split_of(face: Face, settings: SplitSettings) -> Split:
    """Where a face belongs. The same seed at another truncation or of another generator is in the same split."""
    name = face.file_name or str(face.seed)
    digest = hashlib.sha256(f"qgate split {name}".encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    for split in (Split.TEST, Split.CALIBRATION, Split.VALIDATION):
        share: float = getattr(settings, split.value)
        if position < share:
            return split
        position -= share
    return Split.TRAIN


def split_rows(faces: Iterable[Face], settings: SplitSettings) -> dict[Split, list[int]]:
    """Positions of the faces of each split, ascending."""
    rows: dict[Split, list[int]] = {split: [] for split in Split}
    for row, face in enumerate(faces):
        rows[split_of(face, settings)].append(row)
    return rows
