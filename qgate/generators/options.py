"""What a generator can be told besides what all can: a settings model of its own, read beside `generator.name`.

A generator of another package brings its own as the attribute `Options` of what its entry point names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from qgate.config import GeneratorSettings, Settings
from qgate.errors import ConfigError
from qgate.seeds import ALL_CLASSES


class Options(Settings):
    """Of a generator without any; others derive theirs. Every option has a default and a description.

    in_digest: options whose content is part of the generator's digest, so that their text decides nothing: paths.
    """

    in_digest: ClassVar[tuple[str, ...]] = ()

    def chosen(self) -> dict[str, Any]:
        """What is not left as it is."""
        return self.model_dump(exclude_defaults=True)

    def deciding(self) -> dict[str, Any]:
        """What of it decides pixels beside the digest."""
        return {name: value for name, value in self.chosen().items() if name not in self.in_digest}


class StyleGan2Options(Options):
    in_digest = ("latents",)

    truncation_cutoff: int | None = Field(
        None, ge=0, description="stylegan2-ada: layers that truncation_psi pulls, counted from the coarsest; null: all"
    )
    class_idx: int | str | None = Field(
        None,
        description="stylegan2-ada with classes: 0, 1, ..., or all, which takes them in turn (seed modulo classes)",
    )
    latents: str | None = Field(
        None, description="stylegan2-ada: an .npz file whose w vectors are drawn instead of seeds; seed i is its row i"
    )
    noise_mode: Literal["const", "random", "none"] = Field(
        "const", description="stylegan2-ada: the noise of the network, new noise for each seed, or none"
    )

    @field_validator("class_idx", mode="before")
    @classmethod
    def _check_class(cls, value: Any) -> int | str | None:
        if value is None or value == ALL_CLASSES:
            return ALL_CLASSES if value else None
        if not str(value).isdecimal():
            raise ValueError(f"give a class as 0, 1, ... or {ALL_CLASSES}")
        return int(value)


class FolderOptions(Options):
    align: Literal["auto", "never"] = Field(
        "auto", description="folder: cut the face out of pictures that are framed otherwise, or judge all as they are"
    )


EMBEDDED: dict[str, type[Options]] = {
    "mobile-stylegan": Options,
    "stylegan2-ada": StyleGan2Options,
    "folder": FolderOptions,
    "fake": Options,
}


def check_options(kind: str, model: type[Options], settings: GeneratorSettings) -> Options:
    """The options of a generator. Options of embedded ones may stand beside them, as in configs/run.yaml, unchanged.

    kind: name of the generator. Raises ConfigError for a value that cannot be, or an option that it does not have.
    """
    fields = {name: field for others in EMBEDDED.values() for name, field in others.model_fields.items()}
    for name, value in settings.options.items():
        if name in model.model_fields:
            continue
        if name not in fields:
            known = [*GeneratorSettings.model_fields, *model.model_fields, *fields]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"unknown setting 'generator.{name}'; the nearest is 'generator.{near}' (`qgate config show` lists all)"
            )
        if value != fields[name].default:
            raise ConfigError(f"generator.{name} = {value!r}: {kind} has no such option; drop it")
    return settings.read(model)


def all_options(settings: GeneratorSettings) -> Iterable[Options]:
    """The options of every embedded generator, as far as the settings change them."""
    return [settings.read(model) for model in EMBEDDED.values()]
