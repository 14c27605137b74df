"""How a gate treats photographs: the share that passes where the drawn test faces reach a purity of 90, 95 and 98 %.

    python tests/benchmarks/photographs.py FOLDER [--gate GATE] [--config configs/train.yaml]

FOLDER: photographs of faces, aligned and cropped to squares as those of FFHQ; none comes with qgate. All of them are
clean, so what does not pass is rejected wrongly. Draws the test faces of the recipe once (a minute or two).

100 photographs from repositories that were fetched for this measurement alone (portraits, few with a hat or a hand; no
training saw them), and the clean ones of 496 test faces, at a purity of 90 / 95 / 98 %:

    gate                          photographs       clean faces
    base-gate (the first step)    78 / 67 / 58 %    95 / 88 / 82 %
    the gate before (both steps)  76 / 68 / 58 %    95 / 86 / 75 %
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from qgate.gate.bundle import read_bundle
from qgate.gate.classifier import Gate
from qgate.images import list_images, read_image
from training.config import load_train_config
from training.data.sources import read_sources
from training.evaluate import unseen
from training.metrics.judged import TIE, decided, score
from training.metrics.metrics import purity_threshold

PURITIES = (0.90, 0.95, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gate", type=Path, default=Path("qgate/gates/default"))
    parser.add_argument("--config", type=Path, default=Path("configs/train.yaml"))
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.gate)
    gate = Gate(bundle, "cpu")
    photographs = list_images(arguments.folder)
    found = [gate.score([read_image(file)])[0].clean_prob or 0.0 for file in photographs]

    config = load_train_config(arguments.config)
    labels = read_sources(config, quiet)
    labels = labels.part(decided(labels.samples, unseen(labels, [bundle])))
    clean = np.array([sample.clean_votes > TIE for sample in labels.samples])
    pixels = labels.pixels(bundle.card.preprocessing, torch.device("cpu"), quiet)
    probs = score(gate, pixels, range(len(clean)), quiet)

    print(f"{len(found)} photographs; {len(clean)} drawn test faces, {clean.sum()} of them clean")
    for purity in PURITIES:
        threshold = purity_threshold(clean, probs, purity)
        if threshold is None:
            print(f"purity {purity:.0%}: no threshold reaches it")
            continue
        passed, kept = np.mean(np.array(found) >= threshold), np.mean(probs[clean] >= threshold)
        print(
            f"purity {purity:.0%}, threshold {threshold:.3f}: {passed:.1%} of the photographs and {kept:.1%} of the "
            "clean faces pass"
        )


def quiet(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
    """Takes progress and shows none."""


if __name__ == "__main__":
    main()
