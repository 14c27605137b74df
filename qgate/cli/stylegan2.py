"""The commands about StyleGAN2-ADA networks: interpolate, mix, weights. Heavy imports wait for a command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgate.cli.options import Assign, Config, DeviceOption, Json, finish

if TYPE_CHECKING:
    from qgate.config import RunConfig

weights_app = typer.Typer(no_args_is_help=True, help="Generator weights.")

Output = Annotated[str, typer.Option("--output", "-o", help="Output folder; the w vectors go to OUTPUT.npz.")]
Network = Annotated[str, typer.Option("--generator", help="A StyleGAN2-ADA network: FILE.pkl.")]
Threshold = Annotated[float, typer.Option("--threshold", "-t", help="Least clean_prob; 0 keeps all.")]
Truncation = Annotated[float | None, typer.Option("--truncation", help="truncation_psi; 1 = none.")]
Class = Annotated[str | None, typer.Option("--class", help="Of a conditional network: N, or all.")]


def interpolate(
    seeds: Annotated[str, typer.Option("--seeds", help="Faces to walk through, in this order: 6000,6200,6500.")],
    output: Output,
    generator: Network,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Frames from one face to the next.")] = 60,
    threshold: Threshold = 0.0,
    truncation: Truncation = None,
    class_idx: Class = None,
    gif: Annotated[Path | None, typer.Option("--gif", help="Write the accepted frames as a GIF too.")] = None,
    device: DeviceOption = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Draw the way from face to face of a StyleGAN2-ADA network, in straight lines in w, as a dataset of its own."""
    from qgate.run.interpolate import interpolate as walk
    from qgate.run.interpolate import parse_stations

    settings = _settings(output, generator, threshold, truncation, class_idx, device, config, assign)
    finish(walk(settings, parse_stations(seeds), steps, gif), as_json)


def mix(
    rows: Annotated[str, typer.Option("--rows", help="Seeds of the faces to change: 85,100.")],
    columns: Annotated[str, typer.Option("--columns", help="Seeds of the faces that lend styles: 55,821.")],
    output: Output,
    generator: Network,
    layers: Annotated[str, typer.Option("--layers", help="Layers that are lent, 0 is the coarsest.")] = "0-6",
    threshold: Threshold = 0.0,
    truncation: Truncation = None,
    class_idx: Class = None,
    device: DeviceOption = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Draw every face of the rows with some layers of every face of the columns, as a dataset of its own."""
    from qgate.run.interpolate import mix as mix_styles
    from qgate.run.interpolate import parse_layers, parse_stations

    settings = _settings(output, generator, threshold, truncation, class_idx, device, config, assign)
    finish(mix_styles(settings, parse_stations(rows), parse_stations(columns), parse_layers(layers)), as_json)


@weights_app.command("convert")
def weights_convert(
    file: Annotated[Path, typer.Argument(help="A StyleGAN2-ADA network pickle (.pkl).", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; default: that of the file.")] = None,
) -> None:
    """Convert a network pickle to safetensors and JSON, running nothing of it."""
    from qgate.generators.stylegan2.files import convert

    for path in convert(file, output):
        print(path)


def _settings(
    output: str,
    generator: str,
    threshold: float,
    truncation: float | None,
    class_idx: str | None,
    device: str | None,
    config: Path | None,
    assign: list[str] | None,
) -> RunConfig:
    from qgate.config import load_config

    flags = {
        "selection.threshold": threshold,
        "output.path": output,
        "generator.name": generator,
        "generator.truncation_psi": truncation,
        "generator.class_idx": class_idx,
        "compute.device": device,
    }
    return load_config(config, flags, assign or [])
