"""How many labelled faces until the next training pays, from what earlier trainings of the same labels reached.

The error of a classifier falls about as a power law, error = a * faces^-b (Hestness et al., Deep Learning Scaling is
Predictable, Empirically, 2017). A training *pays* here once it is expected to take `WORTH` off the last one's error.
The exponent b is measured on the trainings that the label store has noted; while these are too few or too noisy for
that, a rule of thumb stands in, and says so: twice the faces. Trainings are compared although each has a test split
of its own; their intervals carry that. Pure: knows nothing of stores, gates or pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORTH = 0.2
"""The share of the error that a training must be expected to take off."""

FIRST = 100
"""Faces of a first training, a rule of thumb: the tenth of them that tests it holds both kinds."""

FACTOR = 2.0
"""The rule of thumb for all others."""

MIN_TRAININGS = 3
MAX_FACES = 10**7
"""A curve as flat as that asks for no more labels."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One training. faces: labelled ones that it took; error: 1 - AUROC on its test split, high: upper 95 % end."""

    faces: int
    error: float
    high: float


@dataclass(frozen=True, slots=True)
class Advice:
    """labelled: faces with a decided label; at: how many of them pay for a training; why: what that rests on."""

    labelled: int
    at: int
    why: str

    @property
    def left(self) -> int:
        """Faces that are still to be labelled, 0 where a training pays now."""
        return max(self.at - self.labelled, 0)

    def in_words(self) -> str:
        """The advice without its reason."""
        if not self.left:
            return "the next training pays now"
        return f"{self.left} more until the next training pays"


def advise(labelled: int, trainings: Sequence[Trained]) -> Advice:
    """When the next training pays. labelled: faces with a decided label; trainings: in the order they were made."""
    if not trainings:
        return Advice(labelled, FIRST, f"rule of thumb: {FIRST} faces for a first training")
    last = trainings[-1].faces
    found = exponent(trainings)
    if found is None:
        return Advice(labelled, math.ceil(FACTOR * last), f"rule of thumb: twice the {last} faces of the last training")
    at = min(last * (1 - WORTH) ** (-1 / found), MAX_FACES)
    why = f"{WORTH:.0%} less error expected, from {len(trainings)} trainings: error falls with faces^-{found:.2f}"
    return Advice(labelled, math.ceil(at), why)


def exponent(trainings: Sequence[Trained]) -> float | None:
    """b of error = a * faces^-b; None unless it is measured as positive, by two standard errors.

    Least squares of log error on log faces, weighted by the inverse variance that each interval tells.
    """
    usable = [one for one in trainings if one.faces > 0 and 0 < one.error < one.high]
    if len(usable) < MIN_TRAININGS or len({one.faces for one in usable}) < MIN_TRAININGS:
        return None
    x = np.log([one.faces for one in usable])
    y = np.log([one.error for one in usable])
    weight = np.array([1.96 / math.log(one.high / one.error) for one in usable]) ** 2
    centred = x - np.average(x, weights=weight)
    spread = float((weight * centred**2).sum())
    slope = float((weight * centred * y).sum()) / spread
    return -slope if -slope > 2 / math.sqrt(spread) else None
