"""The local engine: one worker in this process fills shard after shard. Knows no tracker and no report.

Three threads: the worker's draws, the caller's writes and commits, and one begins the next shard meanwhile, which reads
what the ledger has of it; so a device never waits for the disk between two batches.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Self

from qgate.dataset.folder import RunFolder
from qgate.dataset.shards import ShardBuilder
from qgate.errors import StoppedError
from qgate.records import Score, Tally
from qgate.run.worker import Worker

Report = Callable[[Tally], None]
"""Told the verdicts so far, sealed and in work, after every candidate; must be quick."""


def fill(folder: RunFolder, worker: Worker, stopped: Callable[[], bool], report: Report) -> int:
    """Judge candidates until the run in `folder` has its faces or its walk ends.

    The worker draws ahead across the borders of shards; shards are committed in order.
    stopped: asked between candidates; once true, the shard in work is dropped and StoppedError raised.
    Returns how many candidates were judged.
    """
    last, sealed, judged_here = None, Tally(), 0
    with _Ahead(folder) as ahead, closing(worker.judge(ahead.seeds(), ahead.wants_image)) as stream:
        for judged in stream:
            if stopped():
                raise StoppedError(f"{folder.layout.root}: stopped; the same command goes on")
            builder = ahead.current()
            if builder is None:
                break
            if builder is not last:
                last, sealed = builder, folder.tally_besides(builder.shard)
            builder.add(judged.seed, judged.score, judged.image, judged.source)
            judged_here += 1
            report(sealed + builder.tally)
        ahead.current()
    return judged_here


class _Ahead:
    """The shards that are begun and not committed, in order."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._begun: deque[ShardBuilder] = deque()
        self._lock = threading.Lock()
        self._beginner = ThreadPoolExecutor(1, thread_name_prefix="qgate-begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._beginner.shutdown(cancel_futures=True)

    def seeds(self) -> Iterator[int]:
        """The seeds to judge, shard after shard; while one is drawn, the next is begun."""
        coming = self._beginner.submit(self._begin, -1)
        while (builder := coming.result()) is not None:
            coming = self._beginner.submit(self._begin, builder.shard)
            yield from builder.todo

    def _begin(self, after: int) -> ShardBuilder | None:
        """The next shard with work left; None: there is none."""
        with self._lock:
            shard = self._folder.next_shard(after=after)
            if shard is None:
                return None
            self._begun.append(self._folder.begin(shard))
            return self._begun[-1]

    def wants_image(self, seed: int, score: Score) -> bool:
        """Whether any shard in work needs the pixels; one too many costs a copy and nothing else."""
        return any(builder.wants_image(seed, score) for builder in tuple(self._begun))

    def current(self) -> ShardBuilder | None:
        """The shard that the next candidate belongs to, after committing those that are done; None: all is done."""
        while self._begun:
            if not self._begun[0].done:
                return self._begun[0]
            with self._lock:
                start, builder = time.monotonic(), self._begun.popleft()
                seal = self._folder.commit(builder)
                self._folder.times.add("write", time.monotonic() - start, seal.judged)
                if self._folder.next_shard() is None:
                    self._begun.clear()
                elif self._begun:
                    # Begun before its forerunner was done, it did not know how many faces are left for it.
                    self._begun[0].limit = self._folder.limit(self._begun[0].shard)
        return None
