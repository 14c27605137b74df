"""Arguments -> one call each; the only place that prints errors and exits. Heavy imports wait for a command."""

from __future__ import annotations

import functools
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from qgate.cli.labels import label, labels_app
from qgate.cli.options import Assign, Config, DeviceOption, GateOption, Json, finish
from qgate.cli.stylegan2 import interpolate, mix, weights_app
from qgate.errors import ImageError, InputError, QgateError
from qgate.version import __version__

COMMANDS = "qgate.commands"
"""Entry point group through which other packages add commands; each is a function as Typer takes it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Draw faces, judge each one, keep the clean ones.",
)
config_app = typer.Typer(no_args_is_help=True, help="Settings: what they are and where they come from.")
app.add_typer(config_app, name="config")
app.add_typer(labels_app, name="labels")
app.add_typer(weights_app, name="weights")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"qgate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    if traceback:
        os.environ["QGATE_TRACEBACK"] = "1"


@app.command()
def run(
    count: Annotated[int | None, typer.Option("--count", "-n", help="Faces in the output dataset.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", "-t", help="Least clean_prob to accept; default: what the gate recommends."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Output folder.")] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", help="mobile-stylegan[:WEIGHTS], FILE.pkl, folder:PATH or fake.")
    ] = None,
    gate: GateOption = None,
    truncation: Annotated[float | None, typer.Option("--truncation", help="truncation_psi; 1 = none.")] = None,
    class_idx: Annotated[
        str | None, typer.Option("--class", help="Of a conditional network: N, or all in turn.")
    ] = None,
    noise_mode: Annotated[str | None, typer.Option("--noise-mode", help="StyleGAN2: const, random or none.")] = None,
    latents: Annotated[str | None, typer.Option("--latents", help="StyleGAN2: draw the w of this .npz.")] = None,
    seed_start: Annotated[int | None, typer.Option("--seed-start", help="First seed of the walk.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Only these, as in 6000-6500,7000.")] = None,
    max_candidates: Annotated[int | None, typer.Option("--max-candidates", help="Bound of the search.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="png (lossless), jpeg or webp.")] = None,
    resolution: Annotated[int | None, typer.Option("--resolution", help="Shrink to this size after judging.")] = None,
    device: DeviceOption = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Candidates at once.")] = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Draw candidates, judge them, and write the accepted ones as a dataset.

    The same command again resumes, or does nothing when finished; a larger --count goes on.
    """
    from qgate.config import load_config
    from qgate.run.run import run as run_config

    flags = {
        "selection.count": count,
        "selection.threshold": threshold,
        "selection.max_candidates": max_candidates,
        "output.path": output,
        "output.format": format,
        "output.resolution": resolution,
        "generator.name": generator,
        "generator.truncation_psi": truncation,
        "generator.class_idx": class_idx,
        "generator.noise_mode": noise_mode,
        "generator.latents": latents,
        "seeds.start": seed_start,
        "seeds.ranges": seeds,
        "gate": gate,
        "compute.device": device,
        "compute.batch_size": batch_size,
    }
    finish(run_config(load_config(config, flags, assign or [])), as_json)


@app.command()
def score(
    files: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)],
    gate: GateOption = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="OUT",
            help="Draw where the gate sees the artifact: a .png for one file, a folder for several or a folder.",
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align/--no-align", help="Cut the face out of pictures that are framed otherwise.")
    ] = True,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Score image files: clean_prob, and the likeliest regions of an artifact."""
    from qgate.align import FaceFinder
    from qgate.gate.open import load_gate
    from qgate.gate.score_files import find_files, picture_paths, score_files

    found = find_files(files)
    pictures = picture_paths(files, explain) if explain else None
    judge = load_gate(gate or "default", device or "auto")
    width = max(len(str(file)) for file in found)
    if not as_json:
        print(f"{'file'.ljust(width)}  clean_prob  likeliest regions of an artifact")
    failed = 0
    for result in score_files(found, judge, pictures, FaceFinder() if align else None):
        failed += result.error is not None
        print(json.dumps(result.to_json()) if as_json else result.in_words(width), flush=True)
    if failed:
        raise ImageError(f"{failed} of {len(found)} files could not be judged")


@app.command()
def regate(
    output: Annotated[Path, typer.Argument(help="Output folder of a run.", show_default=False)],
    threshold: Annotated[float, typer.Option("--threshold", "-t", help="The new least clean_prob.")],
    count: Annotated[int | None, typer.Option("--count", "-n", help="Faces; default: as before.")] = None,
    device: DeviceOption = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Candidates at once.")] = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Select anew from the ledger of a run with another threshold.

    Draws only the faces whose pixels are missing, and new candidates where the count needs them. All other settings
    stay as the run has them; --set changes those of selection, compute and tracking.
    """
    from qgate.run.run import regate as regate_run

    flags = {
        "selection.threshold": threshold,
        "selection.count": count,
        "compute.device": device,
        "compute.batch_size": batch_size,
    }
    finish(regate_run(output, flags, assign or []), as_json)


@app.command()
def verify(output: Annotated[Path, typer.Argument(help="Output folder of a run.", show_default=False)]) -> None:
    """Check every file of a run against ledger and hashes; exit 1 where something is wrong."""
    from qgate.dataset.verify import verify as verify_run

    result = verify_run(output)
    for problem in result.problems:
        print(problem)
    if result.problems:
        raise QgateError(f"{output}: {len(result.problems)} problems found")
    unfinished = "" if result.finished else "; the run is not finished: the same command goes on"
    print(f"{output}: all is well, {result.tally.accepted} faces of {result.tally.judged} judged{unfinished}")


app.command()(label)
app.command()(interpolate)
app.command()(mix)


@app.command()
def sync() -> None:
    """Deliver to MLflow what earlier runs in this folder could not."""
    from qgate.tracking.tracker import sync as sync_runs

    outcomes = sync_runs()
    for outcome in outcomes:
        print(f"{outcome.name}: {outcome.warning or f'delivered as run {outcome.run_id}'}")
    if not outcomes:
        print("nothing is waiting")
    if any(outcome.warning for outcome in outcomes):
        raise QgateError("some runs could not be delivered")


@config_app.command("show")
def config_show(config: Config = None, assign: Assign = None) -> None:
    """Print the resolved settings as YAML that --config takes, each with its meaning."""
    from qgate.config import describe, load_config
    from qgate.generators import options_of
    from qgate.generators.options import all_options

    settings = load_config(config, {}, assign or [])
    options_of(settings.generator)
    print(describe(settings, all_options(settings.generator)), end="")


def main(arguments: list[str] | None = None) -> None:
    """The console command: run and exit with the code of the error tree."""
    try:
        _add_commands()
        app(arguments)
    except BrokenPipeError:
        # The reader of stdout left (`| head`): not our fault, and nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except Exception as error:
        if os.environ.get("QGATE_TRACEBACK"):
            raise
        known = _out_of_memory(error) or error
        _print_error(known)
        sys.exit(known.exit_code if isinstance(known, QgateError) else QgateError.exit_code)


@functools.cache
def _add_commands() -> None:
    for entry in metadata.entry_points(group=COMMANDS):
        app.command(entry.name)(entry.load())


def _out_of_memory(error: Exception) -> InputError | None:
    """What torch says where a GPU's memory does not suffice for one image; by its name, as torch may not be loaded."""
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return InputError("the GPU's memory does not suffice, even for one image; use another GPU, or --device cpu")


def _print_error(error: Exception) -> None:
    if isinstance(error, QgateError):
        text = str(error)
    else:
        text = f"unexpected {type(error).__name__}: {error} (`qgate --traceback ...` shows where)"
    print("qgate: error: " + " ".join(text.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
