"""StyleGAN2-ADA weights on disk: NVIDIA's pickles, and what they are converted to, safetensors with settings as JSON.

A pickle is converted at its first use into the user's cache, under the sha256 of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from qgate.cache import cache_dir, new_entry
from qgate.config import canonical_digest
from qgate.errors import QgateError, WeightsError
from qgate.files import move, replacing
from qgate.generators.stylegan2.nvidia.networks import MAX_BYTES, read_network
from qgate.generators.stylegan2.spec import Arrays, Spec, check_arrays

FORMAT = "qgate stylegan2-ada 1"
"""Of the JSON file; also names the cache folder, so that a new format converts anew."""

SUFFIXES = (".pkl", ".safetensors")

CHILD = "qgate.generators.stylegan2.nvidia.child"
"""What reads pickles, in a process of its own; started by its name, as it imports this file."""

REFUSED = 2
"""Exit status of the child where the reader refuses the file."""

BEYOND = ("MemoryError", "Cannot allocate memory", "File too large")
"""What Python says of the bounds on memory and files; that on time is a signal."""


@dataclass(frozen=True, slots=True)
class Network:
    """A generator's settings and parameters.

    digest: sha256 hex of both, the same whichever file they came from.
    """

    spec: Spec
    arrays: Arrays
    digest: str


def load_network(path: Path) -> Network:
    """The generator in a .pkl of NVIDIA's or a converted .safetensors; WeightsError where there is none."""
    if path.suffix == ".safetensors":
        return _read_converted(path)
    sha256 = hashlib.sha256(_read(path)).hexdigest()
    entry = cache_dir() / "stylegan2-ada" / f"{FORMAT.split()[-1]}-{sha256}"
    if not entry.is_dir():
        print(f"qgate: converting {path} once, without running anything of it", file=sys.stderr)
        with new_entry(entry) as draft:
            read_apart(path, draft / "generator")
    return _read_converted(entry / "generator.safetensors")


def convert(path: Path, output: Path | None) -> list[Path]:
    """Write the generator of a .pkl as .safetensors and .json; returns both paths.

    output: a folder, made where it is missing; None: the file's own. Files of these names are replaced.
    """
    _read(path)
    folder = path.parent if output is None else output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=folder) as draft:
            read_apart(path, Path(draft) / path.stem)
            drafts = sorted(Path(draft).iterdir())
            return [move(made, folder / made.name) for made in drafts]
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be written ({error.strerror}); give another --output") from error


def read_apart(path: Path, stem: Path) -> None:
    """Convert the pickle at `path` to STEM.json and STEM.safetensors.

    Raises WeightsError where the reader refuses the file or goes beyond its bounds, QgateError for another fault.
    """
    # One thread: each of a numeric library's would take address space.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # -P: modules that lie in the working folder, as a stranger's archive may bring them, are not imported.
    command = [sys.executable, "-P", "-m", CHILD, str(path), str(stem)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == REFUSED:
        raise WeightsError(done.stdout.strip())
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        if done.returncode < 0 or any(word in last for word in BEYOND):
            raise WeightsError(f"{path}: reading it took too much memory or time and was stopped ({last})")
        raise QgateError(f"{path}: cannot be read ({last})")


def convert_here(path: Path, stem: Path) -> None:
    """Read a .pkl in this process and write STEM.json and STEM.safetensors."""
    content = _read(path)
    spec, arrays = read_network(content, str(path))
    write_network(stem, spec, arrays, {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()})


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise WeightsError(f"{path}: is larger than {MAX_BYTES >> 20} MiB, and no generator of this kind is")
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); give the path of a network pickle on this machine"
        ) from error


def write_network(stem: Path, spec: Spec, arrays: Arrays, source: dict[str, str]) -> list[Path]:
    """Write STEM.json, then STEM.safetensors, each at once."""
    values = {"format": FORMAT, "network": spec.to_json(), "source": source}
    text = json.dumps(values, indent=2) + "\n"
    contents = {".json": text.encode(), ".safetensors": save(arrays)}
    paths = []
    for suffix, content in contents.items():
        target = stem.with_name(stem.name + suffix)
        with replacing(target) as file:
            file.write(content)
        paths.append(target)
    return paths


def _read_converted(path: Path) -> Network:
    settings = path.with_suffix(".json")
    try:
        values = json.loads(settings.read_bytes())
        arrays = load_file(path)
    except OSError as error:
        raise WeightsError(
            f"{error.filename or path}: cannot be read ({error.strerror}); give the .safetensors file that `qgate "
            f"weights convert` wrote, with its .json beside it"
        ) from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{path}: is damaged ({error}); delete it and convert the pickle again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(f"{settings}: is no {FORMAT!r}; convert the pickle again with `qgate weights convert`")
    try:
        spec = Spec.from_json(values.get("network"))
        check_arrays(spec, arrays)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Network(spec, arrays, _digest(spec, arrays))


def _digest(spec: Spec, arrays: Arrays) -> str:
    digest = hashlib.sha256(canonical_digest(spec.to_json()).encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
