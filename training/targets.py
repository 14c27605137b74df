"""Votes -> what the network is to say of a face. Knows nothing of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgate.labels import Label
from qgate.records import REGIONS
from training.config import TargetSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Targets:
    """Means over the votes of each face, rows in the order of the faces, all 0..1.

    clean: (n,), soft by severity; what is learned.
    regions: (n, regions), share of votes that name the region.
    clean_votes: (n,), share of votes whose severity is no artifact; what calibration and figures go by.
    """

    clean: Floats
    regions: Floats
    clean_votes: Floats


def make_targets(votes: Iterable[Sequence[Label]], settings: TargetSettings) -> Targets:
    """Targets of faces from their votes, at least one each."""
    clean, regions, clean_votes = [], [], []
    for labels in votes:
        clean.append(np.mean([settings.clean_by_severity[label.severity] for label in labels]))
        regions.append(np.mean([[region in label.regions for region in REGIONS] for label in labels], axis=0))
        clean_votes.append(np.mean([not label.artifact for label in labels]))
    return Targets(np.array(clean), np.array(regions).reshape(-1, len(REGIONS)), np.array(clean_votes))
