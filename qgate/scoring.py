"""Image files -> scores, for `qgate score`. Writes nothing and knows no threshold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from qgate.classifier import Gate
from qgate.errors import ImageError
from qgate.images import list_images, read_image
from qgate.records import REGIONS, Score

BATCH = 16
"""Images that are in memory at once."""


@dataclass(frozen=True, slots=True)
class FileScore:
    """A file and what the gate says of it, or the error that kept it from being judged."""

    file: Path
    score: Score | None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the design: file, clean_prob, reasons (region -> probability), or file and error."""
        if self.score is None or self.score.clean_prob is None:
            return {"file": str(self.file), "error": self.error}
        reasons = dict(zip(REGIONS, self.score.region_probs, strict=True))
        return {"file": str(self.file), "clean_prob": self.score.clean_prob, "reasons": reasons}

    def in_words(self, width: int) -> str:
        """A line of the table; the file's name takes `width` characters."""
        name = str(self.file).ljust(width)
        if self.score is None or self.score.clean_prob is None:
            return f"{name}  not judged: {self.error}"
        ranked = sorted(zip(self.score.region_probs, REGIONS, strict=True), reverse=True)[:3]
        return f"{name}  {self.score.clean_prob:10.3f}  " + ", ".join(f"{region} {prob:.2f}" for prob, region in ranked)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files themselves and, for folders, the images in them; ImageError for a folder without any."""
    files: list[Path] = []
    for path in paths:
        files += list_images(path) if path.is_dir() else [path]
    return files


def score_files(files: Iterable[Path], gate: Gate) -> Iterator[FileScore]:
    """Score files, in their order; one that cannot be read carries its error."""
    walk = iter(files)
    while batch := list(islice(walk, BATCH)):
        images, errors = {}, {}
        for file in batch:
            try:
                images[file] = read_image(file)
            except ImageError as error:
                errors[file] = str(error)
        scores = dict(zip(images, gate.score(list(images.values())), strict=True))
        for file in batch:
            score = scores.get(file)
            yield FileScore(file, score, errors.get(file) or (score.fault if score else None))
