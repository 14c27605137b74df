"""Faces -> splits and folds, by a hash of the face alone: neither order nor number of the others changes where it is.

A face goes by its identity: the seed of a drawn one, the sha256 of the pixels of an image file.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from qgate.files import order_place
from training.config import SplitSettings


class Split(StrEnum):
    """What a face is used for, never for two of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"


def split_of(identity: str, settings: SplitSettings) -> Split:
    """Where a face belongs. The same seed at another truncation or of another generator is in the same split."""
    position = order_place("split", identity)
    for split in (Split.TEST, Split.CALIBRATION, Split.VALIDATION):
        share: float = getattr(settings, split.value)
        if position < share:
            return split
        position -= share
    return Split.TRAIN


def split_rows(
    identities: Sequence[str], settings: SplitSettings, learn_only: Sequence[bool] | None = None
) -> dict[Split, list[int]]:
    """Positions of the faces of each split, ascending.

    learn_only: which faces are trained on whatever their identity says. One that shares its identity with a face of
    another split, as the same seed at another truncation does, is in no split: it would give that face away.
    """
    only = learn_only or [False] * len(identities)
    judged = {identity for identity, fixed in zip(identities, only, strict=True) if not fixed}
    rows: dict[Split, list[int]] = {split: [] for split in Split}
    for row, (identity, fixed) in enumerate(zip(identities, only, strict=True)):
        split = split_of(identity, settings)
        if not fixed:
            rows[split].append(row)
        elif split is Split.TRAIN or identity not in judged:
            rows[Split.TRAIN].append(row)
    return rows


def fold_of(identity: str, folds: int) -> int:
    """The fold of a face, 0..folds-1, independent of its split."""
    return int(order_place("fold", identity) * folds)
