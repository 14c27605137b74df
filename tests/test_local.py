"""The laws of a run, with the fake generator and gate: about one candidate in four is accepted at 0.75."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qgate import files
from qgate.dataset.encode import ImageFormat
from qgate.dataset.folder import RunFolder
from qgate.dataset.header import GateFacts, GeneratorFacts, RunHeader
from qgate.dataset.ledger import iter_rows
from qgate.dataset.verify import verify
from qgate.errors import StoppedError
from qgate.generators.fake import FakeGate, FakeGenerator
from qgate.records import Tally, Verdict
from qgate.run.engines.local import fill
from qgate.run.worker import Worker
from qgate.seeds import SEED_MAX, SeedPlan

HEADER = RunHeader(
    qgate="0",
    scoring={"generator": "fake:16"},
    plan=SeedPlan(((500, SEED_MAX),)),
    shard_size=16,
    threshold=0.75,
    count=24,
    max_candidates=1000,
    image_format=ImageFormat(),
    review=10,
    generator=GeneratorFacts("fake:16", "00", 1.0),
    gate=GateFacts("fake", "00"),
    config={},
    versions={},
)


def make(root: Path, header: RunHeader = HEADER, batch_size: int = 8, regate: bool = False) -> list[int]:
    """Run to the end and give the accepted seeds."""
    worker = Worker(FakeGenerator("16"), FakeGate(), batch_size)
    with RunFolder.open(root, header, regate=regate) as folder:
        fill(folder, worker, lambda: False, lambda tally: None)
        folder.finish()
    assert verify(root).problems == ()
    return [row.seed for row in iter_rows(root) if row.verdict is Verdict.ACCEPTED]


def tree(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_faces_are_the_accepted_ones_with_the_lowest_seeds(tmp_path: Path) -> None:
    gate, generator = FakeGate(), FakeGenerator("16")
    scores = {
        seed: gate.score([i for i in generator.draw([seed]).images if i is not None])[0] for seed in range(500, 700)
    }
    lowest = [seed for seed, score in scores.items() if (score.clean_prob or 0.0) >= 0.75][:24]

    assert make(tmp_path / "out") == lowest


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 16), (64, 16), (8, 1), (8, 7), (3, 1000)])
def test_the_faces_are_the_same_for_every_batch_and_shard_size(
    tmp_path: Path, batch_size: int, shard_size: int
) -> None:
    expected = make(tmp_path / "a")

    assert make(tmp_path / "b", replace(HEADER, shard_size=shard_size), batch_size) == expected


def test_no_thread_of_the_worker_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "out", replace(HEADER, count=10))
    touching: dict[str, set[str]] = {}

    def noted(place: Any, name: str) -> None:
        plain = getattr(place, name)

        def note(*args: Any, **options: Any) -> Any:
            touching.setdefault(name, set()).add(threading.current_thread().name.split("_")[0])
            return plain(*args, **options)

        monkeypatch.setattr(place, name, note)

    noted(RunFolder, "begin")
    noted(RunFolder, "rows")
    noted(files, "make_folder")
    make(tmp_path / "out", replace(HEADER, threshold=0.9), regate=True)

    assert touching["begin"] == {"qgate-begin"}
    assert "qgate-begin" in touching["rows"]
    assert not any(thread.startswith("qgate-stage") for threads in touching.values() for thread in threads)
    assert "qgate-begin" not in touching["make_folder"]


def test_every_byte_is_the_same_for_every_batch_size(tmp_path: Path) -> None:
    make(tmp_path / "a", batch_size=1)
    make(tmp_path / "b", batch_size=50)

    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_stopped_run_goes_on_to_the_same_bytes_and_judges_no_sealed_candidate_again(tmp_path: Path) -> None:
    make(tmp_path / "whole")
    seen: list[Tally] = []
    worker = Worker(FakeGenerator("16"), FakeGate(), 4)
    with pytest.raises(StoppedError), RunFolder.open(tmp_path / "out", HEADER) as folder:
        fill(folder, worker, lambda: len(seen) > 40, seen.append)
    again = Worker(FakeGenerator("16"), FakeGate(), 8)
    with RunFolder.open(tmp_path / "out", HEADER) as folder:
        sealed = folder.tally.judged
        judged_again = fill(folder, again, lambda: False, lambda tally: None)
        folder.finish()
        judged = folder.tally.judged

    assert sealed == 32
    assert judged_again == judged - sealed
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_larger_count_goes_on_to_the_bytes_of_a_direct_run(tmp_path: Path) -> None:
    make(tmp_path / "out")
    make(tmp_path / "out", replace(HEADER, count=31))
    make(tmp_path / "direct", replace(HEADER, count=31))

    assert tree(tmp_path / "out") == tree(tmp_path / "direct")


def test_another_threshold_and_back_restores_every_byte(tmp_path: Path) -> None:
    make(tmp_path / "out")
    before = tree(tmp_path / "out")
    higher = make(tmp_path / "out", replace(HEADER, threshold=0.9), regate=True)
    direct = make(tmp_path / "direct", replace(HEADER, threshold=0.9))

    assert higher == direct
    make(tmp_path / "out", HEADER, regate=True)
    assert tree(tmp_path / "out") == before


def test_the_search_ends_at_its_bound(tmp_path: Path) -> None:
    accepted = make(tmp_path / "out", replace(HEADER, max_candidates=30))
    tally = Tally.of(list(iter_rows(tmp_path / "out")))

    assert tally.judged == 30
    assert 0 < tally.accepted == len(accepted) < 24


def test_the_verdicts_told_while_running_grow_one_by_one(tmp_path: Path) -> None:
    told: list[Tally] = []
    with RunFolder.open(tmp_path / "out", HEADER) as folder:
        fill(folder, Worker(FakeGenerator("16"), FakeGate(), 8), lambda: False, told.append)

    assert [tally.judged for tally in told] == list(range(1, len(told) + 1))
    assert told[-1].accepted == 24
