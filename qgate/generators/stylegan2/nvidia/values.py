"""What the globals of NVIDIA's files stand for here: inert nodes, dictionaries and checked arrays.

Source of the layouts: `torch_utils.persistence` (meta dictionaries), `torch.save` in its format before zip files,
`numpy.ndarray.__reduce__`.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgate.generators.stylegan2.nvidia.pickles import Budget, Globals, Refused, State, shown, unpickle
from qgate.generators.stylegan2.spec import brief

MAX_DIMENSIONS = 8
NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
"""Types of array elements that are numbers; an object type would be a pickle within the pickle."""

STORAGES = {
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


@dataclass(frozen=True, slots=True)
class Node:
    """A persistent object of `torch_utils`: the name of its class and its attributes; its source text is left out."""

    class_name: str
    state: dict[str, Any]


class TfNetwork(State):
    """A `dnnlib.tflib.Network`: its attributes as stored."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def build(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError("the state of a network is no dictionary")
        self.state = state


class Type(State):
    """A numpy dtype of plain numbers."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code).newbyteorder("<")

    def build(self, state: Any) -> None:
        """(version, byte order, then None, None, None, -1, -1, 0): only little-endian plain types."""
        if state[1] not in ("<", "|", "=") or any(part is not None for part in state[2:5]):
            raise Refused("uses an array type that is no plain little-endian number")


class Array(State):
    """A numpy array; `values` is empty until BUILD fills it."""

    def __init__(self) -> None:
        self.values: NDArray[Any] = np.empty(0, np.float32)

    def build(self, state: Any) -> None:
        """(version, shape, type, in Fortran order, bytes)."""
        _, shape, kind, fortran, content = state
        if not isinstance(kind, Type) or not isinstance(content, bytes) or not isinstance(fortran, bool):
            raise Refused("holds an array that is no plain numbers")
        count = math.prod(_sizes(shape))
        if count * kind.dtype.itemsize != len(content):
            raise Refused(f"holds an array whose shape {_short(shape)} does not fit its {len(content)} bytes")
        self.values = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if fortran else "C")


@dataclass(frozen=True, slots=True)
class Storage:
    """The memory of tensors, flat."""

    values: NDArray[Any]


def _persistent(meta: Any) -> Node:
    class_name, state = meta["class_name"], meta["state"]
    if meta.get("type") != "class" or not isinstance(class_name, str) or not isinstance(state, dict):
        raise Refused(f"holds a persistent object of type {brief(meta.get('type'))}")
    return Node(class_name, state)


def _mapping() -> dict[Any, Any]:
    """OrderedDict() or EasyDict(); the items come by opcodes, each paid for."""
    return {}


def _set(values: Any) -> Any:
    """A set of older pickles: its list, since nobody asks whether something is in it."""
    return values


def _dtype(code: Any, *_: Any) -> Type:
    if not isinstance(code, str) or code not in NUMBERS:
        raise Refused(f"uses arrays of the type {brief(code)}")
    return Type(code)


def _array_type(*_: Any) -> None:
    raise Refused("makes a numpy.ndarray directly")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if kind is not _array_type:
        raise Refused("rebuilds an array of another class than numpy.ndarray")
    return Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """A numpy array as protocol 5 writes it."""
    if order not in ("C", "F") or axes is not None:
        raise Refused("holds an array in another order than C or Fortran")
    array = Array()
    array.build((1, shape, kind, order == "F", content))
    return array


def _scalar(kind: Any, content: Any) -> Any:
    if not isinstance(kind, Type) or not isinstance(content, bytes) or len(content) != kind.dtype.itemsize:
        raise Refused("holds a scalar that is no plain number")
    return np.frombuffer(content, kind.dtype)[0].item()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> NDArray[Any]:
    """A view of a storage that stays within it and is not larger than it."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    sizes, strides = _sizes(size), _sizes(stride)
    (start,) = _sizes((offset,))
    if len(sizes) != len(strides):
        raise Refused("holds a tensor with more sizes than strides")
    values = storage.values
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if 0 in sizes:
        return np.empty(sizes, values.dtype)
    if last >= values.size or math.prod(sizes) > values.size:
        raise Refused(f"holds a tensor of shape {_short(size)} that reaches outside its storage of {values.size}")
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(values[start:], sizes, steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> NDArray[Any]:
    if not isinstance(tensor, np.ndarray):
        raise TypeError("a parameter without a tensor")
    return tensor


def _storage_from_bytes(budget: Budget, content: Any) -> Storage:
    """The one storage of a `torch.save` stream of the old format: five pickles, then its numbers."""
    if not isinstance(content, bytes):
        raise TypeError("a storage without bytes")
    stream = io.BytesIO(content)
    if (unpickle(stream, budget, {}), unpickle(stream, budget, {})) != (TORCH_MAGIC, TORCH_PROTOCOL):
        raise Refused("holds a tensor in another format than torch.save's before zip files")
    unpickle(stream, budget, {})
    dtype, key, count = unpickle(stream, budget, _STORAGE_TYPES, persistent=_storage_id)
    keys = unpickle(stream, budget, {})
    stored = int.from_bytes(stream.read(8), "little")
    left = len(content) - stream.tell()
    if keys != [key] or stored != count or left != count * dtype.itemsize:
        raise Refused(f"holds a storage of {count} numbers in {left} bytes")
    return Storage(np.frombuffer(content, dtype, count, stream.tell()))


def _storage_type(code: str) -> Any:
    def stand_in(*_: Any) -> None:
        raise Refused("makes a storage directly")

    stand_in.dtype = np.dtype(f"<{code}")  # type: ignore[attr-defined]
    return stand_in


def _storage_id(identity: Any) -> tuple[np.dtype[Any], str, int]:
    """('storage', its type, key, device, numbers[, view]) -> element type, key, numbers."""
    word, kind, key, _, count, *view = identity
    dtype = getattr(kind, "dtype", None)
    if word != "storage" or dtype is None or not isinstance(key, str) or any(part is not None for part in view):
        raise Refused("holds a storage of an unknown kind")
    return dtype, key, _sizes((count,))[0]


def _sizes(values: Any) -> list[int]:
    """Sizes, strides or offsets: few integers, none below zero, none beyond memory."""
    if not isinstance(values, tuple) or len(values) > MAX_DIMENSIONS:
        raise Refused("holds an array of an impossible shape")
    for value in values:
        if type(value) is not int or not 0 <= value < 2**40:
            raise Refused(f"holds an array of the impossible shape {_short(values)}")
    return list(values)


def _short(values: tuple[Any, ...]) -> str:
    return shown("x".join(str(value) if type(value) is int and value < 2**64 else "?" for value in values))


def _constant(*_: Any) -> None:
    """A constant of torch, such as a dtype among the attributes of a module: it is stored and never used."""
    raise Refused("calls a constant of torch")


def _unused(*_: Any) -> None:
    """The size or device of something: data of a module that a generator's arrays do not need."""


_STORAGE_TYPES: Globals = {("torch", name): _storage_type(code) for name, code in STORAGES.items()}
CONSTANTS = ("float16", "float32", "float64", "int64", "bool")
_KNOWN: Globals = {
    **{("torch", name): _constant for name in CONSTANTS},
    **{("torch", name): _unused for name in ("Size", "device")},
    ("collections", "OrderedDict"): _mapping,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("numpy", "ndarray"): _array_type,
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("dnnlib.util", "EasyDict"): _mapping,
    ("dnnlib.tflib.network", "Network"): TfNetwork,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def allowed(budget: Budget) -> Globals:
    """The allow-list: what each global that a generator needs stands for."""
    return {**_KNOWN, ("torch.storage", "_load_from_bytes"): functools.partial(_storage_from_bytes, budget)}
