"""The StyleGAN2-ADA generator, z -> pixels, for any size and architecture. Knows nothing of files.

Our own implementation after the papers. Legend of shapes: n images, r the resolution of a block.
Source: Karras et al., arXiv 1812.04948 (mapping, styles, noise), 1912.04958 (architectures), 2006.06676 (classes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from qgate.generators.pixels import to_pixels
from qgate.generators.stylegan2.layers import GAIN, SLOPE, Block, Params, under
from qgate.generators.stylegan2.spec import Arrays, Spec, check_arrays

NoiseMode = Literal["const", "random", "none"]


class MappingNetwork(nn.Module):
    """z and class -> w."""

    def __init__(self, params: Params, spec: Spec) -> None:
        super().__init__()
        self.embed_weight = nn.Parameter(params["embed.weight"] / math.sqrt(spec.c_dim)) if spec.c_dim else None
        self.embed_bias = nn.Parameter(params["embed.bias"]) if spec.c_dim else None
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index in range(spec.mapping_layers):
            weight, bias = params[f"fc{index}.weight"], params[f"fc{index}.bias"]
            self.weights.append(weight * (GAIN * spec.lr_multiplier / math.sqrt(weight.shape[1])))
            self.biases.append(bias * (GAIN * spec.lr_multiplier))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        x = _normalize(z)
        if self.embed_weight is not None and label is not None:
            x = torch.cat([x, _normalize(F.linear(label, self.embed_weight, self.embed_bias))], 1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = F.leaky_relu(F.linear(x, weight, bias), SLOPE)
        return x


class StyleGan2(nn.Module):
    """The whole generator."""

    def __init__(
        self,
        spec: Spec,
        params: Params,
        noise_mode: NoiseMode,
        dtypes: Mapping[int, torch.dtype],
        block: type[Block] = Block,
    ) -> None:
        super().__init__()
        has_noise = "synthesis.b4.conv1.noise_const" in params
        self.spec, self.noise_mode = spec, noise_mode if has_noise else "none"
        noise = self.noise_mode != "none"
        self.mapping = MappingNetwork(under(params, "mapping."), spec)
        self.w_avg = nn.Buffer(params["mapping.w_avg"])
        self.blocks = nn.ModuleList(
            block(under(params, f"synthesis.b{r}."), spec, r, noise, dtypes[r]) for r in spec.block_resolutions
        )

    def map(self, z: Tensor, truncation: Tensor, label: Tensor | None = None) -> Tensor:
        """z (n, z_dim), truncation (n, num_ws), label (n, c_dim) one-hot -> ws (n, num_ws, w_dim).

        truncation: pull of each layer towards the mean w; 1 = none, 0 = the mean itself.
        """
        w = self.mapping(z, label)
        return self.w_avg.lerp(w[:, None], truncation[:, :, None])

    def synthesize(self, ws: Tensor, noise: Tensor | None = None) -> Tensor:
        """ws (n, num_ws, w_dim) -> RGB (n, 3, r, r) fp32, about -1..1, not clamped.

        noise: (n, noise_size) standard normal for the mode random; None otherwise.
        """
        x: Tensor | None = None
        rgb: Tensor | None = None
        sizes = [r * r for r in self.spec.block_resolutions for _ in self.spec.convs(r)]
        noises = list(torch.split(noise, sizes, 1)) if noise is not None else []
        start = 0
        for r, block in zip(self.spec.block_resolutions, self.blocks, strict=True):
            own = [noises.pop(0).view(-1, 1, r, r) for _ in self.spec.convs(r)] if noises else []
            x, rgb = block(x, rgb, ws[:, start:], own)
            start += len(self.spec.convs(r))
        assert rgb is not None
        return rgb

    def forward(self, z: Tensor, truncation: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of `map`, then of `synthesize`, as far as the network takes them -> uint8 RGB and its mean.

        The mean (n,) is of the unclamped RGB: it is finite only if every pixel is.
        """
        label = rest[0] if self.spec.c_dim else None
        noise = rest[-1] if self.noise_mode == "random" else None
        return to_pixels(self.synthesize(self.map(z, truncation, label), noise))

    def extra_repr(self) -> str:
        return f"noise_mode={self.noise_mode}, {self.spec}"


class Synthesis(nn.Module):
    """The generator without its mapping: w -> pixels."""

    def __init__(self, generator: StyleGan2) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, ws: Tensor, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """ws (n, num_ws, w_dim), in the noise mode random also noise -> uint8 RGB and its mean, as the generator."""
        return to_pixels(self.generator.synthesize(ws, *noise))


def build(
    spec: Spec,
    arrays: Arrays,
    noise_mode: NoiseMode = "const",
    half: torch.dtype | None = None,
    block: type[Block] = Block,
) -> StyleGan2:
    """The network in eval mode, on the CPU. Raises WeightsError where the arrays do not fit the spec.

    half: float16 or bfloat16 for all resolutions but the smallest; None: fp32 everywhere. Full precision has no tensor
        cores, and takes the more time the fewer layers compute in it.
    block: the form of the layers: the plain one, or `FusedBlock` where `fuses(spec)`.
    """
    check_arrays(spec, arrays)
    params = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()}
    rs = spec.block_resolutions
    dtypes = {r: half if half is not None and r > rs[0] else torch.float32 for r in rs}
    return StyleGan2(spec, params, noise_mode, dtypes, block).eval().requires_grad_(False)


def noise_size(spec: Spec) -> int:
    """Normal numbers that an image takes in the noise mode random."""
    return sum(r * r * len(spec.convs(r)) for r in spec.block_resolutions)


def draw_noise(seeds: Sequence[int], spec: Spec) -> NDArray[np.float32]:
    """Noise of seeds: (n, noise_size) float32, standard normal, row i from seed i alone, the same on every machine.

    Its stream is not that of z, which is MT19937 of the same seed.
    """
    noise = np.empty((len(seeds), noise_size(spec)), np.float32)

    def fill(row: NDArray[np.float32], seed: int) -> None:
        np.random.Generator(np.random.Philox(key=seed)).standard_normal(dtype=np.float32, out=row)

    # numpy lets go of the interpreter while it draws, millions of numbers a face.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, noise, seeds))
    return noise


def _normalize(x: Tensor) -> Tensor:
    """Each row divided by its root mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
