"""A label store -> CSV, JSON Lines, Label Studio JSON, COCO, and the first three back.

CSV cells that a spreadsheet would run as a formula get a leading apostrophe, which importing takes off again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qgate.errors import LabelError
from qgate.labels.answers import Answer, Decision, Purpose
from qgate.labels.marks import coco_annotations, studio_results, studio_rows
from qgate.labels.rows import ARTIFACT_SEVERITY, DRAWN_COLUMNS, FILE_COLUMNS, Face, Label, read_labels
from qgate.labels.store import LabelStore
from qgate.records import REGIONS
from qgate.version import __version__

FORMATS = ("csv", "jsonl", "label-studio", "coco")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell must not begin with. Source: OWASP, CSV Injection."""

MAX_NAME = 64


def annotator_name(text: str) -> str:
    """An annotator's name without blanks around it; LabelError where it is empty, too long or not printable."""
    name = text.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise LabelError(f"annotator {text[:80]!r}: a name is 1 to {MAX_NAME} printable characters")
    return name


def export_labels(store: LabelStore, path: Path, form: str, every_vote: bool = False) -> tuple[int, int]:
    """Write the store's answers to a file.

    form: of `FORMATS`. CSV and JSON Lines hold severity, so those who were unsure are left out.
    every_vote: all votes, even where a review has settled the face.
    Returns how many answers were written and how many were left out.
    """
    answers = store.votes() if every_vote else store.resolved()
    if form in ("csv", "jsonl"):
        labels = [label for answer in answers if (label := answer.to_label()) is not None]
        text = to_csv(labels) if form == "csv" else to_jsonl(labels)
        _write(path, text)
        return len(labels), len(answers) - len(labels)
    content = to_label_studio(answers) if form == "label-studio" else to_coco(answers)
    _write(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return len(answers), 0


def import_labels(store: LabelStore, path: Path, gold: bool = False) -> tuple[int, int]:
    """Take in the rows of a `.csv`, `.jsonl` or Label Studio `.json` file.

    gold: they are right answers, to test annotators with, not votes.
    Returns how many answers were added, and how many the store held already.
    """
    purpose = Purpose.REFERENCE if gold else Purpose.IMPORT
    if path.suffix == ".json":
        answers = read_label_studio(path, purpose)
    else:
        answers = [_from_label(label, purpose, path.suffix == ".csv") for label in read_labels(path)]
    held = {_content(answer) for answer in store.standing() if gold or answer.purpose is not Purpose.REFERENCE}
    fresh = [answer for answer in dict.fromkeys(answers) if _content(answer) not in held]
    store.add_all(fresh)
    return len(fresh), len(answers) - len(fresh)


def to_csv(labels: Sequence[Label]) -> str:
    """The rows as CSV. Raises LabelError where drawn faces and files are mixed, which one table cannot hold."""
    columns = _columns(labels)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    for label in labels:
        row = _row(label) | {"regions": ";".join(label.regions)}
        writer.writerow([_safe(value) if isinstance(value := row[name], str) else value for name in columns])
    return sink.getvalue()


def to_jsonl(labels: Iterable[Label]) -> str:
    return "".join(json.dumps(_row(label), ensure_ascii=False) + "\n" for label in labels)


def to_label_studio(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Tasks with annotations as Label Studio imports them; `data` also names the face as our label rows do.

    Source: Label Studio's JSON format of annotated tasks.
    """
    tasks: dict[Face, list[Answer]] = {}
    for answer in answers:
        tasks.setdefault(answer.face, []).append(answer)
    return [
        {
            "id": number,
            "data": {"image": _image_name(face), **_place(face)},
            "annotations": [
                {
                    "completed_by": {"email": answer.annotator},
                    "lead_time": answer.seconds,
                    "result": studio_results(answer),
                }
                for answer in given
            ],
        }
        for number, (face, given) in enumerate(tasks.items(), start=1)
    ]


def read_label_studio(path: Path, purpose: Purpose = Purpose.IMPORT) -> list[Answer]:
    """The annotations of a Label Studio file. Raises LabelError naming the task that cannot be read."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise LabelError(f"labels {path}: cannot be read as JSON ({error})") from error
    if not isinstance(tasks, list):
        raise LabelError(f"labels {path}: a list of Label Studio tasks is expected")
    answers = []
    for number, task in enumerate(tasks, start=1):
        try:
            face = _studio_face(task["data"])
            for annotation in task.get("annotations", []):
                if not annotation.get("was_cancelled"):
                    answers.append(_studio_answer(face, annotation, purpose))
        except (KeyError, TypeError, ValueError, AttributeError, LabelError) as error:
            raise LabelError(f"labels {path}, task {number}: {type(error).__name__}: {error}") from error
    return answers


def to_coco(answers: Sequence[Answer]) -> dict[str, Any]:
    """The boxes and brush strokes as COCO detections. Source: cocodataset.org, Data format."""
    images: dict[Face, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for answer in answers:
        size = {"width": answer.width, "height": answer.height}
        fresh = {"id": len(images) + 1, "file_name": _image_name(answer.face), **size, **_place(answer.face)}
        image = images.setdefault(answer.face, fresh)
        if not image["width"]:
            image.update(size)
        for found in coco_annotations(answer):
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **found})
    categories = [{"id": number, "name": name} for number, name in enumerate(("unnamed", *REGIONS))]
    return {
        "info": {"description": "Marked artifacts", "contributor": f"qgate {__version__}"},
        "images": list(images.values()),
        "annotations": annotations,
        "categories": categories,
    }


def _columns(labels: Sequence[Label]) -> tuple[str, ...]:
    files = {bool(label.face.file_name) for label in labels}
    if len(files) > 1:
        raise LabelError("the store holds drawn faces and image files, which need different columns: export as jsonl")
    return FILE_COLUMNS if files == {True} else DRAWN_COLUMNS


def _place(face: Face) -> dict[str, Any]:
    if face.file_name:
        return {"file_name": face.file_name}
    return {"generator": face.generator, "seed": face.seed, "psi": face.psi}


def _row(label: Label) -> dict[str, Any]:
    judged = {"severity": label.severity, "regions": list(label.regions), "annotator": label.annotator}
    return {**_place(label.face), **judged}


def _image_name(face: Face) -> str:
    return face.file_name or f"seed{face.seed:010d}.png"


def _safe(cell: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(FORMULA) else cell


def _plain(cell: str) -> str:
    """The reverse of `_safe`."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell


def _from_label(label: Label, purpose: Purpose, from_csv: bool) -> Answer:
    face, name = label.face, label.annotator
    if from_csv:
        face = Face(_plain(face.generator), face.seed, face.psi, _plain(face.file_name))
        name = _plain(name)
    decision = Decision.ARTIFACT if label.artifact else Decision.CLEAN
    return Answer(
        face=face,
        annotator=annotator_name(name),
        decision=decision,
        severity=label.severity,
        regions=label.regions,
        purpose=purpose,
    )


def _studio_face(data: dict[str, Any]) -> Face:
    if "seed" in data:
        return Face(str(data["generator"]), int(data["seed"]), float(data["psi"]))
    return Face(file_name=str(data.get("file_name") or data["image"]))


def _studio_answer(face: Face, annotation: dict[str, Any], purpose: Purpose) -> Answer:
    decision, severity, regions, marks, size = studio_rows(annotation["result"])
    who = annotation.get("completed_by", "label-studio")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id") or "label-studio"
    if severity is None and decision is not Decision.UNSURE:
        severity = ARTIFACT_SEVERITY if decision is Decision.ARTIFACT else 0
    return Answer(
        face=face,
        annotator=annotator_name(str(who)),
        decision=decision,
        severity=severity,
        regions=regions,
        marks=marks,
        purpose=purpose,
        width=size[0],
        height=size[1],
    )


def _content(answer: Answer) -> tuple[Any, ...]:
    return answer.face, answer.annotator, answer.decision, answer.severity, answer.regions


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LabelError(f"{path}: cannot be written ({error}); give another --output") from error
