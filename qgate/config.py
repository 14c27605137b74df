"""The settings of a run as frozen data: defaults live here. Knows nothing of models or files of a run.

Precedence: defaults < `--config` < flags < `--set a.b=c`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qgate.errors import ConfigError
from qgate.seeds import SEED_MAX, SeedPlan, parse_seeds

CANDIDATES_PER_FACE = 50
"""The search gives up after this many candidates for each face asked for, unless `max_candidates` says otherwise."""


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnySettings = TypeVar("AnySettings", bound=Settings)


class GeneratorSettings(Settings):
    """What every generator can be told; each has options of its own besides, which it checks itself."""

    model_config = ConfigDict(extra="allow")

    name: str = Field("mobile-stylegan", description="a generator's name, NAME:PATH, or folder:PATH for images")
    truncation_psi: float = Field(1.0, ge=-2.0, le=2.0, description="pull towards the mean face; 1 = none")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic of the generator; auto: half precision where the device computes in it"
    )

    @property
    def options(self) -> dict[str, Any]:
        """What is said besides, by whatever name, not yet checked."""
        return self.model_extra or {}

    def read(self, model: type[AnySettings]) -> AnySettings:
        """The options that a settings model declares. Raises ConfigError naming key and value."""
        own = {name: value for name, value in self.options.items() if name in model.model_fields}
        return validate(model, own, "generator.")


class SeedSettings(Settings):
    start: int = Field(0, ge=0, le=SEED_MAX, description="first seed of the walk")
    ranges: str | None = Field(None, description="walk only these, as in 6000-6500,7000")

    @field_validator("ranges")
    @classmethod
    def _check_ranges(cls, text: str | None) -> str | None:
        if text is not None:
            parse_seeds(text)
        return text


class SelectionSettings(Settings):
    count: int | None = Field(None, ge=1, description="faces in the output dataset; null: all that pass")
    threshold: float | None = Field(
        None, ge=0.0, le=1.0, description="accept a candidate from this clean_prob on; null: what the gate recommends"
    )
    max_candidates: int | None = Field(
        None, ge=1, description=f"bound of the search, default {CANDIDATES_PER_FACE} x count"
    )


class OutputSettings(Settings):
    path: str | None = Field(None, description="output folder; default: a name that follows from what is asked")
    format: Literal["png", "jpeg", "webp"] = Field("png", description="png is lossless")
    quality: int = Field(95, ge=1, le=100, description="of jpeg and webp")
    resolution: int | None = Field(None, ge=16, le=4096, description="area-resampled after judging; null: as drawn")
    shard_size: int = Field(64, ge=1, le=10_000, description="candidates per shard: the unit of storage and retry")
    review: int = Field(100, ge=0, description="cap of the random sample of all candidates kept for labelling")


class ComputeSettings(Settings):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    batch_size: int | None = Field(None, ge=1, le=4096, description="candidates at once; null: what suits the device")
    encoders: int | None = Field(None, ge=1, le=256, description="threads that encode images; null: one per core")


class TrackingSettings(Settings):
    enabled: bool = Field(True, description="mirror the run to MLflow")


class RunConfig(Settings):
    """Everything that `qgate run` can be told."""

    generator: GeneratorSettings = GeneratorSettings()
    gate: str = Field("default", description="a bundle folder, default (the shipped one) or models:/NAME@ALIAS")
    seeds: SeedSettings = SeedSettings()
    selection: SelectionSettings = SelectionSettings()
    output: OutputSettings = OutputSettings()
    compute: ComputeSettings = ComputeSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _check_walk(self) -> Self:
        if self.seeds.ranges is not None and self.seeds.start != 0:
            raise ValueError("seeds.start and seeds.ranges exclude each other: give one of them")
        return self

    def plan(self) -> SeedPlan:
        """The seeds that the run walks, ascending."""
        if self.seeds.ranges is not None:
            return SeedPlan(parse_seeds(self.seeds.ranges))
        return SeedPlan(((self.seeds.start, SEED_MAX),))

    def max_candidates(self) -> int:
        """The most candidates that the run judges: never more than the walk holds."""
        selection = self.selection
        bound = selection.max_candidates
        if bound is None and selection.count is not None:
            bound = CANDIDATES_PER_FACE * selection.count
        length = len(self.plan())
        return length if bound is None else min(bound, length)


def load_config(path: Path | None, flags: Mapping[str, Any], assignments: list[str]) -> RunConfig:
    """The resolved settings of a run; arguments as of `merge_values`.

    Raises ConfigError naming the key, its value and what is allowed.
    """
    return validate(RunConfig, merge_values(path, flags, assignments))


def merge_values(path: Path | None, flags: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """What was asked for, not yet checked.

    path: a YAML file, or None.
    flags: dotted key -> value as given on the command line; None means not given.
    assignments: "a.b=c" strings, the value read as YAML; they win over everything.
    Raises ConfigError naming what cannot be read.
    """
    values: dict[str, Any] = _read_yaml(path) if path is not None else {}
    for key, value in flags.items():
        if value is not None:
            _assign(values, key, value)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text}: write it as key=value, for example selection.threshold=0.9")
        try:
            _assign(values, key.strip(), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text}: the value is no YAML") from error
    return values


def validate(model: type[AnySettings], values: dict[str, Any], section: str = "") -> AnySettings:
    """The values as settings; ConfigError names the key, its value and what is allowed.

    section: what its keys begin with, as in `generator.`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, section)) from error


def canonical_digest(value: Any) -> str:
    """sha256 hex digest of a JSON value, the same for the same value whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """All dotted keys of the settings, in the order in which they are declared."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys += known_keys(nested, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def describe(config: RunConfig, options: Iterable[Settings] = ()) -> str:
    """The settings as YAML with the meaning of each as a comment.

    options: those of the generators.
    """
    return "".join(_describe(config, "", {"generator": options}))


def _describe(settings: Settings, indent: str, more: Mapping[str, Iterable[Settings]]) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield f"{indent}{name}:\n"
            for part in (value, *more.get(name, ())):
                yield from _describe(part, indent + "  ", {})
        else:
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
            yield f"{indent}{name}: {text}  # {field.description}\n"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"--config {path}: cannot be read as YAML ({reason})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path}: holds a {type(values).__name__}; a mapping of settings is expected")
    return values


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        if values.get(parent) is None:  # a section that is left out, or written as null
            values[parent] = {}
        below = values[parent]
        if not isinstance(below, dict):
            raise ConfigError(f"{key}: {parent} is a value, not a section")
        values = below
    values[leaf] = value


def _explain(error: ValidationError, model: type[Settings], section: str) -> str:
    first = error.errors()[0]
    key = section + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known_keys(model), n=1, cutoff=0.0)
        listed = " (`qgate config show` lists all)" if model is RunConfig else ""
        return f"unknown setting {key!r}; the nearest is {near[0]!r}{listed}"
    message = first["msg"].removeprefix("Value error, ")
    if not key or first["type"] == "missing":
        return f"{key}: {message[0].lower() + message[1:]}" if key else message
    return f"{key} = {first['input']!r}: {message[0].lower() + message[1:]}"
