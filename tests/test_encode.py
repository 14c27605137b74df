from __future__ import annotations

import io
from collections import namedtuple
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from qgate.dataset.encode import ImageFormat, check_space, encode
from qgate.errors import OutputError
from tests.dataset_driver import face

MARK = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_png_keeps_every_pixel() -> None:
    assert np.array_equal(decode(encode(face(1), ImageFormat())), face(1))


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_the_same_pixels_give_the_same_bytes(name: str) -> None:
    assert encode(face(1), ImageFormat(name)) == encode(face(1), ImageFormat(name))
    assert Image.open(io.BytesIO(encode(face(1), ImageFormat(name)))).format == name.upper()


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_drawn_faces_carry_the_mark_of_made_media_and_files_of_a_folder_do_not(name: str) -> None:
    marked = encode(face(1), ImageFormat(name))
    assert MARK in marked
    assert b'xmp:CreatorTool="qgate"' in marked
    assert MARK not in encode(face(1), ImageFormat(name, synthetic=False))


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_the_mark_is_well_formed_xmp_where_readers_look_for_it(name: str) -> None:
    packet = Image.open(io.BytesIO(encode(face(1), ImageFormat(name)))).info["xmp"]
    (description,) = ElementTree.fromstring(packet)[0]
    assert description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"] == MARK.decode()


def test_resampling_takes_the_mean_of_each_area() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = [[[0] * 3, [40] * 3], [[80] * 3, [120] * 3]]
    assert decode(encode(image, ImageFormat(resolution=2)))[..., 0].tolist() == [[60, 0], [0, 0]]


def test_the_longer_side_gets_the_resolution() -> None:
    assert decode(encode(np.zeros((8, 16, 3), np.uint8), ImageFormat(resolution=4))).shape == (2, 4, 3)


def test_an_image_is_never_enlarged() -> None:
    with pytest.raises(ValueError, match="an image of 16x16 cannot be resampled up to 32"):
        encode(face(1), ImageFormat(resolution=32))


def test_only_uint8_rgb_is_encoded() -> None:
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), this one is float64"):
        encode(np.zeros((4, 4, 3)), ImageFormat())  # type: ignore[arg-type]


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**10, 9 * 10**9, 10**9))
    check_space(tmp_path / "new" / "run", 600, 1024, ImageFormat())
    with pytest.raises(OutputError, match=r"1000 faces need about 1\.6 GB and 1\.0 GB are free"):
        check_space(tmp_path / "new" / "run", 1000, 1024, ImageFormat())
    check_space(tmp_path / "new" / "run", 1000, 1024, ImageFormat(resolution=256))
