"""A run folder -> the numbers of its report. Knows the columns of the ledger, nothing of pictures or pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qgate.errors import OutputError
from qgate.files import order_keys
from qgate.rates import CONFIDENCE, Rate, accepted_at, rate
from qgate.records import Tally, Verdict

BINS = 50
"""Bins of the clean_prob histogram over 0..1; a score on an edge counts in the bin above it, 1 in the last."""

THRESHOLDS = tuple(round(0.5 + step / 100, 2) for step in range(50))
"""Where the yield is reported: 0.50, 0.51, ... 0.99."""

SHEET = 48
"""The most faces on a contact sheet."""

RUN_FACTS = (
    "qgate",
    "selection",
    "generator",
    "gate",
    "scoring",
    "output",
    "config",
    "versions",
    "scoring_digest",
    "selection_digest",
)
"""What the report repeats of `run.json`."""


@dataclass(frozen=True, slots=True)
class Face:
    """One picture to show: its file, and what is known of it (`name` is "" for drawn candidates)."""

    path: Path
    seed: int
    clean_prob: float | None
    name: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Ledger:
    """Sums over the sealed shards; `faces` is a random but repeatable sample of the accepted ones."""

    tally: Tally = field(default_factory=Tally)
    reasons: Counter[str] = field(default_factory=Counter)
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    accepted_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(THRESHOLDS), np.int64))
    doubt: float = 0.0
    faces: list[Face] = field(default_factory=list)


def read_run(root: Path) -> dict[str, Any]:
    """The header of a run, `run.json`. Raises OutputError where it is missing or no JSON object."""
    try:
        run = json.loads((root / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{root}: run.json cannot be read ({error}); give the output folder of a run") from error
    if not isinstance(run, dict):
        raise OutputError(f"{root}: run.json holds a {type(run).__name__}; give the output folder of a run")
    return run


def read_ledger(root: Path) -> Ledger:
    """Add up the sealed shards of the run in `root`, one at a time: memory stays that of one shard."""
    ledger = Ledger()
    for columns in _shards(root):
        _add(ledger, columns, root / "dataset")
    ledger.faces.sort(key=lambda face: (face.clean_prob or 0.0, face.seed))
    return ledger


def read_rejected(root: Path) -> list[Face]:
    """The rejected faces of the review sample, the highest clean_prob first, at most `SHEET`."""
    index = root / "review" / "metadata.jsonl"
    if not index.exists():
        return []
    faces = []
    for line in index.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["verdict"] == Verdict.REJECTED:
            path = root / "review" / row["file_name"]
            faces.append(Face(path, row["seed"], row["clean_prob"], reasons=tuple(row.get("reasons") or ())))
    faces = _sample(faces)
    return sorted(faces, key=lambda face: (-(face.clean_prob or 0.0), face.seed))


def summarize(run: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """The content of `report.json`: counts, rates with intervals, curves and the facts of the run."""
    tally = ledger.tally
    return {
        "judged": tally.judged,
        "accepted": tally.accepted,
        "rejected": tally.rejected,
        "failed": tally.failed,
        "yield": _as_json(rate(tally.accepted, tally.judged)),
        "expected_escape_rate": {
            "value": ledger.doubt / tally.accepted if tally.accepted else None,
            "meaning": "mean of 1 - clean_prob over the accepted faces: the gate's own estimate, not an audit",
        },
        "reasons": dict(sorted(ledger.reasons.items(), key=lambda item: (-item[1], item[0]))),
        "clean_prob_histogram": {
            "edges": [round(k / BINS, 2) for k in range(BINS + 1)],
            "counts": ledger.histogram.tolist(),
        },
        "yield_at": [
            {"threshold": threshold, "accepted": int(hits), **_as_json(rate(int(hits), tally.judged))}
            for threshold, hits in zip(THRESHOLDS, ledger.accepted_at, strict=True)
        ],
        "run": {key: run[key] for key in RUN_FACTS if key in run},
    }


def _shards(root: Path) -> Iterator[dict[str, Any]]:
    """The columns of every sealed shard, in order; null clean_probs are NaN."""
    for path in sorted((root / "ledger").glob("*.parquet")):
        if not path.with_suffix(".json").exists():
            continue
        names = ["seed", "clean_prob", "verdict", "reasons", "file_name", "source"]
        try:
            table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(names, use_threads=False).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{path}: cannot be read ({error}); `qgate verify` says what is damaged") from error
        columns: dict[str, Any] = {name: table[name].to_numpy() for name in ("seed", "verdict", "file_name", "source")}
        columns["clean_prob"] = table["clean_prob"].to_numpy().astype(np.float64)
        columns["reasons"] = pc.list_flatten(table["reasons"]).to_pylist()
        yield columns


def _add(ledger: Ledger, columns: dict[str, Any], dataset: Path) -> None:
    probs, verdicts = columns["clean_prob"], columns["verdict"]
    judged = probs[~np.isnan(probs)]
    bins = np.minimum((judged * BINS).astype(np.int64), BINS - 1)
    ledger.histogram += np.bincount(bins, minlength=BINS)
    ledger.accepted_at += np.array(accepted_at(judged, THRESHOLDS), np.int64)
    ledger.reasons.update(columns["reasons"])
    accepted = verdicts == Verdict.ACCEPTED
    counts = (int(np.sum(verdicts == verdict)) for verdict in (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.FAILED))
    ledger.tally += Tally(*counts)
    ledger.doubt += float(np.sum(1 - probs[accepted]))
    rows = np.flatnonzero(accepted & (columns["file_name"] != ""))
    rows = rows[np.argsort(order_keys(columns["seed"][rows]), kind="stable")[:SHEET]]
    fresh = [
        Face(
            path=dataset / columns["file_name"][row],
            seed=int(columns["seed"][row]),
            clean_prob=float(probs[row]),
            name=Path(columns["source"][row] or "").name,
        )
        for row in rows
    ]
    ledger.faces = _sample(ledger.faces + fresh)


def _sample(faces: list[Face]) -> list[Face]:
    """At most `SHEET` of the faces: a random choice that is the same in every run."""
    order = np.argsort(order_keys(np.array([face.seed for face in faces], np.uint64)), kind="stable")
    return [faces[index] for index in order[:SHEET]]


def _as_json(found: Rate) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high, "confidence": CONFIDENCE}
