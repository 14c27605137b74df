"""What every generator is: seeds in, candidates out. Knows nothing of gates, runs or files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class GeneratorInfo:
    """What identifies a generator and its pixels.

    digest: sha256 hex of the weights (of the list of files, for a folder): equal digests draw equal faces.
    resolution: pixels of a side; None where images differ in size.
    license: the terms of the pixels, one sentence for the dataset card.
    synthetic: drawn by a network, so that the files carry the mark of AI-made media.
    length: number of candidates (seeds 0..length-1); None: every seed.
    classes: of a conditional network; 0: it has none.
    """

    name: str
    digest: str
    resolution: int | None
    license: str
    synthetic: bool = True
    length: int | None = None
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """Candidates of a batch of seeds, in their order.

    images: uint8 RGB (3, H, W) each, on the generator's device; None where the candidate could not be made.
    faults: None, `nonfinite`, or why the candidate could not be made, in words.
    sources: path of the file each came from, "" for drawn ones.
    """

    images: list[Tensor | None]
    faults: list[str | None]
    sources: list[str]


class Generator(Protocol):
    """Draws images from seeds; the same seed gives the same pixels in every batch."""

    @property
    def info(self) -> GeneratorInfo: ...

    def draw(self, seeds: Sequence[int]) -> Drawn: ...
