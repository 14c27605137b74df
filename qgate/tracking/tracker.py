"""Mirror a run to MLflow without ever stopping or slowing it. Does not import mlflow and knows nothing of faces.

Events go to a spool file, `mlruns/spool/KEY-TIME.jsonl` in the working folder; that is all a run ever waits for.
A child process (`qgate.tracking.child`) follows the file and repeats it to the MLflow store; a pipe that nobody writes
to tells the child, by its end, that the run is over or was killed. What was delivered is deleted; `sync` delivers the
rest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from qgate.errors import BundleError, StoppedError
from qgate.progress import warn

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a session of a run ended: done; a fault; stopped."""

MODEL_FOLDER = "gate"
"""Where the files of a registered model lie among the artifacts of its run."""

IDENTITY = "weights_sha256"
"""Tag of a version of a model: whose value is the same is the same gate."""

NOT_REGISTERED = 4
"""Exit status of the child where the store answers and holds no such model."""

LOCAL_PATIENCE, REMOTE_PATIENCE = 60.0, 8.0
"""Longest wait for the child at the end of a run, seconds: a new SQLite store needs about 10; a server gets less."""

CHILD_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one session.

    name: the run's name.
    run_id: the MLflow run, None where it is not known.
    warning: None when everything was delivered, else one line for the user.
    """

    name: str
    run_id: str | None
    warning: str | None


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """What a run took in or made, as MLflow lists it.

    digest: of its content, hex; MLflow shows the first 36 characters. source: where it lies, in words. profile: JSON
    values, counts for the reader.
    """

    name: str
    digest: str
    source: str
    profile: Mapping[str, Any]
    context: str = "training"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A folder of files to be kept as the next version of a registered model.

    tags: shown beside it.
    aliases: moved to this version, each from the version that is named by the value of its tag `IDENTITY`, None for no
    version; where another has taken an alias meanwhile, it stays there, with a warning.
    """

    name: str
    folder: Path
    tags: Mapping[str, str]
    aliases: Mapping[str, str | None] = field(default_factory=dict)


class Tracker:
    """One session of one run, as made by `track`; without arguments, a tracker that does nothing. Never raises."""

    def __init__(self, session: _Session | None = None, name: str = "", problem: str | None = None) -> None:
        self._session = session
        self._name = name
        self._problem = problem

    @property
    def scratch(self) -> Path | None:
        """A folder for figures that only MLflow shows, deleted once delivered; None where nothing is tracked."""
        return self._session.scratch if self._session else None

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step, here the number of candidates judged."""
        self._append({"event": "metrics", "values": _numbers(values), "step": step})

    def dataset(self, data: DatasetInput) -> None:
        """Log what the run takes in or made."""
        source = {"source": data.source, "profile": dict(data.profile), "context": data.context}
        self._append({"event": "dataset", "name": data.name, "digest": data.digest[:36], **source})

    def finish(
        self,
        status: Status,
        metrics: Mapping[str, float] | None = None,
        artifacts: Sequence[tuple[Path, str]] = (),
        *,
        step: int = 0,
        note: str = "",
        model: RegisteredModel | None = None,
    ) -> Outcome:
        """End the session and wait, for a bounded time, until MLflow has it.

        metrics: the final numbers.
        artifacts: (file, folder among the run's artifacts, "" for the top); read when delivered.
        step: of the final numbers, as in `metrics`; of each number MLflow shows the one of the highest step.
        note: the run's description, in Markdown.
        model: to be registered, its files among the artifacts.
        Returns the MLflow run and at most one warning; what was not delivered stays for `sync`.
        """
        files = [(str(path.absolute()), folder) for path, folder in artifacts]
        values = _numbers(metrics or {})
        kept = {"name": model.name, "tags": dict(model.tags), "aliases": dict(model.aliases)} if model else None
        if model is not None:
            files += [(str(path.absolute()), MODEL_FOLDER) for path in sorted(model.folder.iterdir()) if path.is_file()]
        end = {"status": status, "values": values, "step": step, "artifacts": files, "note": note, "model": kept}
        self._append({"event": "finish", **end})
        session, self._session = self._session, None
        if session is None:
            return Outcome(self._name, None, self._problem)
        outcome = session.close(self._name)
        return Outcome(self._name, None, self._problem) if self._problem else outcome

    def _append(self, event: dict[str, Any]) -> None:
        if self._session is None or self._problem is not None:
            return
        try:
            self._session.append(event)
        except OSError as error:
            self._problem = f"tracking stopped: {self._session.spool} cannot be written ({error.strerror})"


class TrackedWork:
    """A piece of work with an MLflow run, as a context: an error that leaves it marks the run as stopped or failed."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            stopped = isinstance(error, StoppedError | KeyboardInterrupt)
            self.tell(self.tracker.finish("KILLED" if stopped else "FAILED"))

    def tell(self, outcome: Outcome) -> str | None:
        """Warn of what was not delivered; returns the MLflow run id, None where there is none."""
        if outcome.warning:
            warn(outcome.warning)
        return outcome.run_id


def track(
    *,
    experiment: str,
    key: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Tracker:
    """Start to mirror a session of a run; the same key continues the same MLflow run.

    experiment: MLflow experiment, `qgate-run` or `qgate-train`.
    key: identity of the run, from `run_key`.
    params: flat; the first value of a name stays, later ones become tags `resumed.NAME`.
    folder: working folder that holds `mlruns/`, default the current one.
    """
    folder = (folder or Path.cwd()).absolute()
    start = {
        "event": "start",
        "experiment": experiment,
        "key": key,
        "name": name,
        "params": {_word(k): str(value) for k, value in params.items()},
        "tags": {_word(k): value for k, value in (tags or {}).items()},
    }
    try:
        return Tracker(_Session(folder, key, start), name)
    except OSError as error:
        where = folder / "mlruns" / "spool"
        return Tracker(name=name, problem=f"tracking is off: {where} cannot be used ({error.strerror or error})")


def sync(folder: Path | None = None) -> list[Outcome]:
    """Deliver what earlier runs in this working folder could not, oldest first; what exists is not logged twice.

    folder: working folder that holds `mlruns/`, default the current one.
    Returns one outcome per session left; sessions of a run that is still going are left alone, with a warning.
    """
    folder = (folder or Path.cwd()).absolute()
    spool = folder / "mlruns" / "spool"
    if not any(spool.glob("*.jsonl")):
        return []
    command, environment = _child(folder, str(spool))
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    outcomes = [_outcome(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        outcomes.append(Outcome("", None, _warning(_last_line(done.stderr))))
    return outcomes


def find_model(model: str, into: Path, folder: Path | None = None) -> Path | None:
    """Copy a registered gate and return its bundle's folder; None where the store holds no such model or alias.

    model: models:/NAME@ALIAS or models:/NAME/VERSION.
    into: an existing empty folder.
    folder: working folder that holds `mlruns/`, default the current one.
    Raises BundleError where the store does not answer or the model is no bundle.
    """
    where = (folder or Path.cwd()).absolute()
    command, environment = _child(where, model, str(into))
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = sorted(into.rglob("gate.json"))
    if done.returncode == NOT_REGISTERED:
        return None
    if done.returncode or not found:
        reason = _last_line(done.stderr) if done.returncode else "it holds no gate.json"
        raise BundleError(
            f"gate {model}: cannot be read from {tracking_uri(where)} ({reason}); give a bundle folder instead"
        )
    return found[0].parent


def download_model(model: str, into: Path, folder: Path | None = None) -> Path:
    """As `find_model`; BundleError where the store holds no such model or alias, too."""
    found = find_model(model, into, folder)
    if found is None:
        where = tracking_uri((folder or Path.cwd()).absolute())
        raise BundleError(
            f"gate {model}: cannot be read from {where} (no such model or alias); `qgate train --promote` makes one, "
            "or give a bundle folder instead"
        )
    return found


def run_key(output: Path, scoring: str) -> str:
    """The identity of a run in MLflow: what is asked (the scoring digest) and where it is kept."""
    return hashlib.sha256(f"{output.absolute()}\n{scoring}".encode()).hexdigest()[:16]


def tracking_uri(folder: Path) -> str:
    """The MLflow store: `MLFLOW_TRACKING_URI`, else a SQLite file in `mlruns/` of the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlruns' / 'mlflow.db'}"


class _Session:
    """A spool file, locked while a run writes it, and the child that follows it; the child shares the lock."""

    def __init__(self, folder: Path, key: str, start: dict[str, Any]) -> None:
        directory = folder / "mlruns" / "spool"
        self.spool = directory / f"{key}-{time.time_ns()}.jsonl"
        self.scratch = self.spool.with_suffix("")
        self.log = self.spool.with_suffix(".log")
        self.patience = LOCAL_PATIENCE if tracking_uri(folder).startswith("sqlite:") else REMOTE_PATIENCE
        self.scratch.mkdir(parents=True)
        self.file = os.open(self.spool, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.append(start)
            self.child = self._spawn(folder)
        except OSError:
            os.close(self.file)
            raise

    def append(self, event: dict[str, Any]) -> None:
        line = (json.dumps(event | {"time": time.time_ns() // 1_000_000}) + "\n").encode()
        if os.write(self.file, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self, name: str) -> Outcome:
        """Let the child end; kill it when it takes too long."""
        try:
            answer, _ = self.child.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            answer, _ = self.child.communicate()
            if not answer:
                return Outcome(name, None, _warning(f"MLflow gave no answer in {self.patience:.0f} s"))
        finally:
            os.close(self.file)
        lines = [line for line in answer.splitlines() if line.startswith("{")]
        if lines:
            return _outcome(json.loads(lines[-1]))
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return Outcome(name, None, _warning(_last_line(log)))

    def _spawn(self, folder: Path) -> subprocess.Popen[str]:
        command, environment = _child(folder, str(self.spool))
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                pass_fds=(self.file,),
                start_new_session=True,
            )


def _child(folder: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the child; -P keeps modules of the working folder from being imported."""
    command = [sys.executable, "-P", "-m", "qgate.tracking.child", tracking_uri(folder), *arguments]
    return command, os.environ | CHILD_ENVIRONMENT


def _outcome(answer: dict[str, Any]) -> Outcome:
    warning = answer["warning"] if answer["delivered"] else _warning(answer["warning"])
    return Outcome(answer["name"], answer["run_id"], warning)


def _warning(reason: str) -> str:
    """One line that says what is missing and what to do, without passwords of a server's address."""
    line = re.sub(r"//[^/@\s]+@", "//", " ".join(reason.split()))
    return f"the run is not in MLflow yet: {line[:300]}; `qgate sync` replays it later"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["the tracking process died"])[-1]


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {_word(key): float(value) for key, value in values.items()}


def _word(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
