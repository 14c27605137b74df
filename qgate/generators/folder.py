"""`folder:PATH`: the candidates are image files that exist, in the order of their paths; seed i is the i-th file.

A picture that is framed otherwise than aligned face sets are is cut around its face first, and judged and written so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from qgate.align import WHEEL, FaceFinder
from qgate.errors import ImageError
from qgate.generators.base import Drawn, GeneratorInfo
from qgate.images import check_image, list_images, read_image
from qgate.records import NO_FACE
from qgate.seeds import check_seed

LICENSE = "the terms of the judged images, which qgate does not know"


class FolderGenerator:
    """Judges images that exist, any generator's."""

    def __init__(self, folder: Path, align: bool = True) -> None:
        """align: cut faces out of pictures that are framed otherwise, and reject those without a face.

        Raises ImageError where the folder holds no images or a file that only pretends to be one.
        Raises WeightsError where the face finder cannot be fetched.
        """
        self._finder = FaceFinder() if align else None
        self._root, self._paths = folder, list_images(folder)
        listing = hashlib.sha256()
        for path in self._paths:
            if not str(path).isprintable():
                raise ImageError(f"{str(path)!r}: the name has characters that cannot be printed; rename the file")
            check_image(path)
            stat = path.stat()
            listing.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        if align:
            listing.update(f"aligned {WHEEL.sha256}".encode())
        self.info = GeneratorInfo(
            name=f"folder:{folder.name}",
            digest=listing.hexdigest(),
            resolution=None,
            license=LICENSE,
            synthetic=False,
            length=len(self._paths),
        )

    def draw(self, seeds: Sequence[int]) -> Drawn:
        images: list[Tensor | None] = []
        faults: list[str | None] = []
        for seed in seeds:
            try:
                image = read_image(self._paths[check_seed(seed)])
            except ImageError as error:
                images.append(None)
                faults.append(str(error))
                continue
            images.append(self._finder.align(image) if self._finder is not None else image)
            faults.append(None if images[-1] is not None else NO_FACE)
        return Drawn(images, faults, [str(self._paths[seed].relative_to(self._root)) for seed in seeds])
