"""What a gate learned from whatever its split says, and what the gates did that it came from. Knows no network."""

from __future__ import annotations

import hashlib
from typing import Any

from qgate.gate.bundle import GateCard
from qgate.progress import warn
from training.config import TaughtSettings, Use, find
from training.data.sources import read_source
from training.data.tables import read_table


def taught_facts(settings: TaughtSettings) -> dict[str, Any]:
    """Path and sha256 of what other gates said, and for how much of a labelled face's target it counted."""
    digest = hashlib.sha256(find(settings.path).read_bytes()).hexdigest()
    return {"path": settings.path, "sha256": digest, "share": settings.share}


def only_learned_sources(card: GateCard | None) -> list[dict[str, Any]]:
    """Facts of the sources that a gate, or one that it came from, only learned from; none where there is no gate."""
    training = card.training if card is not None else {}
    found = [
        source for source in training.get("sources", []) if source.get("use") == Use.LEARN or source.get("learn_only")
    ]
    if taught := training.get("taught"):
        found.append(taught)
    return found + [source for source in training.get("earlier_sources", []) if source not in found]


def learned_only(card: GateCard | None) -> set[str]:
    """Seeds of the drawn faces of those sources.

    A source that is not there any more, or was changed, is warned of: its faces cannot be told from others. So are
    image files, which the card does not name.
    """
    found: set[str] = set()
    for source in only_learned_sources(card):
        path, said = find(source["path"]), f"a gate learned from all of {source['path']}"
        if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == source["sha256"]):
            warn(f"{said}, which is not here as it was; its faces may be taken for unknown ones")
            continue
        if "share" in source:  # what other gates said, see `taught_facts`: no label file
            faces = [face for face, _, _ in read_table(path, "taught", {}, None)]
        else:
            faces = [label.face for label in read_source(path)]
        if any(face.file_name for face in faces):
            warn(f"{said}; its image files may be taken for unknown ones")
        found |= {str(face.seed) for face in faces if not face.file_name}
    return found
