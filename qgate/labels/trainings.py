"""What trainings with the labels of a store reached: a file of JSON Lines beside it.

A training only reads a store: one that is locked, full or read-only is in no training's way.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from qgate.labels.advice import Trained


def history_path(store: Path) -> Path:
    """Where the trainings with a store's labels are noted."""
    return store.with_name(f"{store.name}-trainings.jsonl")


def note_training(store: Path, trained: Trained) -> None:
    """Add one training. Raises OSError."""
    with history_path(store).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(trained)) + "\n")


def read_trainings(store: Path) -> list[Trained]:
    """The trainings noted so far, in their order; a line that a kill cut is none."""
    path = history_path(store)
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(Trained(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found
