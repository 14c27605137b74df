"""The output folder of a run: opened by one process, extended shard by shard, the same after any kill.

Knows nothing of how candidates are drawn or judged. The way of a run:

    with RunFolder.open(root, header) as folder:
        while (shard := folder.next_shard()) is not None:
            builder = folder.begin(shard)
            for seed in builder.todo:
                ...                                  # draw and judge it
                builder.add(seed, score, image)
                if builder.done:
                    break
            folder.commit(builder)
        folder.finish()
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from qgate import files
from qgate.dataset import manifest
from qgate.dataset.header import RunHeader, reselect
from qgate.dataset.layout import Layout, seed_of
from qgate.dataset.ledger import Seal, judged, read_rows, read_seals
from qgate.dataset.review import ReviewSample
from qgate.dataset.shards import ShardBuilder, select, settle
from qgate.errors import OutputError, QgateError
from qgate.records import Row, StageTimes, Tally


class RunFolder:
    """Made by `open`; leaving the context gives the folder back, whatever happened."""

    def __init__(self, layout: Layout, header: RunHeader, lock: int, encoders: int) -> None:
        self.layout, self.header = layout, header
        self._lock = lock
        self._pool, self._in_flight = ThreadPoolExecutor(encoders), 2 * encoders
        self.times = StageTimes()
        self._seals: dict[int, Seal] = {}
        self._sample = ReviewSample(header.review)
        self._reopen: set[int] = set()
        self._frontier, self._left = 0, header.count
        """The first shard that is not as this run leaves it, and how many faces are left for it and all later ones."""

    @classmethod
    def open(cls, root: Path, header: RunHeader, *, regate: bool = False, encoders: int | None = None) -> Self:
        """Start the run in `root`, or go on with it.

        regate: the header may ask for another threshold or a smaller count than the folder was made with.
        encoders: threads that encode images; None: one for each core.
        Raises OutputError where the folder is in use, holds another run or something else; nothing is written then.
        """
        layout = Layout(root)
        files.make_folder(root)
        lock = files.lock(root)
        try:
            recorded = RunHeader.read(root) if layout.run_json.exists() else None
            if recorded is not None:
                accepted = sum(seal.accepted for seal in read_seals(root).values())
                header = reselect(root, recorded, header, accepted, regate)
            elif any(path != layout.staging for path in root.iterdir()):
                raise OutputError(f"{root}: is not empty and no qgate output folder; give another --output")
            folder = cls(layout, header, lock, encoders or os.cpu_count() or 1)
            folder._recover(recorded)
        except BaseException:
            os.close(lock)
            raise
        return folder

    @property
    def seals(self) -> dict[int, Seal]:
        """The sealed shards, ascending."""
        return dict(sorted(self._seals.items()))

    @property
    def tally(self) -> Tally:
        """The verdicts of all sealed shards."""
        return sum((seal.tally for seal in self._seals.values()), Tally())

    def tally_besides(self, shard: int) -> Tally:
        """The verdicts of all sealed shards but one, which is being built anew."""
        return sum((seal.tally for seal in self._seals.values() if seal.shard != shard), Tally())

    def rows(self, shard: int) -> list[Row]:
        """The ledger of a sealed shard."""
        return read_rows(self.layout.parquet(shard))

    def next_shard(self, after: int = -1) -> int | None:
        """The first shard with work left; None: the count is reached or the search is at its end.

        after: pass over the shards up to this one; they are being built.
        """
        left = self._left
        for shard in itertools.count(self._frontier):
            if left == 0 or not self.header.positions(shard):
                return None
            seal = self._seals.get(shard)
            if seal is not None and self._is_current(seal, left):
                left = None if left is None else left - seal.accepted
            elif shard > after:
                return shard
        return None

    def begin(self, shard: int) -> ShardBuilder:
        """Start to build a shard from the rows that the ledger has of it."""
        known = self.rows(shard) if shard in self._seals else []
        return ShardBuilder(
            self.layout,
            self.header,
            shard,
            known,
            self._sample,
            self.limit(shard),
            self._pool,
            self._in_flight,
            self.times,
        )

    def commit(self, builder: ShardBuilder) -> Seal:
        """Seal a built shard, cut after the face that completes the count.

        Shards are committed in order: ValueError where an earlier one is missing. Raises QgateError where the disk
        is full; what was sealed before is safe.
        """
        shard, limit = builder.shard, self._left
        if shard != self._frontier:
            raise ValueError(f"shard {self._frontier} must be committed before shard {shard}")
        if limit == 0:
            raise ValueError(f"the count is reached before shard {shard}")
        ready, seal = builder.stage(self._sample, limit)
        settle(self.layout, ready)
        self._seals[shard] = seal
        self._reopen.discard(shard)
        if seal.accepted == limit:
            self._drop([later for later in self._seals if later > shard])
        self._advance()
        self._prune_review()
        return seal

    def finish(self) -> None:
        """Write what is derived from the ledger: metadata and card of the dataset, metadata of the review sample."""
        manifest.write(self.layout, self.header)

    def close(self) -> None:
        """Drop unfinished work and let go of the folder."""
        self._pool.shutdown(cancel_futures=True)
        try:
            self._clear_staging()
            if not any(self.layout.staging.iterdir()):
                files.remove(self.layout.staging)
        finally:
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What goes wrong here must not hide what went wrong inside; the next start clears up as well.
        with suppress(QgateError) if error is not None else nullcontext():
            self.close()

    def limit(self, shard: int) -> int | None:
        """How many faces a shard may accept; too many, never too few, while an earlier one is missing."""
        if self._left is None:
            return None
        earlier = (self._seals[number] for number in range(self._frontier, shard) if number in self._seals)
        return self._left - sum(seal.accepted for seal in earlier if seal.threshold == self.header.threshold)

    def _advance(self) -> None:
        """Move the frontier past the shards that are done."""
        while (seal := self._seals.get(self._frontier)) is not None and self._is_current(seal, self._left):
            self._left = None if self._left is None else self._left - seal.accepted
            self._frontier += 1

    def _is_current(self, seal: Seal, left: int | None) -> bool:
        """Whether a sealed shard is as this run would leave it, where it may accept `left` faces."""
        if seal.threshold != self.header.threshold or seal.shard in self._reopen:
            return False
        if left is not None and seal.accepted >= left:
            return seal.accepted == left
        return seal.judged >= len(self.header.positions(seal.shard))

    def _recover(self, recorded: RunHeader | None) -> None:
        """Bring the folder to what its seals and the header say; every step may be repeated."""
        layout = self.layout
        files.make_folder(layout.staging)
        if recorded != self.header:
            for path in layout.derived:
                files.remove(path)
            files.replace(layout.run_json, [self.header.to_bytes()], layout.staging)
        for folder in (layout.dataset, layout.ledger, layout.review):
            files.make_folder(folder)
        for ready in sorted(layout.staging.glob("*.ready")):
            settle(layout, ready)
        self._clear_staging()
        self._seals = read_seals(layout.root)
        self._remove_unsealed()
        self._survey()
        self._advance()
        self._prune_review()

    def _survey(self) -> None:
        """Find where the selection ends in the known rows, the review sample, and the shards to be opened again."""
        left, past, known = self.header.count, [], 0
        shard_of: dict[int, int] = {}
        for shard, seal in self._seals.items():
            stale = seal.threshold != self.header.threshold
            # How many a missing shard will accept under another threshold is unknown, and so is where the end lies.
            if left == 0 or (stale and shard != known):
                past.append(shard)
                continue
            known += 1
            accepted, length = seal.accepted, seal.judged
            if stale or (left is not None and seal.accepted >= left):
                kept = select(self.rows(shard), self.header.threshold, left)
                accepted, length = Tally.of(kept).accepted, len(kept)
                if length < seal.judged:
                    self._reopen.add(shard)
            left = None if left is None else left - accepted
            seeds, probs = (column[:length] for column in judged(self.layout.parquet(shard)))
            shard_of |= {seed: shard for seed in seeds[~np.isnan(probs)].tolist() if self._sample.offer(seed)}
        self._drop(past)
        lacking = self._sample.seeds - {seed_of(path) for path in self.layout.review.iterdir()}
        self._reopen |= {shard_of[seed] for seed in lacking}

    def _drop(self, shards: Iterable[int]) -> None:
        """Remove shards that the selection does not reach."""
        for shard in sorted(shards, reverse=True):
            for path in (*self.layout.derived, self.layout.seal(shard)):
                files.remove(path)
            files.remove(self.layout.images(shard))
            files.remove(self.layout.parquet(shard))
            del self._seals[shard]

    def _remove_unsealed(self) -> None:
        """What is not sealed does not exist."""
        for path in (*self.layout.dataset.iterdir(), *self.layout.ledger.glob("*.parquet")):
            if path.stem.isdecimal() and int(path.stem) not in self._seals:
                files.remove(path)

    def _prune_review(self) -> None:
        for path in self.layout.review.iterdir():
            seed = seed_of(path)
            if seed is not None and seed not in self._sample.seeds:
                files.remove(path)

    def _clear_staging(self) -> None:
        for path in self.layout.staging.iterdir():
            if path.suffix != ".ready":
                files.remove(path)
