"""`qgate teach`: what several gates say together of faces, labelled or not, so that one gate can learn it.

A network that learns the mean of several others comes near to it at the cost of one, and faces that nobody labelled
teach as well. Source: Hinton, Vinyals and Dean, arXiv 1503.02531.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from scipy.special import expit

from qgate.errors import ConfigError
from qgate.files import replacing
from qgate.gate.classifier import Gate
from qgate.gate.open import open_bundle
from qgate.labels.rows import Face
from qgate.runtime.executor import pick_device
from qgate.seeds import parse_seeds
from training.config import SHIPPED_GENERATORS
from training.data.pixels import Pixels, Say, draw_faces
from training.data.tables import FACE_COLUMNS, read_table
from training.data.taught import SAID, Taught
from training.metrics.judged import score
from training.metrics.metrics import to_logits


def taught_faces(tables: Sequence[Path], seeds: str | None, generator: str, truncations: Sequence[float]) -> list[Face]:
    """Faces of CSV files that begin with generator,seed,psi, and of seeds, whose truncations are taken in turn."""
    faces = [face for table in tables for face, _, _ in read_table(table, "faces", SHIPPED_GENERATORS, None)]
    if seeds is not None:
        walk = (seed for low, high in parse_seeds(seeds) for seed in range(low, high + 1))
        faces += [Face(generator, seed, psi) for seed, psi in zip(walk, cycle(truncations), strict=False)]
    if not faces:
        raise ConfigError("teach: no faces; name some with --faces or --seeds")
    return faces


def teach_faces(gates: Sequence[str], faces: Iterable[Face], device: str, say: Say) -> Taught:
    """What the gates, as `--gate` takes them, say together, as a probability.

    It is the mean of their calibrated log odds over each face and its mirror image.
    """
    bundles = [open_bundle(gate) for gate in gates]
    asked = sorted(set(faces))
    logits = np.zeros(len(asked))
    for bundle in bundles:
        looks = [look.preprocessing for look in bundle.card.looks]
        views = tuple(map(Pixels, draw_faces(asked, looks, pick_device(device), say)))
        gate = Gate(bundle, device)
        for mirrored in (False, True):
            logits += to_logits(score(gate, views, range(len(asked)), say, mirrored)) / (2 * len(bundles))
    return dict(zip(asked, expit(logits).tolist(), strict=True))


def write_taught(path: Path, taught: Taught) -> None:
    """The rows sorted by face; a file that was there is replaced at once, by the whole new one."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*FACE_COLUMNS, SAID])
    for face, prob in sorted(taught.items()):
        writer.writerow([face.generator, face.seed, face.psi, f"{prob:.4f}"])
    with replacing(path) as file:
        file.write(sink.getvalue().encode())
