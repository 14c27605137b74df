"""Image files -> scores and pictures of heat maps, for `qgate score`. Knows no threshold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from qgate.align import FaceFinder
from qgate.errors import ImageError, OutputError
from qgate.gate.classifier import Gate
from qgate.gate.heat_picture import explain_picture
from qgate.images import list_images, read_image
from qgate.records import REGIONS, Score

BATCH = 16
"""Images that are in memory at once."""


@dataclass(frozen=True, slots=True)
class FileScore:
    """A file and what the gate says of it, or the error that kept it from being judged.

    picture: where its heat map was written, None where none was asked for.
    """

    file: Path
    score: Score | None
    error: str | None = None
    picture: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """One object: file, clean_prob, reasons (region -> probability), or file and error; picture if any."""
        if self.score is None or self.score.clean_prob is None:
            return {"file": str(self.file), "error": self.error}
        reasons = dict(zip(REGIONS, self.score.region_probs, strict=True))
        picture = {"picture": str(self.picture)} if self.picture else {}
        return {"file": str(self.file), "clean_prob": self.score.clean_prob, "reasons": reasons, **picture}

    def in_words(self, width: int) -> str:
        """A line of the table; the file's name takes `width` characters."""
        name = str(self.file).ljust(width)
        if self.score is None or self.score.clean_prob is None:
            return f"{name}  not judged: {self.error}"
        return f"{name}  {self.score.clean_prob:10.3f}  {_likeliest(self.score)}"


def _likeliest(score: Score) -> str:
    ranked = sorted(zip(score.region_probs, REGIONS, strict=True), reverse=True)[:3]
    return ", ".join(f"{region} {prob:.2f}" for prob, region in ranked)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files themselves and, for folders, the images in them; ImageError for a folder without any."""
    files: list[Path] = []
    for path in paths:
        files += list_images(path) if path.is_dir() else [path]
    return files


def picture_paths(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Where the heat map of each file goes: for one file `output` itself, a PNG; else below the folder `output`.

    paths: as for `find_files`; a file found in a given folder keeps its place below that folder.
    Raises OutputError where `output` does not fit, two pictures had one name, or a picture would replace an image.
    """
    single = len(paths) == 1 and not paths[0].is_dir()
    if single and (output.suffix.lower() != ".png" or output.is_dir()):
        raise OutputError(f"--explain {output}: for one file it is the picture to write; give a name that ends in .png")
    if not single and (output.suffix.lower() == ".png" or output.is_file()):
        raise OutputError(f"--explain {output}: for several files or a folder it is a folder; give the name of one")
    targets: dict[Path, Path] = {}
    for path in paths:
        for file in list_images(path) if path.is_dir() else [path]:
            inner = file.relative_to(path) if path.is_dir() else Path(file.name)
            targets[file] = output if single else output / inner.with_suffix(".png")
    taken: dict[Path, Path] = {}
    images = {file.resolve() for file in targets}
    for file, target in targets.items():
        if (other := taken.setdefault(target, file)) != file:
            raise OutputError(f"--explain {output}: {other} and {file} would both be {target}; explain them apart")
        if target.resolve() in images:
            raise OutputError(f"--explain {output}: {target} is an image to score; give another name")
    return targets


def score_files(
    files: Iterable[Path], gate: Gate, pictures: Mapping[Path, Path] | None = None, finder: FaceFinder | None = None
) -> Iterator[FileScore]:
    """Score files, in their order; one that cannot be read carries its error.

    finder: cuts the face out of pictures that are framed otherwise than aligned sets; None: all are judged as they are.
    pictures: file -> where to write its heat map, as `picture_paths` gives it.
    """
    walk = iter(files)
    while batch := list(islice(walk, BATCH)):
        images, errors = {}, {}
        for file in batch:
            try:
                images[file] = _face(file, finder)
            except ImageError as error:
                errors[file] = str(error)
        scores = dict(zip(images, gate.score(list(images.values())), strict=True))
        for file in batch:
            score, picture = scores.get(file), None
            if pictures and score is not None and score.clean_prob is not None:
                picture = pictures[file]
                _write_picture(file, images[file], score, gate, picture)
            yield FileScore(file, score, errors.get(file) or (score.fault if score else None), picture)


def _face(file: Path, finder: FaceFinder | None) -> Tensor:
    image = read_image(file)
    face = finder.align(image) if finder is not None else image
    if face is None:
        raise ImageError(f"{file}: no face was found in it; --no-align judges the picture as it is")
    return face


def _write_picture(file: Path, image: Tensor, score: Score, gate: Gate, target: Path) -> None:
    face = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    lines = (f"likeliest regions of an artifact: {_likeliest(score)}", file.name)
    sheet = explain_picture(face, gate.explain([image])[0], f"clean_prob {score.clean_prob:.3f}", lines)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target, "PNG")
    except OSError as error:
        raise OutputError(f"--explain {target}: cannot be written ({error.strerror or error})") from error
