"""Builds one shard beside the dataset and puts it in its place. Knows nothing of the other shards of the run.

A shard is built from the rows that are known of it, possibly none, and of newly judged candidates. This one way
serves fresh work, a resumed run, a larger count and another threshold.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qgate import files
from qgate.dataset.encode import ImageFormat, encode
from qgate.dataset.header import RunHeader
from qgate.dataset.layout import Layout, file_name, seed_of
from qgate.dataset.ledger import Seal, digest, to_parquet
from qgate.dataset.review import ReviewSample
from qgate.gate.decide import decide
from qgate.records import Row, Score, StageTimes, Tally, Verdict

REVIEW_QUALITY = 95
"""JPEG quality of the review images: the original pixels as far as an eye can tell."""


def select(rows: Sequence[Row], threshold: float, limit: int | None) -> list[Row]:
    """Judge rows anew and cut them after the `limit`-th accepted one; rows not accepted lose their file."""
    kept: list[Row] = []
    accepted = 0
    for row in rows:
        if accepted == limit:
            break
        verdict, reasons = decide(row.score, threshold)
        row = replace(row, verdict=verdict, reasons=reasons)
        if verdict is Verdict.ACCEPTED:
            accepted += 1
        else:
            row = replace(row, file_name="", sha256="")
        kept.append(row)
    return kept


class ShardBuilder:
    """One shard under construction; made by `RunFolder.begin`, committed by `RunFolder.commit`.

    todo: the seeds to draw, ascending; `add` them in this order, and stop early once `done`.
    limit: how many faces the shard may accept as far as is known; set it anew once the earlier shards are committed.
    """

    def __init__(
        self,
        layout: Layout,
        header: RunHeader,
        shard: int,
        known: Sequence[Row],
        sample: ReviewSample,
        limit: int | None,
        pool: Executor,
        in_flight: int,
        times: StageTimes,
    ) -> None:
        self.shard = shard
        self._layout, self._header, self.limit = layout, header, limit
        self._sample = ReviewSample(header.review, sample.seeds)
        self._pool, self._in_flight, self._times = pool, in_flight, times
        self._jobs: deque[tuple[int, Future[str]]] = deque()
        self._digests: dict[int, str] = {}
        self._added = 0
        kept = [self._with_file_found(row) for row in select(known, header.threshold, limit)]
        self._rows = {row.seed: row for row in kept}
        self._tally = Tally.of(kept)
        redraw = [row.seed for row in kept if self._lacks_pixels(row)]
        self._redrawn = len(redraw)
        positions = header.positions(shard)
        fresh = () if self._limit_reached else header.plan.slice(positions.start + len(kept), positions.stop)
        self.todo: tuple[int, ...] = (*redraw, *fresh)
        self._work, self._has_folders = layout.work(shard), False

    @property
    def done(self) -> bool:
        """Whether the shard needs no further candidates: it is full, or the count is reached."""
        return self._added == len(self.todo) or (self._added >= self._redrawn and self._limit_reached)

    @property
    def tally(self) -> Tally:
        """The verdicts so far."""
        return self._tally

    def wants_image(self, seed: int, score: Score) -> bool:
        """Whether `add` needs the pixels: accepted, perhaps in the review sample, or asked for again."""
        if seed in self._rows:
            return True
        accepted = decide(score, self._header.threshold)[0] is Verdict.ACCEPTED
        return accepted or (score.clean_prob is not None and self._sample.admits(seed))

    def add(self, seed: int, score: Score, image: NDArray[np.uint8] | None, source: str = "") -> None:
        """Take in one candidate; its image is encoded and written by a thread.

        seed: the next of `todo`.
        score: what the gate says of it; where the ledger knows the candidate, the ledger's score stays.
        image: uint8 RGB (H, W, 3), not to be changed afterwards; None where `wants_image` is False.
        source: for images from a folder, the path.
        Blocks while many images wait for the encoder. Raises QgateError where an earlier one could not be written.
        """
        self._make_folders()
        if self._added == len(self.todo) or seed != self.todo[self._added]:
            raise ValueError(f"seed {seed} is not the next to do of shard {self.shard}")
        if seed not in self._rows:
            verdict, reasons = decide(score, self._header.threshold)
            self._rows[seed] = Row(seed, score, verdict, reasons, source=source)
            self._tally += Tally.of([self._rows[seed]])
        self._added += 1
        row = self._rows[seed]
        sampled = row.score.clean_prob is not None and self._sample.offer(seed)
        if row.verdict is Verdict.ACCEPTED or sampled:
            if image is None:
                raise ValueError(f"seed {seed} needs its image: it is accepted or in the review sample")
            while len(self._jobs) >= self._in_flight:
                self._collect()
            self._jobs.append((seed, self._pool.submit(self._store, row, image, sampled)))

    def stage(self, sample: ReviewSample, limit: int | None) -> tuple[Path, Seal]:
        """Finish the shard and mark it as ready, which commits it; `settle` then puts it in its place.

        sample: the review sample of the run; takes notice of this shard's candidates.
        limit: how many the shard may accept.
        """
        self._make_folders()
        while self._jobs:
            self._collect()
        rows = [self._with_file(row) for row in select(list(self._rows.values()), self._header.threshold, limit)]
        for row in rows:
            if row.score.clean_prob is not None:
                sample.offer(row.seed)
        self._drop_unused({Path(row.file_name).name for row in rows}, sample)
        parquet, tally, start = to_parquet(rows), Tally.of(rows), self.shard * self._header.shard_size
        seal = Seal(
            shard=self.shard,
            start=start,
            judged=len(rows),
            complete=len(rows) == min(self._header.shard_size, len(self._header.plan) - start),
            threshold=self._header.threshold,
            accepted=tally.accepted,
            rejected=tally.rejected,
            failed=tally.failed,
            ledger_sha256=digest(parquet),
        )
        files.write(self._work / "ledger.parquet", [parquet])
        files.write(self._work / "seal.json", [seal.to_bytes()])
        for folder in (self._images, self._review, self._work):
            files.sync_folder(folder)
        ready = self._layout.ready(self.shard)
        files.rename(self._work, ready)
        return ready, seal

    def _make_folders(self) -> None:
        """Fresh ones, once there is something to put into them: a shard that is only begun touches no disk."""
        if not self._has_folders:
            files.remove(self._work)
            for folder in (self._work, self._images, self._review):
                files.make_folder(folder)
            self._has_folders = True

    @property
    def _images(self) -> Path:
        return self._work / "images"

    @property
    def _review(self) -> Path:
        return self._work / "review"

    @property
    def _limit_reached(self) -> bool:
        return self.limit is not None and self._tally.accepted >= self.limit

    def _with_file_found(self, row: Row) -> Row:
        return row if (self._layout.dataset / row.file_name).is_file() else replace(row, file_name="", sha256="")

    def _lacks_pixels(self, row: Row) -> bool:
        if row.verdict is Verdict.ACCEPTED and not row.file_name:
            return True
        return row.seed in self._sample.seeds and not self._layout.review_image(row.seed).exists()

    def _collect(self) -> None:
        seed, job = self._jobs.popleft()
        self._digests[seed] = job.result()

    def _store(self, row: Row, image: NDArray[np.uint8], sampled: bool) -> str:
        """Write the files of one candidate; runs in a thread. Returns the digest of the dataset's file."""
        sha256, start = "", time.monotonic()
        if row.verdict is Verdict.ACCEPTED:
            data = encode(image, self._header.image_format)
            files.write(self._images / Path(self._file_name(row.seed)).name, [data])
            sha256 = digest(data)
        if sampled:
            style = ImageFormat("jpeg", REVIEW_QUALITY, synthetic=self._header.image_format.synthetic)
            files.write(self._review / self._layout.review_image(row.seed).name, [encode(image, style)])
        self._times.add("encode", time.monotonic() - start, 1)
        return sha256

    def _file_name(self, seed: int) -> str:
        return file_name(self.shard, seed, self._header.image_format.suffix)

    def _with_file(self, row: Row) -> Row:
        """The row with its file's name and digest; a file that the dataset has is kept."""
        if row.verdict is not Verdict.ACCEPTED:
            return row
        if row.seed in self._digests:
            return replace(row, file_name=self._file_name(row.seed), sha256=self._digests[row.seed])
        if not row.file_name:
            raise ValueError(f"seed {row.seed} is accepted but was not drawn")
        files.copy(self._layout.dataset / row.file_name, self._images / Path(row.file_name).name)
        return row

    def _drop_unused(self, names: set[str], sample: ReviewSample) -> None:
        """Remove staged files of candidates after the cut, and of those that left the sample."""
        unused = [path for path in self._images.iterdir() if path.name not in names]
        unused += [path for path in self._review.iterdir() if seed_of(path) not in sample.seeds]
        for path in unused:
            files.remove(path)


def settle(layout: Layout, ready: Path) -> None:
    """Move a committed shard to its place, its seal last; after a kill within, the next call goes on from there."""
    shard = int(ready.stem)
    if (ready / "seal.json").exists():
        for path in (*layout.derived, layout.seal(shard)):
            files.remove(path)
        if (ready / "images").exists():
            files.remove(layout.images(shard))
            if any((ready / "images").iterdir()):
                files.rename(ready / "images", layout.images(shard))
        for path in sorted((ready / "review").iterdir()):
            files.rename(path, layout.review / path.name)
        if (ready / "ledger.parquet").exists():
            files.rename(ready / "ledger.parquet", layout.parquet(shard))
        files.rename(ready / "seal.json", layout.seal(shard))
    files.remove(ready)
