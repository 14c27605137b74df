"""What every generator is: seeds in, candidates out. Knows nothing of gates, runs or files of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, overload

from qgate.records import NONFINITE

if TYPE_CHECKING:
    from torch import Tensor  # what reads weights starts without torch


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

    images: uint8 RGB (3, H, W) each, or one tensor (n, 3, H, W), on the generator's device; None for a candidate that
        could not be made.
    faults: None, `nonfinite`, or why the candidate could not be made, in words. To look may wait for the device.
    sources: path of the file each came from, "" for drawn ones.
    """

    images: Sequence[Tensor | None] | Tensor
    faults: Sequence[str | None]
    sources: list[str]


class Nonfinite(Sequence[str | None]):
    """The faults of candidates drawn by a network, which are on their way from the device until someone looks."""

    def __init__(self, means: Tensor) -> None:
        """means: (n,), of each candidate; finite only if every pixel is."""
        from qgate.runtime.transfer import HostCopy

        self._finite = HostCopy(means.isfinite())

    @cached_property
    def _faults(self) -> list[str | None]:
        return [None if finite else NONFINITE for finite in self._finite.wait().tolist()]

    def __len__(self) -> int:
        return len(self._faults)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str | None] | None:
        return self._faults[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


class Generator(Protocol):
    """Draws images from seeds; the same seed gives the same pixels in every batch."""

    @property
    def info(self) -> GeneratorInfo: ...

    def draw(self, seeds: Sequence[int]) -> Drawn: ...
