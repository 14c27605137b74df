"""The user's cache folder: downloaded weights and converted models. Everything in it can be deleted at any time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """`$QGATE_CACHE`, else `$XDG_CACHE_HOME/qgate`, else `~/.cache/qgate`; it need not exist yet."""
    if own := os.environ.get("QGATE_CACHE"):
        return Path(own).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "qgate"


@contextmanager
def new_entry(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well; where another process was faster, it wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        try:
            draft.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
