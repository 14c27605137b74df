"""What a StyleGAN2-ADA generator is made of: its sizes, and the names and shapes of its parameters. Knows no files.

The names are the official ones of the PyTorch version, such as `synthesis.b64.conv0.affine.weight`.
Source of the architecture: Karras et al., arXiv 1812.04948, 1912.04958 and 2006.06676.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from qgate.errors import WeightsError

Arrays = dict[str, NDArray[np.float32]]
Shape = tuple[int, ...]

Architecture = Literal["skip", "orig", "resnet"]
RESOLUTIONS = tuple(2**power for power in range(3, 12))
MAX_CLASSES = 1_000_000
MAX_MAPPING_LAYERS = 64
FILTER = tuple(tuple(a * b / 64 for a in (1.0, 3.0, 3.0, 1.0)) for b in (1.0, 3.0, 3.0, 1.0))
"""The up-sampling filter of all published networks: [1, 3, 3, 1] in both directions, sum 1."""


def brief(value: object) -> str:
    """A value of a file for a message; of what is no number or text only the type, as its repr may have no end."""
    if isinstance(value, str):
        return ascii(value[:40])
    return str(value) if value is None or isinstance(value, bool | int | float) else f"a {type(value).__name__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The settings of a network that do not follow from the shapes of its parameters.

    conv_clamp: activations are clamped to +- this; None: not at all.
    num_fp16_res: so many of the largest resolutions were trained in half precision.
    lr_multiplier: factor on weights and biases of the mapping.
    resample_filter: 4x4 up-sampling filter of sum 1.
    """

    z_dim: int
    c_dim: int
    w_dim: int
    resolution: int
    architecture: Architecture
    mapping_layers: int
    conv_clamp: float | None = None
    num_fp16_res: int = 0
    lr_multiplier: float = 0.01
    resample_filter: tuple[tuple[float, ...], ...] = FILTER

    def __post_init__(self) -> None:
        """Raise WeightsError for a value that no such network has."""
        for name, value, low, high in (
            ("z_dim", self.z_dim, 1, 2**16),
            ("w_dim", self.w_dim, 1, 2**16),
            ("c_dim", self.c_dim, 0, MAX_CLASSES),
            ("mapping_layers", self.mapping_layers, 1, MAX_MAPPING_LAYERS),
            ("num_fp16_res", self.num_fp16_res, 0, 2**16),
        ):
            if type(value) is not int or not low <= value <= high:
                raise WeightsError(f"{name} = {brief(value)}; it is {low}..{high}")
        if type(self.resolution) is not int or self.resolution not in RESOLUTIONS:
            raise WeightsError(f"resolution = {brief(self.resolution)}; it is a power of two from 8 to 2048")
        if self.architecture not in get_args(Architecture):
            raise WeightsError(f"architecture = {brief(self.architecture)}; it is skip, orig or resnet")
        clamp = 1.0 if self.conv_clamp is None else self.conv_clamp
        for name, number in (("conv_clamp", clamp), ("lr_multiplier", self.lr_multiplier)):
            if not isinstance(number, int | float) or not 0 < number < math.inf:
                raise WeightsError(f"{name} = {brief(number)}; it is a number above zero")
        if np.shape(self.resample_filter) != (4, 4) or not np.isfinite(self.resample_filter).all():
            raise WeightsError("the up-sampling filter is not of 4x4 numbers")

    @property
    def block_resolutions(self) -> list[int]:
        """4, 8, ..., resolution."""
        return [r for r in (4, *RESOLUTIONS) if r <= self.resolution]

    @property
    def num_ws(self) -> int:
        """Layers that take a w of their own: 2 log2(resolution) - 2."""
        return 2 * len(self.block_resolutions)

    def has_rgb(self, resolution: int) -> bool:
        """Whether the block of that resolution makes an image."""
        return self.architecture == "skip" or resolution == self.resolution

    def convs(self, resolution: int) -> tuple[str, ...]:
        """The style convolutions of the block of that resolution."""
        return ("conv1",) if resolution == 4 else ("conv0", "conv1")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Raises WeightsError for anything but `to_json`'s values."""
        try:
            rows = tuple(tuple(float(value) for value in row) for row in values["resample_filter"])
            return cls(**{**values, "resample_filter": rows})
        except (TypeError, KeyError, ValueError) as error:
            raise WeightsError(f"the settings of the network are damaged ({error})") from error


def check_arrays(spec: Spec, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise WeightsError unless these are the parameters of such a network, whole, finite and of fitting shapes."""
    try:
        channels = {r: arrays[f"synthesis.b{r}.conv1.weight"].shape[0] for r in spec.block_resolutions}
        hidden = [arrays[f"mapping.fc{index}.weight"].shape[0] for index in range(spec.mapping_layers - 1)]
        embedded = arrays["mapping.embed.weight"].shape[0] if spec.c_dim else 0
        expected = parameter_shapes(spec, channels, [*hidden, spec.w_dim], embedded)
    except (KeyError, IndexError) as error:
        raise WeightsError(f"parameter {error} is missing or of a wrong shape") from error
    noise = {name for name in expected if name.endswith(("noise_const", "noise_strength"))}
    if not noise & set(arrays):  # trained with use_noise=False
        expected = {name: shape for name, shape in expected.items() if name not in noise}
    wrong = {
        "missing": sorted(set(expected) - set(arrays)),
        "not expected": sorted(set(arrays) - set(expected)),
        "of a wrong shape": [name for name in expected if name in arrays and arrays[name].shape != expected[name]],
    }
    wrong["not finite"] = (
        [name for name in arrays if not np.isfinite(arrays[name]).all()] if not any(wrong.values()) else []
    )
    found = [f"{_some(names)} {'is' if len(names) == 1 else 'are'} {what}" for what, names in wrong.items() if names]
    if found:
        raise WeightsError(f"the parameters fit no StyleGAN2-ADA generator: {'; '.join(found)}")


def parameter_shapes(
    spec: Spec, channels: Mapping[int, int], features: Sequence[int], embedded: int
) -> dict[str, Shape]:
    """The shape of every parameter by its name.

    channels: of each block, by resolution; features: that each layer of the mapping makes; embedded: those of a class.
    """
    shapes = _mapping_shapes(spec, features, embedded)
    before = 0
    for r in spec.block_resolutions:
        block, c = f"synthesis.b{r}", channels[r]
        if r == 4:
            shapes[f"{block}.const"] = (c, 4, 4)
        elif spec.architecture == "resnet":
            shapes[f"{block}.skip.weight"] = (c, before, 1, 1)
        for conv in spec.convs(r):
            c_in = before if conv == "conv0" else c
            shapes |= {
                f"{block}.{conv}.weight": (c, c_in, 3, 3),
                f"{block}.{conv}.bias": (c,),
                f"{block}.{conv}.noise_const": (r, r),
                f"{block}.{conv}.noise_strength": (),
                f"{block}.{conv}.affine.weight": (c_in, spec.w_dim),
                f"{block}.{conv}.affine.bias": (c_in,),
            }
        if spec.has_rgb(r):
            shapes |= {
                f"{block}.torgb.weight": (3, c, 1, 1),
                f"{block}.torgb.bias": (3,),
                f"{block}.torgb.affine.weight": (c, spec.w_dim),
                f"{block}.torgb.affine.bias": (c,),
            }
        before = c
    return shapes


def _mapping_shapes(spec: Spec, features: Sequence[int], embedded: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"mapping.w_avg": (spec.w_dim,)}
    before = spec.z_dim
    if spec.c_dim:
        shapes |= {"mapping.embed.weight": (embedded, spec.c_dim), "mapping.embed.bias": (embedded,)}
        before += embedded
    for index, out in enumerate(features):
        shapes |= {f"mapping.fc{index}.weight": (out, before), f"mapping.fc{index}.bias": (out,)}
        before = out
    return shapes


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(ascii(name)[1:-1][:80] for name in names[:3]) + more
