"""The data files of the PyPI wheel `random-face`: found, checked, read as arrays. Runs no code of it.

The wheel holds MobileStyleGAN as two OpenVINO graphs (XML + raw constants). Only the constants are needed; which
constant is which follows from the layer that uses it.
"""

from __future__ import annotations

import zipfile
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from qgate.cache import PinnedWheel, check_sha256
from qgate.errors import WeightsError

WHEEL = PinnedWheel(
    requirement="random-face==2021.7.21.1",
    file_name="random_face-2021.7.21.1-py3-none-any.whl",
    sha256="e5d10e2be7df63f06123855ec591ca35dcb1d059eba47ddcb175d7d26b4019b5",
    what="weights of mobile-stylegan",
    size="38 MB",
    advice="give the file: --generator mobile-stylegan:random_face-2021.7.21.1-py3-none-any.whl",
)
FILES_SHA256 = {
    "MappingNetwork.xml": "73e2096cad6e696e4af47df2477e048ab4c42c0e0dec83c7c66604822689e55b",
    "MappingNetwork.bin": "212dd716bdb556e18db603ea97300d4fa3c872b878c726b2402fea80820e7305",
    "SynthesisNetwork.xml": "7918fce515243954d3e06628cb39a23902d6b1d5d02932cc0c2faee7a2aeeedd",
    "SynthesisNetwork.bin": "c7da15fa22d508c82e1c30dd6b4cdf67fe3ccdddaf85b310ee764dbf0c289645",
}
NUM_BLOCKS = 7

Arrays = dict[str, NDArray[np.float32]]


def load_arrays(path: str | None) -> Arrays:
    """The weights of MobileStyleGAN by the names that `network.MobileStyleGan` gives its parameters.

    path: the wheel, or a folder that holds its four data files; None: the user's cache, an installed
        `random-face`, or a download with pip, in this order.
    Raises WeightsError where they are missing, truncated, other than the pinned ones, or cannot be fetched.
    """
    files = _read_files(Path(path) if path is not None else locate())
    mapping = _Graph(files["MappingNetwork.xml"], files["MappingNetwork.bin"])
    synthesis = _Graph(files["SynthesisNetwork.xml"], files["SynthesisNetwork.bin"])
    return _mapping_arrays(mapping) | _synthesis_arrays(synthesis)


def locate() -> Path:
    """Where the data files are: the wheel in the user's cache, an installed `random-face`, else fetched now."""
    if WHEEL.cached.exists():
        return WHEEL.cached
    try:
        package = metadata.distribution("random-face")
    except metadata.PackageNotFoundError:
        return WHEEL.fetch()
    if package.version == WHEEL.requirement.partition("==")[2]:
        return Path(str(package.locate_file("random_face/data")))
    return WHEEL.fetch()


def _read_files(path: Path) -> dict[str, bytes]:
    """The four data files, each with its pinned content."""
    try:
        if path.is_dir():
            files = {name: (path / name).read_bytes() for name in FILES_SHA256}
        else:
            WHEEL.check(path.read_bytes(), path)
            with zipfile.ZipFile(path) as wheel:
                return {name: wheel.read(f"random_face/data/{name}") for name in FILES_SHA256}
    except OSError as error:
        raise WeightsError(
            f"weights of mobile-stylegan: {error.filename or path} cannot be read ({error.strerror}); give the wheel "
            f"{WHEEL.file_name} or drop the path to fetch it"
        ) from error
    for name, content in files.items():
        check_sha256(content, FILES_SHA256[name], path / name, WHEEL.what)
    return files


class _Graph:
    """An OpenVINO graph (IR version 10) as far as its constants go."""

    def __init__(self, xml: bytes, constants: bytes) -> None:
        root = ElementTree.fromstring(xml)
        self.layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        self._inputs: dict[str, list[str]] = {}
        for edge in root.iterfind("edges/edge"):
            self._inputs.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
        self._constants = constants

    def constant(self, layer_id: str) -> NDArray[np.float32] | None:
        """The float32 constant that a layer is, or None."""
        layer = self.layers[layer_id]
        data = layer.find("data")
        if layer.attrib["type"] != "Const" or data is None or data.attrib["element_type"] != "f32":
            return None
        shape = [int(size) for size in data.attrib["shape"].split(",") if size.strip()]
        count, offset = int(np.prod(shape)), int(data.attrib["offset"])
        return np.frombuffer(self._constants, np.float32, count, offset).reshape(shape)

    def named(self, name: str) -> NDArray[np.float32]:
        """The constant of that name."""
        for layer_id, layer in self.layers.items():
            if layer.attrib["name"] == name and (array := self.constant(layer_id)) is not None:
                return array
        raise WeightsError(f"weights of mobile-stylegan: no constant {name}")

    def operands(self, kind: str) -> list[NDArray[np.float32]]:
        """The constant operands of all layers of a kind, in the order of execution."""
        arrays = []
        for layer_id, layer in self.layers.items():
            if layer.attrib["type"] == kind:
                candidates = (self.constant(source) for source in self._inputs[layer_id])
                arrays += [array for array in candidates if array is not None]
        return arrays


def _mapping_arrays(graph: _Graph) -> Arrays:
    arrays: Arrays = {}
    for index, weight in enumerate(graph.operands("MatMul")):
        arrays[f"mapping.{index}.weight"] = weight
    for index, bias in enumerate(array for array in graph.operands("Reshape") if array.shape == (512,)):
        arrays[f"mapping.{index}.bias"] = bias
    return arrays


def _synthesis_arrays(graph: _Graph) -> Arrays:
    arrays: Arrays = {"const": graph.named("m.input.input")}
    official = {"conv": "m.conv1.conv", "to_rgb": f"m.layers.{NUM_BLOCKS - 1}.to_img.conv"}
    for block in range(NUM_BLOCKS):
        official[f"blocks.{block}.up"] = f"m.layers.{block}.up"
        for conv in ("conv1", "conv2"):
            official[f"blocks.{block}.{conv}"] = f"m.layers.{block}.{conv}.conv"
    for ours, theirs in official.items():
        arrays[f"{ours}.affine.weight"] = graph.named(f"{theirs}.modulation.weight")
        arrays[f"{ours}.affine.bias"] = graph.named(f"{theirs}.modulation.bias").reshape(-1)

    convs = ["conv", *(f"blocks.{block}.{conv}" for block in range(NUM_BLOCKS) for conv in ("conv1", "conv2"))]
    added = [array for array in graph.operands("Add") if array.ndim == 4]
    noises = [array for array in added if array.shape[1] == 1]
    biases = [array for array in added if array.shape[1] > 1]
    for conv, depthwise in zip(convs[1:], graph.operands("GroupConvolution"), strict=True):
        arrays[f"{conv}.depthwise"] = depthwise.reshape(-1, 1, 3, 3)
    for conv, weight, bias in zip([*convs, "to_rgb"], graph.operands("Convolution"), biases, strict=True):
        arrays[f"{conv}.weight"], arrays[f"{conv}.bias"] = weight, bias.reshape(-1)
    for conv, noise in zip(convs, noises, strict=True):
        arrays[f"{conv}.noise"] = noise
    return arrays
