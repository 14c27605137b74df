"""The settings of a training as frozen data: defaults live here. Knows no network and no data."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from qgate.bundle import Architecture
from qgate.config import Settings, known_keys
from qgate.errors import ConfigError
from qgate.preprocess import Preprocessing
from training.lite0 import BACKBONE


class SplitSettings(Settings):
    """Shares of the faces; what is left is trained on."""

    validation: float = Field(0.08, gt=0, lt=0.5, description="early choices: recipe and number of epochs")
    calibration: float = Field(0.10, gt=0, lt=0.5, description="fits slope and offset of clean_prob")
    test: float = Field(0.10, gt=0, lt=0.5, description="touched once, for the figures in gate.json")


class TargetSettings(Settings):
    clean_by_severity: tuple[float, float, float, float] = Field(
        (1.0, 0.9, 0.1, 0.0), description="what a vote of severity 0, 1, 2, 3 says of clean"
    )
    region_weight: float = Field(0.3, ge=0, description="of the regions' mean loss beside that of clean")


class OptimiserSettings(Settings):
    """AdamW, cosine with a linear warm-up, an average of the weights at the end."""

    epochs: int = Field(4, ge=1)
    batch_size: int = Field(16, ge=2)
    learning_rate: float = Field(5e-4, gt=0, description="of the last layer")
    layer_decay: float = Field(0.9, gt=0, le=1, description="of the learning rate, each block to the one before")
    frozen_stages: int = Field(2, ge=0, description="the stem and so many stages keep their ImageNet weights")
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the average of the weights, a step")
    drop_rate: float = Field(0.2, ge=0, lt=1)
    jitter: float = Field(0.1, ge=0, lt=1, description="largest change of brightness and contrast")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on CPUs that compute in it")


class TrainConfig(Settings):
    """Everything that `python -m training` can be told."""

    labels: str = Field("training/labels/train.csv", description="label rows, CSV or JSON Lines, or a label store")
    output: str = Field("qgate/gates/default", description="folder of the bundle")
    name: str = Field("default", description="name of the gate")
    label_note: str = Field(min_length=1, description="who made the labels and how; stands in the notes of the gate")
    license: str = Field(min_length=1, description="terms of the weights")
    limits: str = Field(min_length=1, description="what the gate is not good for; stands in the notes of the gate")
    seed: int = Field(0, ge=0, lt=2**32, description="of order, augmentation and the last layer's first weights")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    preprocessing: Preprocessing = Preprocessing(size=384, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    architecture: Architecture = Architecture(backbone=BACKBONE, arguments={"global_pool": "catavgmax"})
    pretrained: bool = Field(True, description="start from the ImageNet weights of EfficientNet-Lite0")
    splits: SplitSettings = SplitSettings()
    resamples: int = Field(2000, ge=20, description="of the bootstrap behind the figures' 95 % intervals")
    targets: TargetSettings = TargetSettings()
    optimiser: OptimiserSettings = OptimiserSettings()


def load_train_config(path: Path) -> TrainConfig:
    """The settings of a YAML file; ConfigError names the key, its value and what is allowed."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"--config {path}: cannot be read as YAML ({reason})") from error
    try:
        return TrainConfig.model_validate(values or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known_keys(TrainConfig), n=1, cutoff=0.0)[0]
            raise ConfigError(f"--config {path}: unknown setting {key!r}; the nearest is {near!r}") from error
        raise ConfigError(f"--config {path}: {key}: {first['msg'].lower()} (found {first['input']!r})") from error
