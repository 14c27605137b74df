"""Image files -> uint8 RGB tensors, with suspicion: only PNG, JPEG and WebP, bounded in size."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from qgate.errors import ImageError

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MIN_SIDE = 64
MAX_PIXELS = 64_000_000


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder by suffix, sorted by path; ImageError where there are none."""
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder; give a folder of PNG, JPEG or WebP images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ImageError(f"{folder}: holds no PNG, JPEG or WebP image")
    return paths


def check_image(path: Path) -> None:
    """Raise ImageError unless the file's header is that of an image we judge; reads no pixels."""
    with _open(path):
        pass


def read_image(path: str | Path) -> Tensor:
    """The file as uint8 RGB (3, H, W), upright as its EXIF says; ImageError where it is damaged or no image."""
    with _open(Path(path)) as image:
        try:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"{path}: damaged image ({error}); replace or remove it") from error
    return as_tensor(np.asarray(upright))


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """RGB (H, W, 3), read-only or not -> uint8 (3, H, W)."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: has too many pixels; at most {MAX_PIXELS // 10**6} megapixels are judged") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: no PNG, JPEG or WebP image; remove it or convert it") from error
    if min(image.size) < MIN_SIDE or image.size[0] * image.size[1] > MAX_PIXELS:
        image.close()
        raise ImageError(
            f"{path}: is {image.size[0]}x{image.size[1]}; images of {MIN_SIDE}x{MIN_SIDE} to "
            f"{MAX_PIXELS // 10**6} megapixels are judged"
        )
    return image
