"""Adds answers to a label store and says each key once it is kept: a process to be killed at any moment.

python -m tests.label_driver STORE ANNOTATOR COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

from qgate.labels.answers import Answer, Decision
from qgate.labels.rows import Face
from qgate.labels.store import LabelStore


def answer(seed: int, annotator: str = "anna", severity: int | None = 0, **more: object) -> Answer:
    """An answer on the face of a seed; its decision follows from the severity."""
    decision = Decision.UNSURE if severity is None else Decision.ARTIFACT if severity >= 2 else Decision.CLEAN
    values = {"face": Face("fake:64", seed, 1.0), **more}
    return Answer(annotator=annotator, decision=decision, severity=severity, **values)  # type: ignore[arg-type]


def main(store: str, annotator: str, count: str) -> None:
    with LabelStore(Path(store)) as opened:
        for seed in range(int(count)):
            kept = opened.add(answer(seed, annotator, key=f"{annotator}-{seed}-key"))
            print(kept.key, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
