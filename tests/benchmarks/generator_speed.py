"""Faces per second of the generators by precision and batch size, alone and with the gate; random weights, no files.

    python tests/benchmarks/generator_speed.py [--generators stylegan2-ada] [--precisions fp32 fp16] [--batches 8 32]
        [--seconds 5] [--compile] [--gate] [--official PATH_OF_STYLEGAN2_ADA_PYTORCH] [--json FILE]

Needs torch and numpy; the gate also timm and pydantic; what is lacking is said and left out. The official code takes
turns with ours in the same run, at every precision and batch size. Bounds: `anchors.md`, section 2b, for one H200.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor, nn

from qgate.generators.mobile_stylegan import MobileStyleGan
from qgate.generators.stylegan2 import build
from qgate.generators.stylegan2_spec import Arrays, Spec, parameter_shapes

H200_BOUND = {"stylegan2-ada": 4152.0, "mobile-stylegan": 16228.0}
"""Faces/s at 1024x1024 in bf16 where every layer reads and writes once."""

HALF = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
Draw = Callable[[int], Tensor]
"""Number of faces -> uint8 RGB on the device."""


@dataclass(frozen=True)
class Measurement:
    generator: str
    precision: str
    batch: int
    what: str
    faces_per_second: float
    peak_gib: float | None
    percent_of_bound: float | None


def random_network(resolution: int) -> tuple[Spec, Arrays]:
    """The FFHQ configuration (config F) with random weights."""
    spec = Spec(z_dim=512, c_dim=0, w_dim=512, resolution=resolution, architecture="skip", mapping_layers=8)
    channels = {r: min(32768 // r, 512) for r in spec.block_resolutions}
    random = np.random.RandomState(0)
    arrays: Arrays = {}
    for name, shape in parameter_shapes(spec, channels, [512] * 8, 0).items():
        array = random.standard_normal(shape).astype(np.float32)
        if name.endswith("affine.bias"):
            array = np.ones(shape, np.float32)
        elif name.endswith(("bias", "noise_strength", "w_avg")):
            array = np.array(array * 0.05, np.float32)
        elif name.startswith("mapping.fc"):
            array = array / 0.01
        arrays[name] = array
    return spec, arrays


def ours(generator: str, precision: str, device: torch.device, options: argparse.Namespace) -> Draw:
    half = HALF[precision]
    module: nn.Module
    if generator == "stylegan2-ada":
        spec, arrays = random_network(options.resolution)
        module, columns, autocast = build(spec, arrays, half=half), spec.num_ws, False
    else:
        torch.manual_seed(0)
        module, columns, autocast = MobileStyleGan(), 1, half is not None
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.05)
    module = module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    if options.compile:
        module = torch.compile(module, mode=options.compile_mode, fullgraph=True)  # type: ignore[assignment]

    def draw(n: int) -> Tensor:
        z, truncation = torch.randn(n, 512, device=device), torch.ones(n, columns, device=device)
        with torch.autocast(device.type, dtype=half, enabled=autocast):
            images: Tensor = module(z, truncation)[0]
        return images.clone() if options.compile else images

    return draw


def official(precision: str, device: torch.device, options: argparse.Namespace) -> Draw:
    """The generator of a checkout of NVIDIA's stylegan2-ada-pytorch, by its public interface."""
    if options.official not in sys.path:
        sys.path.insert(0, options.official)
    networks = importlib.import_module("training.networks")
    half = {"num_fp16_res": 4, "conv_clamp": 256} if precision == "fp16" else {"num_fp16_res": 0}
    kwargs = {"channel_base": 32768, "channel_max": 512, **half}
    arguments = {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_resolution": options.resolution, "img_channels": 3}
    module = networks.Generator(**arguments, mapping_kwargs={"num_layers": 8}, synthesis_kwargs=kwargs)
    module = module.eval().requires_grad_(False).to(device)

    def draw(n: int) -> Tensor:
        rgb = module(torch.randn(n, 512, device=device), torch.zeros(n, 0, device=device), noise_mode="const")
        return (rgb * 127.5 + 128).clamp(0, 255).to(torch.uint8)

    return draw


@torch.inference_mode()
def measure(draw: Callable[[int], Any], batch: int, seconds: float, device: torch.device) -> tuple[float, float | None]:
    """Faces/s and peak GiB of a step, after two steps to warm up; the device is waited for once, at the end."""
    on_cuda = device.type == "cuda"
    for _ in range(2):
        draw(batch)
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start, faces = time.perf_counter(), 0
    step = time.perf_counter()
    draw(batch)
    if on_cuda:
        torch.cuda.synchronize()
    steps = max(1, int(seconds / max(time.perf_counter() - step, 1e-6)))
    start = time.perf_counter()
    for _ in range(steps):
        draw(batch)
        faces += batch
    if on_cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_cuda else None
    return faces / (time.perf_counter() - start), peak


def find_gate(device: torch.device) -> Callable[[list[Tensor]], Any] | None:
    try:
        from qgate.classifier import load_gate
    except ImportError as error:
        print(f"lacking for the gate: {error.name}; generation + scoring is left out", file=sys.stderr)
        return None
    return load_gate("default", str(device)).score


def with_gate(draw: Draw, score: Callable[[list[Tensor]], Any]) -> Callable[[int], Any]:
    return lambda n: score(list(draw(n)))


def ways(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, str, str, Callable[[int], Any]]]:
    """(generator, precision, what, a step) for everything that is asked for and there."""
    score = find_gate(device) if options.gate else None
    for generator in options.generators:
        for precision in options.precisions:
            draw = ours(generator, precision, device, options)
            yield generator, precision, "draw", draw
            if score is not None:
                yield generator, precision, "draw + score", with_gate(draw, score)
            if generator == "stylegan2-ada" and options.official and precision != "bf16":
                yield generator, precision, "draw, official", official(precision, device, options)


def run(options: argparse.Namespace, device: torch.device) -> list[Measurement]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {options.resolution}x{options.resolution}, compile: {options.compile}")
    print(
        f"{'generator':16} {'precision':9} {'batch':>5} {'what':15} {'faces/s':>9} {'peak GiB':>8} {'% of bound':>10}"
    )
    rows = []
    for generator, precision, what, step in ways(options, device):
        for batch in options.batches:
            try:
                rate, peak = measure(step, batch, options.seconds, device)
            except torch.OutOfMemoryError:
                print(f"{generator:16} {precision:9} {batch:5} {what:15} out of memory")
                continue
            bound = H200_BOUND[generator] if "H200" in name and options.resolution == 1024 else None
            share = None if bound is None else 100 * rate / bound
            rows.append(Measurement(generator, precision, batch, what, rate, peak, share))
            shown = ["-" if value is None else f"{value:.1f}" for value in (peak, share)]
            print(
                f"{generator:16} {precision:9} {batch:5} {what:15} {rate:9.2f} {shown[0]:>8} {shown[1]:>10}", flush=True
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", default=list(H200_BOUND), choices=list(H200_BOUND))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "bf16"], choices=list(HALF))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--resolution", type=int, default=1024, help="of stylegan2-ada")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile our networks")
    parser.add_argument("--compile-mode", default="max-autotune-no-cudagraphs")
    parser.add_argument("--gate", action="store_true", help="measure generation + scoring too")
    parser.add_argument("--official", help="path of a checkout of NVIDIA's stylegan2-ada-pytorch")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    rows = run(options, torch.device(options.device))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
