"""The Python way in: judged candidates one by one, nothing written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgate.config import GeneratorSettings
from qgate.gate.classifier import Gate
from qgate.gate.decide import decide
from qgate.gate.open import load_gate
from qgate.generators import Generator, open_generator
from qgate.records import REGIONS, Verdict
from qgate.run.worker import Worker
from qgate.runtime.executor import pick_device


@dataclass(frozen=True, slots=True)
class Candidate:
    """A judged candidate.

    clean_prob: calibrated P(clean), 0..1, higher is better; None where it could not be judged.
    verdict, reasons: at the threshold asked for; a rejected candidate has at least one reason.
    region_probs: region -> P(artifact there); empty where clean_prob is None.
    image: uint8 RGB (H, W, 3); None where it could not be made.
    """

    seed: int
    clean_prob: float | None
    verdict: Verdict
    reasons: tuple[str, ...]
    region_probs: dict[str, float]
    image: NDArray[np.uint8] | None


def judge(
    seeds: Iterable[int],
    threshold: float | None = None,
    *,
    generator: str | Generator = "mobile-stylegan",
    truncation_psi: float = 1.0,
    gate: str | Gate = "default",
    device: str = "auto",
    batch_size: int = 8,
) -> Iterator[Candidate]:
    """Draw and judge candidates, in the order of their seeds, drawing ahead while the caller works.

    seeds: any iterable of ints 0..2^32-1, endless ones too.
    threshold: accepts from this clean_prob on, 0..1; None: what the gate recommends.
    generator: a name as on the command line, or an object with `info` and `draw`; truncation_psi is for names.
    gate: a name as on the command line (`default`, a folder, models:/NAME@ALIAS), or a gate that is loaded.

    >>> clean = [c for c in qgate.judge(range(100), threshold=0.9) if c.verdict == "accepted"]
    """
    place = pick_device(device)
    if isinstance(generator, str):
        generator = open_generator(GeneratorSettings(name=generator, truncation_psi=truncation_psi), place)
    gate = gate if isinstance(gate, Gate) else load_gate(gate, str(place))
    threshold = gate.card.recommended_threshold if threshold is None else threshold
    worker = Worker(generator, gate, batch_size)
    for judged in worker.judge(seeds, lambda seed, score: True):
        verdict, reasons = decide(judged.score, threshold)
        regions = dict(zip(REGIONS, judged.score.region_probs, strict=False))
        yield Candidate(judged.seed, judged.score.clean_prob, verdict, reasons, regions, judged.image)
