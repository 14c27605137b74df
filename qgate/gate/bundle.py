"""The gate bundle: a folder with `gate.safetensors` and `gate.json`.

safetensors only: nothing is ever unpickled. The digests in `gate.json` bind the two files together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from scipy.special import expit
from torch import Tensor

from qgate.errors import BundleError
from qgate.files import replacing
from qgate.gate.lineage import Lineage
from qgate.gate.preprocess import Preprocessing
from qgate.records import REGIONS

DEFAULT = Path(__file__).parents[1] / "gates" / "default"
WHOLE_LOOK = "whole"
"""The only look of a gate of format 1."""

WEIGHTS, CARD = "gate.safetensors", "gate.json"

RECOMMENDED = 0.9
"""The threshold for gates whose card recommends none."""

ARGUMENTS = ("global_pool", "drop_rate", "drop_path_rate", "img_size", "act_layer", "norm_layer")
"""What a bundle may tell `timm.create_model`; others, such as `checkpoint_path`, would read files of its choice."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(_Part):
    """A look's network: `timm.create_model(backbone, num_classes=1 + number of regions, **arguments)`.

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


class Look(_Part):
    """One look at a face: the part of the picture that is seen, and the network that judges it.

    ask_from: only faces to which the looks before give at least this clean_prob get this look; 0: all.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    architecture: Architecture
    preprocessing: Preprocessing
    ask_from: float = Field(0.0, ge=0, lt=1)


class Calibration(_Part):
    """clean_prob = sigmoid(weights . logits + offset), fitted on faces that no look learned from.

    weights: of each look's logit of clean, one for each look so far, none negative: no look's "cleaner" ever lowers
    clean_prob. region_weights: of each look's logits of artifacts by region, none positive; (): these do not count.
    Source: Platt (1999), Probabilistic Outputs for Support Vector Machines.
    """

    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    region_weights: tuple[tuple[Annotated[float, Field(le=0)], ...], ...] = ()
    offset: float

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if sum(weights) == 0:
            raise ValueError("all weights are 0, so every face would be the same")
        return weights

    @model_validator(mode="after")
    def _check_region_weights(self) -> Self:
        if self.region_weights and [len(row) for row in self.region_weights] != [len(REGIONS)] * len(self.weights):
            raise ValueError(f"region_weights: for each look there is one for each of {len(REGIONS)} regions")
        return self

    @property
    def table(self) -> NDArray[np.float64]:
        """(looks, 1 + regions): the weight of each logit."""
        regions = self.region_weights or np.zeros((len(self.weights), len(REGIONS)))
        return np.column_stack([self.weights, regions])

    def prob(self, logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Logits (n, looks, 1 + regions) -> clean_prob (n,), 0..1."""
        odds = np.asarray(logits, np.float64).reshape(len(logits), -1) @ self.table.ravel() + self.offset
        return np.asarray(expit(odds), np.float32)


class ThresholdRow(_Part):
    """What a threshold did on the test faces: shares in 0..1 with 95 % intervals as (low, high)."""

    threshold: float
    purity: float
    purity_interval: tuple[float, float]
    clean_accepted: float
    clean_accepted_interval: tuple[float, float]


class GateCard(_Part):
    """`gate.json`.

    looks: in the order in which a face is given them. calibrations: clean_prob after each look.
    recommended_threshold: that of a run which asks for none.
    notes: how the labels were made and what the gate is not good for; shown wherever the gate is named.
    training: what it learned from, and how; None where that is not known.
    figures: free facts for the reader: AUROC and so on with intervals.
    weights_sha256: of the bytes of `gate.safetensors`.
    """

    format: Literal[2] = 2
    name: str
    looks: tuple[Look, ...] = Field(min_length=1)
    calibrations: tuple[Calibration, ...]
    regions: tuple[str, ...]
    recommended_threshold: float = Field(RECOMMENDED, ge=0, le=1)
    thresholds: tuple[ThresholdRow, ...] = ()
    notes: str
    license: str
    training: Lineage | None = None
    figures: dict[str, Any] = {}
    versions: dict[str, str] = {}
    weights_sha256: str

    @field_validator("training", mode="before")
    @classmethod
    def _read_unknown(cls, value: Any) -> Any:
        """Cards of the first gates, and of gates that qgate did not train, do not say what these learned from."""
        return None if isinstance(value, dict) and "sources" not in value else value

    def look_like(self, name: str) -> Look:
        """The look of this name, else the first."""
        return next((look for look in self.looks if look.name == name), self.looks[0])

    @model_validator(mode="before")
    @classmethod
    def _read_format_1(cls, values: Any) -> Any:
        """A card of the time when a gate had one look, its fields side by side with those of the card."""
        if not (isinstance(values, dict) and values.get("format") == 1):
            return values
        left = {
            name: value
            for name, value in values.items()
            if name not in ("architecture", "preprocessing", "calibration")
        }
        look = {"name": WHOLE_LOOK, **{name: values.get(name) for name in ("architecture", "preprocessing")}}
        fitted = values.get("calibration")
        slope, offset = (fitted.get(name) if isinstance(fitted, dict) else None for name in ("slope", "offset"))
        calibration = {"weights": [slope], "offset": offset}
        return {**left, "format": 2, "looks": [look], "calibrations": [calibration]}

    @model_validator(mode="after")
    def _check_looks(self) -> Self:
        names = [look.name for look in self.looks]
        if len(set(names)) < len(names):
            raise ValueError(f"two looks have one name: {names}")
        if self.looks[0].ask_from != 0:
            raise ValueError("looks.0.ask_from: the first look is given to every face")
        if [len(calibration.weights) for calibration in self.calibrations] != list(range(1, len(names) + 1)):
            raise ValueError("calibrations: there is one after each look, with a weight for each look so far")
        return self


class Bundle(_Part):
    """A bundle in memory. digest: sha256 of the bytes of `gate.json`, which names the weights' own."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    card: GateCard
    weights: dict[str, Tensor]
    digest: str

    def weights_of(self, look: Look) -> dict[str, Tensor]:
        """The state dict of a look's network; in the file its names begin with that of the look."""
        prefix = f"{look.name}."
        found = {name.removeprefix(prefix): t for name, t in self.weights.items() if name.startswith(prefix)}
        return found or self.weights  # a gate of format 1 has one network, whose names stand alone


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


def write_bundle(folder: Path, networks: Mapping[str, dict[str, Tensor]], card: dict[str, Any]) -> None:
    """Write a bundle; the card's `weights_sha256` and `regions` are filled in here.

    networks: name of a look -> the state dict of its network.
    Raises BundleError where the card does not fit `GateCard`.
    """
    content = save(
        {f"{look}.{name}": tensor.contiguous() for look, state in networks.items() for name, tensor in state.items()}
    )
    try:
        full = GateCard.model_validate(
            card | {"regions": REGIONS, "weights_sha256": hashlib.sha256(content).hexdigest()}
        )
    except ValidationError as error:
        raise BundleError(f"gate {folder}: the card does not fit: {error.errors()[0]}") from error
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(full.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    for name, data in ((WEIGHTS, content), (CARD, text.encode())):
        with replacing(folder / name) as file:
            file.write(data)
