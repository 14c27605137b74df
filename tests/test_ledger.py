from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgate.dataset.ledger import digest, iter_rows, read_rows, read_scores, read_seals, to_parquet
from qgate.errors import OutputError
from qgate.records import REASONS, Row, Score, Verdict
from tests.dataset_driver import drive

probs = st.floats(0, 1, width=32)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
scores = st.one_of(
    st.builds(Score, probs, st.lists(probs, min_size=12, max_size=12).map(tuple)),
    st.builds(Score, st.none(), st.just(()), texts),
)
rows = st.builds(
    Row,
    seed=st.integers(0, 2**32 - 1),
    score=scores,
    verdict=st.sampled_from(Verdict),
    reasons=st.lists(st.sampled_from(REASONS), max_size=3).map(tuple),
    file_name=texts,
    sha256=texts,
    source=texts,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=5))
def test_rows_come_back_from_parquet_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, batch: list[Row]
) -> None:
    path = tmp_path_factory.getbasetemp() / "000000.parquet"
    path.write_bytes(to_parquet(batch))
    assert read_rows(path) == batch


def test_the_columns_are_those_that_readers_of_the_ledger_expect(tmp_path: Path) -> None:
    path = tmp_path / "000000.parquet"
    path.write_bytes(to_parquet([Row(2**32 - 1, Score(0.25, (0.5,) * 12), Verdict.REJECTED, ("eyes",))]))
    table = pq.read_table(path)
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        "seed": "uint32",
        "clean_prob": "float",
        "verdict": "string",
        "reasons": "list<element: string>",
        "region_forehead": "float",
        "region_eyes": "float",
        "region_mouth": "float",
        "region_skin": "float",
        "region_ears": "float",
        "region_hair": "float",
        "region_headwear": "float",
        "region_hand": "float",
        "region_person": "float",
        "region_background": "float",
        "region_clothing": "float",
        "region_shape": "float",
        "fault": "string",
        "file_name": "string",
        "sha256": "string",
        "source": "string",
    }
    assert table["seed"].to_pylist() == [4294967295]


def test_seeds_and_probabilities_are_read_without_the_rest(tmp_path: Path) -> None:
    drive(tmp_path, count=6)
    seeds, found = read_scores(tmp_path)
    assert (str(seeds.dtype), str(found.dtype)) == ("uint32", "float32")
    assert seeds.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert found[:3].tolist() == [1.0, 0.6875, 0.375]
    assert np.flatnonzero(np.isnan(found)).tolist() == [10, 11]


def test_all_rows_are_walked_in_order(tmp_path: Path) -> None:
    drive(tmp_path, count=3)
    assert [(row.seed, row.verdict.value) for row in iter_rows(tmp_path)] == [
        (0, "accepted"),
        (1, "accepted"),
        (2, "rejected"),
        (3, "rejected"),
        (4, "accepted"),
    ]


def test_the_seal_holds_the_digest_of_its_ledger(tmp_path: Path) -> None:
    drive(tmp_path, count=3)
    for shard, seal in read_seals(tmp_path).items():
        assert seal.ledger_sha256 == digest((tmp_path / "ledger" / f"{shard:06d}.parquet").read_bytes())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"shard": "x"}', b"\xff"])
def test_a_damaged_seal_is_named_with_the_way_out(tmp_path: Path, content: bytes) -> None:
    drive(tmp_path, count=3)
    path = tmp_path / "ledger" / "000001.json"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"000001\.json: is damaged .* and run the same command again"):
        read_seals(tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 1000])
def test_a_cut_ledger_is_named_with_the_way_out(tmp_path: Path, keep: int) -> None:
    drive(tmp_path, count=3)
    path = tmp_path / "ledger" / "000000.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OutputError, match=r"000000\.parquet: cannot be read .* delete .*000000\.json and run"):
        list(iter_rows(tmp_path))
