"""Faces between and out of others: walks in w from seed to seed, and mixed styles, each judged as a run of its own."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qgate.config import RunConfig
from qgate.dataset.layout import Layout
from qgate.errors import ConfigError, OutputError
from qgate.files import replacing
from qgate.generators import stylegan2_path
from qgate.generators.options import StyleGan2Options
from qgate.run.run import Summary, run
from qgate.seeds import SEED_MAX, parse_seeds

MAX_LAYER = 63
FRAME_MS = 40
"""Of the GIF; 25 frames a second."""


def interpolate(config: RunConfig, seeds: Sequence[int], steps: int, gif: Path | None) -> Summary:
    """Draw the walk through the faces of `seeds`, in their order; the dataset's seeds are the numbers of the frames.

    config: generator, truncation, class and threshold as for a run; `output.path` names the folder OUT. The w vectors
        of the frames are kept beside it in OUT.npz.
    steps: frames from one face to the next; both ends of the walk are frames.
    gif: also written, from the accepted frames in their order; None: no file.
    Raises ConfigError where the walk cannot be made, and as `run` does.
    """
    if len(seeds) < 2 or steps < 1:
        raise ConfigError(f"{len(seeds)} seeds and {steps} steps make no walk; give two seeds and one step at least")
    summary = _draw(config, walk(_map(config, seeds), steps))
    if gif is not None:
        write_gif(summary.output, gif)
    return summary


def mix(config: RunConfig, rows: Sequence[int], columns: Sequence[int], layers: Sequence[int]) -> Summary:
    """Draw every face of `rows` with the given layers of every face of `columns`, row by row.

    layers: 0 is the coarsest; those of the column's face replace the row's. Otherwise as `interpolate`.
    Source: Karras et al., arXiv 1812.04948, section 3.1.
    """
    ws = _map(config, [*rows, *columns])
    num_ws = ws.shape[1]
    if not layers or max(layers) >= num_ws:
        raise ConfigError(f"--layers: the layers of this network are 0..{num_ws - 1}; write them as 0-6 or 0,1,2")
    return _draw(config, mixed(ws[: len(rows)], ws[len(rows) :], layers))


def parse_stations(text: str) -> list[int]:
    """Seeds in the order given: "6000,6200,6500" -> [6000, 6200, 6500]; ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or len(part) > 10 or int(part) > SEED_MAX:
            raise ConfigError(f"--seeds: {part!r} is no seed 0..{SEED_MAX}; write them as 6000,6200,6500")
    return [int(part) for part in parts]


def parse_layers(text: str) -> list[int]:
    """Layers: "0-2,5" -> [0, 1, 2, 5]; ConfigError for anything else."""
    try:
        ranges = parse_seeds(text)
    except ConfigError as error:
        raise ConfigError(f"--layers {text}: write them as 0-6 or 0,1,2") from error
    if ranges[-1][1] > MAX_LAYER:
        raise ConfigError(f"--layers {text}: no network has more than {MAX_LAYER + 1} layers")
    return [layer for first, last in ranges for layer in range(first, last + 1)]


def walk(stations: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Stations (k, num_ws, w_dim) -> frames ((k - 1) * steps + 1, num_ws, w_dim), evenly spaced between two of them."""
    shares = np.arange(steps, dtype=np.float32)[:, None, None] / steps
    legs = [start + (end - start) * shares for start, end in pairwise(stations)]
    return np.concatenate([*legs, stations[-1:]])


def mixed(rows: NDArray[np.float32], columns: NDArray[np.float32], layers: Sequence[int]) -> NDArray[np.float32]:
    """w of rows (r, num_ws, w_dim) and columns (c, ...) -> (r * c, num_ws, w_dim), row by row."""
    grid = np.repeat(rows[:, None], len(columns), 1)
    grid[:, :, list(layers)] = columns[None][:, :, list(layers)]
    found: NDArray[np.float32] = grid.reshape(-1, *rows.shape[1:])
    return found


def write_gif(output: Path, gif: Path) -> None:
    """The accepted frames of a finished walk as an endless GIF."""
    frames = sorted(Layout(output).dataset.glob("*/seed*"))
    if not frames:
        raise OutputError(f"{gif}: no frame was accepted; lower --threshold")
    with Image.open(frames[0]) as first:
        rest = (_read(frame) for frame in frames[1:])
        try:
            first.convert("RGB").save(gif, "GIF", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
        except OSError as error:
            raise OutputError(f"{gif}: cannot be written ({error.strerror or error})") from error


def _map(config: RunConfig, seeds: Sequence[int]) -> NDArray[np.float32]:
    """The w of seeds, (n, num_ws, w_dim)."""
    path = stylegan2_path(config.generator.name)
    if path is None or config.generator.read(StyleGan2Options).latents is not None:
        raise ConfigError(
            f"only seeds of a StyleGAN2-ADA network can be combined, not those of {config.generator.name}"
        )
    # Imported late: it loads torch.
    from qgate.generators.stylegan2.generator import map_seeds

    return map_seeds(path, config.generator, seeds)


def _draw(config: RunConfig, ws: NDArray[np.float32]) -> Summary:
    """Run over w vectors that are written beside the output folder."""
    if config.output.path is None:
        raise ConfigError("--output is missing: name the folder of the faces")
    latents = Path(f"{config.output.path.rstrip('/')}.npz")
    _write(latents, ws, Path(config.output.path))
    drawn = {"latents": str(latents), "truncation_psi": 1.0, "truncation_cutoff": None, "class_idx": None}
    return run(config.model_copy(update={"generator": config.generator.model_copy(update=drawn)}))


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _holds(path: Path, ws: NDArray[np.float32]) -> bool:
    try:
        with np.load(path, allow_pickle=False) as found:
            return np.array_equal(found["w"], ws)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return False


def _write(path: Path, ws: NDArray[np.float32], folder: Path) -> None:
    """folder: of the faces that are drawn of them; where it is there, it was drawn of what the file holds."""
    if Layout(folder).run_json.exists() and not _holds(path, ws):
        raise OutputError(f"{folder}: is of other vectors than these; give another --output, or remove it and {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, w=ws)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
