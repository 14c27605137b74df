"""The gate bundle: a folder with `gate.safetensors` and `gate.json`. Knows nothing of how a gate scores.

safetensors only: nothing is ever unpickled. The digests in `gate.json` bind the two files together.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from qgate.errors import BundleError
from qgate.gate.preprocess import Preprocessing
from qgate.records import REGIONS

DEFAULT = Path(__file__).parents[1] / "gates" / "default"
WEIGHTS, CARD = "gate.safetensors", "gate.json"

ARGUMENTS = ("global_pool", "drop_rate", "drop_path_rate", "img_size", "act_layer", "norm_layer")
"""What a bundle may tell `timm.create_model`; others, such as `checkpoint_path`, would read files of its choice."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(_Part):
    """The classifier: `timm.create_model(backbone, num_classes=1 + number of regions, **arguments)`.

    Its outputs are logits: first of clean, then of an artifact in each region.
    """

    backbone: str
    arguments: dict[str, bool | int | float | str] = {}

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, arguments: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
        for name in arguments:
            if name not in ARGUMENTS:
                raise ValueError(f"{name!r} is no argument of a bundle; allowed are {', '.join(ARGUMENTS)}")
        return arguments


class Calibration(_Part):
    """clean_prob = sigmoid(slope * logit + offset), fitted on faces that the classifier did not learn from.

    Source: Platt (1999), Probabilistic Outputs for Support Vector Machines.
    """

    slope: float = Field(gt=0)
    offset: float


class ThresholdRow(_Part):
    """What a threshold did on the test faces: shares in 0..1 with 95 % intervals as (low, high)."""

    threshold: float
    purity: float
    purity_interval: tuple[float, float]
    clean_accepted: float
    clean_accepted_interval: tuple[float, float]


class GateCard(_Part):
    """`gate.json`.

    notes: how the labels were made and what the gate is not good for; shown wherever the gate is named.
    training, figures: free facts for the reader: data, recipe, seeds; AUROC and so on with intervals.
    weights_sha256: of the bytes of `gate.safetensors`.
    """

    format: Literal[1] = 1
    name: str
    architecture: Architecture
    preprocessing: Preprocessing
    regions: tuple[str, ...]
    calibration: Calibration
    thresholds: tuple[ThresholdRow, ...] = ()
    notes: str
    license: str
    training: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    versions: dict[str, str] = {}
    weights_sha256: str


class Bundle(_Part):
    """A bundle in memory. digest: sha256 of the bytes of `gate.json`, which names the weights' own."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    card: GateCard
    weights: dict[str, Tensor]
    digest: str


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle; BundleError names what is missing, corrupted or incompatible."""
    card_path, weights_path = folder / CARD, folder / WEIGHTS
    for path in (card_path, weights_path):
        if not path.is_file():
            raise BundleError(f"gate {folder}: {path.name} is missing; a gate is a folder with {CARD} and {WEIGHTS}")
    text, content = card_path.read_bytes(), weights_path.read_bytes()
    try:
        card = GateCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleError(f"gate {card_path}: {where}: {first['msg']}; restore the file or train again") from error
    if card.regions != REGIONS:
        raise BundleError(f"gate {card_path}: its regions are {list(card.regions)}; this qgate knows {list(REGIONS)}")
    found = hashlib.sha256(content).hexdigest()
    if found != card.weights_sha256:
        raise BundleError(
            f"gate {weights_path}: is corrupted or belongs to another {CARD} (sha256 {found[:12]}..., expected "
            f"{card.weights_sha256[:12]}...); restore both files"
        )
    try:
        weights = load(content)
    except SafetensorError as error:
        raise BundleError(f"gate {weights_path}: no safetensors file ({error}); restore it") from error
    return Bundle(card=card, weights=weights, digest=hashlib.sha256(text).hexdigest())


def write_bundle(folder: Path, weights: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write a bundle; the card's `weights_sha256` and `regions` are filled in here.

    weights: the classifier's state dict. Raises BundleError where the card does not fit `GateCard`.
    """
    content = save({name: tensor.contiguous() for name, tensor in weights.items()})
    try:
        full = GateCard.model_validate(
            card | {"regions": REGIONS, "weights_sha256": hashlib.sha256(content).hexdigest()}
        )
    except ValidationError as error:
        raise BundleError(f"gate {folder}: the card does not fit: {error.errors()[0]}") from error
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(full.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    for name, data in ((WEIGHTS, content), (CARD, text.encode())):
        draft = folder / f".{name}"
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)
