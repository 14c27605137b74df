"""The whole way of candidates: seeds -> images -> scores, the stages side by side. Knows no files and no threshold.

The generator runs ahead of the gate by at most `QUEUE` batches, and the gate ahead of the caller by as many, so memory
does not depend on how many seeds there are.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Generator as Stream
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qgate.generators import Drawn, Generator
from qgate.records import Score, StageTimes
from qgate.runtime.transfer import HostCopy

QUEUE = 2
"""Batches that may wait between two stages."""


class Scorer(Protocol):
    """What a gate is to the worker."""

    def begin(self, images: Sequence[Tensor] | Tensor) -> Callable[[], list[Score]]:
        """Start to score; the function that is returned waits for the scores."""

    def score(self, images: Sequence[Tensor] | Tensor) -> list[Score]: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its score.

    image: uint8 RGB (H, W, 3), or None where it was not wanted or could not be made.
    source: the file it came from, "" for drawn candidates.
    """

    seed: int
    score: Score
    image: NDArray[np.uint8] | None
    source: str


class Worker:
    """A generator and a gate on one device."""

    def __init__(self, generator: Generator, gate: Scorer, batch_size: int) -> None:
        self.generator, self.gate, self.batch_size = generator, gate, batch_size
        self.times = StageTimes()
        self._scored_at_once = batch_size
        self._copies: torch.cuda.Stream | None = None
        for part in (generator, gate):
            # So that a walk of few seeds, or the rest of a stopped one, has the kernels and the bytes of a long one.
            if (expect := getattr(part, "expect", None)) is not None:
                expect(batch_size)

    def judge(self, seeds: Iterable[int], wanted: Callable[[int, Score], bool]) -> Stream[Judged]:
        """Draw and score seeds, in their order.

        wanted: says of (seed, score) whether the caller needs the pixels; called from another thread.
        Closing the iterator stops the stages. An error of a stage is raised here.
        """
        stop = threading.Event()
        drawn: queue.Queue[Any] = queue.Queue(QUEUE)
        judged: queue.Queue[Any] = queue.Queue(QUEUE)
        work = ((self._draw_all(seeds), drawn), (self._score_all(_drain(drawn, stop), wanted), judged))
        stages = [
            threading.Thread(target=_stage, args=(items, out, stop), name="qgate-stage", daemon=True)
            for items, out in work
        ]
        for stage in stages:
            stage.start()
        try:
            for batch in _drain(judged, stop):
                yield from batch
        finally:
            stop.set()
            for stage in stages:
                stage.join()

    def draw(self, seeds: Sequence[int]) -> Drawn:
        """Draw one batch; where the device's memory does not suffice, in halves."""
        try:
            return self.generator.draw(seeds)
        except torch.OutOfMemoryError:
            if len(seeds) == 1:
                raise
        # Out of the except block, whose traceback would keep the failed batch's tensors alive.
        torch.cuda.empty_cache()
        self.batch_size = max(1, min(self.batch_size, len(seeds) // 2))
        size = self.batch_size
        parts = [self.draw(seeds[start : start + size]) for start in range(0, len(seeds), size)]
        return Drawn(
            [image for part in parts for image in part.images],
            [fault for part in parts for fault in part.faults],
            [source for part in parts for source in part.sources],
        )

    def _draw_all(self, seeds: Iterable[int]) -> Iterator[tuple[tuple[int, ...], Drawn]]:
        walk = iter(seeds)
        while batch := tuple(islice(walk, self.batch_size)):  # which gets smaller where memory does not suffice
            start = time.monotonic()
            drawn = self.draw(batch)
            self.times.add("generate", time.monotonic() - start, len(batch))
            yield batch, drawn

    def _score_all(
        self, batches: Iterable[tuple[tuple[int, ...], Drawn]], wanted: Callable[[int, Score], bool]
    ) -> Iterator[list[Judged]]:
        begun: deque[tuple[tuple[int, ...], Drawn, Callable[[], list[Score]]]] = deque()
        for seeds, drawn in batches:
            start = time.monotonic()
            begun.append((seeds, drawn, self._begin(_made(drawn))))
            # A device gets its next batch before the last one's scores are waited for, so that it never stands still.
            ready = begun.popleft() if len(begun) > _on_cuda(drawn) else None
            judged = self._judged(*ready, wanted) if ready is not None else []
            self.times.add("score", time.monotonic() - start, len(seeds))
            yield judged
        for batch in begun:
            yield self._judged(*batch, wanted)

    def _begin(self, images: Sequence[Tensor] | Tensor) -> Callable[[], list[Score]]:
        """Start to score; where the device's memory does not suffice, in halves."""
        size = self._scored_at_once
        try:
            parts = [self.gate.begin(images[start : start + size]) for start in range(0, len(images), size)]
            return lambda: [score for part in parts for score in part()]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()
        self._scored_at_once = max(1, min(size, len(images)) // 2)
        return self._begin(images)

    def _judged(
        self,
        seeds: Sequence[int],
        drawn: Drawn,
        finish: Callable[[], list[Score]],
        wanted: Callable[[int, Score], bool],
    ) -> list[Judged]:
        """Wait for the scores of a batch, then for the pixels of those that are wanted."""
        found = iter(finish())
        scores = [
            Score(None, fault=fault) if image is None else _faulty(next(found), fault)
            for image, fault in zip(drawn.images, drawn.faults, strict=True)
        ]
        pixels = [
            self._copy(image) if image is not None and wanted(seed, score) else None
            for seed, score, image in zip(seeds, scores, drawn.images, strict=True)
        ]
        return [
            Judged(seed, score, copy.wait().numpy() if copy is not None else None, source)
            for seed, score, copy, source in zip(seeds, scores, pixels, drawn.sources, strict=True)
        ]

    def _copy(self, image: Tensor) -> HostCopy:
        """The pixels of a judged image as (H, W, 3), on their way to the host while the device computes."""
        if not image.is_cuda:
            return HostCopy(image.permute(1, 2, 0).contiguous())
        with torch.cuda.device(image.device):
            # A stream of its own, which waits for nothing: a judged image is complete, and what its own stream has
            # been given since is another batch's.
            self._copies = self._copies or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            image.record_stream(self._copies)
            with torch.cuda.stream(self._copies):
                return HostCopy(image.permute(1, 2, 0).contiguous())


_END = object()


def _stage(items: Iterable[Any], out: queue.Queue[Any], stop: threading.Event) -> None:
    """Push items into `out` until they end or `stop` is set; an error is pushed in their place."""
    last: Any = _END
    try:
        for item in items:
            if not _put(out, item, stop):
                return
    except BaseException as error:
        last = error
    _put(out, last, stop)


def _put(out: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            out.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _drain(source: queue.Queue[Any], stop: threading.Event) -> Iterator[Any]:
    while not stop.is_set():
        try:
            item = source.get(timeout=0.1)
        except queue.Empty:
            continue
        if item is _END:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def _made(drawn: Drawn) -> Sequence[Tensor] | Tensor:
    """The images that there are; one tensor where they came as one."""
    if isinstance(drawn.images, Tensor):
        return drawn.images
    return [image for image in drawn.images if image is not None]


def _on_cuda(drawn: Drawn) -> bool:
    images = _made(drawn)
    return len(images) > 0 and images[0].is_cuda


def _faulty(score: Score, fault: str | None) -> Score:
    return score if fault is None else Score(None, fault=fault)
