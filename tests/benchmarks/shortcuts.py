"""What size, sharpness and JPEG history do to clean_prob: the same faces as drawn or taken, re-encoded and resized.

    python tests/benchmarks/shortcuts.py [FOLDER ...] [--gate GATE] [--faces 100]

FOLDER: pictures of faces, for example photographs; a sample of each is taken. Drawn faces of the default generator are
always looked at. Of each way to change a file it prints by how much clean_prob moves on average, up or down (a shortcut
would show there), and without its sign (which every small change of pixels shows).
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from qgate.config import GeneratorSettings
from qgate.gate.classifier import Gate
from qgate.gate.open import load_gate
from qgate.generators import open_generator
from qgate.images import as_tensor, list_images, read_image

FIRST_SEED = 9_500_000


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def resized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize([round(side * share) for side in image.size], Image.Resampling.LANCZOS)


CHANGES = {
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "3/4 of the size": resized(0.75),
    "1/2 of the size": resized(0.5),
    "1/2 of the size, JPEG 75": lambda image: jpeg(75)(resized(0.5)(image)),
    "twice the size": resized(2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--gate", default="default")
    parser.add_argument("--faces", type=int, default=100)
    options = parser.parse_args()
    gate = load_gate(options.gate, "cpu")
    drawn = open_generator(GeneratorSettings(), torch.device("cpu"))
    images = drawn.draw(range(FIRST_SEED, FIRST_SEED + options.faces)).images
    report("drawn faces", [image for image in images if image is not None], gate)
    for folder in options.folders:
        files = list_images(folder)
        picked = random.Random(0).sample(files, min(options.faces, len(files)))
        report(folder.name, [read_image(file) for file in picked], gate)


def report(name: str, images: Sequence[torch.Tensor], gate: Gate) -> None:
    before = probs(gate, images)
    print(f"{name}: {len(images)} faces, clean_prob {before.mean():.3f} on average")
    for what, change in CHANGES.items():
        changed = [change(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())) for image in images]
        moved = probs(gate, [as_tensor(np.asarray(image.convert("RGB"))) for image in changed]) - before
        print(f"  {what:26} {moved.mean():+.3f}, without sign {np.abs(moved).mean():.3f}")


def probs(gate: Gate, images: Sequence[torch.Tensor]) -> np.ndarray:
    return np.array([score.clean_prob or 0.0 for image in images for score in gate.score([image])])


if __name__ == "__main__":
    main()
