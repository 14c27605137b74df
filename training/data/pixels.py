"""Labelled faces -> pixels as the gate will see them, drawn or read once and kept in the user's cache, a file a face.

Drawn in fp32, so that the same labels give the same pixels on every machine up to one level. A face is found again
whatever other faces it is labelled with.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qgate.cache import cache_dir
from qgate.config import GeneratorSettings, canonical_digest
from qgate.errors import ImageError, QgateError
from qgate.gate.preprocess import WHOLE, Preprocessing
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


Views = tuple[Pixels, ...]
"""What each look of a gate sees of the same faces."""


class FacePainter:
    """Draws faces of several generators and truncations, cut and resized as the gate's looks want them."""

    def __init__(self, looks: Sequence[Preprocessing], device: torch.device) -> None:
        self._looks, self._device = looks, device
        self._generators: dict[tuple[str, float], Generator] = {}
        self._digests: dict[str, str] = {}

    def places(self, face: Face) -> list[Path]:
        """Where each look's pixels of a face lie, or will lie: named by all that decides them."""
        if face.generator not in self._digests:
            self._digests[face.generator] = self._generator(face).info.digest
        drawn = {"generator": self._digests[face.generator], "psi": face.psi}
        folders = [canonical_digest({**drawn, **_resize_facts(look)})[:32] for look in self._looks]
        return [cache_dir() / "faces" / folder / f"{face.seed}.npy" for folder in folders]

    def paint(self, faces: Sequence[Face]) -> Iterator[list[Array]]:
        """What each look sees of faces of one generator and psi, uint8 (3, size, size) each."""
        for image in self.draw(faces):
            yield [look.resize(image)[0].cpu().numpy() for look in self._looks]

    def draw(self, faces: Sequence[Face]) -> Iterator[Tensor]:
        """The whole faces, of one generator and psi, uint8 (3, H, W) each."""
        drawn = self._generator(faces[0]).draw([face.seed for face in faces])
        for face, image, fault in zip(faces, drawn.images, drawn.faults, strict=True):
            if image is None or fault is not None:
                raise QgateError(f"label of {face}: the face cannot be drawn ({fault}); remove its rows")
            yield image

    def _generator(self, face: Face) -> Generator:
        key = (face.generator, face.psi)
        if key not in self._generators:
            settings = GeneratorSettings(name=face.generator, truncation_psi=face.psi, precision="fp32")
            self._generators[key] = open_generator(settings, self._device)
        return self._generators[key]


def draw_faces(
    faces: Sequence[Face], looks: Sequence[Preprocessing], device: torch.device, say: Say
) -> tuple[list[Path], ...]:
    """For each look the files with what it sees of drawn faces, in their order; what is missing is drawn first."""
    painter = FacePainter(looks, device)
    paths = [painter.places(face) for face in faces]
    missing = sorted({(face.generator, face.psi, face.seed): row for row, face in enumerate(faces)}.items())
    missing = [(key, row) for key, row in missing if not _are_whole(paths[row], looks)]
    groups: dict[tuple[str, float], list[int]] = {}
    for (generator, psi, _), row in missing:
        groups.setdefault((generator, psi), []).append(row)
    done = 0
    for rows in groups.values():
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row, views in zip(chunk, painter.paint([faces[row] for row in chunk]), strict=True):
                for path, pixels in zip(paths[row], views, strict=True):
                    _keep(path, pixels)
            done += len(chunk)
            say(f"drawing {done} of {len(missing)} faces", done=done, total=len(missing))
    return tuple([places[look] for places in paths] for look in range(len(looks)))


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image file: where each look's pixels of it are kept, and the sha256 of its own as they were decoded."""

    kept: tuple[Path, ...]
    identity: str


def read_images(
    paths: Sequence[Path], looks: Sequence[Preprocessing], say: Say
) -> tuple[dict[Path, ReadImage], dict[Path, str]]:
    """Image files that can be read, and what is wrong with the others."""
    folders = [cache_dir() / "faces" / f"images-{canonical_digest(_resize_facts(look))[:24]}" for look in looks]
    known = {path.name.partition("-")[0]: path.name for path in folders[0].glob("*-*.npy")}
    found: dict[Path, ReadImage] = {}
    bad: dict[Path, str] = {}
    with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
        for path, result in zip(paths, pool.map(lambda p: _read_one(p, folders, known, looks), paths), strict=True):
            if isinstance(result, ReadImage):
                found[path] = result
            else:
                bad[path] = result
            done = len(found) + len(bad)
            say(f"reading {done} of {len(paths)} images", done=done, total=len(paths))
    return found, bad


def _read_one(
    path: Path, folders: Sequence[Path], known: Mapping[str, str], looks: Sequence[Preprocessing]
) -> ReadImage | str:
    """known: sha256 of a file that was read before -> the name under which its pixels are kept."""
    try:
        name = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        kept = tuple(folder / known[name] for folder in folders) if name in known else ()
        if kept and _are_whole(kept, looks):
            return ReadImage(kept, kept[0].stem.partition("-")[2])
        image = read_image(path)
    except (OSError, ImageError) as error:
        return str(error)
    digest = hashlib.sha256(f"{tuple(image.shape)}".encode())
    digest.update(image.contiguous().numpy().tobytes())
    kept = tuple(folder / f"{name}-{digest.hexdigest()}.npy" for folder in folders)
    for place, look in zip(kept, looks, strict=True):
        _keep(place, look.resize(image)[0].numpy())
    return ReadImage(kept, digest.hexdigest())


def _resize_facts(look: Preprocessing) -> dict[str, Any]:
    """What decides a look's pixels of a face; the whole square was named without its edges before there were others."""
    crop = {} if look.crop == WHOLE else {"crop": look.crop}
    return {"size": look.size, "interpolation": look.interpolation, **crop}


def _are_whole(paths: Sequence[Path], looks: Sequence[Preprocessing]) -> bool:
    """Whether the files are there and none was cut by a power cut."""
    return all(
        path.is_file() and path.stat().st_size == HEADER + 3 * look.size**2
        for path, look in zip(paths, looks, strict=True)
    )


def _keep(path: Path, pixels: Array) -> None:
    """Write a file of the cache, unsynced, since there are thousands: `_are_whole` finds what a power cut left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    with draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(pixels))
    draft.replace(path)
