"""How a run goes: told to people while it does, and mirrored to MLflow. Neither ever stops or slows it."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any, Self

from qgate.config import RunConfig
from qgate.dataset.folder import RunFolder
from qgate.errors import StoppedError
from qgate.progress import RunProgress, warn
from qgate.records import Tally
from qgate.report import report_metrics, write_figures
from qgate.tracking import Outcome, Tracker, run_key, track

EXPERIMENT = "qgate-run"

METRIC_SECONDS = 10.0
"""Least time between two points of the curves in MLflow."""


class Watch:
    """A context: what leaves it by an error is marked in MLflow as stopped or failed."""

    def __init__(self, config: RunConfig, folder: RunFolder, device: str) -> None:
        self.progress = RunProgress(folder.header.count, folder.header.max_candidates)
        self._folder = folder
        self._tracker = _track(config, folder, device) if config.tracking.enabled else Tracker()
        self._said = time.monotonic()

    def update(self, tally: Tally) -> None:
        """Take notice of the verdicts so far, sealed and in work."""
        self.progress.update(tally)
        now = time.monotonic()
        if now - self._said >= METRIC_SECONDS:
            self._said = now
            counts = {"judged": tally.judged, "accepted": tally.accepted, "rejected": tally.rejected}
            rates = {"yield": tally.accepted / max(tally.judged, 1), **self._stage_rates()}
            self._tracker.metrics({**counts, "failed": tally.failed, **rates}, tally.judged)

    def finish(self, report: dict[str, Any], rate: float) -> str | None:
        """Deliver the end of the run; returns the MLflow run id, None where there is none.

        report: as `write_report` returns it. rate: candidates per second of this command.
        """
        output = self._folder.layout.root
        artifacts = [(output / name, "") for name in ("run.json", "report.html", "report.json")]
        if self._tracker.scratch is not None:
            artifacts += [(path, "figures") for path in write_figures(output, self._tracker.scratch)]
        metrics = {**report_metrics(report), **self._stage_rates(), "candidates_per_second": rate}
        outcome = self._tracker.finish("FINISHED", metrics, artifacts, step=int(report["judged"]))
        _warn_of(outcome)
        return outcome.run_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            _warn_of(self._tracker.finish("KILLED" if isinstance(error, StoppedError) else "FAILED"))

    def _stage_rates(self) -> dict[str, float]:
        """Throughput by stage; the slowest one sets the pace."""
        rates = self._folder.times.rates()
        return {f"stage.{stage}.candidates_per_second": rate for stage, rate in rates.items()}


def _track(config: RunConfig, folder: RunFolder, device: str) -> Tracker:
    header = folder.header
    sections = {name: values for name, values in config.model_dump().items() if isinstance(values, dict)}
    settings = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
    facts = {
        "gate": config.gate,
        "generator.digest": header.generator.digest[:12],
        "gate.digest": header.gate.digest[:12],
    }
    return track(
        experiment=EXPERIMENT,
        key=run_key(folder.layout.root, header.scoring_digest),
        name=folder.layout.root.name,
        params={**settings, **facts, "compute.device": device, "compute.cores": os.cpu_count()},
        tags={"qgate.output": str(folder.layout.root.absolute()), "qgate.scoring": header.scoring_digest},
    )


def _warn_of(outcome: Outcome) -> None:
    if outcome.warning:
        warn(outcome.warning)
