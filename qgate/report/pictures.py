"""Faces as small pictures: thumbnails and heat maps for the page, contact sheets for MLflow."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from qgate.gate.heat_picture import paint

FORMATS = ("PNG", "JPEG", "WEBP")
PAPER, INK = (255, 255, 255), (60, 60, 67)
GAP, CAPTION = 12, 24
"""Pixels between the tiles of a contact sheet, and for the line under each."""


def thumbnail(path: Path, size: int) -> Image.Image | None:
    """The picture as RGB, cropped to a square of `size` pixels; None where the file is gone or cannot be read."""
    image = _read(path, size)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS) if image else None


def data_uri(path: Path, size: int) -> str | None:
    """The picture as a JPEG data URI of `size` x `size` pixels; None where it cannot be read."""
    image = thumbnail(path, size)
    return _as_uri(image) if image else None


def heat_uri(path: Path, size: int, explain: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> str | None:
    """The picture with its heat map over it as a JPEG data URI of `size` x `size` pixels; None where it cannot be read.

    explain: RGB pixels (H, W, 3) -> heat (h, w), 0..1.
    """
    image = _read(path)
    if image is None:
        return None
    return _as_uri(paint(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS), explain(np.asarray(image))))


def contact_sheet(tiles: Sequence[tuple[Path, str]], columns: int = 6, size: int = 192) -> Image.Image:
    """Pictures in a grid, each with a line of text under it.

    tiles: (image file, caption); a file that cannot be read leaves an empty tile with its caption.
    columns: tiles in a row.
    size: edge of a tile, pixels.
    """
    rows = max(-(-len(tiles) // columns), 1)
    width, height = size + GAP, size + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for index, (path, caption) in enumerate(tiles):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        image = thumbnail(path, size)
        if image is None:
            draw.rectangle((left, top, left + size - 1, top + size - 1), outline=INK)
        else:
            sheet.paste(image, (left, top))
        draw.text((left + size // 2, top + size + 4), caption, fill=INK, font=font, anchor="ma")
    return sheet


def _read(path: Path, size: int | None = None) -> Image.Image | None:
    """The picture as RGB; with `size` only as large as a thumbnail of that size needs."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if size is not None:
                image.draft("RGB", (size, size))
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _as_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
