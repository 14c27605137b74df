"""Whether a new gate beats the champion of the registry, on test faces that neither was trained on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgate.errors import BundleError
from qgate.gate.bundle import Bundle, read_bundle
from qgate.tracking.tracker import find_model
from training.data.sources import decided
from training.evaluate import judge, unseen
from training.metrics.figures import Figure, difference
from training.metrics.metrics import auroc
from training.pipeline import Training

MODEL, ALIAS = "qgate-gate", "champion"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What came of `--promote`.

    difference: AUROC of the new gate minus the champion's; None where none was had.
    beaten: weights_sha256 of the registry's champion; None where the registry has none.
    """

    promoted: bool
    champion: str
    text: str
    faces: int = 0
    difference: Figure | None = None
    beaten: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "promoted": self.promoted,
            "champion": self.champion,
            "faces": self.faces,
            "auroc_difference": self.difference,
            "text": self.text,
        }


def challenge(training: Training, new: Bundle, shipped: Bundle) -> Promotion:
    """Judge both gates on the same test faces; the new one wins where its AUROC is surely higher.

    Surely: the 95 % interval of the paired bootstrap of the difference lies above 0. Without a champion in the registry
    the shipped gate is the champion.

    shipped: as it was before the training, which may have written its gate in that place.
    """
    config = training.config
    try:
        registered = find_champion()
    except BundleError as error:
        return Promotion(False, "", f"not promoted: the champion cannot be asked for ({error})")
    champion = registered or shipped
    name = f"the champion {champion.card.name}" if registered else "the shipped gate"
    rows = decided(training.data.samples, unseen(training.data.labels, [champion, new]))
    part = training.data.labels.part(rows)
    old, found = (judge(bundle, part, config, training.say) for bundle in (champion, new))
    if not old.both_kinds:
        return Promotion(False, name, f"not promoted: {len(rows)} test faces are unknown to {name}, too few to compare")
    figure = difference(auroc, old.clean, old.prob, found.prob, config.resamples)
    low, high = figure["interval"]
    said = f"AUROC {figure['value']:+.4f} (95 % interval {low:+.4f} to {high:+.4f}) against {name} on {len(rows)} faces"
    if low > 0:
        beaten = registered.card.weights_sha256 if registered else None
        return Promotion(True, name, f"promoted to models:/{MODEL}@{ALIAS}: {said}", len(rows), figure, beaten)
    text = f"not promoted: {said}; the lower end is {-low:.4f} short of being above 0"
    return Promotion(False, name, text, len(rows), figure)


def find_champion() -> Bundle | None:
    """The champion of the registry; None where there is none. Raises BundleError where the store does not answer."""
    with tempfile.TemporaryDirectory() as folder:
        found = find_model(f"models:/{MODEL}@{ALIAS}", Path(folder))
        return read_bundle(found) if found is not None else None
