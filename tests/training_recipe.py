"""A recipe of seconds on faces of the fake generator, and what its tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qgate.gate.bundle import GateCard
from qgate.gate.lineage import Lineage
from qgate.generators.fake import FakeGenerator
from training.config import TrainConfig

HEADER = "generator,seed,psi,severity,regions,annotator"


def lineage_of(card: GateCard) -> Lineage:
    assert card.training is not None
    return card.training


def quiet(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
    """Says nothing."""


def parity(seed: int) -> int:
    """A severity that the pixels do not tell."""
    return (seed % 2) * 3


def brightness(seed: int) -> int:
    """A severity that the pixels tell: bright faces are artifacts."""
    image = FakeGenerator("64").draw([seed]).images[0]
    assert image is not None
    return 3 if image.float().mean() > 127 else 0


def write_labels(path: Path, seeds: range, severity: Callable[[int], int] = parity, annotator: str = "test") -> Path:
    """Label rows of fake faces."""
    rows = [f"fake:64,{seed},1.0,{severity(seed)},{'eyes' if severity(seed) else ''},{annotator}" for seed in seeds]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def write_image(path: Path, seed: int, size: int = 80) -> Path:
    """An image file whose pixels follow from the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def look(backbone: str = "test_efficientnet", **changes: Any) -> dict[str, Any]:
    """A look at 64 pixels. changes: of its preprocessing."""
    preprocessing = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3}
    return {"name": "whole", "architecture": {"backbone": backbone}, "preprocessing": preprocessing | changes}


def recipe(folder: Path, **changes: Any) -> TrainConfig:
    """Settings of a training of seconds; without `sources`, labels of 32 faces are written."""
    if "sources" not in changes:
        changes["sources"] = [str(write_labels(folder / "labels.csv", range(32)))]
    values: dict[str, Any] = {
        "output": str(folder / "gate"),
        "name": "small",
        "label_note": "No person: a formula.",
        "limits": "Good for nothing.",
        "license": "MIT",
        "pretrained": "none",
        "device": "cpu",
        "resamples": 20,
        "looks": [look()],
        "splits": {"validation": 0.25, "calibration": 0.25, "test": 0.25},
        "optimiser": {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"},
        "tracking": {"enabled": False},
    }
    return TrainConfig.model_validate(values | changes)


def learnable(folder: Path, **changes: Any) -> TrainConfig:
    """A recipe that learns something: labels of 200 faces that the pixels tell, and steps enough."""
    values = {
        "sources": [str(write_labels(folder / "labels.csv", range(200), brightness))],
        "splits": {"validation": 0.1, "calibration": 0.2, "test": 0.25},
        "optimiser": {"epochs": 6, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"},
    }
    return recipe(folder, **(values | changes))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two networks' states are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())
