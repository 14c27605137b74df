"""A walk between faces: straight lines in w from seed to seed, drawn and judged as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qgate.config import RunConfig
from qgate.dataset.layout import Layout
from qgate.errors import ConfigError, OutputError
from qgate.generators import stylegan2_path
from qgate.records import SEED_MAX
from qgate.run import Summary, run

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
    path = stylegan2_path(config.generator.name)
    if path is None or config.generator.latents is not None:
        raise ConfigError(f"interpolate draws between seeds of a StyleGAN2-ADA network, not {config.generator.name}")
    if config.output.path is None:
        raise ConfigError("--output is missing: name the folder of the frames")
    if len(seeds) < 2 or steps < 1:
        raise ConfigError(f"{len(seeds)} seeds and {steps} steps make no walk; give two seeds and one step at least")
    # Imported late: it loads torch.
    from qgate.generators.stylegan2_ada import map_seeds

    latents = Path(f"{config.output.path.rstrip('/')}.npz")
    _write(latents, walk(map_seeds(path, config.generator, seeds), steps))
    drawn = {"latents": str(latents), "truncation_psi": 1.0, "truncation_cutoff": None, "class_idx": None}
    generator = config.generator.model_copy(update=drawn)
    summary = run(config.model_copy(update={"generator": generator}))
    if gif is not None:
        write_gif(summary.output, gif)
    return summary


def parse_stations(text: str) -> list[int]:
    """Seeds in the order given: "6000,6200,6500" -> [6000, 6200, 6500]; ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or len(part) > 10 or int(part) > SEED_MAX:
            raise ConfigError(f"--seeds: {part!r} is no seed 0..{SEED_MAX}; write them as 6000,6200,6500")
    return [int(part) for part in parts]


def walk(stations: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Stations (k, num_ws, w_dim) -> frames ((k - 1) * steps + 1, num_ws, w_dim), evenly spaced between two of them."""
    shares = np.arange(steps, dtype=np.float32)[:, None, None] / steps
    legs = [start + (end - start) * shares for start, end in pairwise(stations)]
    return np.concatenate([*legs, stations[-1:]])


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


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _write(path: Path, ws: NDArray[np.float32]) -> None:
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            np.savez(file, w=ws)
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
