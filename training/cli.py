"""`qgate train`, `qgate evaluate` and `qgate teach`: arguments -> one call each. Heavy imports wait for a command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from qgate.cli.options import Assign, DeviceOption, Json

Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings, as configs/train.yaml.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels", "-l", help="CSV, JSON Lines, store (.db), or folder with clean/ and artifact/; repeatable."
    ),
]
Pictures = Annotated[
    str | None,
    typer.Option("--pictures", help="Folder of photographs and other generators' faces, which do not come with qgate."),
]


def train(
    labels: Labels = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder of the new gate.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the new gate; default: that of the folder.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it the champion of the MLflow registry, if it beats the champion.")
    ] = False,
    folds: Annotated[
        int | None, typer.Option("--folds", help="Train so many models more, for cross-validated figures and suspects.")
    ] = None,
    pictures: Pictures = None,
    device: DeviceOption = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Train a gate from labels.

    With --labels alone the shipped gate is refined with them, in minutes. configs/train.yaml is the recipe of the
    shipped gate. A training that was stopped goes on when the same command is given again.
    """
    from training.train import train_recipe

    flags = {"sources": labels, "output": output, "name": name, "folds": folds, "pictures": pictures, "device": device}
    summary = train_recipe(config, flags, assign or [], promote)
    if as_json:
        print(json.dumps(summary.to_json()))
    else:
        print(summary.in_words(), file=sys.stderr)


def evaluate(
    gates: Annotated[
        list[str] | None,
        typer.Option("--gate", "-g", help="Bundle folder, `default`, or models:/NAME@ALIAS; repeatable."),
    ] = None,
    labels: Labels = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            help="Faces that are test (default), validation or calibration faces of every gate, or all; repeatable.",
        ),
    ] = None,
    contents: Annotated[
        str | None, typer.Option("--contents", help="CSV generator,seed,psi,contents: what is in the pictures.")
    ] = None,
    pictures: Pictures = None,
    device: DeviceOption = None,
    config: Config = None,
    assign: Assign = None,
    as_json: Json = False,
) -> None:
    """Judge gates on labelled faces: every figure with its 95 % interval, and of two gates the paired difference.

    Without --gate the shipped gate is judged, without --labels on the shipped labels.
    """
    from training.config import load_train_config
    from training.evaluate import evaluate as evaluate_gates
    from training.train import interruptible

    flags = {"sources": labels, "contents": contents, "pictures": pictures, "device": device, "min_faces": 2}
    settings = load_train_config(config, flags, assign)
    with interruptible() as say:
        found = evaluate_gates(gates or ["default"], settings, split or ["test"], say)
    print(json.dumps(found.to_json()) if as_json else found.in_words())


def teach(
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to write, for `taught.path` of `qgate train`.")],
    gates: Annotated[list[str], typer.Option("--gate", "-g", help="A teacher: as for `qgate evaluate`; give several.")],
    faces: Annotated[
        list[Path] | None,
        typer.Option("--faces", help="CSV with columns generator,seed,psi first, as of labels; repeatable."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Further faces, labelled by nobody: 5000-5999,7000.")
    ] = None,
    generator: Annotated[str, typer.Option("--generator", help="What draws the faces of --seeds.")] = "mobile-stylegan",
    truncation: Annotated[
        list[float] | None, typer.Option("--truncation", help="Of --seeds; several are taken in turn; default: 1.")
    ] = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Write what several gates say together of faces, labelled or not, so that one gate can learn it.

    A gate that is trained with that file (`qgate train --set taught.path=FILE`) comes near to the mean of its
    teachers, at the cost of one.
    """
    from qgate.errors import ConfigError
    from training.teach import taught_faces, teach_faces, write_taught
    from training.train import interruptible

    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: {out.parent} is no folder")
    asked = taught_faces(faces or [], seeds, generator, truncation or [1.0])
    with interruptible() as say:
        taught = teach_faces(gates, asked, device or "auto", say)
    write_taught(out, taught)
    if as_json:
        print(json.dumps({"out": str(out), "faces": len(taught), "gates": gates}))
    else:
        print(f"{len(taught)} faces in {out}", file=sys.stderr)
