"""`stylegan2-ada:FILE`, ready to draw: a network of the user's with its truncation, class, noise and device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qgate.config import GeneratorSettings
from qgate.errors import ConfigError
from qgate.generators.base import Drawn, GeneratorInfo, Nonfinite
from qgate.generators.options import StyleGan2Options
from qgate.generators.stylegan2.files import load_network
from qgate.generators.stylegan2.fused import FusedBlock, fuses
from qgate.generators.stylegan2.latents import read_latents
from qgate.generators.stylegan2.network import Synthesis, build, draw_noise
from qgate.generators.stylegan2.spec import Spec
from qgate.runtime.executor import HALF, expect_rows, make_executor, pick_precision
from qgate.seeds import class_of, draw_z

ONE = torch.tensor(1.0)
LICENSE = (
    "The terms of the generator's weights, a StyleGAN2-ADA network given by the user, apply to its images; NVIDIA's "
    "own networks are for non-commercial use (Nvidia Source Code License)"
)


class StyleGan2Generator:
    """A StyleGAN2-ADA network from a file, drawing seeds or, with `latents`, the rows of a file of w vectors."""

    def __init__(self, path: Path, settings: GeneratorSettings, device: torch.device) -> None:
        network, options = load_network(path), settings.read(StyleGan2Options)
        self._spec = spec = network.spec
        self.precision = pick_precision(settings.precision, device)
        on_cuda = device.type == "cuda"
        # On CUDA the network computes in half precision where that is safe; autocast would do it everywhere.
        half = HALF.get(self.precision) if on_cuda else None
        model = build(spec, network.arrays, options.noise_mode, half)
        self._random = model.noise_mode == "random"
        self._ws = _read_ws(settings.truncation_psi, options, spec)
        if self._ws is None:
            self._class = _checked_class(options.class_idx, spec, path)
            self._truncation = _truncation(settings.truncation_psi, options, spec, path)
        example = tuple(row[:1] for row in self._inputs([0]))
        whole = self._ws is None

        def fused() -> nn.Module | None:
            if not fuses(spec):
                return None
            form = build(spec, network.arrays, options.noise_mode, half, FusedBlock)
            return form if whole else Synthesis(form).eval()

        module = model if whole else Synthesis(model).eval()
        self._execute = make_executor(module, example, device, "fp32" if on_cuda else self.precision, fused)
        self.info = GeneratorInfo(
            name="stylegan2-ada",
            digest=_digest(network.digest, self._ws),
            resolution=spec.resolution,
            license=LICENSE,
            length=None if self._ws is None else len(self._ws),
            classes=spec.c_dim if self._ws is None else 0,
        )

    def expect(self, rows: int) -> None:
        expect_rows(self._execute, rows)

    def draw(self, seeds: Sequence[int]) -> Drawn:
        images, means = self._execute(*self._inputs(seeds))
        return Drawn(images=images, faults=Nonfinite(means), sources=[""] * len(seeds))

    def _inputs(self, seeds: Sequence[int]) -> tuple[Tensor, ...]:
        """What the network takes for these seeds, each row from its seed alone."""
        if self._ws is not None:
            inputs = [self._ws[list(seeds)]]
        else:
            inputs = [torch.from_numpy(draw_z(seeds, self._spec.z_dim)), self._truncation.expand(len(seeds), -1)]
            if self._class is not None:
                inputs.append(_one_hot([class_of(seed, self._class, self._spec.c_dim) for seed in seeds], self._spec))
        if self._random:
            inputs.append(torch.from_numpy(draw_noise(seeds, self._spec)))
        return tuple(inputs)


@torch.inference_mode()
def map_seeds(path: Path, settings: GeneratorSettings, seeds: Sequence[int]) -> NDArray[np.float32]:
    """The w of seeds, truncated and of the class asked for: (n, num_ws, w_dim) float32, computed in fp32 on the CPU."""
    network, options = load_network(path), settings.read(StyleGan2Options)
    spec = network.spec
    class_idx = _checked_class(options.class_idx, spec, path)
    truncation = _truncation(settings.truncation_psi, options, spec, path)
    label = None
    if class_idx is not None:
        label = _one_hot([class_of(seed, class_idx, spec.c_dim) for seed in seeds], spec)
    ws = build(spec, network.arrays).map(torch.from_numpy(draw_z(seeds, spec.z_dim)), truncation, label)
    found: NDArray[np.float32] = ws.numpy()
    return found


def _one_hot(classes: Sequence[int], spec: Spec) -> Tensor:
    return torch.zeros(len(classes), spec.c_dim).index_put_((torch.arange(len(classes)), torch.tensor(classes)), ONE)


def _read_ws(psi: float, options: StyleGan2Options, spec: Spec) -> Tensor | None:
    """The w vectors asked for; ConfigError where something is asked for that they leave no room for."""
    if options.latents is None:
        return None
    for name, value, left in (
        ("--class", options.class_idx, None),
        ("--truncation", psi, 1.0),
        ("generator.truncation_cutoff", options.truncation_cutoff, None),
    ):
        if value != left:
            raise ConfigError(f"{name} {value}: the w vectors of --latents are drawn as they are; drop {name}")
    return torch.from_numpy(read_latents(Path(options.latents), spec.num_ws, spec.w_dim))


def _digest(network: str, ws: Tensor | None) -> str:
    return network if ws is None else hashlib.sha256(network.encode() + ws.numpy().tobytes()).hexdigest()


def _checked_class(class_idx: int | str | None, spec: Spec, path: Path) -> int | str | None:
    """The class asked for; ConfigError where the network has no such class, or has classes and none is asked for."""
    last = spec.c_dim - 1
    if spec.c_dim == 0 and class_idx is not None:
        raise ConfigError(f"--class {class_idx}: {path} has no classes; drop --class")
    if spec.c_dim > 0 and class_idx is None:
        raise ConfigError(f"--class is missing: {path} has the classes 0..{last}; give one of them, or --class all")
    if isinstance(class_idx, int) and class_idx > last:
        raise ConfigError(f"--class {class_idx}: {path} has the classes 0..{last}; give one of them, or --class all")
    return class_idx


def _truncation(psi: float, options: StyleGan2Options, spec: Spec, path: Path) -> Tensor:
    """psi for the layers below the cutoff, 1 for the others: (1, num_ws)."""
    cutoff = options.truncation_cutoff
    if cutoff is not None and cutoff > spec.num_ws:
        raise ConfigError(
            f"generator.truncation_cutoff = {cutoff}: {path} has {spec.num_ws} layers; give 0..{spec.num_ws}"
        )
    truncation = torch.full((1, spec.num_ws), psi)
    if cutoff is not None:
        truncation[:, cutoff:] = 1.0
    return truncation
