"""Faces -> splits and folds, by a hash of the face alone: neither order nor number of the others changes where it is.

A face goes by its identity: the seed of a drawn one, the sha256 of the pixels of an image file.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from qgate.files import order_place
from training.config import SplitSettings, Use


class Split(StrEnum):
    """What a face is used for, never for two of them."""

    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"
    APART = "apart"
    """Held out and reported by itself: it calibrates nothing and does not count in the gate's figures."""


JUDGING = (Split.TEST, Split.CALIBRATION, Split.VALIDATION)


def split_of(identity: str, settings: SplitSettings, use: Use = Use.ALL) -> Split:
    """Where a face belongs. The same seed at another truncation or of another generator is in the same split."""
    if use is Use.LEARN:
        return Split.TRAIN
    position, shares = order_place("split", identity), {split: getattr(settings, split.value) for split in JUDGING}
    if use is Use.JUDGE:
        position *= sum(shares.values())
    for split, share in shares.items():
        if position < share:
            return Split.APART if use is Use.APART else split
        position -= share
    return Split.TRAIN


def split_rows(identities: Sequence[str], settings: SplitSettings, uses: Sequence[Use]) -> dict[Split, list[int]]:
    """Positions of the faces of each split, ascending.

    A face that is trained on, and shares its identity with one that is not, as the same seed at another truncation
    does, is in no split: it would give that face away.
    """
    splits = [split_of(identity, settings, use) for identity, use in zip(identities, uses, strict=True)]
    held = {identity for identity, split in zip(identities, splits, strict=True) if split is not Split.TRAIN}
    rows: dict[Split, list[int]] = {split: [] for split in Split}
    for row, (identity, split) in enumerate(zip(identities, splits, strict=True)):
        if split is not Split.TRAIN or identity not in held:
            rows[split].append(row)
    return rows


def fold_of(identity: str, folds: int) -> int:
    """The fold of a face, 0..folds-1, independent of its split."""
    return int(order_place("fold", identity) * folds)
