"""`qgate train` from settings to a gate: training, cross-validation, report, tracking and promotion put together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgate.bundle import GateCard
from qgate.errors import StoppedError
from qgate.progress import WorkProgress
from qgate.stopping import StopFlag, stop_on_signals
from training.config import TrainConfig
from training.draw import Say
from training.pipeline import Training


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training came to."""

    output: Path
    card: GateCard
    seconds: float

    def to_json(self) -> dict[str, Any]:
        figures = self.card.figures
        return {
            "output": str(self.output),
            "name": self.card.name,
            "faces": self.card.training["faces"],
            "auroc": figures["auroc"],
            "seconds": round(self.seconds, 1),
        }

    def in_words(self) -> str:
        """A few lines for a terminal."""
        figures = self.card.figures
        low, high = figures["auroc"]["interval"]
        lines = [
            f"AUROC {figures['auroc']['value']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {figures['faces']} test "
            f"faces, {self.seconds:.0f} s",
            f"gate     {self.output}",
        ]
        return "\n".join(lines)


def train(config: TrainConfig, promote: bool = False) -> TrainSummary:
    """Train a gate and write its bundle.

    Raises InputError where settings or labels cannot be used, StoppedError on SIGINT and SIGTERM; the same call goes
    on with what was drawn and the last whole epoch.
    """
    begin, output = time.monotonic(), Path(config.output)
    with stop_on_signals() as stopped, WorkProgress() as progress:
        training = Training(config, interruptible(progress, stopped))
        pixels = training.draw()
        network = training.fit(pixels)
        card, _ = training.write(network, pixels, output)
    return TrainSummary(output, card, time.monotonic() - begin)


def interruptible(progress: WorkProgress, stopped: StopFlag) -> Say:
    """Progress that raises StoppedError once a stop was asked for."""

    def say(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        if stopped():
            raise StoppedError("stopped; the same command goes on")
        progress.say(text, important, done, total)

    return say
