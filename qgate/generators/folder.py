"""`folder:PATH`: the candidates are image files that exist, in the order of their paths; seed i is the i-th file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from qgate.errors import ImageError
from qgate.generators.base import Drawn, GeneratorInfo
from qgate.images import check_image, list_images, read_image
from qgate.seeds import check_seed

LICENSE = "the terms of the judged images, which qgate does not know"


class FolderGenerator:
    """Judges images that exist, any generator's."""

    def __init__(self, folder: Path) -> None:
        """Raises ImageError where the folder holds no images or a file that only pretends to be one."""
        self._root, self._paths = folder, list_images(folder)
        listing = hashlib.sha256()
        for path in self._paths:
            if not str(path).isprintable():
                raise ImageError(f"{str(path)!r}: the name has characters that cannot be printed; rename the file")
            check_image(path)
            stat = path.stat()
            listing.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
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
                images.append(read_image(self._paths[check_seed(seed)]))
                faults.append(None)
            except ImageError as error:
                images.append(None)
                faults.append(str(error))
        return Drawn(images, faults, [str(self._paths[seed].relative_to(self._root)) for seed in seeds])
