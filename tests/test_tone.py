"""The tone of a skin is that of the formula, and measured on the cheeks alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qgate.gate.preprocess import Preprocessing
from training.data.pixels import Pixels
from training.metrics.tone import ita, to_lab, tones

SEEN = Preprocessing(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)

# Colours of CSS, their L*a*b* (D65) as published, their angle by hand: atan((L - 50) / b), and its group.
COLOURS = [
    ("bisque", (255, 228, 196), (92.01, 4.43, 19.01), 65.7, "very light"),
    ("burlywood", (222, 184, 135), (77.02, 7.05, 30.02), 42.0, "light"),
    ("darkkhaki", (189, 183, 107), (73.38, -8.79, 39.29), 30.8, "intermediate"),
    ("peru", (205, 133, 63), (61.75, 21.40, 47.92), 13.8, "tan"),
    ("saddlebrown", (139, 69, 19), (37.47, 26.44, 40.98), -17.0, "brown"),
    ("black", (0, 0, 0), (0.0, 0.0, 0.0), -90.0, "dark"),
]


def plain(colour: tuple[int, int, int], side: int = 100) -> NDArray[np.uint8]:
    """A face (3, side, side) of one colour."""
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, side, side)).copy()


@pytest.mark.parametrize(("name", "rgb", "lab", "angle", "tone"), COLOURS, ids=[row[0] for row in COLOURS])
def test_a_known_colour_has_its_published_lab_its_angle_and_its_group(
    tmp_path: Path,
    name: str,
    rgb: tuple[int, int, int],
    lab: tuple[float, float, float],
    angle: float,
    tone: str,
) -> None:
    assert to_lab(np.array(rgb, np.uint8)[:, None])[:, 0] == pytest.approx(lab, abs=0.05)
    assert ita(plain(rgb)) == pytest.approx(angle, abs=0.2)
    np.save(tmp_path / "face.npy", plain(rgb))
    assert tones(Pixels([tmp_path / "face.npy"]), [0], SEEN) == [tone]


def test_lightness_of_grey_follows_the_formula() -> None:
    # 119/255 is linear ((0.46667 + 0.055) / 1.055)^2.4 = 0.18447; L = 116 * 0.18447^(1/3) - 16 = 50.03.
    # 5/255 is linear 0.019608 / 12.92 = 0.0015176, below (6/29)^3; L = 903.3 * 0.0015176 = 1.371.
    # White is L = 100, and no grey has a hue.
    greys = to_lab(np.array([[119, 5, 255]] * 3, np.uint8))
    assert greys[0].tolist() == pytest.approx([50.03, 1.371, 100.0], abs=0.005)
    assert np.abs(greys[1:]).max() < 0.02


def test_what_is_not_on_the_cheeks_does_not_count_nor_does_a_spot_on_them() -> None:
    face = plain((0, 0, 255))
    face[:, 58:66, 30:40] = face[:, 58:66, 60:70] = np.array((222, 184, 135))[:, None, None]
    alone = ita(face)
    assert alone == pytest.approx(42.0, abs=0.2)
    face[:, 58:66, 60:64] = 0
    assert ita(face) == pytest.approx(alone)


def test_every_face_has_the_group_of_its_own_pixels_whatever_the_size(tmp_path: Path) -> None:
    paths = []
    for number, (_, rgb, *_) in enumerate(COLOURS):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], plain(rgb, 64))
    groups = [row[-1] for row in COLOURS]
    assert tones(Pixels(paths), [3, 0, 5], SEEN) == [groups[3], groups[0], groups[5]]
    assert tones(Pixels(paths), [], SEEN) == []


def test_no_tone_is_measured_where_a_look_sees_only_a_part_of_the_face(tmp_path: Path) -> None:
    np.save(tmp_path / "face.npy", plain(COLOURS[0][1], 64))
    part = SEEN.model_copy(update={"crop": (0.25, 0.25, 0.75, 0.75)})
    assert tones(Pixels([tmp_path / "face.npy"]), [0], part) == [""]
