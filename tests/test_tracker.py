"""A run is mirrored to MLflow whole and once, and nothing that MLflow does can stop or slow it.

The store is read with sqlite3: what counts is what lies there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qgate.errors import BundleError
from qgate.tracking.tracker import (
    IDENTITY,
    RegisteredModel,
    Tracker,
    download_model,
    run_key,
    sync,
    track,
    tracking_uri,
)

CHECKOUT = Path(__file__).parent.parent
MAKE_STORE = "import sys; from mlflow.tracking import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
RUN_AND_HANG = """
import sys, time
from pathlib import Path
from qgate.tracking.tracker import track
tracker = track(experiment="qgate-run", key="k", name="faces", params={}, folder=Path(sys.argv[1]))
tracker.metrics({"yield": 0.25}, 64)
time.sleep(600)
"""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store after its migrations, which take MLflow many seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    subprocess.run([sys.executable, "-c", MAKE_STORE, f"sqlite:///{path}"], check=True, capture_output=True)
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty local store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    return tmp_path


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"


def begin(folder: Path, key: str = "k", **params: object) -> Tracker:
    return track(experiment="qgate-run", key=key, name="faces", params=params, tags={"gate": "default"}, folder=folder)


def read(folder: Path, query: str) -> list[Any]:
    with sqlite3.connect(f"file:{folder / 'mlruns' / 'mlflow.db'}?mode=ro", uri=True) as store:
        rows = store.execute(query).fetchall()
    store.close()
    return rows


def left(folder: Path) -> list[Path]:
    return list((folder / "mlruns" / "spool").iterdir())


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


def test_a_dataset_has_one_run_and_a_resume_continues_it(folder: Path) -> None:
    first = begin(folder, count=10, device="cpu")
    first.metrics({"yield": 0.25}, 64)
    stopped = first.finish("KILLED", {"accepted": 4}, step=128)
    assert stopped.warning is None
    assert read(folder, "SELECT name, status FROM runs") == [("faces", "KILLED")]

    second = begin(folder, count=10, device="cuda:0")
    (folder / "out").mkdir()
    (folder / "out" / "report.json").write_text("{}")
    assert second.scratch is not None
    (second.scratch / "scores.png").write_bytes(b"picture")
    artifacts = [(folder / "out" / "report.json", ""), (second.scratch / "scores.png", "figures")]
    done = second.finish("FINISHED", {"accepted": 10}, artifacts, step=320)
    assert (done.run_id, done.warning) == (stopped.run_id, None)
    assert read(folder, "SELECT name, status FROM runs") == [("faces", "FINISHED")]
    assert read(folder, "SELECT key, value, step FROM metrics ORDER BY key, value") == [
        ("accepted", 4.0, 128),
        ("accepted", 10.0, 320),
        ("yield", 0.25, 64),
    ]
    assert read(folder, "SELECT key, value FROM params ORDER BY key") == [("count", "10"), ("device", "cpu")]
    assert read(folder, "SELECT value FROM tags WHERE key = 'resumed.device'") == [("cuda:0",)]
    stored = folder / "mlruns" / "artifacts" / str(done.run_id) / "artifacts"
    assert sorted(str(path.relative_to(stored)) for path in stored.rglob("*.*")) == [
        "figures/scores.png",
        "report.json",
    ]
    assert left(folder) == []
    assert sync(folder) == []


def test_the_run_of_a_killed_process_is_marked_killed(folder: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN_AND_HANG, str(folder)])
    try:
        wait_until(lambda: read(folder, "SELECT count(*) FROM metrics") == [(1,)])
        assert read(folder, "SELECT status FROM runs") == [("RUNNING",)]
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    wait_until(lambda: read(folder, "SELECT status FROM runs") == [("KILLED",)])
    wait_until(lambda: left(folder) == [])


def test_a_silent_server_costs_ten_seconds_at_most_and_sync_makes_the_store_complete(
    folder: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent_server)
    begun = time.monotonic()
    tracker = begin(folder, count=10)
    for step in range(1000):
        tracker.metrics({"yield": 0.25}, step)
    assert time.monotonic() - begun < 2
    (folder / "report.json").write_text("{}")
    ended = time.monotonic()
    outcome = tracker.finish("FINISHED", {"accepted": 10}, [(folder / "report.json", ""), (folder / "gone.png", "")])
    assert time.monotonic() - ended < 10
    assert outcome.run_id is None
    assert outcome.warning == (
        "the run is not in MLflow yet: MLflow gave no answer in 8 s; `qgate sync` replays it later"
    )

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (spool,) = (folder / "mlruns" / "spool").glob("*.jsonl")
    kept = spool.read_bytes()
    (delivered,) = sync(folder)
    assert delivered.name == "faces"
    assert delivered.warning == f"gone before they reached MLflow: {folder / 'gone.png'}"
    spool.write_bytes(kept)  # as if the child had been killed just before it deleted the file
    (again,) = sync(folder)
    assert again.run_id == delivered.run_id
    assert read(folder, "SELECT name, status FROM runs") == [("faces", "FINISHED")]
    assert read(folder, "SELECT key, count(*) FROM metrics GROUP BY key") == [("accepted", 1), ("yield", 1000)]
    assert left(folder) == []


def test_a_server_that_refuses_is_named_without_its_password(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    tracker = begin(folder)
    begun = time.monotonic()
    warning = tracker.finish("FAILED").warning
    assert time.monotonic() - begun < 10
    assert warning is not None
    assert "`qgate sync` replays it later" in warning
    assert "secret" not in warning
    assert "\n" not in warning


def test_an_older_session_that_comes_late_leaves_status_and_artifacts_alone(folder: Path) -> None:
    assert begin(folder).finish("FINISHED").warning is None
    late = {
        "event": "start",
        "experiment": "qgate-run",
        "key": "k",
        "name": "faces",
        "params": {},
        "tags": {},
        "time": 5,
    }
    (folder / "mlruns" / "spool" / "k-1.jsonl").write_text(json.dumps(late) + '\n{"event": "metr')
    (outcome,) = sync(folder)
    assert outcome.warning is None
    assert read(folder, "SELECT status FROM runs") == [("FINISHED",)]


def test_sync_leaves_a_run_alone_that_is_still_going(folder: Path) -> None:
    tracker = begin(folder)
    (outcome,) = sync(folder)
    assert outcome.warning is not None
    assert "still going" in outcome.warning
    assert tracker.finish("FINISHED").warning is None
    assert read(folder, "SELECT status FROM runs") == [("FINISHED",)]


def test_a_damaged_store_is_a_warning(folder: Path) -> None:
    (folder / "mlruns" / "mlflow.db").write_bytes(b"no database" * 100)
    warning = begin(folder).finish("FINISHED").warning
    assert warning is not None
    assert "file is not a database" in warning


def test_a_folder_that_cannot_be_written_turns_tracking_off_with_one_warning(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("in the way")
    tracker = begin(tmp_path)
    tracker.metrics({"yield": 0.25}, 64)
    assert tracker.scratch is None
    outcome = tracker.finish("FINISHED")
    assert outcome.run_id is None
    assert outcome.warning == f"tracking is off: {tmp_path / 'mlruns' / 'spool'} cannot be used (Not a directory)"


def test_a_tracker_that_is_off_says_nothing() -> None:
    tracker = Tracker()
    tracker.metrics({"yield": 0.25}, 64)
    assert tracker.finish("FINISHED").warning is None


def test_the_key_of_a_run_follows_from_its_folder_and_what_is_asked(tmp_path: Path) -> None:
    keys = {run_key(tmp_path / "a", "1"), run_key(tmp_path / "a", "2"), run_key(tmp_path / "b", "1")}
    assert len(keys) == 3
    assert run_key(tmp_path / "a", "1") in keys


def test_a_registered_gate_is_found_by_its_alias(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = tmp_path_factory.mktemp("bundle")
    (bundle / "gate.json").write_text("{}")
    register = (
        "import sys; from mlflow.tracking import MlflowClient\n"
        "client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])\n"
        "client.create_registered_model('qgate-gate')\n"
        "client.create_model_version('qgate-gate', sys.argv[2])\n"
        "client.set_registered_model_alias('qgate-gate', 'champion', '1')\n"
    )
    store = tracking_uri(folder)
    subprocess.run([sys.executable, "-c", register, store, str(bundle)], check=True, capture_output=True)

    found = download_model("models:/qgate-gate@champion", tmp_path_factory.mktemp("into"), folder)

    assert (found / "gate.json").read_text() == "{}"


def test_a_gate_that_is_not_registered_is_an_error_in_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gate models:/none@champion: cannot be read from sqlite"):
        download_model("models:/none@champion", tmp_path, folder)


def test_an_alias_is_taken_only_from_the_version_that_was_beaten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "gate.json").write_text("{}")

    def register(gate: str, beaten: str | None) -> str | None:
        model = RegisteredModel("m", tmp_path / "bundle", {IDENTITY: gate}, {"champion": beaten})
        return begin(folder, gate).finish("FINISHED", model=model).warning

    champion = "SELECT version FROM registered_model_aliases"
    assert register("first", None) is None
    assert register("second", "first") is None
    assert read(folder, champion) == [(2,)]
    for beaten in (None, "first"):  # compared while another was champion, delivered late
        warning = register(f"late {beaten}", beaten)
        assert warning is not None
        assert warning.startswith("models:/m@champion stays where it is")
        assert read(folder, champion) == [(2,)]
    assert register("second", "first") is None  # the same session delivered twice
    assert read(folder, champion) == [(2,)]
