"""Drives a run folder with made-up faces and scores, for the tests of `qgate.dataset`; also a script to be killed.

python -m tests.dataset_driver FOLDER COUNT THRESHOLD               one run
python -m tests.dataset_driver FOLDER COUNT THRESHOLD START SCRATCH  a kill sweep, see `sweep`
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgate.dataset.encode import ImageFormat
from qgate.dataset.folder import RunFolder
from qgate.dataset.header import GateFacts, GeneratorFacts, RunHeader
from qgate.dataset.ledger import to_parquet
from qgate.records import DEGENERATE, Score
from qgate.seeds import SeedPlan

FILE_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"}

HEADER = RunHeader(
    qgate="0.1.0",
    scoring={"generator": {"digest": "aa11", "truncation_psi": 0.7}, "gate": "bb22"},
    plan=SeedPlan(((0, 2**32 - 1),)),
    shard_size=4,
    threshold=0.5,
    count=7,
    max_candidates=1000,
    image_format=ImageFormat(),
    review=3,
    generator=GeneratorFacts("made-up", "aa11", 0.7, "Made-up faces are free."),
    gate=GateFacts("coin", "bb22", "The labels behind this gate were made by a vision-language model."),
    config={},
    versions={"numpy": "2"},
)
"""Of the first 15 candidates 0 1 4 7 8 13 14 are accepted, 10 fails and 11 is degenerate; see `score`."""


def score(seed: int) -> Score:
    """1, 11/16, 6/16, 1/16, 12/16, ... for the seeds 0, 1, 2, 3, 4, ..., but two of every dozen are faulty."""
    if seed % 12 == 10:
        return Score(None, fault="the fake broke")
    if seed % 12 == 11:
        return Score(None, fault=DEGENERATE)
    prob = 1 - (seed * 5 % 16) / 16
    return Score(prob, tuple((1 - prob) * part / 16 for part in range(12)))


def face(seed: int, side: int = 16) -> NDArray[np.uint8]:
    """Noise that follows from the seed."""
    return np.random.RandomState(seed).randint(0, 256, (side, side, 3)).astype(np.uint8)


def drive(root: Path, header: RunHeader = HEADER, *, regate: bool = False, **changes: Any) -> list[int]:
    """Run to the end as a driver does; returns the seeds that were drawn."""
    drawn = []
    with RunFolder.open(root, replace(header, **changes), regate=regate, encoders=2) as folder:
        while (shard := folder.next_shard()) is not None:
            builder = folder.begin(shard)
            for seed in builder.todo:
                found = score(seed)
                builder.add(seed, found, face(seed) if builder.wants_image(seed, found) else None)
                drawn.append(seed)
                if builder.done:
                    break
            folder.commit(builder)
        folder.finish()
    return drawn


def tree(root: Path) -> dict[str, str]:
    """Every path below `root`, hidden ones too, with the digest of its bytes; folders end in a slash."""
    return {
        str(path.relative_to(root)) + "/" * path.is_dir(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(root.rglob("*"))
    }


def kill_before_change(number: int) -> None:
    """Let the kernel kill this process when it is about to make its `number`-th change to the file system."""
    changes = count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in FILE_CHANGES) and next(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def drive_until_killed(root: Path, number: int, **changes: Any) -> None:
    kill_before_change(number)
    drive(root, regate=True, **changes)


def sweep(expected: Path, start: Path, scratch: Path, **changes: Any) -> int:
    """Kill a run before each of its changes to files, resume it, and compare every byte with an unharmed run.

    expected: where the unharmed run goes; start: copied for each run; empty for a fresh one.
    Returns the number of kills; AssertionError names the kill that left a trace.
    """
    to_parquet([])  # so that Arrow's first use, which imports pandas, is not repeated in every child
    shutil.copytree(start, expected)
    in_child(partial(drive, expected, regate=True, **changes))
    wanted = tree(expected)
    for number in count(1):
        root = scratch / str(number)
        shutil.copytree(start, root)
        killed = in_child(partial(drive_until_killed, root, number, **changes))
        in_child(partial(drive, root, regate=True, **changes))
        assert tree(root) == wanted, f"kill {number} left a trace in {root}"
        if not killed:
            return number - 1
        shutil.rmtree(root)
    raise AssertionError


def in_child(work: Callable[[], object]) -> bool:
    """Run `work` in a forked process; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the run failed with {status}"
    return status != 0


if __name__ == "__main__":
    root, selection = Path(sys.argv[1]), {"count": int(sys.argv[2]), "threshold": float(sys.argv[3])}
    if len(sys.argv) > 4:
        print(sweep(root, Path(sys.argv[4]), Path(sys.argv[5]), **selection))
    else:
        drive(root, HEADER, regate=True, **selection)
