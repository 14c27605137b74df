"""Writes network pickles in NVIDIA's two formats, with embedded source text, out of arrays by official names.

Of the official code only the names are here that such files ask for; they exist while a file is written.
"""

import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qgate.generators.stylegan2.spec import FILTER, Arrays, Spec

SOURCE = "open('marker', 'w').write('this text was run')\n" * 100


class EasyDict(dict[str, Any]):
    __module__ = "dnnlib.util"


class Network:
    __module__ = "dnnlib.tflib.network"

    def __init__(self, **state: Any) -> None:
        self.__dict__ = {"version": 4, "build_module_src": SOURCE, "build_func_name": "G_main", **state}


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("the file was executed")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    def __init__(self, class_name: str, **state: Any) -> None:
        self.class_name, self.state = class_name, state

    def __reduce__(self) -> Any:
        meta = EasyDict(type="class", version=6, module_src=SOURCE, class_name=self.class_name, state=self.state)
        return _reconstruct_persistent_obj, (meta,), None


@contextmanager
def official_names() -> Iterator[None]:
    added = {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib", "dnnlib.tflib")}
    for thing in (EasyDict, Network, _reconstruct_persistent_obj):
        module = added.setdefault(thing.__module__, types.ModuleType(thing.__module__))
        setattr(module, thing.__name__, thing)
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def dump(value: Any, protocol: int) -> bytes:
    stream = io.BytesIO()
    with official_names():
        pickle.dump(value, stream, protocol)
    return stream.getvalue()


def torch_format(spec: Spec, arrays: Arrays, protocol: int = 3) -> bytes:
    """A training snapshot: discriminator, averaged generator, settings of the data."""
    tree: dict[str, Any] = {}
    parts = {name.rpartition(".")[0] for name in arrays if name.endswith("noise_const")}
    # The official conv1, which does not use its filter, always has the usual one.
    filters = {f"{part}.resample_filter": FILTER if part.endswith("conv1") else spec.resample_filter for part in parts}
    for name, array in {**arrays, **{name: np.array(rows, np.float32) for name, rows in filters.items()}}.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = array
    generator = _module(tree, "Generator", spec, "")
    discriminator = Persistent("Discriminator", _parameters=OrderedDict(), _modules=OrderedDict(), c_dim=spec.c_dim)
    kwargs = EasyDict(class_name="training.dataset.ImageFolderDataset", path="x.zip", use_labels=spec.c_dim > 0)
    snapshot = {"training_set_kwargs": kwargs, "D": discriminator, "G_ema": generator, "augment_pipe": None}
    return dump(snapshot, protocol)


def _module(tree: dict[str, Any], class_name: str, spec: Spec, name: str) -> Persistent:
    buffers = ("resample_filter", "noise_const", "w_avg")
    own = {key: torch.from_numpy(np.array(value)) for key, value in tree.items() if not isinstance(value, dict)}
    below = {key: value for key, value in tree.items() if isinstance(value, dict)}
    state: dict[str, Any] = {
        "training": False,
        "_parameters": OrderedDict((key, torch.nn.Parameter(own[key])) for key in own if key not in buffers),
        "_buffers": OrderedDict((key, own[key]) for key in own if key in buffers),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict((key, _module(value, "Part", spec, key)) for key, value in below.items()),
        "act_gain": np.float64(2**0.5),
    }
    if class_name == "Generator":
        state |= {"z_dim": spec.z_dim, "c_dim": spec.c_dim, "w_dim": spec.w_dim, "img_channels": 3}
        state["img_resolution"] = spec.resolution
    elif name == "mapping":
        state["num_layers"] = spec.mapping_layers
    elif name.startswith("fc"):
        state |= {"activation": "lrelu", "bias_gain": spec.lr_multiplier, "weight_gain": np.float64(0.001)}
    elif name.startswith("b") and name[1:].isdecimal():
        half = int(name[1:]) > spec.resolution >> spec.num_fp16_res
        state |= {"architecture": spec.architecture, "use_fp16": half}
    elif name.startswith("conv"):
        state |= {"activation": "lrelu", "conv_clamp": spec.conv_clamp}
    return Persistent(class_name, **state)


def tf_format(spec: Spec, arrays: Arrays, protocol: int = 4) -> bytes:
    """(G, D, Gs), of which only the last has variables."""
    settings = EasyDict(
        num_channels=3,
        resolution=spec.resolution,
        label_size=spec.c_dim,
        latent_size=spec.z_dim,
        dlatent_size=spec.w_dim,
        mapping_layers=spec.mapping_layers,
        architecture=spec.architecture,
        conv_clamp=spec.conv_clamp,
        num_fp16_res=spec.num_fp16_res,
        func_name="training.networks.G_main",
    )
    mapping = [_tf_mapping(name, array) for name, array in arrays.items() if name.startswith("mapping.")]
    synthesis = [_tf_synthesis(name, array) for name, array in arrays.items() if name.startswith("synthesis.")]
    average = [("lod", np.float32(0)), ("dlatent_avg", arrays["mapping.w_avg"])]
    mapping, synthesis = ([(key, np.array(value, order="C")) for key, value in part] for part in (mapping, synthesis))
    components = EasyDict(
        mapping=Network(name="mapping", variables=[pair for pair in mapping if pair[0] != "w_avg"]),
        synthesis=Network(name="synthesis", variables=synthesis),
    )
    full = Network(name="Gs", static_kwargs=settings, components=components, variables=average)
    empty = Network(name="D", static_kwargs=settings, components=EasyDict(), variables=[])
    return dump((empty, empty, full), protocol)


def _tf_mapping(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    path = name.removeprefix("mapping.").replace("fc", "Dense").replace("embed", "LabelEmbed").replace(".", "/")
    return path, array.T if path.endswith("weight") else array


def _tf_synthesis(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    _, block, *path = name.split(".")
    r = int(block[1:])
    if path == ["const"]:
        return "4x4/Const/const", array[None]
    if path[-1] == "noise_const":
        return f"noise{2 * r.bit_length() - 6 - (path[0] == 'conv0')}", array[None, None]
    layer = {"conv0": "Conv0_up", "conv1": "Conv" if r == 4 else "Conv1", "torgb": "ToRGB", "skip": "Skip"}[path[0]]
    scope = f"{r}x{r}/{layer}"
    if path[1] == "affine":
        return (f"{scope}/mod_weight", array.T) if path[2] == "weight" else (f"{scope}/mod_bias", array - 1)
    if path[1] == "weight":
        kernel = array.transpose(2, 3, 1, 0)
        return f"{scope}/weight", kernel[::-1, ::-1] if path[0] in ("conv0", "skip") else kernel
    return f"{scope}/{path[1]}", array
