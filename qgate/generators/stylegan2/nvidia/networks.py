"""NVIDIA's network files -> our spec and arrays by official names, in both formats. Nothing of a file is executed.

A file holds several networks: the generator that training averaged (G_ema, Gs) is taken, the others are left out.
Source of the layouts: the persistent objects of stylegan2-ada-pytorch and the variables of stylegan2 and stylegan2-ada.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgate.errors import WeightsError
from qgate.generators.stylegan2.nvidia.pickles import Budget, Refused, shown, unpickle
from qgate.generators.stylegan2.nvidia.values import Array, Node, TfNetwork, allowed
from qgate.generators.stylegan2.spec import FILTER, Arrays, Spec, brief, check_arrays

MAX_BYTES = 2**30
"""Largest file read; NVIDIA's are below 400 MB."""

MAX_PARTS, MAX_DEPTH, MAX_NAME = 20_000, 8, 100
"""Modules and parameters in a generator, how deep they nest, characters of a name."""

DAMAGED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


def read_network(content: bytes, name: str) -> tuple[Spec, Arrays]:
    """The generator in a network pickle.

    content: the file; name: what messages call it.
    Raises WeightsError where it asks for anything but data, is damaged, or holds no StyleGAN2(-ADA) generator.
    """
    if len(content) > MAX_BYTES:
        raise WeightsError(f"{name}: is larger than {MAX_BYTES >> 20} MiB, and no generator of this kind is")
    if content[:2] == b"PK":
        raise WeightsError(f"{name}: is a zip file (torch.save), not a network pickle of NVIDIA's; give the .pkl")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec, arrays = _convert(_load(content))
        if sum(array.nbytes for array in arrays.values()) > 2 * len(content):
            raise Refused("names the same numbers many times")
    except Refused as error:
        raise WeightsError(f"{name}: refused, since it {error}, which no generator needs; nothing was run") from error
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    except DAMAGED as error:
        reason = shown(str(error)) or type(error).__name__
        raise WeightsError(f"{name}: is truncated, damaged or no network pickle of NVIDIA's ({reason})") from error
    return spec, arrays


def _load(content: bytes) -> Any:
    if not content.startswith(b"\x80"):
        raise WeightsError("is no network pickle of NVIDIA's")
    stream, budget = io.BytesIO(content), Budget(len(content))
    value = unpickle(stream, budget, allowed(budget))
    if stream.tell() != len(content):
        raise Refused(f"goes on for {len(content) - stream.tell()} bytes after its end")
    return value


def _convert(value: Any) -> tuple[Spec, Arrays]:
    found = value
    if isinstance(value, dict):
        found = next((value[key] for key in ("G_ema", "G") if value.get(key) is not None), None)
        if found is None:
            only = "a discriminator and no generator" if "D" in value else "no generator"
            raise WeightsError(f"holds {only}; give a file with G_ema")
    elif isinstance(value, tuple | list) and len(value) == 3:
        found = value[2]
    if isinstance(found, Node):
        return _convert_torch(found)
    if isinstance(found, TfNetwork):
        return _convert_tf(found)
    raise WeightsError("holds no network")


def _convert_torch(generator: Node) -> tuple[Spec, Arrays]:
    if "Discriminator" in generator.class_name:
        raise WeightsError("holds a discriminator and no generator; give a file with G_ema")
    modules = generator.state.get("_modules")
    synthesis, mapping = (modules or {}).get("synthesis"), (modules or {}).get("mapping")
    if not isinstance(synthesis, Node) or not isinstance(mapping, Node):
        raise WeightsError(f"holds a {shown(generator.class_name)}, which is no StyleGAN2-ADA generator")
    blocks = synthesis.state["_modules"]
    if "input" in blocks:
        raise WeightsError("is a StyleGAN3 file; qgate draws StyleGAN2 and StyleGAN2-ADA generators")
    state, arrays = generator.state, dict(_torch_arrays(generator))
    resolution = _whole("img_resolution", state["img_resolution"])
    filters = {key: arrays.pop(key) for key in list(arrays) if key.rpartition(".")[2] == "resample_filter"}
    # conv1 has one too, which does nothing there and is always the usual one.
    used = [array for key, array in filters.items() if not key.endswith(".conv1.resample_filter")]
    last, dense = blocks[f"b{resolution}"].state, mapping.state["_modules"]["fc0"].state
    conv = last["_modules"]["conv1"].state
    _require("activation", conv.get("activation", "lrelu"), "lrelu")
    _require("activation of the mapping", dense.get("activation", "lrelu"), "lrelu")
    _require("img_channels", state["img_channels"], 3)
    if any(not np.array_equal(used[0], other) for other in used[1:]):
        raise WeightsError("its up-sampling filters differ from block to block")
    spec = Spec(
        z_dim=state["z_dim"],
        c_dim=state["c_dim"],
        w_dim=state["w_dim"],
        resolution=resolution,
        architecture=last["architecture"],
        mapping_layers=mapping.state["num_layers"],
        conv_clamp=conv.get("conv_clamp"),
        num_fp16_res=sum(bool(block.state.get("use_fp16")) for block in blocks.values()),
        lr_multiplier=dense["bias_gain"],
        resample_filter=_filter(used[0]) if used else FILTER,
    )
    check_arrays(spec, arrays)
    return spec, _as_float(arrays)


def _torch_arrays(generator: Node) -> Iterator[tuple[str, NDArray[Any]]]:
    """Parameters and buffers of a module and those below it, by dotted names."""
    waiting, parts = [("", generator, 0)], 0
    while waiting:
        prefix, node, depth = waiting.pop()
        state = node.state
        named = [*state.get("_parameters", {}).items(), *state.get("_buffers", {}).items()]
        below = list(state.get("_modules", {}).items())
        parts += len(named) + len(below)
        if parts > MAX_PARTS or depth > MAX_DEPTH or any(len(key) > MAX_NAME for key, _ in [*named, *below]):
            raise Refused("nests modules without an end")
        yield from ((prefix + key, value) for key, value in named if isinstance(value, np.ndarray))
        waiting += [(f"{prefix}{key}.", child, depth + 1) for key, child in below if isinstance(child, Node)]


def _convert_tf(generator: TfNetwork) -> tuple[Spec, Arrays]:
    state, variables = generator.state, dict(_tf_arrays(generator))
    if any("StyleMod" in key for key in variables):
        raise WeightsError("is a StyleGAN1 file; qgate draws StyleGAN2 and StyleGAN2-ADA generators")
    if not state.get("components"):
        what = "a discriminator" if brief(state.get("name"))[1:2] == "D" else "a network"
        raise WeightsError(f"holds {what} and no StyleGAN2 generator; give a file with Gs")
    settings = state["static_kwargs"]
    _require("nonlinearity", settings.get("nonlinearity", "lrelu"), "lrelu")
    _require("mapping_nonlinearity", settings.get("mapping_nonlinearity", "lrelu"), "lrelu")
    _require("normalize_latents", settings.get("normalize_latents", True), True)
    _require("num_channels", settings.get("num_channels", 3), 3)
    resolution = _whole("resolution", settings.get("resolution", 1024))
    lods = [key for key in variables if re.fullmatch(r"synthesis/ToRGB_lod0/\w+", key)]
    for key in lods:
        variables[key.replace("ToRGB_lod0", f"{resolution}x{resolution}/ToRGB")] = variables[key]
    kernel = _line(settings.get("resample_kernel", [1, 3, 3, 1]))
    spec = Spec(
        z_dim=settings.get("latent_size", 512),
        c_dim=settings.get("label_size", 0),
        w_dim=settings.get("dlatent_size", 512),
        resolution=resolution,
        architecture="orig" if lods else settings.get("architecture", "skip"),
        mapping_layers=settings.get("mapping_layers", 8),
        conv_clamp=settings.get("conv_clamp"),
        num_fp16_res=settings.get("num_fp16_res", 0),
        lr_multiplier=settings.get("mapping_lrmul", 0.01),
        resample_filter=_filter(np.outer(kernel, kernel) / kernel.sum() ** 2),
    )
    arrays = _rename_tf(spec, variables)
    check_arrays(spec, arrays)
    return spec, _as_float(arrays)


def _tf_arrays(generator: TfNetwork) -> Iterator[tuple[str, NDArray[Any]]]:
    """Variables of a network and its components, by names with slashes."""
    waiting, parts = [("", generator, 0)], 0
    while waiting:
        prefix, network, depth = waiting.pop()
        variables, below = network.state.get("variables", []), network.state.get("components", {})
        parts += len(variables) + len(below)
        names = [key for key, _ in variables] + list(below)
        if parts > MAX_PARTS or depth > MAX_DEPTH or any(len(key) > MAX_NAME for key in names):
            raise Refused("nests networks without an end")
        for key, value in variables:
            if isinstance(value, Array | int | float):
                yield prefix + key, value.values if isinstance(value, Array) else np.asarray(value)
        waiting += [(f"{prefix}{key}/", part, depth + 1) for key, part in below.items() if isinstance(part, TfNetwork)]


Change = Callable[[NDArray[Any]], NDArray[Any]]


def _rename_tf(spec: Spec, variables: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """TensorFlow's variables by the names and in the layout of the PyTorch version.

    There the channels of a kernel stand last, an up-sampling kernel is flipped, and the bias of a style lacks its 1.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def take(ours: str, theirs: str, change: Change = lambda array: array) -> None:
        if theirs in variables:
            arrays[ours] = change(variables[theirs])

    take("mapping.w_avg", "dlatent_avg")
    take("mapping.embed.weight", "mapping/LabelEmbed/weight", np.transpose)
    take("mapping.embed.bias", "mapping/LabelEmbed/bias")
    for index in range(spec.mapping_layers):
        take(f"mapping.fc{index}.weight", f"mapping/Dense{index}/weight", np.transpose)
        take(f"mapping.fc{index}.bias", f"mapping/Dense{index}/bias")
    noise = 0
    for r in spec.block_resolutions:
        block, scope = f"synthesis.b{r}", f"synthesis/{r}x{r}"
        take(f"{block}.const", f"{scope}/Const/const", lambda array: array[0])
        take(f"{block}.skip.weight", f"{scope}/Skip/weight", _flipped_kernel)
        official = {"conv0": "Conv0_up", "conv1": "Conv" if r == 4 else "Conv1"}
        layers = [(conv, official[conv]) for conv in spec.convs(r)]
        for conv, name in [*layers, ("torgb", "ToRGB")]:
            take(f"{block}.{conv}.weight", f"{scope}/{name}/weight", _flipped_kernel if conv == "conv0" else _kernel)
            take(f"{block}.{conv}.bias", f"{scope}/{name}/bias")
            take(f"{block}.{conv}.affine.weight", f"{scope}/{name}/mod_weight", np.transpose)
            take(f"{block}.{conv}.affine.bias", f"{scope}/{name}/mod_bias", lambda array: array + 1)
            if conv != "torgb":
                take(f"{block}.{conv}.noise_strength", f"{scope}/{name}/noise_strength")
                take(f"{block}.{conv}.noise_const", f"synthesis/noise{noise}", lambda array: array[0, 0])
                noise += 1
    return arrays


def _kernel(array: NDArray[Any]) -> NDArray[Any]:
    return array.transpose(3, 2, 0, 1)


def _flipped_kernel(array: NDArray[Any]) -> NDArray[Any]:
    return array[::-1, ::-1].transpose(3, 2, 0, 1)


def _line(kernel: Any) -> NDArray[np.float64]:
    """One direction of TensorFlow's up-sampling filter."""
    values = kernel.values.ravel().tolist() if isinstance(kernel, Array) else kernel
    known = isinstance(values, list | tuple) and len(values) == 4
    if not known or not all(isinstance(value, int | float) for value in values):
        raise WeightsError("its up-sampling filter is not of 4 numbers")
    return np.asarray(values, np.float64)


def _filter(array: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    if array.shape != (4, 4):
        raise WeightsError("its up-sampling filter is not 4x4")
    return tuple(tuple(float(value) for value in row) for row in array)


def _whole(name: str, value: Any) -> int:
    if type(value) is not int:
        raise WeightsError(f"{name} = {brief(value)}; it is a whole number")
    return value


def _require(name: str, value: Any, expected: Any) -> None:
    if value != expected:
        raise WeightsError(f"{name} = {brief(value)}; only {expected} is drawn")


def _as_float(arrays: dict[str, NDArray[Any]]) -> Arrays:
    return {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
