"""A run that is killed anywhere and repeated ends with the same bytes as one that was left in peace."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataset_driver import drive, tree

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: apt-get install strace")

FILE_SIZE = 3000
"""More than the images of the driver have, less than its ledger files."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where an fsync costs nothing; kills leave the same files there as on a disk."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def driver(
    *arguments: object, before: tuple[str, ...] = (), limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*before, sys.executable, "-m", "tests.dataset_driver", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=restrict, timeout=120)


def sweep(memory: Path, start: Path, count: int, threshold: float) -> int:
    start.mkdir(exist_ok=True)
    done = driver(memory / "expected", count, threshold, start, memory / "scratch")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_fresh_run_killed_before_any_change_to_files_ends_with_the_same_bytes(memory: Path) -> None:
    assert sweep(memory, memory / "start", 7, 0.5) > 70


def test_an_extension_killed_before_any_change_to_files_ends_with_the_same_bytes(memory: Path) -> None:
    drive(memory / "start", count=3)
    assert sweep(memory, memory / "start", 5, 0.5) > 40


@pytest.mark.parametrize("threshold", [0.7, 0.3])
def test_a_regate_killed_before_any_change_to_files_ends_with_the_same_bytes(memory: Path, threshold: float) -> None:
    drive(memory / "start", count=5)
    assert sweep(memory, memory / "start", 5, threshold) > 40


@needs_strace
@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("number", [2, 17])
def test_a_run_killed_within_a_system_call_ends_with_the_same_bytes(memory: Path, call: str, number: int) -> None:
    drive(memory / "expected")
    inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e")
    killed = driver(memory / "run", 7, 0.5, before=(*inject, f"inject={call}:signal=SIGKILL:when={number}"))
    assert killed.returncode != 0
    drive(memory / "run")
    assert tree(memory / "run") == tree(memory / "expected")


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failed_fsync_ends_the_run_with_advice_and_the_next_one_mends_it(memory: Path, error: str) -> None:
    drive(memory / "expected")
    inject = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
        f"inject=fsync:error={error}:when=30",
    )
    failed = driver(memory / "run", 7, 0.5, before=inject)
    assert "all sealed shards are safe: make room or mend the disk, then repeat the command" in failed.stderr
    drive(memory / "run")
    assert tree(memory / "run") == tree(memory / "expected")


def test_a_full_disk_ends_the_run_with_the_file_and_advice_and_the_next_one_goes_on(memory: Path) -> None:
    failed = driver(memory / "run", 7, 0.5, limit=FILE_SIZE)
    assert "000000.work/ledger.parquet: writing failed (File too large; " in failed.stderr
    drive(memory / "run")
    drive(memory / "expected")
    assert tree(memory / "run") == tree(memory / "expected")
