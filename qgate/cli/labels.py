"""The commands about labels: `qgate label`, `qgate labels ...`. Heavy imports wait for a command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

labels_app = typer.Typer(no_args_is_help=True, help="Label stores: export, import, agreement between annotators.")

STORE = Path("labels.db")

Store = Annotated[Path, typer.Option("--labels", "-l", help="The label store; made where there is none.")]
Held = Annotated[Path, typer.Option("--labels", "-l", help="The label store.")]


def label(
    target: Annotated[Path | None, typer.Argument(help="Output folder of a run, or a folder of images.")] = None,
    generator: Annotated[str | None, typer.Option("--generator", help="Draw the faces instead; needs --seeds.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Which faces, as in 6000-6500,7000.")] = None,
    truncation: Annotated[float, typer.Option("--truncation", help="truncation_psi; 1 = none.")] = 1.0,
    gate: Annotated[
        str | None, typer.Option("--gate", help="Score the faces with this gate first, as `default`; runs have scores.")
    ] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Judge a random sample of accepted faces.")] = False,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Faces of an audit.")] = 300,
    labels: Store = STORE,
    annotator: Annotated[str, typer.Option("--annotator", help="Who labels; the page asks otherwise.")] = "",
    per_face: Annotated[int, typer.Option("--per-face", min=1, max=100, help="Annotators who see each face.")] = 1,
    repeat_every: Annotated[
        int, typer.Option("--repeat-every", min=0, help="One in so many comes again; 0: none.")
    ] = 0,
    gold_every: Annotated[int, typer.Option("--gold-every", min=0, help="One in so many is a gold face.")] = 20,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")] = None,
    token: Annotated[bool, typer.Option("--token", help="The page needs a token that is printed.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Judge faces in the browser, with one key each; the answers train the next gate.

    Stop with Ctrl-C and go on whenever you like: every answer is kept at once.
    """
    from qgate.web.orders import Rules
    from qgate.web.serve import Request
    from qgate.web.serve import label as open_page

    open_page(
        Request(
            store=labels,
            target=target,
            generator=generator,
            seeds=seeds,
            truncation=truncation,
            device=device,
            gate=gate,
            annotator=annotator,
            rules=Rules(per_face, repeat_every, gold_every, sample, audit),
            host=host,
            port=port,
            token=token,
            browser=browser,
        )
    )


@labels_app.command("export")
def export_command(
    output: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    labels: Held = STORE,
    form: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl, label-studio or coco; default: from the file's name.")
    ] = None,
    every_vote: Annotated[bool, typer.Option("--every-vote", help="Votes that a review has overruled, too.")] = False,
) -> None:
    """Write the labels of a store to a file."""
    from qgate.errors import LabelError
    from qgate.labels.exchange import FORMATS, export_labels
    from qgate.labels.store import LabelStore

    form = form or {".csv": "csv", ".jsonl": "jsonl", ".json": "label-studio"}.get(output.suffix)
    if form not in FORMATS:
        raise LabelError(f"--format {form}: allowed are {', '.join(FORMATS)}")
    with LabelStore(labels, create=False) as store:
        written, left_out = export_labels(store, output, form, every_vote)
    rest = f"; {left_out} unsure are left out" if left_out else ""
    print(f"{output}: {written} answers{rest}", file=sys.stderr)


@labels_app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="A .csv, .jsonl or Label Studio .json file.", show_default=False)],
    labels: Store = STORE,
    gold: Annotated[bool, typer.Option("--gold", help="They are right: test annotators with them.")] = False,
) -> None:
    """Take the labels of a file into a store; what it holds already is not taken twice."""
    from qgate.labels.exchange import import_labels
    from qgate.labels.store import LabelStore

    with LabelStore(labels) as store:
        added, known = import_labels(store, file, gold)
    print(f"{labels}: {added} answers added, {known} known already", file=sys.stderr)


@labels_app.command("agreement")
def agreement_command(
    labels: Held = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> None:
    """How far the annotators of a store agree: percent, Cohen's kappa, Krippendorff's alpha, with 95 % intervals."""
    from qgate.labels.agreement import measure
    from qgate.labels.store import LabelStore

    with LabelStore(labels, create=False) as store:
        found = measure(store.votes(), store.standing())
    print(json.dumps(found.to_json()) if as_json else found.in_words())
