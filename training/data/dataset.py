"""All that a training learns from and is judged by: read once, then one frozen value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from qgate.errors import LabelError
from qgate.gate.bundle import GateCard
from qgate.gate.lineage import TaughtFacts
from qgate.gate.preprocess import Preprocessing
from qgate.labels.rows import Face
from training.config import TaughtSettings, TrainConfig, find
from training.data.lineage import learned_identities, taught_facts
from training.data.pixels import Pixels, Say, Views, draw_faces
from training.data.sources import LabelSet, Sample, decided, is_shipped, read_sources
from training.data.split import JUDGING, Split, split_rows
from training.data.tables import Contents, contents_of
from training.data.targets import Bools, Floats, Targets, make_targets
from training.data.taught import read_taught


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Faces, what each is for, and what is to be said of each.

    rows: positions of the labelled faces of each split.
    taught: faces without votes, of which other gates said something; facts of that in `taught_facts`.
    targets: rows in the order of the labelled faces, then of `taught`.
    contents: what is known to be in the pictures.
    """

    labels: LabelSet
    rows: Mapping[Split, list[int]]
    taught: tuple[Face, ...]
    taught_facts: TaughtFacts | None
    targets: Targets
    contents: Contents

    @property
    def samples(self) -> list[Sample]:
        """The labelled faces."""
        return self.labels.samples

    @property
    def judging(self) -> list[int]:
        """Rows of all labelled faces from which nothing is learned."""
        return sorted(row for split, rows in self.rows.items() if split is not Split.TRAIN for row in rows)

    @property
    def taught_rows(self) -> range:
        """Rows of the faces without votes, among targets and views."""
        return range(len(self.samples), len(self.samples) + len(self.taught))

    def decided(self, rows: Sequence[int]) -> tuple[Bools, list[int]]:
        """Whether clean, and the rows, of those faces whose votes are no tie."""
        kept = decided(self.samples, rows)
        return self.targets.clean_votes[kept] > 0.5, kept

    def doubted(self, rows: Sequence[int], weight: float) -> TrainingData:
        """The same, where these faces, whose label is probably wrong, count less in what is fitted."""
        return replace(self, targets=self.targets.doubted(rows, weight))

    def is_shipped(self, row: int) -> bool:
        """Whether a face comes from the labels that come with qgate."""
        return is_shipped(self.samples[row].source)

    def views(self, looks: Sequence[Preprocessing], device: torch.device, say: Say) -> Views:
        """What each look sees of the labelled faces, and of those without votes after them, cached or made now."""
        labelled = self.labels.views(looks, device, say)
        taught = draw_faces(self.taught, looks, device, say)
        return tuple(Pixels(pixels.paths + more) for pixels, more in zip(labelled, taught, strict=True))


def read_data(config: TrainConfig, first: GateCard | None, say: Say) -> TrainingData:
    """Read labels, image files and what other gates said.

    first: of the gate that the training starts from; from what taught it this training learns only, too.
    Raises LabelError, also where a split lacks clean faces or artifacts.
    """
    contents = contents_of(config)
    labels = read_sources(config, say)
    labels = labels.learned(learned_identities(first, labels.samples) if first is not None else set())
    samples = labels.samples
    shown = [contents.get(sample.face) for sample in samples]
    targets = make_targets([s.votes for s in samples], [s.trust for s in samples], shown, config.targets)
    rows = split_rows([s.identity for s in samples], config.splits, [s.use for s in samples])
    data = TrainingData(labels, rows, (), None, targets, contents)
    _check_splits(data)
    return data if config.taught is None else _with_taught(data, config.taught, config, say)


def _with_taught(data: TrainingData, settings: TaughtSettings, config: TrainConfig, say: Say) -> TrainingData:
    """With what other gates say; of faces that judge, and of others of their seeds, nothing is learned."""
    judging = {data.samples[row].identity for row in data.judging}
    taught = read_taught(find(settings.path), config.generators)
    kept = {face: prob for face, prob in taught.items() if str(face.seed) not in judging}
    say(f"{settings.path} teaches {len(kept)} faces, {len(taught) - len(kept)} that judge left out", True)
    said: Floats = np.array([kept.pop(sample.face, np.nan) for sample in data.samples])
    targets = data.targets.mixed(said, settings.share).followed_by(np.array(list(kept.values())))
    return replace(data, taught=tuple(kept), taught_facts=taught_facts(settings), targets=targets)


def _check_splits(data: TrainingData) -> None:
    for split in (Split.TRAIN, *JUDGING):
        clean, _ = data.decided(data.rows[split])
        if len(clean) == 0 or clean.all() or not clean.any():
            raise LabelError(
                f"labels: the {split} split ({len(data.samples)} faces in all) has {int(clean.sum())} clean faces "
                f"and {int((~clean).sum())} artifacts; both kinds are needed: label more faces"
            )
