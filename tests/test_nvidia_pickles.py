"""Hostile and damaged network pickles: nothing runs, memory stays bounded, and the message names what was refused."""

import collections
import functools
import importlib
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qgate.errors import QgateError, WeightsError
from qgate.generators.stylegan2.files import convert, read_apart
from qgate.generators.stylegan2.nvidia.networks import read_network
from qgate.generators.stylegan2.nvidia.pickles import Budget, unpickle
from qgate.generators.stylegan2.spec import Spec

HERE = Path(__file__).parent
TORCH = (HERE / "stylegan2_ada_torch_format.pkl").read_bytes()
TENSORFLOW = (HERE / "stylegan2_ada_tf_format.pkl").read_bytes()
MEGABYTE = 2**20
TOUCH = "__import__('pathlib').Path('marker').touch()"


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


class Plain:
    """Has a __setstate__ that a careless reader calls."""

    def __setstate__(self, state: str) -> None:
        os.system(state)


def unframed(content: bytes) -> bytes:
    """The same pickle without its FRAME opcodes."""
    cuts = [position for opcode, _, position in pickletools.genops(content) if opcode.name == "FRAME"]
    parts = zip([0, *(cut + 9 for cut in cuts)], [*cuts, len(content)], strict=True)
    return b"".join(content[start:stop] for start, stop in parts)


def calling(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls a global which need not exist here."""
    called = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93"
    return b"\x80\x04" + called + unframed(pickle.dumps(arguments, 4))[2:-1] + b"R."


def torch_global(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def old_torch(obj: bytes, data: bytes = b"") -> bytes:
    """A torch.save stream of the old format with a pickle of one's own."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    return head + obj + pickle.dumps(["0"], 2) + data


def load_from_bytes(content: bytes) -> bytes:
    return pickle.dumps(Call(torch.storage._load_from_bytes, content), 4)  # type: ignore[attr-defined]


def tensor(numbers: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    stored = torch.zeros(numbers).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=stored, dtype=torch.float32, _internal=True)
    arguments = (storage, offset, size, stride, False, collections.OrderedDict())
    return pickle.dumps(Call(torch_global("torch._utils._rebuild_tensor_v2"), *arguments), 4)


def hash_bomb() -> bytes:
    """A key that is a tuple of two tuples of two tuples ...: sixty bytes of memory, and for ever to hash."""
    doubled = b")" + b"\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(60))
    return b"\x80\x04}" + doubled + b"Ns."


def message_bomb() -> bytes:
    """The same tuple as the type of an array: a message that quoted it would have no end."""
    doubled = b")" + b"\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(60))
    return b"\x80\x04cnumpy\ndtype\n" + doubled + b"\x85R."


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", content)
    return stream.getvalue()


SYSTEM = pickle.dumps(Call(os.system, "touch marker"), 4)
OBJECTS = pickle.dumps(np.array([Call(os.system, "touch marker")], dtype=object), 4)

HOSTILE = {
    "system": (SYSTEM, "asks for posix.system"),
    "eval": (pickle.dumps(Call(eval, "open('marker', 'w')"), 4), "asks for builtins.eval"),
    "exec in protocol 2": (pickle.dumps(Call(exec, "open('marker', 'w')"), 2), "asks for __builtin__.exec"),
    "protocol 0": (pickle.dumps(Call(os.system, "touch marker"), 0), "is no network pickle"),
    "getattr": (pickle.dumps(Call(getattr, "", "join"), 4), "asks for builtins.getattr"),
    "import": (pickle.dumps(Call(importlib.import_module, "this"), 4), "asks for importlib.import_module"),
    "dotted": (calling("builtins", "eval.__call__", TOUCH), "asks for builtins.eval.__call__"),
    "dotted through the allowed": (calling("numpy", "ndarray.tofile"), "asks for numpy.ndarray.tofile"),
    "partial": (pickle.dumps(functools.partial(os.system, "touch marker"), 4), "asks for functools.partial"),
    "myeval": (calling("numpy.f2py.crackfortran", "myeval", "open('marker', 'w')"), "numpy.f2py.crackfortran.myeval"),
    "hub": (calling("torch.hub", "load", "a/b", "c"), "asks for torch.hub.load"),
    "control characters": (calling("os\x1b[2J\n", "system", "x"), r"asks for os\x1b[2J\n.system"),
    "in a storage": (load_from_bytes(old_torch(SYSTEM)), "asks for posix.system"),
    "in a zip in a storage": (load_from_bytes(zipped(SYSTEM)), "damaged"),
    "before a storage": (load_from_bytes(SYSTEM), "asks for posix.system"),
    "extension": (b"\x80\x04\x82\x01.", "uses the pickle opcode EXT1"),
    "instance": (b"\x80\x04(S'touch marker'\nios\nsystem\n.", "uses the pickle opcode STRING"),
    "duplicates": (b"\x80\x04]" + b"2" * 1000 + b".", "uses the pickle opcode DUP"),
    "setstate": (pickle.dumps({"a": Plain()}, 4), "asks for tests.test_nvidia_pickles.Plain"),
    "state of a list": (b"\x80\x04]\x8c\x01xb.", "sets the state of a list"),
    "objects in an array": (OBJECTS, "uses arrays of the type 'O8'"),
    "objects in a scalar": (calling("numpy", "dtype", "O", False, True), "uses arrays of the type 'O'"),
    "persistent id": (b"\x80\x04\x8c\x01aQ.", "uses persistent ids"),
    "persistent text": (b"\x80\x04Pa\n.", "uses the pickle opcode PERSID"),
    "ten gigabytes": (b"\x80\x04\x8e" + struct.pack("<Q", 10**10) + b"x.", "damaged"),
    "ten gigabytes of text": (b"\x80\x04\x8d" + struct.pack("<Q", 10**10) + b"x.", "damaged"),
    "frame of an exabyte": (b"\x80\x04\x95" + struct.pack("<Q", 10**18) + b"N.", "holds no network"),
    "far memo": (b"\x80\x04Nr\xff\xff\xff\xff.", "holds no network"),
    "sets": (b"\x80\x04(" + b"\x8f" * 2_000_000 + b"t.", "takes more than 400000 opcodes"),
    "hash": (hash_bomb(), "uses a tuple as a key"),
    "message": (message_bomb(), "uses arrays of the type a tuple"),
    "large number": (b"\x80\x04\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".", "more than 128 bits"),
    "stride out of bounds": (tensor(16, (4, 4), (1000, 1)), "shape 4x4 that reaches outside its storage of 16"),
    "offset out of bounds": (tensor(16, (4, 4), (4, 1), 1), "reaches outside its storage of 16"),
    "negative stride": (tensor(16, (4, 4), (-4, 1)), "impossible shape -4x1"),
    "stride of zero": (tensor(16, (10**6, 10**6), (0, 0)), "reaches outside its storage of 16"),
    "huge size": (tensor(16, (2**62, 4), (4, 1)), "impossible shape"),
    "too many dimensions": (tensor(1, (1,) * 40, (1,) * 40), "impossible shape"),
    "second pickle": (TORCH + SYSTEM, "goes on for"),
    "polyglot": (TORCH + zipped(SYSTEM), "goes on for"),
    "zip": (zipped(SYSTEM), "is a zip file"),
    "empty": (b"", "is no network pickle"),
    "text": (b"<!DOCTYPE html>", "is no network pickle"),
    "truncated": (TORCH[: len(TORCH) // 2], "truncated"),
    "truncated tf": (TENSORFLOW[:-1], "truncated"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_runs_nothing_and_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[what]
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as refusal:
            read_network(content, "evil.pkl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    text = str(refusal.value)
    assert message in text
    assert text.startswith("evil.pkl: ") and "\n" not in text and len(text) < 300
    assert list(tmp_path.iterdir()) == []
    assert peak < 128 * MEGABYTE


def test_what_a_network_says_of_itself_is_never_quoted_without_an_end(tmp_path: Path) -> None:
    doubled: Any = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    values: dict[str, Any] = dict(z_dim=8, c_dim=0, w_dim=8, resolution=8, architecture="skip", mapping_layers=2)
    for name in values:
        with pytest.raises(WeightsError, match=f"{name} = a tuple; it is"):
            Spec(**values | {name: doubled})


def test_modules_beside_a_file_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faces.pkl").write_bytes(TORCH)
    for name in ("numpy.py", "json.py", "safetensors.py"):
        Path(name).write_text("open('marker', 'w')\n")

    read_apart(Path("faces.pkl"), Path("out"))

    assert sorted(path.name for path in tmp_path.glob("out.*")) == ["out.json", "out.safetensors"]
    assert not Path("marker").exists()


def test_the_corpus_is_dangerous_to_a_careless_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["dotted"][0])

    assert [path.name for path in tmp_path.iterdir()] == ["marker"]


def repickled(content: bytes, old: bytes, new: bytes) -> bytes:
    """A golden file with one short text in place of another; the frames are left out, since their sizes change."""
    whole = unframed(content)
    before = b"\x8c" + bytes([len(old)]) + old
    assert whole.count(before) == 1
    length = bytes([len(new)]) if len(new) < 256 else struct.pack("<I", len(new))
    return whole.replace(before, (b"\x8c" if len(new) < 256 else b"X") + length + new)


@pytest.mark.parametrize("content", [TORCH, TENSORFLOW], ids=["torch", "tf"])
def test_embedded_source_text_is_neither_run_nor_kept(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = b"open('marker', 'w').write('run')\n" * 1000

    spec, arrays = read_network(repickled(content, b"# source removed\n", source), "real.pkl")

    assert (spec.resolution, spec.architecture, len(arrays)) == (64, "skip", 92)
    assert list(tmp_path.iterdir()) == []


def network_of(class_name: str, **state: Any) -> bytes:
    """A torch-format file with one persistent object under G_ema."""
    meta = {"type": "class", "version": 6, "module_src": "", "class_name": class_name, "state": state}
    inner = pickle.dumps(meta, 4)[2:-1]
    head = b"\x8c\x17torch_utils.persistence\x8c\x1b_reconstruct_persistent_obj\x93"
    return b"\x80\x04}\x8c\x05G_ema" + head + unframed(b"\x80\x04" + inner + b".")[2:-1] + b"\x85Rs."


def tf_network(name: str, variables: list[str]) -> bytes:
    state = {"version": 4, "name": name, "static_kwargs": {}, "variables": [(key, 0.0) for key in variables]}
    inner = unframed(pickle.dumps(state, 4))[2:-1]
    return b"\x80\x04\x8c\x14dnnlib.tflib.network\x8c\x07Network\x93)\x81" + inner + b"b."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"D": None}, 4), "holds a discriminator and no generator; give a file with G_ema"),
        (pickle.dumps({"state_dict": {}}, 4), "holds no generator"),
        (pickle.dumps([1, 2], 4), "holds no network"),
        (network_of("Discriminator", _modules={}), "holds a discriminator and no generator"),
        (network_of("Unet", _modules={}), "holds a Unet, which is no StyleGAN2-ADA generator"),
        (network_of("Generator", _modules=3), "damaged"),
        (tf_network("D", []), "holds a discriminator and no StyleGAN2 generator"),
        (tf_network("Gs", ["4x4/Const/StyleMod/weight"]), "is a StyleGAN1 file"),
    ],
)
def test_another_kind_of_network_is_named(content: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_network(content, "other.pkl")


def test_a_stylegan3_file_is_named() -> None:
    content = unframed(TORCH).replace(b"\x8c\x02b4", b"\x8c\x05input")

    with pytest.raises(WeightsError, match="is a StyleGAN3 file"):
        read_network(content, "other.pkl")


def test_what_a_pickler_of_an_older_python_writes_is_read() -> None:
    for protocol in (2, 3, 4, 5):
        value = {"a": [1, -2, 2**70, 0.5, None, True, (1, 2, 3, 4)], "b": ("x" * 300, b"y"), "c": {1: {}}}
        if protocol == 2:
            del value["b"]
        content = pickle.dumps(value, protocol)
        assert unpickle(io.BytesIO(content), Budget(len(content)), {}) == value


def test_constants_sizes_and_devices_among_the_attributes_of_a_module_do_no_harm() -> None:
    attributes = {"a": torch.float32, "c": torch.Size([1, 2]), "d": torch.device("cpu")}

    with pytest.raises(WeightsError, match="holds no generator"):
        read_network(pickle.dumps(attributes, 4), "attributes.pkl")
    with pytest.raises(WeightsError, match="calls a constant of torch"):
        read_network(b"\x80\x04ctorch\nfloat32\n)R.", "call.pkl")


def mutated(content: bytes, random: np.random.RandomState) -> bytes:
    """One to eight bytes changed, or a piece cut out or doubled."""
    damaged = bytearray(content)
    for _ in range(random.randint(1, 9)):
        damaged[random.randint(len(damaged))] = random.randint(256)
    if random.rand() < 0.3:
        start = random.randint(len(damaged))
        piece = damaged[start : start + random.randint(1, 2000)]
        damaged[start : start + len(piece)] = piece * 2 if random.rand() < 0.5 else b""
    return bytes(damaged)


def structure_mutated(content: bytes, random: np.random.RandomState) -> bytes:
    """As `mutated`, but near the opcodes: most bytes of a file are numbers, where a change does no harm."""
    places = [position for _, _, position in pickletools.genops(content)]
    damaged = bytearray(content)
    for _ in range(random.randint(1, 4)):
        place = places[random.randint(len(places))] + random.randint(2)
        damaged[min(place, len(damaged) - 1)] = random.randint(256)
    return bytes(damaged)


def fuzz(count: int, seed: int) -> int:
    """Read mutated files; returns how many were refused. Anything but WeightsError is an error here."""
    refused = 0
    for index in range(count):
        random = np.random.RandomState(seed + index)
        content = TENSORFLOW if index % 4 else TORCH
        try:
            read_network((mutated if index % 3 == 0 else structure_mutated)(content, random), "fuzz.pkl")
        except WeightsError as error:
            assert "\n" not in str(error)
            refused += 1
    return refused


def test_mutated_files_end_in_no_error_but_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert fuzz(500, 0) > 250
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ten_thousand_mutated_files_end_in_no_error_but_ours() -> None:
    assert fuzz(10_000, 1000) > 5000


def test_the_reading_process_gets_no_more_memory_than_the_file_warrants() -> None:
    program = (
        "from qgate.generators.stylegan2.nvidia.child import bound\nbound(2**20)\nbytearray(2**26)\n"
        "try:\n    bytearray(2**31)\nexcept MemoryError:\n    print('bounded')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    if Path("/proc/self/statm").exists():
        assert done.stdout == "bounded\n"


def test_a_refusal_comes_back_from_the_reading_process_and_nothing_is_left_behind(tmp_path: Path) -> None:
    file = tmp_path / "evil.pkl"
    file.write_bytes(pickle.dumps(os.system, 4))

    with pytest.raises(WeightsError, match=r"evil\.pkl: refused, since it .*system.*nothing was run"):
        convert(file, tmp_path)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "message"),
    [
        (1, "Traceback\nMemoryError", WeightsError, "took too much memory or time and was stopped .MemoryError"),
        (-24, "", WeightsError, "took too much memory or time and was stopped"),
        (1, "Traceback\nPermissionError: no", QgateError, r"a\.pkl: cannot be read .PermissionError: no"),
    ],
)
def test_a_reading_process_that_dies_is_blamed_on_the_file_only_where_it_went_beyond_its_bounds(
    code: int, stderr: str, kind: type[QgateError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: dead)

    with pytest.raises(QgateError, match=message) as caught:
        read_apart(Path("a.pkl"), Path("a"))
    assert type(caught.value) is kind
