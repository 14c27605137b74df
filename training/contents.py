"""What is in the pictures besides a face, as a CSV says it: `generator,seed,psi,contents`. Knows no scores.

The file that comes with qgate was written by a vision-language model, not by a person.
"""

from __future__ import annotations

from pathlib import Path

from qgate.errors import LabelError
from qgate.labels import Face
from training.config import CONTENTS, HOME, TrainConfig, find
from training.face_table import read_table

THINGS = ("headwear", "hand", "person", "glasses")
"""What may be in a picture; `person` is a second one."""

Contents = dict[Face, frozenset[str]]
"""Drawn face -> what is in the picture; at a face that is not listed nobody looked."""


def contents_of(config: TrainConfig) -> Contents:
    """What the settings name, or what comes with qgate; nothing where neither is there."""
    if config.contents is not None:
        return read_contents(find(config.contents), config.generators)
    shipped = HOME / CONTENTS
    return read_contents(shipped, config.generators) if shipped.is_file() else {}


def read_contents(path: Path, generators: dict[str, str]) -> Contents:
    """generators: name in the rows -> name by which it is opened. LabelError names file and line."""
    found: Contents = {}
    for face, row, where in read_table(path, "contents", generators, ["contents"]):
        found[face] = frozenset(thing for thing in row["contents"].split(";") if thing)
        if odd := found[face] - set(THINGS):
            raise LabelError(f"{where}: {min(odd)!r}; allowed are {', '.join(THINGS)}, separated by ;")
    return found
