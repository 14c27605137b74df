"""Labelled faces -> pixels as the gate will see them, drawn or read once and kept in the user's cache, a file a face.

Drawn in fp32, so that the same labels give the same pixels on every machine up to one level. A face is found again
whatever other faces it is labelled with. Knows nothing of votes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from qgate.cache import cache_dir
from qgate.config import GeneratorSettings, canonical_digest
from qgate.errors import ImageError, QgateError
from qgate.gate.preprocess import Preprocessing
from qgate.generators import Generator, open_generator
from qgate.images import read_image
from qgate.labels.rows import Face

CHUNK = 32
"""Faces drawn at once; an interrupted drawing goes on from the last whole chunk."""

HEADER = 128
"""Bytes of a .npy file before its pixels."""

Array = NDArray[np.uint8]


class Say(Protocol):
    """Takes progress: a line of text, and how much of how much is done.

    It may drop what is not important. Raises StoppedError once a stop was asked for.
    """

    def __call__(self, text: str, important: bool = False, done: int = 0, total: int = 0) -> None: ...


class Pixels:
    """Pixels of faces, a file each: `pixels[rows]` reads uint8 (rows, 3, size, size)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.int64]) -> Array:
        return np.stack([np.load(self.paths[row]) for row in rows])


class FacePainter:
    """Draws faces of several generators and truncations, resized as the gate's preprocessing says."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._preprocessing, self._device = preprocessing, device
        self._generators: dict[tuple[str, float], Generator] = {}
        self._digests: dict[str, str] = {}

    def place(self, face: Face) -> Path:
        """Where the pixels of a face lie, or will lie: named by all that decides them."""
        if face.generator not in self._digests:
            self._digests[face.generator] = self._generator(face).info.digest
        facts = {"generator": self._digests[face.generator], "psi": face.psi, **_resize_facts(self._preprocessing)}
        return cache_dir() / "faces" / canonical_digest(facts)[:32] / f"{face.seed}.npy"

    def paint(self, faces: Sequence[Face]) -> Iterator[Array]:
        """Pixels of faces of one generator and psi, uint8 (3, size, size) each."""
        drawn = self._generator(faces[0]).draw([face.seed for face in faces])
        for face, image, fault in zip(faces, drawn.images, drawn.faults, strict=True):
            if image is None or fault is not None:
                raise QgateError(f"label of {face}: the face cannot be drawn ({fault}); remove its rows")
            yield self._preprocessing.resize(image)[0].cpu().numpy()

    def _generator(self, face: Face) -> Generator:
        key = (face.generator, face.psi)
        if key not in self._generators:
            settings = GeneratorSettings(name=face.generator, truncation_psi=face.psi, precision="fp32")
            self._generators[key] = open_generator(settings, self._device)
        return self._generators[key]


def draw_faces(faces: Sequence[Face], preprocessing: Preprocessing, device: torch.device, say: Say) -> list[Path]:
    """The files with the pixels of drawn faces, in their order; what is missing is drawn first."""
    painter = FacePainter(preprocessing, device)
    paths = [painter.place(face) for face in faces]
    missing = sorted({(face.generator, face.psi, face.seed): row for row, face in enumerate(faces)}.items())
    missing = [(key, row) for key, row in missing if not _is_whole(paths[row], preprocessing.size)]
    groups: dict[tuple[str, float], list[int]] = {}
    for (generator, psi, _), row in missing:
        groups.setdefault((generator, psi), []).append(row)
    done = 0
    for rows in groups.values():
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row, pixels in zip(chunk, painter.paint([faces[row] for row in chunk]), strict=True):
                _keep(paths[row], pixels)
            done += len(chunk)
            say(f"drawing {done} of {len(missing)} faces", done=done, total=len(missing))
    return paths


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image file: where its pixels are kept, and their sha256 as they were decoded."""

    kept: Path
    identity: str


def read_images(
    paths: Sequence[Path], preprocessing: Preprocessing, say: Say
) -> tuple[dict[Path, ReadImage], dict[Path, str]]:
    """Image files that can be read, and what is wrong with the others."""
    folder = cache_dir() / "faces" / f"images-{canonical_digest(_resize_facts(preprocessing))[:24]}"
    known = {path.name.partition("-")[0]: path for path in folder.glob("*-*.npy")} if folder.is_dir() else {}
    found: dict[Path, ReadImage] = {}
    bad: dict[Path, str] = {}
    with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
        for path, result in zip(
            paths, pool.map(lambda p: _read_one(p, folder, known, preprocessing), paths), strict=True
        ):
            if isinstance(result, ReadImage):
                found[path] = result
            else:
                bad[path] = result
            done = len(found) + len(bad)
            say(f"reading {done} of {len(paths)} images", done=done, total=len(paths))
    return found, bad


def _read_one(path: Path, folder: Path, known: Mapping[str, Path], preprocessing: Preprocessing) -> ReadImage | str:
    try:
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        kept = known.get(name)
        if kept is not None and _is_whole(kept, preprocessing.size):
            return ReadImage(kept, kept.stem.partition("-")[2])
        image = read_image(path)
    except (OSError, ImageError) as error:
        return str(error)
    digest = hashlib.sha256(f"{tuple(image.shape)}".encode())
    digest.update(image.contiguous().numpy().tobytes())
    kept = folder / f"{name}-{digest.hexdigest()}.npy"
    _keep(kept, preprocessing.resize(image)[0].numpy())
    return ReadImage(kept, digest.hexdigest())


def _resize_facts(preprocessing: Preprocessing) -> dict[str, int | str]:
    return {"size": preprocessing.size, "interpolation": preprocessing.interpolation}


def _is_whole(path: Path, size: int) -> bool:
    """Whether the file is there and was not cut by a power cut."""
    return path.is_file() and path.stat().st_size == HEADER + 3 * size * size


def _keep(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    with draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(pixels))
    draft.replace(path)
