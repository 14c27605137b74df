"""The faces that may be labelled: of a run, of a folder of images, or of a generator's seeds, by integer id.

Knows nothing of annotators, orders or HTTP. Pictures leave by id only: no request ever names a path.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from qgate.dataset.header import RunHeader
from qgate.dataset.layout import Layout
from qgate.dataset.ledger import iter_rows
from qgate.errors import ImageError, InputError, QgateError
from qgate.gate.bundle import RECOMMENDED
from qgate.labels.rows import Face
from qgate.records import Row, Score, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from qgate.generators import Generator

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
MAX_FACES = 200_000
"""The most that are held at once: a longer walk of seeds is cut here."""

KEPT = 24
"""Drawn pictures in memory: what the pages of two annotators load ahead, and some."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One face.

    path: its file; None where it is drawn.
    score: what the gate said of it, None where it was not asked.
    sampled: belongs to the population that the random order draws from, without regard to its looks.
    accepted: is in the dataset of a run.
    """

    face: Face
    path: Path | None = None
    score: Score | None = None
    sampled: bool = True
    accepted: bool = False

    @property
    def name(self) -> str:
        """What the page calls it."""
        return self.face.file_name or f"seed {self.face.seed}"


class Faces:
    """Faces under the ids 0..n-1, with their pictures."""

    def __init__(
        self, title: str, shown: Sequence[Shown], root: Path | None = None, threshold: float = RECOMMENDED
    ) -> None:
        """root: the folder that no picture's file may lie outside of; threshold: the faces near it are uncertain."""
        self.title, self.shown, self.threshold = title, shown, threshold
        self.ids = {face.face: index for index, face in enumerate(shown)}
        self.scores = {index: face.score for index, face in enumerate(shown) if face.score is not None}
        """What the gate said; grows where a gate is at work beside the page."""
        self.scoring = False
        """A gate is at work beside the page."""
        self.scoring_fault = ""
        """Why that gate stopped before it had scored all faces; "" where it did not."""
        listing = "\n".join(repr(face.face) for face in shown)
        self.digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        """Equal digests, equal ids: an answer that waited in a browser may not reach another face."""
        self._root = Path(os.path.realpath(root)) if root else None

    def __len__(self) -> int:
        return len(self.shown)

    def clean_prob(self, index: int) -> float | None:
        """None where the gate was not asked, or could not say."""
        score = self.scores.get(index)
        return None if score is None else score.clean_prob

    def pixels(self, index: int) -> Tensor:
        """uint8 RGB (3, H, W), for a gate. Raises ImageError as `picture` does."""
        from qgate.images import read_image

        return read_image(self._inside(self.shown[index]))

    def picture(self, index: int) -> tuple[bytes, str]:
        """The bytes and media type of a picture. Raises ImageError where there is none such or its file is bad."""
        if not 0 <= index < len(self.shown):
            raise ImageError(f"there is no face {index}")
        path = self._inside(self.shown[index])
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
                return data, FORMATS[image.format or ""]
        except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(f"{path}: no PNG, JPEG or WebP image") from error

    def size(self, index: int) -> tuple[int, int]:
        """Width and height in pixels, upright as browsers show it; (0, 0) where the picture cannot be read."""
        try:
            with Image.open(io.BytesIO(self.picture(index)[0]), formats=tuple(FORMATS)) as image:
                turned = image.getexif().get(0x0112, 1) >= 5
                return (image.height, image.width) if turned else image.size
        except (ImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return 0, 0

    def _inside(self, shown: Shown) -> Path:
        if shown.path is None or self._root is None:
            raise ImageError(f"{shown.name}: has no file")
        real = Path(os.path.realpath(shown.path))
        if not real.is_relative_to(self._root) or not real.is_file():
            raise ImageError(f"{shown.name}: lies outside {self._root}, or is gone")
        return real


class DrawnFaces(Faces):
    """Faces that a generator draws when they are asked for; the last ones are kept."""

    def __init__(self, generator: Generator, seeds: Iterable[int], psi: float) -> None:
        info = generator.info
        super().__init__(f"{info.name}, psi {psi:g}", [Shown(Face(info.name, seed, psi)) for seed in seeds])
        self._generator, self._lock = generator, threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def picture(self, index: int) -> tuple[bytes, str]:
        if not 0 <= index < len(self.shown):
            raise ImageError(f"there is no face {index}")
        with self._lock:
            if index not in self._kept:
                self._kept[index] = _to_png(self._draw(self.shown[index].face.seed))
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(index)
            return self._kept[index], FORMATS["PNG"]

    def pixels(self, index: int) -> Tensor:
        with self._lock:
            return self._draw(self.shown[index].face.seed)

    def _draw(self, seed: int) -> Tensor:
        drawn = self._generator.draw([seed])
        image = drawn.images[0]
        if image is None:
            raise ImageError(f"seed {seed}: cannot be drawn ({drawn.faults[0]})")
        return image


def _to_png(image: Tensor) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def run_faces(root: Path, base: Path) -> Faces:
    """The faces of a run that have pixels: its dataset and its review sample; only the latter is a random sample.

    base: the folder that the names of image files are relative to, which is the store's.
    """
    header, layout = RunHeader.read(root), Layout(root)
    found = [shown for row in iter_rows(root) if (shown := _run_face(row, header, layout, base)) is not None]
    if not found:
        raise InputError(f"{root}: holds no faces to label; `qgate run` goes on with it")
    return Faces(str(root), found, root, header.threshold)


def folder_faces(root: Path, base: Path) -> Faces:
    """The images of a folder; those that links lead out of it are left out."""
    from qgate.images import list_images

    inside = Path(os.path.realpath(root))
    paths = [path for path in list_images(root) if Path(os.path.realpath(path)).is_relative_to(inside)]
    if not paths:
        raise ImageError(f"{root}: all its images are links that lead out of the folder")
    return Faces(str(root), [Shown(Face(file_name=_relative(path, base)), path) for path in paths], root)


def generator_faces(name: str, psi: float, ranges: Sequence[tuple[int, int]], device: str) -> Faces:
    """The faces of a generator's seeds, drawn when they are asked for."""
    from qgate.config import GeneratorSettings
    from qgate.generators import open_generator
    from qgate.runtime.executor import pick_device

    generator = open_generator(GeneratorSettings(name=name, truncation_psi=psi), pick_device(device))
    if not generator.info.synthetic:
        raise InputError(f"--generator {name}: is a folder of images; label it by its path instead")
    return DrawnFaces(generator, _walk(ranges), psi)


def _walk(ranges: Sequence[tuple[int, int]]) -> Iterator[int]:
    left = MAX_FACES
    for first, last in ranges:
        yield from range(first, min(last + 1, first + left))
        left -= min(last + 1 - first, left)


def _run_face(row: Row, header: RunHeader, layout: Layout, base: Path) -> Shown | None:
    accepted = row.verdict is Verdict.ACCEPTED
    sample = layout.review_image(row.seed)
    sampled = sample.is_file()
    if row.score.clean_prob is None or not (accepted or sampled):
        return None
    shown = layout.dataset / row.file_name if accepted else sample
    psi = header.generator.truncation_psi
    if psi is None:
        _, _, folder = str(header.config.get("generator", "")).partition(":")
        face = Face(file_name=_relative(Path(folder) / row.source, base))
    elif header.seed_says_all:
        face = Face(header.generator.name, row.seed, psi)
    else:
        face = Face(file_name=_relative(shown, base))
    return Shown(face, shown, row.score, sampled, accepted)


def _relative(path: Path, base: Path) -> str:
    try:
        text = Path(os.path.relpath(path, base)).as_posix()
        text.encode()
    except ValueError as error:
        raise QgateError(f"{path!a}: its name cannot be kept as text; rename it") from error
    return text
