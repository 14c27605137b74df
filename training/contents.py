"""What is in the pictures besides a face, as a CSV says it: `generator,seed,psi,contents`. Knows no scores.

The file that comes with qgate was written by a vision-language model, not by a person.
"""

from __future__ import annotations

import csv
from pathlib import Path

from qgate.errors import LabelError
from qgate.labels import Face
from training.config import CONTENTS, HOME, TrainConfig, find

THINGS = ("headwear", "hand", "person", "glasses")
"""What may be in a picture; `person` is a second one."""

COLUMNS = ["generator", "seed", "psi", "contents"]

Contents = dict[tuple[str, int, float], frozenset[str]]
"""(generator, seed, psi) -> what is in the picture; a face that is not listed was not looked at."""


def contents_of(config: TrainConfig) -> Contents:
    """What the settings name, or what comes with qgate; nothing where neither is there."""
    if config.contents is not None:
        return read_contents(find(config.contents), config.generators)
    shipped = HOME / CONTENTS
    return read_contents(shipped, config.generators) if shipped.is_file() else {}


def contents_at(contents: Contents, face: Face) -> frozenset[str] | None:
    """What is in the picture of a face; None where nobody looked."""
    return contents.get((face.generator, face.seed, face.psi))


def read_contents(path: Path, generators: dict[str, str]) -> Contents:
    """generators: name in the rows -> name by which it is opened. LabelError names file and line."""
    found: Contents = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != COLUMNS:
                raise LabelError(f"contents {path}, line 1: write the columns {','.join(COLUMNS)}")
            for row in reader:
                things = frozenset(thing for thing in (row["contents"] or "").split(";") if thing)
                if odd := things - set(THINGS):
                    raise LabelError(
                        f"contents {path}, line {reader.line_num}: {min(odd)!r}; allowed are {', '.join(THINGS)}, "
                        "separated by ;"
                    )
                name = generators.get(row["generator"], row["generator"])
                found[name, int(row["seed"]), float(row["psi"])] = things
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"contents {path}: cannot be read as CSV ({error})") from error
    except (TypeError, ValueError) as error:
        raise LabelError(f"contents {path}, line {reader.line_num}: seed or psi is no number") from error
    return found
