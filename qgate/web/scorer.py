"""A gate that scores the faces beside the page, so that the uncertain ones come first."""

from __future__ import annotations

import random
import threading

from torch import Tensor

from qgate.errors import ImageError
from qgate.gate.open import load_gate
from qgate.progress import warn
from qgate.run.worker import Scorer
from qgate.web.faces import Faces

BATCH = 4
"""Faces at once: few, so that the page stays quick."""


def start_scoring(faces: Faces, gate: str, device: str) -> threading.Thread:
    """Start a thread that fills `faces.scores` in random order. Raises BundleError where there is no such gate.

    Where nothing has scored them before, uncertain is what lies near the threshold that this gate recommends.
    """
    loaded = load_gate(gate, device)
    if not faces.scores:
        faces.threshold = loaded.card.recommended_threshold
    return start_scorer(faces, loaded)


def start_scorer(faces: Faces, scorer: Scorer) -> threading.Thread:
    """As `start_scoring`, with a gate that is loaded already."""
    faces.scoring = True
    thread = threading.Thread(target=_score_all, args=(faces, scorer), name="scorer", daemon=True)
    thread.start()
    return thread


def _score_all(faces: Faces, scorer: Scorer) -> None:
    """A fault of the gate, whatever it is, ends the scores and not the labelling; page and terminal say so."""
    try:
        _score_each(faces, scorer)
    except Exception as error:
        faces.scoring, faces.scoring_fault = False, " ".join(str(error).split()) or repr(error)
        warn(f"the gate stopped scoring after {len(faces.scores)} of {len(faces)} faces: {faces.scoring_fault}")


def _score_each(faces: Faces, scorer: Scorer) -> None:
    todo = [item for item in range(len(faces)) if item not in faces.scores]
    random.Random(0).shuffle(todo)
    for start in range(0, len(todo), BATCH):
        items: list[int] = []
        images: list[Tensor] = []
        for item in todo[start : start + BATCH]:
            try:
                images.append(faces.pixels(item))
                items.append(item)
            except ImageError:
                continue
        faces.scores.update(zip(items, scorer.score(images), strict=True))
