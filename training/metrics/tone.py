"""How light the skin of aligned faces is drawn, by the individual typology angle of both cheeks.

The angle depends on the light as much as on the skin; it groups pictures, coarsely, to see whether a gate treats them
alike, and says nothing of persons.

Source: Chardon, Cretois and Hourseau, International Journal of Cosmetic Science (1991).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qgate.gate.preprocess import WHOLE, Preprocessing
from training.data.pixels import Pixels
from training.data.targets import Floats

CHEEKS = ((0.30, 0.58, 0.40, 0.66), (0.60, 0.58, 0.70, 0.66))
"""Left, top, right, bottom of both cheeks in an aligned face, as shares of the side."""

TONES = (
    (55.0, "very light"),
    (41.0, "light"),
    (28.0, "intermediate"),
    (10.0, "tan"),
    (-30.0, "brown"),
    (-np.inf, "dark"),
)
"""Least angle in degrees of each group, and its name in the literature. Source: Del Bino and Bernerd (2013)."""


TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([[0.95047], [1.0], [1.08883]])


def tones(pixels: Pixels, rows: Sequence[int], look: Preprocessing) -> list[str]:
    """The group of each face; "" where the look sees only a part of aligned faces. pixels: as the look sees them."""
    if look.crop != WHOLE:
        return [""] * len(rows)
    angles = [ita(pixels[[row]][0]) for row in rows]
    return [next(name for least, name in TONES if angle >= least) for angle in angles]


def ita(face: NDArray[np.uint8]) -> float:
    """Individual typology angle of the median colour of the cheeks, degrees, higher is lighter. face: RGB (3, S, S)."""
    side = face.shape[-1]
    edges = [[round(edge * side) for edge in cheek] for cheek in CHEEKS]
    cheeks = [face[:, top:bottom, left:right].reshape(3, -1) for left, top, right, bottom in edges]
    lightness, _, yellow = np.median(to_lab(np.concatenate(cheeks, 1)), 1)
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def to_lab(rgb: NDArray[np.uint8]) -> Floats:
    """sRGB (3, n) -> CIE L*a*b* (3, n), white D65. Source: IEC 61966-2-1 and CIE 15."""
    x = rgb / 255.0
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ linear / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
