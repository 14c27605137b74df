"""One run from settings to a finished dataset: generator, gate, folder, engine, report and tracker put together."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from qgate.config import GeneratorSettings, RunConfig, load_config
from qgate.dataset.encode import ImageFormat, check_space
from qgate.dataset.folder import RunFolder
from qgate.dataset.header import GateFacts, GeneratorFacts, RunHeader
from qgate.dataset.ledger import read_scores
from qgate.errors import ConfigError
from qgate.gate.bundle import Bundle
from qgate.gate.classifier import Gate
from qgate.gate.open import open_bundle
from qgate.generators import Generator, GeneratorInfo, open_generator
from qgate.progress import StopFlag, stop_on_signals
from qgate.rates import threshold_for
from qgate.records import Tally
from qgate.report import write_report
from qgate.run.engines.local import fill
from qgate.run.tracked_run import Watch
from qgate.run.worker import Worker
from qgate.runtime.executor import pick_device
from qgate.version import __version__

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
        """As in the design; faces_per_second counts the candidates judged by this command."""
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


def regate(output: Path, threshold: float, count: int | None, device: str, batch_size: int | None) -> Summary:
    """Select anew from the ledger of a finished or stopped run; draws only the faces whose pixels are missing.

    threshold: 0..1; count: faces wanted, None: as many as the run was asked for. Raises as `run` does.
    """
    recorded = RunHeader.read(output)
    psi = recorded.scoring["truncation_psi"]
    kept = {key: value for key, value in recorded.config.items() if key in GeneratorSettings.model_fields}
    flags = {
        "generator.name": recorded.config["generator"],
        "generator.truncation_psi": psi,
        **{f"generator.{key}": value for key, value in kept.items()},
        "gate": recorded.config["gate"],
        "selection.threshold": threshold,
        "selection.count": count or recorded.count,
        "compute.device": device,
        "compute.batch_size": batch_size,
    }
    config = load_config(None, flags, [])
    place = pick_device(device)
    bundle, generator = open_bundle(config.gate), open_generator(config.generator, place)
    scoring = _scoring(config, generator.info, bundle)
    bound = max(recorded.max_candidates, min(config.max_candidates(), len(recorded.plan)))
    header = replace(recorded, scoring=scoring, threshold=threshold, count=config.selection.count, max_candidates=bound)
    gate = Gate(bundle, str(place))
    worker = Worker(generator, gate, batch_size or BATCH[place.type])
    with stop_on_signals() as stopped, RunFolder.open(output, header, regate=True) as folder:
        return _work(config, folder, worker, gate, stopped, str(place))


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
    psi, extras = config.generator.truncation_psi, config.generator.extras()
    classes = {"classes": info.classes} if info.classes else {}
    precision = {"precision": config.generator.precision} if config.generator.precision != "auto" else {}
    return RunHeader(
        qgate=__version__,
        scoring=_scoring(config, info, bundle),
        plan=config.plan(),
        shard_size=config.output.shard_size,
        threshold=config.selection.threshold,
        count=config.selection.count,
        max_candidates=config.max_candidates(),
        image_format=ImageFormat(
            config.output.format, config.output.quality, config.output.resolution, synthetic=info.synthetic
        ),
        review=config.output.review,
        generator=GeneratorFacts(info.name, info.digest, psi if info.synthetic else None, info.license),
        gate=GateFacts(card.name, bundle.digest, card.notes),
        config={"generator": config.generator.name, "gate": config.gate, **extras, **classes, **precision},
        versions={name: metadata.version(name) for name in ("torch", "timm", "numpy", "pillow")},
    )


def _scoring(config: RunConfig, info: GeneratorInfo, bundle: Bundle) -> dict[str, Any]:
    """What decides a probability, besides the walk of the seeds; what only some generators know, where it is set."""
    psi, extras = config.generator.truncation_psi, config.generator.extras()
    extras.pop("latents", None)  # its content is in the digest of the weights, and where it lies decides nothing
    return {"generator": info.name, "weights": info.digest, "truncation_psi": psi, "gate": bundle.digest, **extras}


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
