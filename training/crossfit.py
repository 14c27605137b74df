"""K trainings, each without a part of the faces: what a gate says of faces that it did not learn from."""

from __future__ import annotations

import numpy as np
import torch

from qgate.errors import LabelError
from qgate.records import REGIONS
from training.config import Use
from training.data.pixels import Views
from training.data.split import Split, fold_of
from training.data.targets import Floats
from training.fitting.fit import predict
from training.metrics.judged import Judged, join
from training.metrics.metrics import fit_calibration
from training.pipeline import Training, fit_looks, look_names

LOGITS = "logits"
"""The part of a fold that keeps what its looks say."""

NOWHERE = -1
"""The fold of a face that every network learns from."""


class CrossValidation:
    """Folds of all faces outside the test split; they follow from the hash of a face.

    Faces that are only learned from are not judged; every network learns from them but that of the fold to which
    their identity belongs, where other faces share it.
    """

    def __init__(self, training: Training) -> None:
        """Raises LabelError where the faces are too few for so many folds."""
        self._training, self._data, self._folds = training, training.data, training.config.folds
        data, samples = training.data, training.data.samples
        self._pool = sorted(
            row for split in (Split.TRAIN, Split.CALIBRATION, Split.VALIDATION) for row in data.rows[split]
        )
        self._judged = np.array([sample.use in (Use.ALL, Use.JUDGE) for sample in samples])
        judged = {sample.identity for sample, here in zip(samples, self._judged, strict=True) if here}
        self._fold = np.array(
            [fold_of(sample.identity, self._folds) if sample.identity in judged else NOWHERE for sample in samples]
        )
        self._validation = set(data.rows[Split.VALIDATION])
        _, rows = data.decided(self._pool)
        own = [row for row in rows if not (training.first and data.is_shipped(row))]
        self._shown = [row for row in own if self._judged[row]]
        clean, _ = data.decided(self._shown)
        if len(clean) == 0 or clean.all() or not clean.any():
            raise LabelError(
                f"--folds {self._folds}: it would judge {len(clean)} faces, {int(clean.sum())} of them clean, and both "
                "kinds are needed; faces of the shipped labels are left out where a gate is refined, which has learned "
                "from them: label more, or start from other weights (pretrained)"
            )
        for number in range(self._folds):
            held, others = self._parts(number)
            clean, _ = data.decided([row for row in others if row in self._validation])
            if not held or clean.all() or not clean.any():
                raise LabelError(
                    f"--folds {self._folds}: {len(self._pool)} faces are too few for so many; give fewer, or label more"
                )

    def run(self, views: Views) -> Judged:
        """Scores of all faces whose votes are no tie, given every look, each calibrated on the other folds.

        Where a gate is refined, which may have learned from the shipped labels, those faces are left out.
        """
        training, data = self._training, self._data
        logits = np.full((len(data.samples), len(training.config.looks), 1 + len(REGIONS)), np.nan)
        for number in range(self._folds):
            held, _ = self._parts(number)
            logits[held] = self._out_of_fold(number, views)
        prob = np.full(len(logits), np.nan, np.float32)
        for number in range(self._folds):
            held, others = self._parts(number)
            others = [row for row in others if self._judged[row]]
            prob[held] = fit_calibration(logits[others], data.targets.clean_votes[others]).prob(logits[held])
        return join(data.samples, self._shown, prob[self._shown].astype(float), data.contents)

    def forget(self) -> None:
        """All is written: what is kept of the folds is of no use any more."""
        names = [*look_names(self._training.config), LOGITS]
        self._training.forget(self._part(number) + name for number in range(self._folds) for name in names)

    def _part(self, number: int) -> str:
        return f"fold {number + 1} of {self._folds}, "

    def _parts(self, number: int) -> tuple[list[int], list[int]]:
        held = [row for row in self._pool if self._fold[row] == number and self._judged[row]]
        return held, [row for row in self._pool if self._fold[row] != number]

    def _out_of_fold(self, number: int, views: Views) -> Floats:
        """Logits of a fold's faces by looks that learned from the others; kept until all is done.

        (n, looks, 1 + regions).
        """
        training, (held, others) = self._training, self._parts(number)
        part = self._part(number)
        state = training.checkpoint(part + LOGITS)
        known = state.load()
        if known is None:
            train = [row for row in others if row not in self._validation]
            watched = [row for row in others if row in self._validation]
            fits, config = fit_looks(training, views, part=part, rows=train, watched=watched), training.config
            columns = [
                predict(fits[look.name].network, config, look, pixels, held, training.say)
                for look, pixels in zip(config.looks, views, strict=True)
            ]
            known = {"logits": torch.from_numpy(np.stack(columns, 1))}
            state.save(known)
        found: Floats = known["logits"].numpy()
        return found
