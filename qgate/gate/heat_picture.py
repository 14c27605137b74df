"""Heat maps as pictures: over a face, and beside the plain face with what the gate says."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 512
"""Edge of each of the two faces of an explanation, pixels."""

MARGIN, LINE = 24, 26
PAPER, INK, SOFT = (251, 251, 249), (38, 38, 43), (106, 106, 115)

OPAQUE = 0.8
"""How much of the face the strongest heat covers."""

FLOOR = 0.08
"""Heat below this share of full heat is not painted, so that a clean face stays a plain face."""


def paint(face: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The middle square of a face in faint colours with its heat over it: dark red is little, light yellow is much.

    face: RGB, of any size; heat: (h, w), 0..1, over that square.
    Returns a square of the face's shorter side.
    """
    side = min(face.size)
    ground = ImageOps.fit(face, (side, side))
    grey = ImageOps.grayscale(ground).convert("RGB")
    ground = Image.blend(ground, grey, 0.7)
    soft = Image.fromarray(heat).resize((side, side), Image.Resampling.BICUBIC)
    strength = np.clip((np.asarray(soft) - FLOOR) / (1 - FLOOR), 0, 1)
    # Half of the colour map's dark end is left out: black heat would read as shadow.
    colours = _palette()[(64 + 191 * strength).round().astype(np.uint8)]
    alpha = Image.fromarray((255 * OPAQUE * np.sqrt(strength)).round().astype(np.uint8))
    return Image.composite(Image.fromarray(colours), ground, alpha)


def explain_picture(face: Image.Image, heat: NDArray[np.float32], title: str, lines: Sequence[str]) -> Image.Image:
    """The plain face, beside it the face with its heat, below them a title and lines of text."""
    plain = ImageOps.fit(face, (SIDE, SIDE), Image.Resampling.LANCZOS)
    width, text = 2 * SIDE + 3 * MARGIN, MARGIN + LINE * (1 + len(lines))
    sheet = Image.new("RGB", (width, SIDE + 2 * MARGIN + text), PAPER)
    sheet.paste(plain, (MARGIN, MARGIN))
    sheet.paste(paint(plain, heat), (SIDE + 2 * MARGIN, MARGIN))
    draw, top = ImageDraw.Draw(sheet), SIDE + 2 * MARGIN
    draw.text((MARGIN, top - 4), title, fill=INK, font=ImageFont.load_default(size=22))
    for row, line in enumerate(lines):
        draw.text((MARGIN, top + LINE * (row + 1)), line, fill=SOFT, font=ImageFont.load_default(size=17))
    return sheet


@functools.cache
def _palette() -> NDArray[np.uint8]:
    """(256, 3); dark to light at even steps for the eye. Source: inferno, Smith and van der Walt, SciPy 2015."""
    import matplotlib

    table: NDArray[np.uint8] = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    return table
