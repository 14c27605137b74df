"""What half precision does to faces and verdicts: the gate's test faces drawn, and judged, in fp32 and in bf16.

    python tests/benchmarks/precision.py [--config configs/train.yaml] [--faces 500]

Takes some minutes on 2 cores. The faces are those of the test split, which neither training nor calibration saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from qgate.config import GeneratorSettings
from qgate.gate.classifier import Gate
from qgate.gate.open import open_bundle
from qgate.generators import open_generator
from qgate.labels.rows import gather_votes
from training.config import find, load_train_config
from training.data.sources import read_source
from training.data.split import Split, split_rows

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/train.yaml"))
    parser.add_argument("--faces", type=int, default=500)
    options = parser.parse_args()
    config = load_train_config(options.config)
    source = config.sources[0]
    faces = sorted(gather_votes(read_source(find(source.path), config.generators)))
    identities = [str(face.seed) for face in faces]
    test = [faces[row] for row in split_rows(identities, config.splits, [source.use] * len(faces))[Split.TEST]]
    bundle = open_bundle("default")
    gates = {precision: Gate(bundle, "cpu", precision) for precision in ("fp32", "bf16")}
    generators = {
        precision: open_generator(GeneratorSettings(precision=precision), torch.device("cpu")) for precision in gates
    }
    probs: dict[tuple[str, str], list[float]] = {("fp32", "fp32"): [], ("bf16", "fp32"): [], ("fp32", "bf16"): []}
    levels = []
    seeds = [face.seed for face in test if face.psi == 1.0][: options.faces]
    for start in range(0, len(seeds), BATCH):
        drawn = {name: generator.draw(seeds[start : start + BATCH]).images for name, generator in generators.items()}
        images = {name: torch.stack([i for i in batch if i is not None]) for name, batch in drawn.items()}
        levels.append((images["fp32"].int() - images["bf16"].int()).abs().float().mean((1, 2, 3)))
        for (drawing, judging), found in probs.items():
            found += [score.clean_prob or 0.0 for score in gates[judging].score(images[drawing])]

    print(f"{len(seeds)} faces: drawn in bf16 the pixels differ by {torch.cat(levels).mean():.2f} of 255 on average")
    exact = np.array(probs["fp32", "fp32"])
    for what, key in (("drawn in bf16", ("bf16", "fp32")), ("judged in bf16", ("fp32", "bf16"))):
        other = np.array(probs[key])
        moved = np.abs(exact - other)
        print(f"{what}: clean_prob differs by {moved.mean():.4f} on average, {moved.max():.3f} at most")
        for threshold in (0.5, 0.75, 0.9):
            share = ((exact >= threshold) != (other >= threshold)).mean()
            print(f"  at threshold {threshold} {share:.1%} of the verdicts differ")


if __name__ == "__main__":
    main()
