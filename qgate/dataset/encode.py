"""uint8 pixels -> the bytes of an image file, the same bytes each time. Knows nothing of runs or folders."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from qgate.errors import OutputError
from qgate.files import free_bytes

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}

BYTES_PER_PIXEL = {"png": 1.5, "jpeg": 0.5, "webp": 0.5}
"""For the estimate of disk space. Source: measured for png, 1.5 MB for a face of 1024x1024 by the default generator;
a cautious guess for jpeg and webp of quality 95, which take less."""

PNG_LEVEL = 1
"""zlib level of PNG files: higher ones take several times as long for a few percent."""

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""The mark of media made by a trained model. Source: IPTC NewsCodes, Digital Source Type."""

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    f' Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"'
    ' xmp:CreatorTool="qgate"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """How accepted images are stored.

    format: png (lossless), jpeg or webp.
    quality: 1..100, of jpeg and webp.
    resolution: pixels of the longer side after area resampling; None: as drawn.
    synthetic: the files carry the IPTC mark of AI-made media; False for images from a folder, which may be photographs.
    """

    format: str = "png"
    quality: int = 95
    resolution: int | None = None
    synthetic: bool = True

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.format]

    @property
    def keeps_pixels(self) -> bool:
        """Whether the stored pixels are the judged ones."""
        return self.format == "png" and self.resolution is None


def encode(image: NDArray[np.uint8], style: ImageFormat) -> bytes:
    """The file's bytes for one image (H, W, 3), equal for equal pixels.

    Raises ValueError where the image is no uint8 RGB or smaller than `style.resolution`.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 (H, W, 3), this one is {image.dtype} {image.shape}")
    picture = Image.fromarray(np.ascontiguousarray(image))
    if style.resolution is not None:
        picture = _shrink(picture, style.resolution)
    options: dict[str, Any] = {}
    if style.format == "png":
        options["compress_level"] = PNG_LEVEL
        if style.synthetic:
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP)
    else:
        options["quality"] = style.quality
        if style.synthetic:
            options["xmp"] = XMP.encode()
    buffer = io.BytesIO()
    picture.save(buffer, style.format, **options)
    return buffer.getvalue()


def check_space(root: Path, faces: int, resolution: int, style: ImageFormat) -> None:
    """Raise OutputError where `faces` images of `resolution` pixels a side would not fit on the disk of `root`."""
    pixels = (style.resolution or resolution) ** 2
    needed, free = faces * pixels * BYTES_PER_PIXEL[style.format], free_bytes(root)
    if needed > free:
        raise OutputError(
            f"{root}: {faces} faces need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room, give another --output, or take a smaller --count, --resolution or --format jpeg"
        )


def _shrink(picture: Image.Image, resolution: int) -> Image.Image:
    longest = max(picture.size)
    if longest < resolution:
        raise ValueError(f"an image of {picture.size[0]}x{picture.size[1]} cannot be resampled up to {resolution}")
    width, height = (max(1, round(side * resolution / longest)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)
