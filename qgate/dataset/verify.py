"""Checks that an output folder is what its ledger says, down to every byte. Changes nothing, needs no model."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from qgate import files
from qgate.dataset.header import RunHeader
from qgate.dataset.layout import Layout
from qgate.dataset.ledger import Seal, digest, read_rows, read_seal, redo
from qgate.dataset.manifest import dataset_lines, review_lines
from qgate.dataset.review import ReviewSample
from qgate.dataset.shards import select
from qgate.errors import OutputError
from qgate.records import Row, Tally, Verdict

REPEAT = "run the same command again"
MOVE = "move it out of the output folder"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    problems: one line each: the file, what is wrong, the next step; empty where all is well.
    finished: the count is reached, or the search has come to its end.
    """

    problems: tuple[str, ...]
    tally: Tally
    finished: bool


def verify(root: Path) -> Verification:
    """Check every file of a run: digests, counts, verdicts, images, metadata, review sample, leftovers.

    Reads the whole dataset. Raises OutputError where `root` holds no readable run or a run is under way.
    """
    layout, header = Layout(root), RunHeader.read(root)
    lock = files.lock(root)
    try:
        return _verify(layout, header)
    finally:
        os.close(lock)


def _verify(layout: Layout, header: RunHeader) -> Verification:
    problems: list[str] = []
    seals: dict[int, Seal] = {}
    sample, tally, last, readable = ReviewSample(header.review), Tally(), None, True
    for path in sorted(layout.ledger.glob("*.json")):
        try:
            seal = read_seal(path)
            rows = _read_sealed(layout, seal)
        except OutputError as error:
            problems.append(str(error))
            readable = False
            continue
        seals[seal.shard], last = seal, rows[-1] if rows else last
        problems += _check_shard(layout, header, seal, rows)
        problems += _check_images(layout, seal.shard, rows)
        tally += Tally.of(rows)
        for row in rows:
            if row.score.clean_prob is not None:
                sample.offer(row.seed)
    problems += _check_sequence(layout, seals)
    problems += _check_count(layout, header, tally, last)
    problems += _check_leftovers(layout, header, seals)
    problems += _check_review(layout, sample)
    if readable:
        problems += _check_metadata(layout.metadata, dataset_lines(layout, header))
        problems += _check_metadata(layout.review_metadata, review_lines(layout))
    bound = min(len(header.plan), header.max_candidates)
    return Verification(tuple(problems), tally, tally.accepted == header.count or tally.judged >= bound)


def _read_sealed(layout: Layout, seal: Seal) -> list[Row]:
    """The rows of a shard; OutputError where the bytes are not the sealed ones."""
    path = layout.parquet(seal.shard)
    if path.exists() and digest(path.read_bytes()) != seal.ledger_sha256:
        raise OutputError(f"{path}: sha256 is not the one in its seal; {redo(layout.seal(seal.shard))}")
    return read_rows(path)


def _check_shard(layout: Layout, header: RunHeader, seal: Seal, rows: list[Row]) -> Iterator[str]:
    """The seal against the rows, and the rows against the walk and the gate."""
    path, parquet = layout.seal(seal.shard), layout.parquet(seal.shard)
    start = seal.shard * header.shard_size
    whole = len(rows) == min(header.shard_size, len(header.plan) - start)
    if (seal.start, seal.judged, seal.complete, seal.tally) != (start, len(rows), whole, Tally.of(rows)):
        yield f"{path}: its counts are not those of the ledger; {redo(path)}"
    if seal.threshold != header.threshold:
        yield f"{path}: threshold is {seal.threshold:g}, the run's is {header.threshold:g}; {REPEAT}"
    if [row.seed for row in rows] != list(header.plan.slice(start, start + len(rows))):
        yield f"{parquet}: its seeds are not those of the walk; {redo(path)}"
    for row, again in zip(rows, select(rows, seal.threshold, None), strict=True):
        if row != again or (row.verdict is Verdict.ACCEPTED) != bool(row.file_name):
            yield f"{parquet}: the verdict on seed {row.seed} is not that of its clean_prob; {redo(path)}"
            return


def _check_images(layout: Layout, shard: int, rows: list[Row]) -> Iterator[str]:
    """The files of a shard against its rows."""
    advice = redo(layout.seal(shard))
    accepted = [row for row in rows if row.verdict is Verdict.ACCEPTED]

    def check(row: Row) -> str | None:
        path = layout.dataset / row.file_name
        try:
            data = path.read_bytes()
            if digest(data) != row.sha256:
                return f"{path}: sha256 is not the one in the ledger; {advice}"
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                image.load()
        except FileNotFoundError:
            return f"{path}: is missing; {advice}"
        except (OSError, ValueError, SyntaxError) as error:
            return f"{path}: cannot be read as an image ({error}); {advice}"
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(check, accepted))
    names = {row.file_name for row in accepted}
    for path in sorted(layout.images(shard).rglob("*")):
        if str(path.relative_to(layout.dataset)) not in names:
            yield f"{path}: is not in the ledger; {MOVE}"


def _check_sequence(layout: Layout, seals: dict[int, Seal]) -> Iterator[str]:
    """Shards without a gap, and only the last one incomplete."""
    for shard in range(max(seals, default=-1)):
        if shard not in seals:
            yield f"{layout.seal(shard)}: is missing; {REPEAT}"
        elif not seals[shard].complete:
            yield f"{layout.seal(shard)}: the shard is incomplete and not the last; {REPEAT}"


def _check_count(layout: Layout, header: RunHeader, tally: Tally, last: Row | None) -> Iterator[str]:
    """No more faces than asked for, and no rows after the one that completes the count."""
    if header.count is None or last is None:
        return
    if tally.accepted > header.count:
        yield f"{layout.ledger}: {tally.accepted} faces are accepted, {header.count} were asked for; {REPEAT}"
    if tally.accepted == header.count and last.verdict is not Verdict.ACCEPTED:
        yield f"{layout.ledger}: goes on after the last face of the count, to seed {last.seed}; {REPEAT}"


def _check_leftovers(layout: Layout, header: RunHeader, seals: dict[int, Seal]) -> Iterator[str]:
    """Nothing in the dataset and the ledger that no seal stands for."""
    if layout.staging.exists():
        yield f"{layout.staging}: holds unfinished work; {REPEAT}"
    if not layout.card.exists():
        yield f"{layout.card}: is missing; {REPEAT}"
    with_files = {layout.images(shard) for shard, seal in seals.items() if seal.accepted}
    sealed = {path for shard in seals for path in (layout.parquet(shard), layout.seal(shard))}
    for path in sorted({*layout.dataset.glob("*")} - with_files - {layout.metadata, layout.card}):
        yield f"{path}: is not in the ledger; {MOVE}"
    for path in sorted({*layout.ledger.glob("*.parquet")} - sealed):
        yield f"{path}: has no seal; {REPEAT}"


def _check_review(layout: Layout, sample: ReviewSample) -> Iterator[str]:
    """The review images against the sample that the ledger gives."""
    expected = {layout.review_image(seed) for seed in sample.seeds}
    found = {*layout.review.glob("*")} - {layout.review_metadata}
    for path in sorted(expected - found):
        yield f"{path}: is missing; {REPEAT}"
    for path in sorted(found - expected):
        yield f"{path}: is not in the review sample; {MOVE}"


def _check_metadata(path: Path, expected: Iterable[bytes]) -> Iterator[str]:
    """A metadata file against the lines that the ledger gives, the first difference only."""
    if not path.exists():
        yield f"{path}: is missing; {REPEAT}"
        return
    with path.open("rb") as file:
        for number, (line, wanted) in enumerate(zip_longest(file, expected), 1):
            if line != wanted:
                yield f"{path}: line {number} is not what the ledger says; {REPEAT}"
                return
