"""What other gates say of faces, for a student to learn: a CSV `generator,seed,psi,clean_prob`.

A network that learns the mean of several others comes near to it at the cost of one, and faces that nobody labelled
teach as well. Source: Hinton, Vinyals and Dean, arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qgate.errors import LabelError
from qgate.labels.rows import Face
from training.data.tables import read_table

SAID = "clean_prob"

Taught = dict[Face, float]
"""Drawn face -> clean_prob that other gates give it, 0..1."""


def read_taught(path: Path, generators: Mapping[str, str]) -> Taught:
    """generators: name in the rows -> name by which it is opened. LabelError names file and line."""
    found: Taught = {}
    for face, row, where in read_table(path, "taught", generators, [SAID]):
        try:
            prob = float(row[SAID])
        except ValueError as error:
            raise LabelError(f"{where}: {SAID} {row[SAID]!r} is no number") from error
        if not 0 <= prob <= 1:
            raise LabelError(f"{where}: {SAID} {row[SAID]} is not from 0 to 1")
        if face in found:
            raise LabelError(f"{where}: the face stands there twice")
        found[face] = prob
    if not found:
        raise LabelError(f"taught {path}: holds no faces")
    return found
