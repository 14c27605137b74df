"""CSV files with a row for each drawn face: `generator,seed,psi`, then what is said of it, such as what it shows.

What is in the pictures besides a face, in the file that comes with qgate, was written by a vision-language model, not
by a person.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qgate.errors import LabelError
from qgate.labels.rows import Face
from qgate.seeds import SEED_MAX
from training.config import CONTENTS, HOME, PICTURE_CONTENTS, TrainConfig, find

FACE_COLUMNS = ("generator", "seed", "psi")

THINGS = ("headwear", "hand", "person", "glasses", "object")
"""What may be in a picture; `person` is a second one, `object` what is held before the face."""

Contents = dict[Face, frozenset[str]]
"""Face -> what is in the picture; at a face that is not listed nobody looked."""


def read_table(
    path: Path, what: str, generators: Mapping[str, str], said: Sequence[str] | None
) -> Iterator[tuple[Face, dict[str, str], str]]:
    """Each row's face, its cells, and where it stands, for messages: "WHAT FILE, line N".

    generators: name in the rows -> name by which it is opened. said: the columns after those of the face, exactly;
    None: whatever there is. LabelError names file and line.
    """
    where = f"{what} {path}, line 1"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = tuple(reader.fieldnames or ())
            wanted = FACE_COLUMNS if said is None else (*FACE_COLUMNS, *said)
            if (columns[:3] if said is None else columns) != wanted:
                raise LabelError(f"{where}: write the columns {','.join(wanted)}{',...' if said is None else ''}")
            for row in reader:
                where = f"{what} {path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise LabelError(f"{where}: {len(columns)} cells are wanted")
                yield _face(row, generators, where), row, where
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{what} {path}: cannot be read as CSV ({error})") from error


def contents_of(config: TrainConfig) -> Contents:
    """What the settings name, or what comes with qgate; nothing where neither is there."""
    if config.contents is not None:
        return read_contents(find(config.contents), config.generators)
    shipped, pictures = HOME / CONTENTS, HOME / PICTURE_CONTENTS
    found = read_contents(shipped, config.generators) if shipped.is_file() else {}
    if config.pictures is not None and pictures.is_file():
        found |= read_picture_contents(pictures, Path(config.pictures))
    return found


def read_contents(path: Path, generators: dict[str, str]) -> Contents:
    """generators: name in the rows -> name by which it is opened. LabelError names file and line."""
    rows = read_table(path, "contents", generators, ["contents"])
    return {face: _things(row["contents"], where) for face, row, where in rows}


def read_picture_contents(path: Path, folder: Path) -> Contents:
    """A CSV `file_name,contents` of image files below a folder. LabelError names file and line."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        Face(file_name=os.path.abspath(folder / row["file_name"])): _things(row["contents"], f"{path}, line {line}")
        for line, row in enumerate(rows, 2)
    }


def _things(text: str, where: str) -> frozenset[str]:
    found = frozenset(thing for thing in text.split(";") if thing)
    if odd := found - set(THINGS):
        raise LabelError(f"{where}: {min(odd)!r}; allowed are {', '.join(THINGS)}, separated by ;")
    return found


def _face(row: Mapping[str, str], generators: Mapping[str, str], where: str) -> Face:
    try:
        face = Face(generators.get(row["generator"], row["generator"]), int(row["seed"]), float(row["psi"]))
    except ValueError as error:
        raise LabelError(f"{where}: seed or psi is no number") from error
    if not (0 <= face.seed <= SEED_MAX and math.isfinite(face.psi)):
        raise LabelError(f"{where}: seed is 0..{SEED_MAX}, psi a finite number")
    return face
