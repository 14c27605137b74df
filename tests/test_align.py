"""Faces are found in portraits of any framing, cut out as aligned sets have them, or said not to be there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from qgate.align import FaceFinder, Square
from qgate.config import GeneratorSettings
from qgate.errors import ConfigError
from qgate.generators import open_generator
from qgate.generators.folder import FolderGenerator

CPU = torch.device("cpu")


@cache
def finder() -> FaceFinder:
    return FaceFinder()


@cache
def face() -> Tensor:
    """An aligned face of the default generator, 1024 pixels."""
    image = open_generator(GeneratorSettings(precision="fp32"), CPU).draw([8000003]).images[0]
    assert image is not None
    return image


def portrait(side: int, left: int, top: int, width: int, height: int) -> Tensor:
    """The face, so large and there, on grey."""
    small = F.interpolate(face()[None].float(), (side, side), mode="bilinear", antialias=True)[0]
    canvas = torch.full((3, height, width), 110, dtype=torch.uint8)
    canvas[:, top : top + side, left : left + side] = small.round().to(torch.uint8)
    return canvas


def save(image: Tensor, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
    return path


def test_an_aligned_face_stays_as_it_is() -> None:
    assert finder().align(face()) is face()


@pytest.mark.parametrize("side", [300, 700])
def test_a_face_is_found_where_it_lies_in_a_larger_picture(side: int) -> None:
    whole, square = finder().find(face()), finder().find(portrait(side, 900, 100, 1800, 1000))

    assert whole is not None and square is not None
    expected = whole.centre * side / 1024 + [900, 100]
    assert square.centre.tolist() == pytest.approx(expected.tolist(), abs=0.02 * side)
    assert square.side == pytest.approx(whole.side * side / 1024, rel=0.08)


def test_the_cut_shows_the_face_as_the_aligned_one_does() -> None:
    cut = finder().align(portrait(600, 900, 200, 1800, 1000))

    assert cut is not None and cut.shape == (3, cut.shape[2], cut.shape[2])
    again = finder().find(cut)
    assert again is not None
    assert (again.centre / cut.shape[2]).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert again.side / cut.shape[2] == pytest.approx(1.0, rel=0.06)


def test_a_cut_never_shows_what_is_not_in_the_picture() -> None:
    square = Square(torch.tensor([50.0, 180.0]).numpy(), torch.tensor([150.0, 4.0]).numpy())
    inside = square.within(torch.zeros(3, 200, 260, dtype=torch.uint8))

    assert inside.side == 200  # as large as the picture allows
    assert inside.centre.tolist() == [100, 100]  # moved in
    assert inside.right.tolist() == [100, 0]  # two degrees: set upright


def test_a_picture_without_a_face_holds_none() -> None:
    noise = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    assert finder().align(noise) is None
    assert finder().align(torch.full((3, 64, 64), 128, dtype=torch.uint8)) is None


def test_a_folder_gives_the_face_of_a_portrait_and_rejects_a_picture_without_one(tmp_path: Path) -> None:
    save(portrait(500, 700, 100, 1300, 800), tmp_path / "a.png")
    save(torch.full((3, 200, 200), 90, dtype=torch.uint8), tmp_path / "b.png")
    aligned = FolderGenerator(tmp_path).draw([0, 1])
    as_they_are = FolderGenerator(tmp_path, align=False).draw([0, 1])

    assert list(aligned.faults) == [None, "no_face"]
    assert aligned.images[0] is not None and 450 < aligned.images[0].shape[2] < 600
    assert aligned.images[1] is None
    assert list(as_they_are.faults) == [None, None]
    assert [image.shape for image in as_they_are.images if image is not None] == [(3, 800, 1300), (3, 200, 200)]


def test_a_folder_judged_otherwise_is_another_generator(tmp_path: Path) -> None:
    save(torch.full((3, 80, 80), 90, dtype=torch.uint8), tmp_path / "a.png")

    assert FolderGenerator(tmp_path).info.digest != FolderGenerator(tmp_path, align=False).info.digest


def test_a_drawing_generator_has_no_such_option() -> None:
    with pytest.raises(ConfigError, match=r"generator.align = 'never': mobile-stylegan has no such option; drop it"):
        open_generator(GeneratorSettings(align="never"), CPU)
