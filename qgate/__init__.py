"""qgate: draws faces, judges each one, keeps the clean ones.

    load_gate(gate="default", device="auto")   a gate ready to score images: default, a folder, models:/NAME@ALIAS
    judge(seeds, ...)                          candidates with their scores and pixels, nothing written
    read_image(path)                           an image file as the uint8 RGB tensor that gates take

Names load on first use, so that importing qgate costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qgate.version import __version__ as __version__

if TYPE_CHECKING:
    from qgate.api import Candidate, judge
    from qgate.gate.classifier import Gate
    from qgate.gate.open import load_gate
    from qgate.images import read_image

__all__ = ["Candidate", "Gate", "judge", "load_gate", "read_image"]

_HOMES = {
    "Candidate": "qgate.api",
    "judge": "qgate.api",
    "Gate": "qgate.gate.classifier",
    "load_gate": "qgate.gate.open",
    "read_image": "qgate.images",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qgate' has no attribute {name!r}")
