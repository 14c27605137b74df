"""Repeat spool files to an MLflow store: the only file that imports mlflow. Started by `qgate.tracking.tracker`.

    python -m qgate.tracking.child URI FILE      follow one session until standard input ends
    python -m qgate.tracking.child URI FOLDER    deliver all sessions that no run is writing
    python -m qgate.tracking.child URI models:/NAME@ALIAS FOLDER    copy a registered model's files into FOLDER

Answers on stdout, one JSON object per session: name, run_id, delivered, warning. Repeating a session is harmless: runs
are found by tag, and a metric with the same time, step and value is the same row.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import select
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow import set_registry_uri, set_tracking_uri
from mlflow.artifacts import download_artifacts
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from qgate.tracking.tracker import IDENTITY, MODEL_FOLDER, NOT_REGISTERED

KEY, SESSION = "qgate.key", "qgate.session"
"""Tags of a run: its identity, and the session that came last and so decides its status and artifacts."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment: its runs make models and data, and are no calls of a language model."""

POLL = 1.0
RETRY = (15.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds between looks at the spool file, and between attempts while the store does not answer."""

BATCH = 100
"""The most params or tags that MLflow takes at once; it takes as many metrics and more."""

logger = logging.getLogger(__name__)


class Mirror:
    """One spool file and its MLflow run; whatever fails can be called again and goes on where it was."""

    def __init__(self, uri: str, spool: Path) -> None:
        self.uri = uri
        self.spool = spool
        self.session = int(spool.stem.rpartition("-")[2])
        self.name = spool.stem
        self.run_id = ""
        self.ended = False
        self.missing: list[str] = []
        self.taken: list[str] = []
        self._client: MlflowClient | None = None
        self._offset = 0
        self._time = 0

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            with _alone(self.uri):
                self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def advance(self) -> None:
        """Deliver the events that are new in the spool file; a line without its end is not yet one."""
        with self.spool.open("rb") as file:
            file.seek(self._offset)
            lines = [line for line in file if line.endswith(b"\n")]
        events = [(json.loads(line), len(line)) for line in lines]
        for kind, group in itertools.groupby(events, key=lambda pair: pair[0]["event"]):
            batch = list(group)
            self._deliver(kind, [event for event, _ in batch])
            self._offset += sum(length for _, length in batch)

    def close(self) -> None:
        """Mark a session that ended without saying so."""
        if self.run_id and not self.ended and self._is_latest():
            self.client.set_terminated(self.run_id, "KILLED", self._time)

    def report(self, error: Exception | None) -> None:
        """Answer, then delete what was delivered: whoever is killed in between delivers twice, which is harmless."""
        with contextlib.suppress(BrokenPipeError):
            print(self.answer(error), flush=True)
        if error is not None:
            return
        self.spool.unlink()
        self.spool.with_suffix(".log").unlink(missing_ok=True)
        shutil.rmtree(self.spool.with_suffix(""), ignore_errors=True)

    def answer(self, error: Exception | None) -> str:
        warning = str(error or "").replace("<database_uri>", self.uri) or (type(error).__name__ if error else None)
        if error is None and self.missing:
            warning = f"gone before they reached MLflow: {', '.join(self.missing)}"
        elif error is None and self.taken:
            warning = (
                f"{', '.join(self.taken)} stays where it is: it was moved after this gate was compared; give the same "
                "command again"
            )
        result = {"name": self.name, "run_id": self.run_id or None, "delivered": error is None, "warning": warning}
        return json.dumps(result)

    def _deliver(self, kind: str, events: list[dict[str, Any]]) -> None:
        if kind == "start":
            self.name = events[-1]["name"]
            self.run_id = self._open(events[-1])
        elif kind == "metrics":
            self._log(events)
        elif kind == "dataset":
            self._log_datasets(events)
        elif kind == "finish":
            self._finish(events[-1])
        self._time = events[-1]["time"]

    def _open(self, start: dict[str, Any]) -> str:
        """Find the run of this key or make it, set it running, add what is new."""
        experiment_id = self._experiment(start["experiment"])
        found = self.client.search_runs([experiment_id], f"tags.`{KEY}` = '{start['key']}'", ViewType.ACTIVE_ONLY, 1)
        tags = {KEY: start["key"], "mlflow.source.name": "qgate"}
        run = found[0] if found else self.client.create_run(experiment_id, start["time"], tags, start["name"])
        run_id: str = run.info.run_id
        known = run.data.params
        tags = start["tags"] | {
            f"resumed.{key}": value for key, value in start["params"].items() if known.get(key, value) != value
        }
        if int(run.data.tags.get(SESSION, 0)) <= self.session:
            tags[SESSION] = str(self.session)
            self.client.update_run(run_id, status="RUNNING")
        for some in _batches(RunTag(key, value) for key, value in tags.items()):
            self.client.log_batch(run_id, tags=some)
        for some in _batches(Param(key, value) for key, value in start["params"].items() if key not in known):
            self.client.log_batch(run_id, params=some)
        return run_id

    def _experiment(self, name: str) -> str:
        """Find the experiment or make it; another process may do so at the same moment."""
        location = _artifact_location(self.uri)
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=location, tags=KIND))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment(name)
        stored = experiment.artifact_location
        if location not in (None, stored) and stored.startswith("file:") and not _path(stored).exists():
            raise RuntimeError(f"{self.uri} keeps its artifacts in {_path(stored)}, which is gone: was it moved?")
        for key, value in KIND.items():
            if key not in experiment.tags:
                self.client.set_experiment_tag(experiment.experiment_id, key, value)
        return str(experiment.experiment_id)

    def _log(self, events: list[dict[str, Any]]) -> None:
        values = ((key, value, event) for event in events for key, value in event["values"].items())
        for some in _batches(Metric(key, value, event["time"], event["step"]) for key, value, event in values):
            self.client.log_batch(self.run_id, metrics=some)

    def _log_datasets(self, events: list[dict[str, Any]]) -> None:
        inputs = [
            DatasetInput(
                Dataset(event["name"], event["digest"], "local", event["source"], profile=json.dumps(event["profile"])),
                [InputTag("mlflow.data.context", event["context"])],
            )
            for event in events
        ]
        self.client.log_inputs(self.run_id, inputs)

    def _register(self, model: dict[str, Any]) -> None:
        """Make the run's files a version of the model, once, and move its aliases there."""
        name = model["name"]
        with contextlib.suppress(MlflowException):
            self.client.create_registered_model(name)
        known = self.client.search_model_versions(f"name = '{name}' and run_id = '{self.run_id}'")
        if known:
            version = known[0]
        else:
            run: Run = self.client.get_run(self.run_id)
            version = self.client.create_model_version(name, f"{run.info.artifact_uri}/{MODEL_FOLDER}", self.run_id)
        for key, value in model["tags"].items():
            self.client.set_model_version_tag(name, version.version, key, value)
        for alias, beaten in model["aliases"].items():
            holder = self._holder(name, alias)
            if holder and holder.version != version.version and holder.tags.get(IDENTITY, beaten) != beaten:
                self.taken.append(f"models:/{name}@{alias}")
            else:
                self.client.set_registered_model_alias(name, alias, version.version)

    def _holder(self, name: str, alias: str) -> ModelVersion | None:
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if _is_unknown(error):
                return None
            raise

    def _finish(self, finish: dict[str, Any]) -> None:
        self._log([finish])
        if self._is_latest():
            self.missing = [path for path, _ in finish["artifacts"] if not Path(path).exists()]
            for path, folder in finish["artifacts"]:
                if path not in self.missing:
                    self.client.log_artifact(self.run_id, path, folder or None)
            if finish.get("note"):
                self.client.set_tag(self.run_id, MLFLOW_RUN_NOTE, finish["note"])
            if finish.get("model"):
                self._register(finish["model"])
            self.client.set_terminated(self.run_id, finish["status"], finish["time"])
        self.ended = True

    def _is_latest(self) -> bool:
        run: Run = self.client.get_run(self.run_id)
        return int(run.data.tags.get(SESSION, 0)) <= self.session


def follow(mirror: Mirror) -> Exception | None:
    """Deliver a session while it is written, until the run ends or dies; returns the last error, if any."""
    parent = os.getppid()
    waits = iter(RETRY)
    next_try = 0.0
    while True:
        alive = not select.select([0], [], [], POLL)[0] and os.getppid() == parent
        if alive and time.monotonic() < next_try:
            continue
        try:
            mirror.advance()
            if not alive:
                mirror.close()
                return None
            waits = iter(RETRY)
        except Exception as error:
            logger.exception("not delivered")
            if not alive:
                return error
            next_try = time.monotonic() + next(waits, RETRY[-1])


def replay(mirror: Mirror) -> Exception | None:
    """Deliver a session that nobody writes any more; returns the error, if any."""
    try:
        with mirror.spool.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mirror.advance()
            mirror.close()
    except BlockingIOError:
        return RuntimeError("its run is still going")
    except Exception as error:
        logger.exception("not delivered")
        return error
    return None


def copy_model(uri: str, model: str, into: Path) -> None:
    """Copy the files of a registered model; exits with NOT_REGISTERED where the store knows no such one."""
    with _alone(uri):
        # models:/ addresses are resolved in the default registry, whatever the call's arguments say.
        set_tracking_uri(uri)
        set_registry_uri(uri)
        try:
            download_artifacts(artifact_uri=model, dst_path=str(into))
        except MlflowException as error:
            if _is_unknown(error):
                sys.exit(NOT_REGISTERED)
            raise


def _is_unknown(error: MlflowException) -> bool:
    """A missing alias is "invalid" to MLflow, a missing model "does not exist"; the words are all they share."""
    return "not found" in str(error).lower()


def main(uri: str, what: str, into: str | None = None) -> None:
    if into is not None:
        return copy_model(uri, what, Path(into))
    os.nice(10)
    spool = Path(what)
    if spool.is_dir():
        for path in sorted(spool.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2])):
            mirror = Mirror(uri, path)
            mirror.report(replay(mirror))
    else:
        mirror = Mirror(uri, spool)
        mirror.report(follow(mirror))


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keep other children out while a local store is opened: two that migrate a new database at once both fail."""
    folder = _store_folder(uri)
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _artifact_location(uri: str) -> str | None:
    """Where artifacts of a local store lie: beside its database; a server decides for itself."""
    folder = _store_folder(uri)
    return (folder / "artifacts").as_uri() if folder else None


def _store_folder(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent


def _path(file_uri: str) -> Path:
    return Path(unquote(urlsplit(file_uri).path))


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


if __name__ == "__main__":
    main(*sys.argv[1:])
