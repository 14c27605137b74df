"""What half precision does to faces and verdicts: the gate's test faces drawn in fp32 and in bf16, both scored.

    python tests/benchmarks/precision.py [--config configs/train.yaml]

Takes some minutes on 2 cores. The faces are those of the test split, which neither training nor calibration saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from qgate.config import GeneratorSettings
from qgate.gate.open import load_gate
from qgate.generators import open_generator
from qgate.labels.rows import gather_votes
from training.config import find, load_train_config
from training.data.sources import read_source
from training.data.split import Split, split_rows

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/train.yaml"))
    config = load_train_config(parser.parse_args().config)
    source = config.sources[0]
    faces = sorted(gather_votes(read_source(find(source.path), config.generators)))
    identities = [str(face.seed) for face in faces]
    test = [faces[row] for row in split_rows(identities, config.splits, [source.use] * len(faces))[Split.TEST]]
    gate = load_gate()

    probs: dict[str, list[float]] = {"fp32": [], "bf16": []}
    levels = []
    for psi in sorted({face.psi for face in test}):
        seeds = [face.seed for face in test if face.psi == psi]
        fp32, bf16 = (
            open_generator(GeneratorSettings(truncation_psi=psi, precision=precision), torch.device("cpu"))
            for precision in ("fp32", "bf16")
        )
        for start in range(0, len(seeds), BATCH):
            drawn = {name: g.draw(seeds[start : start + BATCH]).images for name, g in (("fp32", fp32), ("bf16", bf16))}
            images = {name: torch.stack([i for i in batch if i is not None]) for name, batch in drawn.items()}
            levels.append((images["fp32"].int() - images["bf16"].int()).abs().float().mean((1, 2, 3)))
            for name, batch in images.items():
                probs[name] += [score.clean_prob or 0.0 for score in gate.score(batch)]

    a, b = np.array(probs["fp32"]), np.array(probs["bf16"])
    print(f"{len(a)} faces: pixels differ by {torch.cat(levels).mean():.2f} of 255 on average")
    print(f"clean_prob differs by {np.abs(a - b).mean():.4f} on average, {np.abs(a - b).max():.3f} at most")
    for threshold in (0.5, 0.8, 0.9, 0.95):
        print(f"at threshold {threshold} {((a >= threshold) != (b >= threshold)).mean():.1%} of the verdicts differ")


if __name__ == "__main__":
    main()
