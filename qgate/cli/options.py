"""Options that several commands share, and how those that make a dataset end. Heavy imports wait for a command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qgate.errors import TargetError

if TYPE_CHECKING:
    from qgate.run.run import Summary

Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings (`qgate config show`).")]
Assign = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; wins over all.")]
GateOption = Annotated[str | None, typer.Option("--gate", help="Bundle folder, `default`, or models:/NAME@ALIAS.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def finish(summary: Summary, as_json: bool) -> None:
    """Print what a run came to; TargetError where its count was not reached."""
    if as_json:
        print(json.dumps(summary.to_json()))
    else:
        print(summary.in_words(), file=sys.stderr)
    if summary.shortfall is not None:
        raise TargetError(summary.shortfall)
