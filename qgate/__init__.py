"""qgate: draws faces, judges each one, keeps the clean ones.

    load_gate(gate="default", device="auto")   a gate ready to score images
    judge(seeds, ...)                          candidates with their scores and pixels, nothing written
    read_image(path)                           an image file as the uint8 RGB tensor that gates take

Names load on first use, so that importing qgate costs nothing.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qgate.api import Candidate, judge
    from qgate.classifier import Gate, load_gate
    from qgate.images import read_image

try:
    __version__ = metadata.version("qgate")
except metadata.PackageNotFoundError:  # a source folder on a machine where nothing is installed
    __version__ = "unknown"
__all__ = ["Candidate", "Gate", "judge", "load_gate", "read_image"]

_HOMES = {
    "Candidate": "qgate.api",
    "judge": "qgate.api",
    "Gate": "qgate.classifier",
    "load_gate": "qgate.classifier",
    "read_image": "qgate.images",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'qgate' has no attribute {name!r}")
