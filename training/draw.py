"""Labelled faces -> pixels as the gate will see them, drawn once and kept in the user's cache.

Drawn in fp32, so that the same labels give the same pixels on every machine up to one level. Knows nothing of votes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from qgate.cache import cache_dir
from qgate.config import GeneratorSettings, canonical_digest
from qgate.errors import LabelError, QgateError
from qgate.generators import Generator, open_generator
from qgate.labels import Face
from qgate.preprocess import Preprocessing

CHUNK = 32
"""Faces drawn and stored at once; an interrupted drawing goes on from the last whole chunk."""

ALIASES = {"random-face-2021.7.21.1": "mobile-stylegan"}
"""What the shipped label set calls the embedded generator."""

Pixels = NDArray[np.uint8]


class Say(Protocol):
    """Takes progress lines, of which it may drop what is not important."""

    def __call__(self, text: str, important: bool = False) -> None: ...


class FacePainter:
    """Draws faces of several generators and truncations, resized as the gate's preprocessing says."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device, precision: str = "fp32") -> None:
        self._preprocessing, self._device, self._precision = preprocessing, device, precision
        self._generators: dict[tuple[str, float], Generator] = {}

    def generator(self, face: Face) -> Generator:
        """The generator that draws this face; LabelError for a face that is a file."""
        if face.file_name:
            raise LabelError(f"label of file {face.file_name}: only faces that a generator draws can be trained on")
        key = (ALIASES.get(face.generator, face.generator), face.psi)
        if key not in self._generators:
            settings = GeneratorSettings.model_validate(
                {"name": key[0], "truncation_psi": key[1], "precision": self._precision}
            )
            self._generators[key] = open_generator(settings, self._device)
        return self._generators[key]

    def paint(self, faces: Sequence[Face]) -> Pixels:
        """uint8 (n, 3, size, size), in the order of the faces."""
        size = self._preprocessing.size
        pixels = np.empty((len(faces), 3, size, size), np.uint8)
        for psi_and_name in sorted({(face.psi, face.generator) for face in faces}):
            rows = [i for i, face in enumerate(faces) if (face.psi, face.generator) == psi_and_name]
            drawn = self.generator(faces[rows[0]]).draw([faces[row].seed for row in rows])
            for row, image, fault in zip(rows, drawn.images, drawn.faults, strict=True):
                if image is None or fault is not None:
                    raise QgateError(f"label of {faces[row]}: the face cannot be drawn ({fault}); remove its rows")
                pixels[row] = self._preprocessing.resize(image)[0].cpu().numpy()
        return pixels


def draw_faces(faces: Sequence[Face], preprocessing: Preprocessing, device: torch.device, say: Say) -> Pixels:
    """Pixels of the faces: a read-only memmap, uint8 (n, 3, size, size); what is missing is drawn first.

    The cache entry is named by all that decides the pixels: faces, generators' digests, size and interpolation.
    """
    painter = FacePainter(preprocessing, device)
    entry = cache_dir() / "faces" / _digest(faces, painter, preprocessing)
    entry.mkdir(parents=True, exist_ok=True)
    path, counter = entry / "pixels.npy", entry / "drawn"
    done = int(counter.read_text()) if counter.exists() else 0
    if done < len(faces):
        shape = (len(faces), 3, preprocessing.size, preprocessing.size)
        mode: Any = "r+" if done else "w+"
        pixels = np.lib.format.open_memmap(path, mode, np.uint8, shape)
        for start in range(done, len(faces), CHUNK):
            chunk = faces[start : start + CHUNK]
            pixels[start : start + len(chunk)] = painter.paint(chunk)
            pixels.flush()
            _write(counter, str(start + len(chunk)))
            say(f"drawing {start + len(chunk)} of {len(faces)} faces")
    stored: Pixels = np.load(path, mmap_mode="r")
    return stored


def _digest(faces: Sequence[Face], painter: FacePainter, preprocessing: Preprocessing) -> str:
    examples = {face.generator: face for face in faces}
    digests = {name: painter.generator(face).info.digest for name, face in examples.items()}
    resize = preprocessing.model_dump(include={"size", "interpolation"})
    rows = [(digests[face.generator], face.seed, face.psi) for face in faces]
    return canonical_digest({"faces": rows, "resize": resize})[:32]


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
