"""Where a gate sees an artifact: how much cleaner the face would look to it without what is at each place.

The network's last features are replaced by their mean, one small window after another, and its head judges what is
left. It needs no gradients and no second look at the pixels, and holds for any pooling over positions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from qgate.errors import BundleError
from qgate.gate.preprocess import Box, Preprocessing

WINDOW = 3
"""Side of what is replaced at once, in positions of the last features; 1 and 5 found the artifacts less often."""

FINE, BLUR = 4, 1.5
"""The map is smoothed on a grid so many times as fine as the features, by a Gaussian of so many cells."""

CHUNK = 48
"""Windows judged at once, which bounds the memory."""


def has_places(network: nn.Module) -> bool:
    """Whether the head pools over positions; a transformer that reads its class token only has no heat maps."""
    return getattr(network, "global_pool", None) != "token"


def place(rise: NDArray[np.float32], crop: Box, size: int) -> NDArray[np.float32]:
    """A map (S, S) of a part of the picture -> of the whole picture, (size, size), zero outside of the part."""
    left, top, right, bottom = (round(edge * size) for edge in crop)
    part = F.interpolate(torch.from_numpy(rise)[None, None], (bottom - top, right - left), mode="area")
    whole = np.zeros((size, size), np.float32)
    whole[top:bottom, left:right] = part[0, 0].numpy()
    return whole


class HeatMapper:
    """Makes the heat map of one image and one look at a time, so that a map does not depend on its batch.

    Source: occlusion sensitivity, Zeiler and Fergus, ECCV 2014, here of the features instead of the pixels.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        """network: of timm, in eval mode.

        Raises BundleError where it has no places.
        """
        if not has_places(network):
            raise BundleError("heat maps need a gate that pools over positions; this one reads its class token only")
        self._network: Any = network
        self._preprocessing = preprocessing
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 (1, 3, S, S) -> logits (outputs,), and by how much each rises without each place, (outputs, S, S).

        Both are means over the image and its mirror image: a mirrored image has the mirrored map.
        """
        x = self._preprocessing.normalise(pixels.to(self._device))
        (logits, rises), (logits_mirrored, rises_mirrored) = self._rises(x), self._rises(x.flip(-1))
        maps = _smooth((rises + rises_mirrored.flip(-1)) / 2, self._preprocessing.size)
        return ((logits + logits_mirrored) / 2).cpu().numpy(), maps.cpu().numpy()

    def _rises(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (outputs,), and by how much each rises without each place: (outputs, h, w)."""
        features: Tensor = self._network.forward_features(x)
        logits: Tensor = self._network.forward_head(features)[0].float()
        layout = _Layout(features, self._network)
        grid = layout.to_grid(features)
        height, width = grid.shape[-2:]
        places = torch.eye(height * width, device=x.device).view(-1, 1, height, width)
        windows = F.max_pool2d(places, WINDOW, 1, WINDOW // 2) > 0
        mean = grid.mean((2, 3), keepdim=True)
        without = [
            self._network.forward_head(layout.from_grid(torch.where(part, mean, grid))).float()
            for part in torch.split(windows, CHUNK)
        ]
        return logits, (torch.cat(without) - logits).T.reshape(-1, height, width)


class _Layout:
    """How a network lays out its last features: (n, C, h, w), (n, h, w, C), or tokens (n, prefix + h * w, C)."""

    def __init__(self, features: Tensor, network: Any) -> None:
        skipped = getattr(network, "num_prefix_tokens", 0)
        self._prefix = features[:, :skipped]
        self._tokens = features.ndim == 3
        self._channels_last = features.ndim == 4 and features.shape[3] == network.num_features != features.shape[1]
        self._side = math.isqrt(features.shape[1] - skipped)
        if features.ndim not in (3, 4) or (self._tokens and self._side**2 != features.shape[1] - skipped):
            raise BundleError(f"heat maps need features with places; this gate's have shape {tuple(features.shape)}")

    def to_grid(self, features: Tensor) -> Tensor:
        """Features as the network has them -> (n, C, h, w)."""
        if self._tokens:
            places = features[:, self._prefix.shape[1] :].transpose(1, 2)
            return places.reshape(len(features), -1, self._side, self._side)
        return features.permute(0, 3, 1, 2) if self._channels_last else features

    def from_grid(self, grid: Tensor) -> Tensor:
        """(n, C, h, w) -> features as the network has them."""
        if self._tokens:
            return torch.cat([self._prefix.expand(len(grid), -1, -1), grid.flatten(2).transpose(1, 2)], 1)
        return grid.permute(0, 2, 3, 1) if self._channels_last else grid


def _smooth(rises: Tensor, size: int) -> Tensor:
    """(n, h, w) -> (n, size, size), the steps between the places smoothed away."""
    fine = [FINE * side for side in rises.shape[1:]]
    x = F.interpolate(rises[:, None], fine, mode="bilinear", align_corners=False)
    reach = math.ceil(2.5 * BLUR)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / BLUR) ** 2)
    kernel /= kernel.sum()
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)[:, 0]
