"""Labels that are probably wrong, as a list to look at again.

Source: confident learning, Northcutt, Jiang and Chuang (JAIR 2021), as cleanlab does it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qgate.labels.rows import DRAWN_COLUMNS, FILE_COLUMNS
from training.data.sources import Sample
from training.metrics.judged import Judged


def find_suspects(judged: Judged) -> list[int]:
    """Positions in `judged` of faces whose label the scores contradict, the least credible first.

    The scores should be of a gate that did not learn from these faces.
    """
    from cleanlab.filter import find_label_issues

    if not judged.both_kinds:
        return []
    probs = np.stack([1 - judged.prob, judged.prob], axis=1)
    found = find_label_issues(
        judged.clean.astype(int), probs, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    return [int(row) for row in found]


def write_suspects(folder: Path, samples: Sequence[Sample], judged: Judged, found: Sequence[int]) -> list[Path]:
    """Their votes as label rows with a column `clean_prob`: suspects.csv of drawn faces, suspects-files.csv of files.

    Both are label files, which `qgate labels import` and `qgate train` take. Returns the files written.
    """
    tables: dict[str, list[list[str]]] = {"suspects.csv": [], "suspects-files.csv": []}
    for position in found:
        sample, prob = samples[judged.rows[position]], f"{judged.prob[position]:.5f}"
        for vote in dict.fromkeys(sample.votes):
            rest = [str(vote.severity), ";".join(vote.regions), vote.annotator, prob]
            face = sample.face
            if face.file_name:
                tables["suspects-files.csv"].append([os.path.relpath(face.file_name, folder), *rest])
            else:
                tables["suspects.csv"].append([face.generator, str(face.seed), str(face.psi), *rest])
    written = []
    for (name, rows), columns in zip(tables.items(), (DRAWN_COLUMNS, FILE_COLUMNS), strict=True):
        if rows or columns is DRAWN_COLUMNS:
            written.append(folder / name)
            with written[-1].open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([[*columns, "clean_prob"], *rows])
    return written
