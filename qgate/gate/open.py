"""The one meaning of a gate's name: `default`, a bundle's folder, or models:/NAME@ALIAS in the MLflow registry."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from qgate.cache import cache_dir, new_entry
from qgate.gate.bundle import DEFAULT, Bundle, read_bundle
from qgate.gate.classifier import Gate
from qgate.tracking.tracker import download_model

REGISTRY = "models:/"
"""How the name of a gate in the registry begins."""


def open_bundle(gate: str | Path) -> Bundle:
    """The bundle that a name stands for.

    gate: `default` (the shipped one), a bundle's folder, or models:/NAME@ALIAS or models:/NAME/VERSION in the MLflow
        store of the working folder.
    Raises BundleError where it is missing, corrupted or incompatible, or the store does not answer.
    """
    name = str(gate)
    if name.startswith(REGISTRY):
        with tempfile.TemporaryDirectory() as folder:
            return read_bundle(download_model(name, Path(folder)))
    return read_bundle(DEFAULT if name == "default" else Path(name))


def load_gate(gate: str | Path = "default", device: str = "auto") -> Gate:
    """A gate ready to score; gate and errors as of `open_bundle`, device as of `Gate`."""
    return Gate(open_bundle(gate), device)


def keep_registered(gate: str) -> Path:
    """Copy a gate of the registry into the user's cache, for work that comes back to it; returns its folder there.

    The folder is named by the bundle's digest: the same gate is the same folder, and an alias that moves meanwhile
    leads nowhere else. gate and errors as of `open_bundle`.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = download_model(gate, Path(folder))
        target = cache_dir() / "gates" / read_bundle(found).digest
        if not target.is_dir():
            with new_entry(target) as draft:
                shutil.copytree(found, draft, dirs_exist_ok=True)
    return target
