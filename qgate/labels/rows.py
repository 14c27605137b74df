"""Label rows, CSV or JSON Lines: read, checked, gathered into votes.

A row is one judgement of one face by one annotator: `generator,seed,psi,severity,regions,annotator` for a face that
can be drawn again, `file_name,severity,regions,annotator` for an image file. The metadata of a dataset (`metadata.csv`
or `.jsonl`) to which a column `severity` was added is taken too: its faces are drawn again where it names generator and
seed. Rubric: `training/labels/RUBRIC.md`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qgate.errors import LabelError
from qgate.records import REGIONS
from qgate.seeds import SEED_MAX

SEVERITIES = ("clean", "minor", "noticeable", "severe")
"""What the severities 0..3 mean."""

ARTIFACT_SEVERITY = 2
"""From this severity on a face is an artifact: not usable."""

DRAWN_COLUMNS = ("generator", "seed", "psi", "severity", "regions", "annotator")
FILE_COLUMNS = ("file_name", "severity", "regions", "annotator")

EXTRA_COLUMNS = ("truncation_psi", "clean_prob", "gate", "sha256", "class", "latents")
"""What a dataset's metadata says besides; of these only psi, class and latents are looked at."""


@dataclass(frozen=True, slots=True, order=True)
class Face:
    """What a label is about: a drawn face (generator, seed, psi), or an image file (file_name)."""

    generator: str = ""
    seed: int = 0
    psi: float = 1.0
    file_name: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """One judgement.

    severity: 0..3, see `SEVERITIES`. regions: of `REGIONS`, where something is wrong.
    origin: where it was read, "FILE, line N", for messages; no part of the judgement.
    """

    face: Face
    severity: int
    regions: tuple[str, ...]
    annotator: str
    origin: str = field(default="", compare=False)

    @property
    def artifact(self) -> bool:
        return self.severity >= ARTIFACT_SEVERITY


def read_labels(path: Path) -> list[Label]:
    """The rows of a `.csv` or `.jsonl` file, in its order.

    In CSV the regions of a row are separated by `;`, in JSON Lines they are a list or such a text.
    Metadata without a column `annotator` counts as one annotator, the file.
    Raises LabelError naming file, line and what is allowed.
    """
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix)
    if rows is None:
        raise LabelError(f"labels {path}: the name must end in .csv or .jsonl")
    labels = []
    try:
        for line, row in rows(path):
            try:
                labels.append(_parse({"annotator": path.stem, "regions": "", **row}, f"{path}, line {line}"))
            except ValueError as error:
                raise LabelError(f"labels {path}, line {line}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"labels {path}: cannot be read as UTF-8 text ({error})") from error
    return labels


def gather_votes(labels: Iterable[Label]) -> dict[Face, list[Label]]:
    """Face -> its votes. One annotator has one judgement of a face: the same twice counts once.

    Raises LabelError where an annotator says two things of one face, naming both places.
    """
    votes: dict[Face, dict[str, Label]] = {}
    for label in labels:
        held = votes.setdefault(label.face, {}).setdefault(label.annotator, label)
        if held != label:
            raise LabelError(
                f"labels {label.origin}: annotator {label.annotator!r} says severity {label.severity}, regions "
                f"{';'.join(label.regions) or 'none'}; {held.origin} says severity {held.severity}, regions "
                f"{';'.join(held.regions) or 'none'} of the same face; remove one of the two"
            )
    return {face: list(by_annotator.values()) for face, by_annotator in votes.items()}


def _check_columns(columns: Iterable[str], where: str) -> None:
    names, extra = set(columns), set(EXTRA_COLUMNS)
    drawn = set(DRAWN_COLUMNS) <= names <= set(DRAWN_COLUMNS) | extra
    files = {"file_name", "severity"} <= names <= {*FILE_COLUMNS, "generator", "seed"} | extra
    if not (drawn or files):
        raise LabelError(
            f"labels {where}: the columns are {','.join(columns)!r}; write {','.join(DRAWN_COLUMNS)} or "
            f"{','.join(FILE_COLUMNS)}"
        )


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_columns(header, f"{path}, line 1")
            for fields in reader:
                if len(fields) != len(header):
                    raise LabelError(
                        f"labels {path}, line {reader.line_num}: {len(fields)} fields, the header has {len(header)}"
                    )
                yield reader.line_num, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise LabelError(f"labels {path}, line {reader.line_num}: no CSV ({error})") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise LabelError(f"labels {path}, line {line}: no JSON ({error})") from error
            if not isinstance(row, dict):
                raise LabelError(f"labels {path}, line {line}: write an object with the keys {', '.join(FILE_COLUMNS)}")
            _check_columns(row, f"{path}, line {line}")
            yield line, row


def _parse(row: Mapping[str, Any], origin: str) -> Label:
    """A row with the right columns -> a label; ValueError says which value is wrong."""
    if "seed" in row and not _needs_its_file(row):
        psi = row["psi"] if "psi" in row else row.get("truncation_psi", 1.0)
        face = Face(_text(row, "generator"), _seed(row["seed"]), _psi(psi))
    else:
        face = Face(file_name=_text(row, "file_name"))
    severity = str(row["severity"]).strip()
    if severity not in ("0", "1", "2", "3"):
        raise ValueError(f"severity {row['severity']!r}; allowed are 0 clean, 1 minor, 2 noticeable, 3 severe")
    return Label(face, int(severity), _regions(row["regions"]), _text(row, "annotator"), origin)


def _needs_its_file(row: Mapping[str, Any]) -> bool:
    """Whether more than generator, seed and psi decided the pixels of a dataset's row."""
    more = any(row.get(name) not in (None, "") for name in ("class", "latents"))
    return more or str(row.get("generator") or "folder:").startswith("folder:")


def _text(row: Mapping[str, Any], column: str) -> str:
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{column} {text!r}; a text that is not empty is expected")
    return text.strip()


def _seed(value: Any) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdecimal() and int(text) <= SEED_MAX):
        raise ValueError(f"seed {value!r}; seeds are 0..{SEED_MAX}")
    return int(text)


def _psi(value: Any) -> float:
    try:
        psi = float(value)
    except (TypeError, ValueError):
        psi = math.nan
    if not -2.0 <= psi <= 2.0:
        raise ValueError(f"psi {value!r}; a number from -2 to 2 is expected")
    return psi


def _regions(value: Any) -> tuple[str, ...]:
    names = value.split(";") if isinstance(value, str) else value
    if not isinstance(names, list):
        raise ValueError(f"regions {value!r}; write region names separated by ;")
    found = [str(name).strip() for name in names if str(name).strip()]
    for name in found:
        if name not in REGIONS:
            raise ValueError(f"region {name!r}; allowed are {', '.join(REGIONS)}, separated by ;")
    return tuple(region for region in REGIONS if region in found)
