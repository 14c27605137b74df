"""One run from settings to a finished dataset: generator, gate, folder, engine, report and tracker put together."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from qgate.config import GeneratorSettings, RunConfig, TrackingSettings, load_config
from qgate.dataset.encode import ImageFormat, check_space
from qgate.dataset.folder import RunFolder
from qgate.dataset.header import GateFacts, GeneratorFacts, RunHeader
from qgate.dataset.ledger import read_scores
from qgate.errors import ConfigError
from qgate.gate.bundle import Bundle
from qgate.gate.classifier import Gate
from qgate.gate.open import open_bundle
from qgate.generators import Generator, GeneratorInfo, open_generator, options_of
from qgate.progress import StopFlag, stop_on_signals
from qgate.rates import threshold_for
from qgate.records import Tally
from qgate.report import write_report
from qgate.run.engines.local import fill
from qgate.run.tracked_run import Watch
from qgate.run.worker import Worker
from qgate.runtime.executor import pick_device
from qgate.version import __version__

REGATED = ("selection", "compute", "tracking")
"""Sections of the settings that a regate may change."""

BATCH = {"cpu": 8, "cuda": 32}
"""Candidates at once where the settings leave it open."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to.

    run_id: of the MLflow run, None where it was not tracked or could not be delivered.
    seconds, drawn: duration of this command, and the candidates that it judged; the tally is that of the whole run.
    shortfall: why the count was not reached, None where it was.
    """

    output: Path
    run_id: str | None
    count: int | None
    threshold: float
    tally: Tally
    seconds: float
    drawn: int
    shortfall: str | None

    def to_json(self) -> dict[str, Any]:
        """One object; faces_per_second counts the candidates judged by this command."""
        tally = self.tally
        return {
            "output": str(self.output),
            "run_id": self.run_id,
            "count": self.count,
            "judged": tally.judged,
            "accepted": tally.accepted,
            "rejected": tally.rejected,
            "failed": tally.failed,
            "yield": tally.accepted / tally.judged if tally.judged else None,
            "threshold": self.threshold,
            "seconds": round(self.seconds, 3),
            "faces_per_second": round(self.drawn / self.seconds, 3) if self.seconds > 0 else None,
        }

    def in_words(self) -> str:
        """A few lines for a terminal."""
        tally = self.tally
        share = f" (yield {tally.accepted / tally.judged:.1%})" if tally.judged else ""
        lines = [f"{tally.accepted} faces accepted of {tally.judged} judged{share}, {tally.rejected} rejected"]
        if tally.failed:
            lines[0] += f", {tally.failed} failed"
        if self.drawn:
            lines.append(f"{self.drawn} candidates in {self.seconds:.1f} s, {self.drawn / self.seconds:.1f} a second")
        else:
            lines.append("nothing was left to do")
        lines += [f"dataset  {self.output / 'dataset'}", f"report   {self.output / 'report.html'}"]
        return "\n".join(lines)


def run(config: RunConfig) -> Summary:
    """Make the dataset that the settings ask for, or go on with it.

    Raises InputError before anything is written where the settings, weights, gate or folder cannot be used,
    StoppedError on SIGINT and SIGTERM, QgateError on a fault; what was sealed stays and the same call goes on.
    """
    device = pick_device(config.compute.device)
    bundle = open_bundle(config.gate)
    generator = open_generator(config.generator, device)
    header = make_header(config, generator, bundle)
    output = output_path(config, header)
    _check_output(config, generator, output)
    gate = Gate(bundle, str(device))
    worker = Worker(generator, gate, config.compute.batch_size or BATCH[device.type])
    with stop_on_signals() as stopped, RunFolder.open(output, header, encoders=config.compute.encoders) as folder:
        return _work(config, folder, worker, gate, stopped, str(device))


def regate(output: Path, flags: Mapping[str, Any], assignments: Sequence[str] = ()) -> Summary:
    """Select anew from the ledger of a finished or stopped run; draws only the faces whose pixels are missing.

    flags, assignments: what is asked of `selection`, `compute` and `tracking`, as for `load_config`; the rest stays as
        the run has it. Raises as `run` does, and ConfigError where anything else is asked for.
    """
    recorded = RunHeader.read(output)
    for key in (text.partition("=")[0].strip() for text in assignments):
        if key.partition(".")[0] not in REGATED:
            raise ConfigError(f"--set {key}: regate changes only {', '.join(REGATED)}; for anything else start a run")
    given = {key: value for key, value in flags.items() if value is not None}
    config = load_config(None, _settings_of(recorded, output) | given, list(assignments))
    place = pick_device(config.compute.device)
    bundle, generator = open_bundle(config.gate), open_generator(config.generator, place)
    header = replace(
        recorded,
        scoring=_scoring(config, generator.info, bundle),
        threshold=_threshold(config, bundle),
        count=config.selection.count,
        max_candidates=max(recorded.max_candidates, min(config.max_candidates(), len(recorded.plan))),
    )
    gate = Gate(bundle, str(place))
    worker = Worker(generator, gate, config.compute.batch_size or BATCH[place.type])
    with (
        stop_on_signals() as stopped,
        RunFolder.open(output, header, regate=True, encoders=config.compute.encoders) as folder,
    ):
        return _work(config, folder, worker, gate, stopped, str(place))


def _settings_of(header: RunHeader, output: Path) -> dict[str, Any]:
    """The settings that a run was made with, by dotted key, as far as its header knows them."""
    name = header.config["generator"]
    known = {*GeneratorSettings.model_fields, *type(options_of(GeneratorSettings(name=name))).model_fields}
    generator = {key: value for key, value in header.config.items() if key in known}
    style = {"format": header.image_format.format, "resolution": header.image_format.resolution}
    sections = {
        "generator": {
            "name": name,
            "truncation_psi": header.scoring["truncation_psi"],
            **generator,
        },
        "seeds": {"ranges": header.plan.text},
        "selection": {"count": header.count},
        "output": {**style, "quality": header.image_format.quality, "shard_size": header.shard_size},
        "tracking": header.config.get("tracking", {}),
    }
    kept = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return {**kept, "gate": header.config["gate"], "output.review": header.review, "output.path": str(output)}


def _work(config: RunConfig, folder: RunFolder, worker: Worker, gate: Gate, stopped: StopFlag, device: str) -> Summary:
    """Fill an open folder and write what follows from it."""
    header, output, drawn, begin = folder.header, folder.layout.root, 0, time.monotonic()
    worker.times = folder.times
    with Watch(config, folder, device) as watch:
        if folder.next_shard() is not None:
            with watch.progress:
                drawn = fill(folder, worker, stopped, watch.update)
        folder.finish()
        report = write_report(output, gate.explain_pixels if gate.explains else None)
        seconds = time.monotonic() - begin
        run_id = watch.finish(report, drawn / seconds)
    return Summary(output, run_id, header.count, header.threshold, folder.tally, seconds, drawn, _shortfall(folder))


def make_header(config: RunConfig, generator: Generator, bundle: Bundle) -> RunHeader:
    """What `run.json` holds: all that decides which faces come out, and nothing of how they are made."""
    info, card = generator.info, bundle.card
    if info.length is not None and config.seeds.ranges is None:
        config = config.model_copy(update={"seeds": config.seeds.model_copy(update={"ranges": f"0-{info.length - 1}"})})
    psi, options = config.generator.truncation_psi, options_of(config.generator)
    classes = {"classes": info.classes} if info.classes else {}
    precision = {"precision": config.generator.precision} if config.generator.precision != "auto" else {}
    tracking = {"tracking": config.tracking.model_dump()} if config.tracking != TrackingSettings() else {}
    return RunHeader(
        qgate=__version__,
        scoring=_scoring(config, info, bundle),
        plan=config.plan(),
        shard_size=config.output.shard_size,
        threshold=_threshold(config, bundle),
        count=config.selection.count,
        max_candidates=config.max_candidates(),
        image_format=ImageFormat(
            config.output.format, config.output.quality, config.output.resolution, synthetic=info.synthetic
        ),
        review=config.output.review,
        generator=GeneratorFacts(info.name, info.digest, psi if info.synthetic else None, info.license),
        gate=GateFacts(card.name, bundle.digest, card.notes),
        config={
            "generator": config.generator.name,
            "gate": config.gate,
            **options.chosen(),
            **classes,
            **precision,
            **tracking,
        },
        versions={name: metadata.version(name) for name in ("torch", "timm", "numpy", "pillow")},
    )


def _threshold(config: RunConfig, bundle: Bundle) -> float:
    """What is asked for, else what the gate recommends."""
    asked = config.selection.threshold
    return bundle.card.recommended_threshold if asked is None else asked


def _scoring(config: RunConfig, info: GeneratorInfo, bundle: Bundle) -> dict[str, Any]:
    """What decides a probability, besides the walk of the seeds; what only some generators know, where it is set."""
    psi, options = config.generator.truncation_psi, options_of(config.generator).deciding()
    return {"generator": info.name, "weights": info.digest, "truncation_psi": psi, "gate": bundle.digest, **options}


def output_path(config: RunConfig, header: RunHeader) -> Path:
    """The folder asked for, else a name that follows from what is asked, so that the same command finds it again."""
    if config.output.path is not None:
        return Path(config.output.path)
    return Path(f"qgate-{header.scoring_digest[:8]}-t{header.threshold:g}")


def _check_output(config: RunConfig, generator: Generator, output: Path) -> None:
    resolution, info = config.output.resolution, generator.info
    if config.selection.count is None and info.length is None and config.seeds.ranges is None:
        raise ConfigError("--count is missing: say how many faces the dataset shall have, or give --seeds")
    last = config.plan().ranges[-1][1]
    if info.length is not None and config.seeds.ranges is not None and last >= info.length:
        raise ConfigError(f"--seeds {config.seeds.ranges}: {info.name} holds the candidates 0..{info.length - 1}")
    if info.resolution is None:
        return
    if resolution is not None and resolution > info.resolution:
        raise ConfigError(
            f"--resolution {resolution}: {info.name} draws {info.resolution}x{info.resolution}; faces are only shrunk"
        )
    if config.selection.count is not None and not (output / "run.json").exists():
        style = ImageFormat(config.output.format, config.output.quality, resolution)
        check_space(output, config.selection.count, info.resolution, style)


def _shortfall(folder: RunFolder) -> str | None:
    """Why the count was not reached and what would help, or None."""
    header, tally = folder.header, folder.tally
    if header.count is None or tally.accepted >= header.count:
        return None
    found = f"{tally.accepted} of {header.count} faces accepted after {tally.judged} candidates"
    share = f"yield {tally.accepted / max(tally.judged, 1):.2%} at threshold {header.threshold:g}"
    enough = threshold_for(read_scores(folder.layout.root)[1], header.count)
    # Rounded down, since rounding up could leave out the last face.
    lower = "no threshold" if enough is None else f"--threshold {math.floor(enough * 1000) / 1000:g}"
    kept = f"what was accepted is kept in {folder.layout.root}"
    return f"{found}, {share}; {lower} would have sufficed; or raise --max-candidates; {kept}"
