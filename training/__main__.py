"""`python -m training --config configs/train.yaml`: labels in, bundle out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from qgate.errors import QgateError
from qgate.label_store import note_training
from training.config import load_train_config
from training.pipeline import Training

LINE_SECONDS = 10.0


class Speaker:
    """Progress on stderr: a line every ten seconds, and what is important at once."""

    def __init__(self) -> None:
        self._start = self._said = time.monotonic()

    def __call__(self, text: str, important: bool = False) -> None:
        now = time.monotonic()
        if important or now - self._said >= LINE_SECONDS:
            self._said = now
            print(f"training: {now - self._start:.0f} s: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Exit status: 0 done, else that of the error."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train a gate from labels.")
    parser.add_argument("--config", type=Path, required=True, help="settings, YAML: configs/train.yaml")
    try:
        config = load_train_config(parser.parse_args().config)
        training = Training(config, Speaker())
        found = training.run().figures["auroc"]
        low, high = found["interval"]
        note_training(Path(config.labels), len(training.faces), found["value"], low)
    except QgateError as error:
        print(f"training: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{config.output}: AUROC {found['value']:.3f} (95 % interval {low:.3f}..{high:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
