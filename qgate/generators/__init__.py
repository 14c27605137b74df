"""Generators by name. Other packages add theirs through the entry point group `qgate.generators`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from qgate.errors import WeightsError
from qgate.generators.base import Drawn, Generator, GeneratorInfo

__all__ = ["Drawn", "Generator", "GeneratorInfo", "open_generator", "options_of", "stylegan2_path"]

if TYPE_CHECKING:
    import torch  # what reads weights starts without it

    from qgate.config import GeneratorSettings  # the networks alone run where pydantic is not installed
    from qgate.generators.options import Options

    Opener = Callable[[str | None, GeneratorSettings, torch.device], Generator]
    """Takes what stands after the colon of NAME:ARGUMENT (or None), the settings and the device.

    That of another package may have an attribute `Options`, derived from `qgate.generators.options.Options`;
    `settings.read(Options)` gives what was asked for.
    """


def open_generator(settings: GeneratorSettings, device: torch.device) -> Generator:
    """The generator that `settings.name` asks for: NAME, NAME:ARGUMENT or a file of weights.

    Raises WeightsError where there is none such, ConfigError for a setting that it does not know.
    """
    options_of(settings)
    name, argument = _parts(settings)
    return _opener(name, settings)(argument or None, settings, device)


def options_of(settings: GeneratorSettings) -> Options:
    """The options of the generator that `settings.name` asks for; raises as `open_generator`."""
    from qgate.generators.options import EMBEDDED, Options, check_options

    name, _ = _parts(settings)
    model = EMBEDDED[name] if name in EMBEDDED else getattr(_opener(name, settings), "Options", Options)
    return check_options(name, model, settings)


def _parts(settings: GeneratorSettings) -> tuple[str, str]:
    """The generator's own name, and what stands after the colon."""
    if (path := stylegan2_path(settings.name)) is not None:
        return "stylegan2-ada", str(path)
    name, _, argument = settings.name.partition(":")
    return name, argument


def _opener(name: str, settings: GeneratorSettings) -> Opener:
    if (opener := _embedded().get(name)) is not None:
        return opener
    if (entry := (added := _added()).get(name)) is not None:
        found: Opener = entry.load()
        return found
    known = [*_embedded(), *added]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    listed = ", ".join([*known, "folder:PATH", "FILE.pkl"])
    raise WeightsError(f"no generator {settings.name!r}; the nearest is {near!r} (known: {listed})")


def stylegan2_path(name: str) -> Path | None:
    """The file of a StyleGAN2-ADA network, given as stylegan2-ada:FILE, FILE.pkl or FILE.safetensors.

    None where the name asks for something else.
    """
    kind, _, argument = name.partition(":")
    if kind == "stylegan2-ada":
        return Path(argument) if argument else None
    if not name.endswith((".pkl", ".safetensors")):
        return None
    return None if kind in _embedded() or (argument and kind in _added()) else Path(name)


def _added() -> dict[str, metadata.EntryPoint]:
    """Generators of other packages, by name."""
    return {entry.name: entry for entry in metadata.entry_points(group="qgate.generators")}


def _embedded() -> dict[str, Opener]:
    return {
        "mobile-stylegan": _open_mobile_stylegan,
        "stylegan2-ada": _open_stylegan2,
        "folder": _open_folder,
        "fake": _open_fake,
    }


def _open_mobile_stylegan(argument: str | None, settings: GeneratorSettings, device: torch.device) -> Generator:
    from qgate.generators.mobile_stylegan.generator import EmbeddedGenerator

    return EmbeddedGenerator(argument, settings, device)


def _open_stylegan2(argument: str | None, settings: GeneratorSettings, device: torch.device) -> Generator:
    from qgate.generators.stylegan2.generator import StyleGan2Generator

    if argument is None:
        raise WeightsError("stylegan2-ada: give the network after the colon, for example stylegan2-ada:ffhq.pkl")
    return StyleGan2Generator(Path(argument), settings, device)


def _open_folder(argument: str | None, settings: GeneratorSettings, device: torch.device) -> Generator:
    from qgate.generators.folder import FolderGenerator
    from qgate.generators.options import FolderOptions

    if argument is None:
        raise WeightsError("folder: give the folder of images after the colon, for example folder:my-faces")
    return FolderGenerator(Path(argument), settings.read(FolderOptions).align == "auto")


def _open_fake(argument: str | None, settings: GeneratorSettings, device: torch.device) -> Generator:
    from qgate.generators.fake import FakeGenerator

    return FakeGenerator(argument)
