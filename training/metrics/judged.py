"""Labelled faces and what a gate says of them, side by side: what every figure is made from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from qgate.errors import QgateError
from qgate.gate.classifier import Gate
from qgate.records import REGIONS
from training.data.pixels import Say, Views
from training.data.sources import TIE, Sample
from training.data.tables import Contents
from training.data.targets import Bools, Floats
from training.metrics.metrics import both_kinds

AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Judged:
    """Faces of which the votes decide, and their scores; rows in one order throughout.

    rows: their positions among all samples.
    clean: bool (n,), what most votes say. severity: (n,), mean of the votes, 0..3.
    several: bool (n,), whether two or more annotators voted. agreed: and all the same of artifact or not.
    regions: bool (n, regions), named by at least half of the votes.
    prob: (n,), clean_prob 0..1, higher is better.
    psi: (n,), NaN for image files. source: where each was labelled.
    contents: what is known to be in each picture; None where nobody looked.
    tones: of the skin, see `metrics.tone`; "" where they were not measured.
    """

    rows: list[int]
    clean: Bools
    severity: Floats
    several: Bools
    agreed: Bools
    regions: Bools
    prob: Floats
    psi: Floats
    source: list[str]
    contents: list[frozenset[str] | None]
    tones: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, positions: Sequence[int]) -> Judged:
        """Some of the faces."""
        picked = {f.name: _pick(getattr(self, f.name), positions) for f in fields(self)}
        return Judged(**picked)

    @property
    def both_kinds(self) -> bool:
        return both_kinds(self.clean)


def join(
    samples: Sequence[Sample],
    rows: Sequence[int],
    prob: Floats,
    contents: Contents,
    tones: Sequence[str] | None = None,
) -> Judged:
    """Scores beside labels. rows: without ties, see `decided`; prob, tones: (rows,)."""
    faces = [samples[row] for row in rows]
    several = np.array([len({vote.annotator for vote in face.votes}) > 1 for face in faces], bool)
    return Judged(
        rows=list(rows),
        clean=np.array([face.clean_votes > TIE for face in faces], bool),
        severity=np.array([np.mean([vote.severity for vote in face.votes]) for face in faces], float),
        several=several,
        agreed=several & np.array([face.clean_votes in (0.0, 1.0) for face in faces], bool),
        regions=np.array([_named(face) for face in faces], bool).reshape(-1, len(REGIONS)),
        prob=prob,
        psi=np.array([np.nan if face.face.file_name else face.face.psi for face in faces], float),
        source=[face.source for face in faces],
        contents=[contents.get(face.face) for face in faces],
        tones=list(tones) if tones is not None else [""] * len(faces),
    )


def score(gate: Gate, views: Views, rows: Sequence[int], say: Say, mirrored: bool = False) -> Floats:
    """clean_prob of faces, or of their mirror images, as the gate judges them, (n,).

    views: what each of its looks sees.
    """
    probs: list[float] = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        shown = [torch.from_numpy(pixels[part]) for pixels in views]
        for found in gate.score_views([x.flip(3) for x in shown] if mirrored else shown):
            if found.clean_prob is None:
                raise QgateError(f"a face could not be judged ({found.fault}): the training went wrong")
            probs.append(found.clean_prob)
        say(f"judging {len(probs)} of {len(rows)} faces", done=len(probs), total=len(rows))
    return np.array(probs)


def look_logits(gate: Gate, views: Views, rows: Sequence[int], say: Say) -> Floats:
    """Logits of every look, asked or not, (n, looks, 1 + regions)."""
    parts: list[Floats] = []
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        parts.append(gate.look_logits([torch.from_numpy(pixels[part]) for pixels in views]))
        say(f"judging {start + len(part)} of {len(rows)} faces", done=start + len(part), total=len(rows))
    return np.concatenate(parts)


def _pick(values: Any, positions: Sequence[int]) -> Any:
    return [values[row] for row in positions] if isinstance(values, list) else values[list(positions)]


def _named(sample: Sample) -> list[bool]:
    named: list[Collection[str]] = [vote.regions for vote in sample.votes]
    return [2 * sum(region in regions for regions in named) >= len(named) for region in REGIONS]
