"""Faces per second of the generators by precision and batch size, alone and with the gate; random weights, no files.

    python tests/benchmarks/generator_speed.py [--generators stylegan2-ada] [--precisions fp32 fp16] [--batches 8 32]
        [--seconds 5] [--no-compile | --max-autotune] [--gate] [--official PATH_OF_STYLEGAN2_ADA_PYTORCH] [--json FILE]

On CUDA our networks run as in `qgate run`: compiled and captured, the gate a batch behind the generator. The official
code takes turns with them in the same run, at every precision and batch size, with the settings that suit it best:
cuDNN's search for algorithms, TF32, and half precision in both memory formats. A batch that does not fit is halved.
What half precision changes in the pixels is printed too.
Needs torch, numpy and rich; the gate also timm, pydantic and safetensors; what is lacking is said and left out.
Bounds: `anchors.md`, section 2b, for one H200.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor, nn

from qgate.generators.mobile_stylegan.fused import FusedMobileStyleGan
from qgate.generators.mobile_stylegan.network import MobileStyleGan
from qgate.generators.stylegan2.fused import FusedBlock
from qgate.generators.stylegan2.network import build
from qgate.generators.stylegan2.spec import Arrays, Spec, parameter_shapes
from qgate.runtime.cuda import CudaExecutor

if TYPE_CHECKING:
    from qgate.gate.classifier import Gate  # the networks alone run where pydantic is not installed

H200_BOUND = {"stylegan2-ada": 4152.0, "mobile-stylegan": 16228.0}
"""Faces/s at 1024x1024 in bf16 where every layer reads and writes once."""

ACCURACY_FACES = 2

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


def networks(generator: str, precision: str, options: argparse.Namespace) -> tuple[nn.Module, nn.Module, int]:
    """Plain and fused, and how many columns their truncation has; the same random weights at every call."""
    half = HALF[precision]
    if generator == "stylegan2-ada":
        spec, arrays = random_network(options.resolution)
        return build(spec, arrays, half=half), build(spec, arrays, half=half, block=FusedBlock), spec.num_ws
    torch.manual_seed(0)
    plain = MobileStyleGan()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.05)
    plain = plain.eval().requires_grad_(False)
    return plain, FusedMobileStyleGan(plain, half).eval().requires_grad_(False), 1


def ours(generator: str, precision: str, device: torch.device, options: argparse.Namespace) -> Draw:
    module, fused, columns = networks(generator, precision, options)
    autocast = HALF[precision] if generator == "mobile-stylegan" else None
    torch.compiler.reset()  # so that many settings in one process do not reach its limit of compilations
    execute = CudaExecutor(module, fused, device, autocast)

    def draw(n: int) -> Tensor:
        return execute(torch.randn(n, 512, device=device), torch.ones(n, columns, device=device))[0]

    return draw


@torch.inference_mode()
def print_accuracy(generator: str, precision: str, device: torch.device, options: argparse.Namespace) -> None:
    """How far this precision is from fp32."""
    exact, (_, fused, columns) = networks(generator, "fp32", options)[0], networks(generator, precision, options)
    z = torch.randn(ACCURACY_FACES, 512, generator=torch.Generator().manual_seed(0)).to(device)
    psi = torch.ones(ACCURACY_FACES, columns, device=device)
    off = (fused.to(device)(z, psi)[0].int() - exact.to(device)(z, psi)[0].int()).abs().float()
    print(
        f"{generator} in {precision} differs from fp32 by {off.mean():.3f} of 255 on average, {off.max():.0f} at most"
    )


def find_official(path: str) -> ModuleType | None:
    """The networks of a checkout of NVIDIA's stylegan2-ada-pytorch; None, and a line, where it cannot be imported."""
    sys.path.insert(0, path)
    if importlib.util.find_spec("requests") is None:
        sys.modules["requests"] = ModuleType("requests")  # it only downloads with it
    try:
        return importlib.import_module("training.networks")
    except ImportError as error:
        print(f"lacking for the official code: {error}; it is left out", file=sys.stderr)
        return None


def official(
    networks: ModuleType, precision: str, channels_last: bool, device: torch.device, options: argparse.Namespace
) -> Draw:
    """Its generator, by its public interface."""
    half = {"num_fp16_res": 4, "conv_clamp": 256, "fp16_channels_last": channels_last}
    kwargs = {"channel_base": 32768, "channel_max": 512, **(half if precision == "fp16" else {"num_fp16_res": 0})}
    arguments = {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_resolution": options.resolution, "img_channels": 3}
    module = networks.Generator(**arguments, mapping_kwargs={"num_layers": 8}, synthesis_kwargs=kwargs)
    module = module.eval().requires_grad_(False).to(device)

    def draw(n: int) -> Tensor:
        with its_settings():
            rgb = module(torch.randn(n, 512, device=device), torch.zeros(n, 0, device=device), noise_mode="const")
            return (rgb * 127.5 + 128).clamp(0, 255).to(torch.uint8)

    return draw


@contextmanager
def its_settings() -> Iterator[None]:
    """cuDNN as the official training sets it, and TF32 where it computes in fp32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = True, False, True, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


def its_operations() -> str:
    """Whether the official code found its own CUDA kernels, which it compiles at the first use."""
    modules = [sys.modules.get(f"torch_utils.ops.{name}") for name in ("bias_act", "upfirdn2d")]
    found = all(getattr(module, "_plugin", None) is not None for module in modules)
    return "its own CUDA kernels" if found else "its reference operations: its CUDA kernels were not compiled"


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


def find_gate(device: torch.device) -> Gate | None:
    try:
        from qgate.gate.open import load_gate
    except ImportError as error:
        print(f"lacking for the gate: {error.name}; generation + scoring is left out", file=sys.stderr)
        return None
    return load_gate("default", str(device))


def with_gate(draw: Draw, gate: Gate) -> Callable[[int], Any]:
    """Draws, starts to score, and waits for the scores of the batch before, as the worker does."""
    begun: deque[Callable[[], Any]] = deque()

    def step(n: int) -> Any:
        begun.append(gate.begin(draw(n)))
        return begun.popleft()() if len(begun) > 1 else None

    return step


def ways(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, str, str, Callable[[int], Any]]]:
    """(generator, precision, what, a step) for everything that is asked for and there."""
    gate = find_gate(device) if options.gate else None
    theirs = find_official(options.official) if options.official else None
    for generator in options.generators:
        for precision in options.precisions:
            if precision != "fp32":
                print_accuracy(generator, precision, device, options)
            draw = ours(generator, precision, device, options)
            yield generator, precision, "draw", draw
            if gate is not None:
                yield generator, precision, "draw + score", with_gate(draw, gate)
            if generator == "stylegan2-ada" and theirs is not None and precision != "bf16":
                for last in (False, True)[: 2 if precision == "fp16" else 1]:
                    what = "official, nhwc" if last else "official"
                    yield generator, precision, what, official(theirs, precision, last, device, options)


def measure_or_halve(
    step: Callable[[int], Any], batch: int, seconds: float, device: torch.device
) -> tuple[int, float, float | None] | None:
    """Batch, faces/s and peak GiB; halves the batch while it does not fit, None where one face does not."""
    while batch >= 1:
        try:
            return batch, *measure(step, batch, seconds, device)
        except torch.OutOfMemoryError:
            print(f"a batch of {batch} does not fit; halved", file=sys.stderr)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        batch //= 2
    return None


def run(options: argparse.Namespace, device: torch.device) -> list[Measurement]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {options.resolution}x{options.resolution}")
    print(
        f"{'generator':16} {'precision':9} {'batch':>5} {'what':15} {'faces/s':>9} {'peak GiB':>8} {'% of bound':>10}"
    )
    rows: list[Measurement] = []
    for generator, precision, what, step in ways(options, device):
        for batch in options.batches:
            found = measure_or_halve(step, batch, options.seconds, device)
            if found is None:
                print(f"{generator:16} {precision:9} {batch:5} {what:15} out of memory")
                continue
            batch, rate, peak = found
            bound = H200_BOUND[generator] if "H200" in name and options.resolution == 1024 else None
            share = None if bound is None else 100 * rate / bound
            rows.append(Measurement(generator, precision, batch, what, rate, peak, share))
            shown = ["-" if value is None else f"{value:.1f}" for value in (peak, share)]
            print(
                f"{generator:16} {precision:9} {batch:5} {what:15} {rate:9.2f} {shown[0]:>8} {shown[1]:>10}", flush=True
            )
    return rows


def compare(rows: list[Measurement]) -> None:
    """Print the best of ours against the best of the official code, each at its best batch and precision."""
    ours, theirs = (
        [row for row in rows if row.generator == "stylegan2-ada" and row.what.startswith(what)]
        for what in ("draw", "official")
    )
    ours = [row for row in ours if row.what == "draw"]
    if ours and theirs:
        best, other = (max(found, key=lambda row: row.faces_per_second) for found in (ours, theirs))
        print(f"the official code ran with {its_operations()}")
        print(
            f"best of ours {best.faces_per_second:.1f} faces/s ({best.precision}, batch {best.batch}), of the official "
            f"code {other.faces_per_second:.1f} ({other.precision}, batch {other.batch}): "
            f"{best.faces_per_second / other.faces_per_second:.2f} times"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", default=list(H200_BOUND), choices=list(H200_BOUND))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "bf16"], choices=list(HALF))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--resolution", type=int, default=1024, help="of stylegan2-ada")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="our networks op by op")
    parser.add_argument("--max-autotune", action="store_true", help="let the compiler search for more kernels, longer")
    parser.add_argument("--gate", action="store_true", help="measure generation + scoring too")
    parser.add_argument("--official", help="path of a checkout of NVIDIA's stylegan2-ada-pytorch")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if options.no_compile or options.device == "cpu":
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    if options.max_autotune:
        importlib.import_module("torch._inductor.config").max_autotune = True
    rows = run(options, torch.device(options.device))
    compare(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
