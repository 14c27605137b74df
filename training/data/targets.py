"""Votes -> what the network is to say of a face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qgate.labels.rows import Label
from qgate.records import REGIONS
from training.config import TargetSettings

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """Targets of some faces as tensors.

    clean (n,) and regions (n, regions): float32, 0..1. named: bool (n,). weight: float32 (n,), above 0.
    """

    clean: Tensor
    regions: Tensor
    named: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """Means over the votes of each face, rows in the order of the faces, all 0..1.

    clean: (n,), soft by severity; what is learned.
    regions: (n, regions), share of votes that name the region.
    named: bool (n,), whether the votes say what is wrong; an artifact without a region teaches nothing of regions.
    clean_votes: (n,), share of votes whose severity is no artifact; what calibration and figures go by.
    weight: (n,), how much a face counts in the loss of clean.
    """

    clean: Floats
    regions: Floats
    named: Bools
    clean_votes: Floats
    weight: Floats

    def of(self, rows: NDArray[np.int64], device: torch.device) -> Batch:
        """Those of some rows."""
        parts = (self.clean[rows], self.regions[rows], self.named[rows], self.weight[rows])
        types = (torch.float32, torch.float32, torch.bool, torch.float32)
        return Batch(*(torch.tensor(part, dtype=kind, device=device) for part, kind in zip(parts, types, strict=True)))

    def mixed(self, taught: Floats, share: float) -> Targets:
        """The same, where clean is learned for a share from others. taught: (n,) 0..1, NaN where they say nothing."""
        return replace(self, clean=np.where(np.isnan(taught), self.clean, (1 - share) * self.clean + share * taught))

    def doubted(self, rows: Sequence[int], weight: float) -> Targets:
        """The same, where the faces of these rows count less in the loss of clean, by this factor."""
        less = np.ones(len(self.weight))
        less[list(rows)] = weight
        return replace(self, weight=self.weight * less)

    def followed_by(self, clean: Floats) -> Targets:
        """With rows for faces without votes after them, of which only what is to be said of clean is known, (m,)."""
        return Targets(
            clean=np.concatenate([self.clean, clean]),
            regions=np.concatenate([self.regions, np.zeros((len(clean), len(REGIONS)))]),
            named=np.concatenate([self.named, np.zeros(len(clean), bool)]),
            clean_votes=np.concatenate([self.clean_votes, np.full(len(clean), np.nan)]),
            weight=np.concatenate([self.weight, np.ones(len(clean))]),
        )


def make_targets(
    votes: Iterable[Sequence[Label]],
    trusts: Iterable[float],
    contents: Iterable[frozenset[str] | None],
    settings: TargetSettings,
) -> Targets:
    """Targets of faces from their votes, at least one each, and from what else is known to be in the picture.

    trusts: how far the votes of each face are believed, 0..1: what they say is drawn towards 0.5.
    """
    clean, regions, named, clean_votes, weight = [], [], [], [], []
    for labels, trust, things in zip(votes, trusts, contents, strict=True):
        said = np.mean([settings.clean_by_severity[label.severity] for label in labels])
        clean.append(0.5 + trust * (said - 0.5))
        regions.append(np.mean([[region in label.regions for region in REGIONS] for label in labels], axis=0))
        named.append(all(label.regions or not label.artifact for label in labels))
        clean_votes.append(np.mean([not label.artifact for label in labels]))
        shown = things if things is not None and clean_votes[-1] > 0.5 else ()
        weight.append(max((settings.clean_weights.get(thing, 1.0) for thing in shown), default=1.0))
    return Targets(
        clean=np.array(clean),
        regions=np.array(regions).reshape(-1, len(REGIONS)),
        named=np.array(named, bool),
        clean_votes=np.array(clean_votes),
        weight=np.array(weight),
    )
