"""The ledger's files: a Parquet table of rows for each shard, and its seal. Knows nothing of images or of the walk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qgate.dataset.layout import Layout
from qgate.errors import OutputError
from qgate.records import REGIONS, Row, Score, Tally, Verdict

REGION_COLUMNS = tuple(f"region_{name}" for name in REGIONS)

SCHEMA = pa.schema(
    [
        pa.field("seed", pa.uint32(), nullable=False),
        pa.field("clean_prob", pa.float32()),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),
        *(pa.field(name, pa.float32()) for name in REGION_COLUMNS),
        pa.field("fault", pa.string()),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Seal:
    """What a shard is, written last: a shard without a seal does not exist.

    start: its first position in the walk; judged: its number of rows, at the positions start..start+judged-1.
    complete: all positions of the shard are judged; only the last shard of a run may lack some.
    ledger_sha256: hex digest of the bytes of its Parquet file.
    """

    shard: int
    start: int
    judged: int
    complete: bool
    threshold: float
    accepted: int
    rejected: int
    failed: int
    ledger_sha256: str

    @property
    def tally(self) -> Tally:
        return Tally(self.accepted, self.rejected, self.failed)

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def digest(data: bytes) -> str:
    """sha256 hex digest of a file's bytes, as the ledger and the seals hold it."""
    return hashlib.sha256(data).hexdigest()


def to_parquet(rows: Sequence[Row]) -> bytes:
    """The rows as the bytes of a Parquet file, the same bytes for the same rows."""
    regions = [row.score.region_probs or (None,) * len(REGIONS) for row in rows]
    columns = {
        "seed": [row.seed for row in rows],
        "clean_prob": [row.score.clean_prob for row in rows],
        "verdict": [row.verdict.value for row in rows],
        "reasons": [list(row.reasons) for row in rows],
        **{name: [probs[index] for probs in regions] for index, name in enumerate(REGION_COLUMNS)},
        "fault": [row.score.fault for row in rows],
        "file_name": [row.file_name for row in rows],
        "sha256": [row.sha256 for row in rows],
        "source": [row.source for row in rows],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd", store_schema=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_rows(path: Path) -> list[Row]:
    """The rows of one shard. Raises OutputError where the file is missing or damaged."""
    with _whole(path):
        return [_row(values) for values in _read(path, SCHEMA.names).to_pylist()]


def read_seal(path: Path) -> Seal:
    """One seal. Raises OutputError where the file is damaged."""
    try:
        seal = Seal(**json.loads(path.read_bytes()))
        if f"{seal.shard:06d}" != path.stem:
            raise ValueError(f"it names shard {seal.shard}")
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{path}: is damaged ({error}); {redo(path)}") from error
    return seal


def read_seals(root: Path) -> dict[int, Seal]:
    """The seals of a run by shard, ascending. Raises OutputError where one is damaged."""
    seals = map(read_seal, Layout(root).ledger.glob("*.json"))
    return {seal.shard: seal for seal in sorted(seals, key=lambda seal: seal.shard)}


def iter_rows(root: Path) -> Iterator[Row]:
    """All rows of a run in the order of the walk, with no more than one shard in memory."""
    for shard in read_seals(root):
        yield from read_rows(Layout(root).parquet(shard))


def read_scores(root: Path) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Seeds and clean_probs of all rows of a run, in the order of the walk; NaN where there is no probability."""
    shards = [judged(Layout(root).parquet(shard)) for shard in read_seals(root)]
    seeds = [np.empty(0, np.uint32), *(seeds for seeds, _ in shards)]
    probs = [np.empty(0, np.float32), *(probs for _, probs in shards)]
    return np.concatenate(seeds), np.concatenate(probs)


def judged(path: Path) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Seeds and clean_probs of one shard; NaN where there is no probability."""
    with _whole(path):
        table = _read(path, ["seed", "clean_prob"])
        return table["seed"].to_numpy(), table["clean_prob"].to_numpy()


def redo(seal: Path) -> str:
    """The advice for a shard that is damaged."""
    return f"delete {seal} and run the same command again"


def _read(path: Path, columns: list[str]) -> Any:
    # From memory, since a file that Arrow maps or reads itself reports damage in many ways.
    return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(columns, use_threads=False)


def _row(values: dict[str, Any]) -> Row:
    probs = tuple(values[name] for name in REGION_COLUMNS)
    return Row(
        seed=values["seed"],
        score=Score(values["clean_prob"], () if None in probs else probs, values["fault"]),
        verdict=Verdict(values["verdict"]),
        reasons=tuple(values["reasons"]),
        file_name=values["file_name"],
        sha256=values["sha256"],
        source=values["source"],
    )


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what a damaged Parquet file raises into OutputError."""
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise OutputError(f"{path}: cannot be read ({reason}); {redo(path.with_suffix('.json'))}") from error
