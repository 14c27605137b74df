from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qgate.dataset.folder import RunFolder
from qgate.dataset.ledger import digest, read_rows, to_parquet
from qgate.dataset.verify import verify
from qgate.errors import OutputError
from qgate.records import Row, Tally
from tests.dataset_driver import HEADER, drive, tree

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify") / "run"
    drive(root)
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def flip(path: Path, position: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * position)] ^= 1
    path.write_bytes(data)


def rewrite(root: Path, *rows: Row) -> None:
    """Other rows in the first shard, and a seal that fits them."""
    data, path = to_parquet(rows), root / "ledger" / "000000.parquet"
    edit(path.with_suffix(".json"), digest(path.read_bytes()), digest(data))
    path.write_bytes(data)


def swap_probability(root: Path) -> None:
    rows = read_rows(root / "ledger" / "000000.parquet")
    rewrite(root, replace(rows[0], score=rows[3].score), *rows[1:])


def repeat_seed(root: Path) -> None:
    rows = read_rows(root / "ledger" / "000000.parquet")
    rewrite(root, *rows[:3], replace(rows[3], seed=2))


def test_an_unharmed_run_has_no_problems(finished: Path) -> None:
    found = verify(finished)
    assert found.problems == ()
    assert found.tally == Tally(accepted=7, rejected=7, failed=1)
    assert found.finished


DAMAGES: dict[str, tuple[Damage, str]] = {
    "bit flip in an image": (
        lambda root: flip(root / "dataset/000001/seed0000000004.png"),
        "dataset/000001/seed0000000004.png: sha256 is not the one in the ledger; delete .*ledger/000001.json and run",
    ),
    "lost image": (
        lambda root: (root / "dataset/000001/seed0000000007.png").unlink(),
        "dataset/000001/seed0000000007.png: is missing; delete .*ledger/000001.json and run the same command again",
    ),
    "foreign image": (
        lambda root: (root / "dataset/000001/seed0000000005.png").touch(),
        "dataset/000001/seed0000000005.png: is not in the ledger; move it out of the output folder",
    ),
    "foreign folder": (
        lambda root: (root / "dataset/000009").mkdir(),
        "dataset/000009: is not in the ledger; move it out of the output folder",
    ),
    "bit flip in the ledger": (
        lambda root: flip(root / "ledger/000002.parquet"),
        "ledger/000002.parquet: sha256 is not the one in its seal; delete .*ledger/000002.json and run",
    ),
    "another probability": (swap_probability, "000000.parquet: the verdict on seed 0 is not that of its clean_prob"),
    "a seed twice": (repeat_seed, "000000.parquet: its seeds are not those of the walk"),
    "another count in the seal": (
        lambda root: edit(root / "ledger/000001.json", '"rejected": 2', '"rejected": 3'),
        "ledger/000001.json: its counts are not those of the ledger",
    ),
    "another threshold in the seal": (
        lambda root: edit(root / "ledger/000001.json", '"threshold": 0.5', '"threshold": 0.4'),
        "ledger/000001.json: threshold is 0.4, the run's is 0.5; run the same command again",
    ),
    "damaged seal": (lambda root: (root / "ledger/000001.json").write_text("{"), "ledger/000001.json: is damaged"),
    "lost seal": (
        lambda root: (root / "ledger/000001.json").unlink(),
        "ledger/000001.json: is missing; run the same command again",
    ),
    "changed metadata": (
        lambda root: edit(root / "dataset/metadata.jsonl", '"seed": 4', '"seed": 5'),
        "dataset/metadata.jsonl: line 3 is not what the ledger says; run the same command again",
    ),
    "lost metadata": (lambda root: (root / "dataset/metadata.jsonl").unlink(), "metadata.jsonl: is missing"),
    "lost card": (lambda root: (root / "dataset/README.md").unlink(), "README.md: is missing"),
    "lost review image": (
        lambda root: (root / "review/seed0000000002.jpg").unlink(),
        "review/seed0000000002.jpg: is missing; run the same command again",
    ),
    "foreign review image": (
        lambda root: (root / "review/seed0000000099.jpg").touch(),
        "review/seed0000000099.jpg: is not in the review sample; move it out",
    ),
    "leftovers": (lambda root: (root / ".staging").mkdir(), r"\.staging: holds unfinished work; run the same command"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_is_named_with_the_file_and_the_way_out(run: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(run)
    assert re.search(message, "\n".join(verify(run).problems))


@pytest.mark.parametrize(
    "name", ["bit flip in an image", "lost image", "bit flip in the ledger", "another probability", "damaged seal"]
)
def test_the_advice_mends_a_damaged_shard(run: Path, finished: Path, name: str) -> None:
    DAMAGES[name][0](run)
    shard = {"bit flip in the ledger": 2, "another probability": 0}.get(name, 1)
    (run / "ledger" / f"{shard:06d}.json").unlink()
    drive(run)
    assert tree(run) == tree(finished)


@pytest.mark.parametrize("name", ["ledger/000001.parquet", "ledger/000001.json", "run.json"])
def test_a_bit_flip_anywhere_is_found_or_refused_and_never_crashes(run: Path, name: str) -> None:
    whole = (run / name).read_bytes()
    for step in range(40):
        flip(run / name, step / 40)
        try:
            assert verify(run).problems or name == "run.json"
        except OutputError as error:
            assert "run.json" in str(error)
        (run / name).write_bytes(whole)


def test_a_run_under_way_is_not_judged(run: Path) -> None:
    with RunFolder.open(run, HEADER), pytest.raises(OutputError, match="is in use by another qgate process"):
        verify(run)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"run\.json: no such file; give the output folder of a qgate run"):
        verify(tmp_path)


def test_verify_needs_no_torch() -> None:
    code = (
        "import sys, qgate.dataset.verify, qgate.dataset.folder; print({'torch', 'mlflow', 'timm'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
