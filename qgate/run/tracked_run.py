"""How a run goes: told to people while it does, and mirrored to MLflow. Neither ever stops or slows it."""

from __future__ import annotations

import os
import time
from typing import Any

from qgate.config import RunConfig, canonical_digest
from qgate.dataset.folder import RunFolder
from qgate.dataset.header import RunHeader
from qgate.generators import options_of
from qgate.progress import RunProgress
from qgate.records import Tally
from qgate.report import report_metrics, write_figures
from qgate.tracking.tracker import DatasetInput, TrackedWork, Tracker, run_key, track

EXPERIMENT = "qgate-run"

METRIC_SECONDS = 10.0
"""Least time between two points of the curves in MLflow."""


class Watch(TrackedWork):
    """Progress and MLflow run of one run, a context."""

    def __init__(self, config: RunConfig, folder: RunFolder, device: str) -> None:
        self.progress = RunProgress(folder.header.count, folder.header.max_candidates)
        self._folder = folder
        super().__init__(_track(config, folder, device) if config.tracking.enabled else Tracker())
        gate = folder.header.gate
        self.tracker.dataset(DatasetInput(f"gate {gate.name}", gate.digest, config.gate, {"notes": gate.notes}, "gate"))
        self._said = time.monotonic()

    def update(self, tally: Tally) -> None:
        """Take notice of the verdicts so far, sealed and in work."""
        self.progress.update(tally)
        now = time.monotonic()
        if now - self._said >= METRIC_SECONDS:
            self._said = now
            counts = {"judged": tally.judged, "accepted": tally.accepted, "rejected": tally.rejected}
            rates = {"yield": tally.accepted / max(tally.judged, 1), **self._stage_rates()}
            self.tracker.metrics({**counts, "failed": tally.failed, **rates}, tally.judged)

    def finish(self, report: dict[str, Any], rate: float) -> str | None:
        """Deliver the end of the run; returns the MLflow run id, None where there is none.

        report: as `write_report` returns it. rate: candidates per second of this command.
        """
        output = self._folder.layout.root
        artifacts = [(output / name, "") for name in ("run.json", "report.html", "report.json")]
        if self.tracker.scratch is not None:
            artifacts += [(path, "figures") for path in write_figures(output, self.tracker.scratch)]
        header, tally = self._folder.header, self._folder.tally
        counts = {"accepted": tally.accepted, "rejected": tally.rejected, "failed": tally.failed}
        digest = canonical_digest([header.scoring_digest, header.selection])
        self.tracker.dataset(DatasetInput(output.name, digest, str(output / "dataset"), counts, "output"))
        metrics = {**report_metrics(report), **self._stage_rates(), "candidates_per_second": rate}
        step, note = int(report["judged"]), _note(header, tally)
        return self.tell(self.tracker.finish("FINISHED", metrics, artifacts, step=step, note=note))

    def _stage_rates(self) -> dict[str, float]:
        """Throughput by stage; the slowest one sets the pace."""
        rates = self._folder.times.rates()
        return {f"stage.{stage}.candidates_per_second": rate for stage, rate in rates.items()}


def _note(header: RunHeader, tally: Tally) -> str:
    """The description of a run: what was asked, and what it came to."""
    asked = f"{header.count} faces" if header.count is not None else "All faces that pass"
    share = f" (yield {tally.accepted / tally.judged:.1%})" if tally.judged else ""
    return (
        f"{asked} of **{header.generator.name}** at threshold {header.threshold:g} of the gate **{header.gate.name}**: "
        f"{tally.accepted} accepted of {tally.judged} judged{share}.\n\nThe report is an artifact: `report.html`."
    )


def _track(config: RunConfig, folder: RunFolder, device: str) -> Tracker:
    header = folder.header
    sections = {name: values for name, values in config.model_dump().items() if isinstance(values, dict)}
    sections["generator"] |= options_of(config.generator).model_dump()
    settings = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
    facts = {
        "selection.threshold": header.threshold,
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
