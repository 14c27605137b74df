"""Runs a torch module where it runs best: on the CPU through OpenVINO, on CUDA through `cuda`.

On the CPU every row is computed by itself, so a row's result never depends on the batch it came in. OpenVINO needs no
compiler, and its converted graph is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qgate.cache import cache_dir, new_entry
from qgate.errors import ConfigError, QgateError
from qgate.runtime.cuda import CudaExecutor

Executor = Callable[..., tuple[Tensor, ...]]
"""Takes tensors with n rows each on the CPU, gives the module's outputs with n rows each on the module's device."""

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

TELEMETRY = "openvino_telemetry"
"""The package through which OpenVINO reports its use."""

TENSOR_CORES = (7, 0)
"""Least compute capability of devices that have them."""


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`; ConfigError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto"
        )
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16 for `auto` or a wish; ConfigError where the device does not compute in it.

    `auto` is fp16 on CUDA devices with tensor cores, bf16 on CPUs that compute in it, and fp32 elsewhere.
    """
    if device.type == "cuda":
        if name == "auto":
            return "fp16" if torch.cuda.get_device_capability(device) >= TENSOR_CORES else "fp32"
        return name
    if name == "fp16":
        raise ConfigError("generator.precision = 'fp16': CPUs draw in fp32 or bf16; use auto")
    if name == "auto":
        ov = _openvino()
        capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") if ov is not None else []
        return "bf16" if "BF16" in capabilities else "fp32"
    return name


def make_executor(
    module: nn.Module,
    example: tuple[Tensor, ...],
    device: torch.device,
    precision: str,
    fused: Callable[[], nn.Module | None] = lambda: None,
) -> Executor:
    """Prepare a module for many calls.

    module: in eval mode, its weights final; its forward takes tensors and returns a tuple of tensors, rows first.
    example: one row of each input.
    precision: fp32, bf16 or fp16 for the arithmetic inside.
    fused: makes the same function in the form that CUDA's compiler takes, in that precision; None: the module itself.
    """
    if device.type == "cuda":
        return CudaExecutor(module, fused(), device, HALF.get(precision))
    ov = _openvino()
    if ov is None:
        warnings.warn("OpenVINO is not installed: the CPU runs torch op by op, several times slower", stacklevel=2)
        return _RowExecutor(module, precision)
    return _OpenVinoExecutor(ov, module, example, precision)


def compile_file(path: Path) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """A network in a file that OpenVINO reads (.tflite, .onnx), on the CPU in fp32: one input, its outputs in order."""
    ov = _openvino()
    if ov is None:
        raise QgateError(f"{path.name} needs OpenVINO; install it with pip install openvino")
    core = ov.Core()
    network = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: list(network((pixels,)).values())


def expect_rows(execute: Executor, rows: int) -> None:
    """Say how large batches are going to be; on the CPU it makes no difference."""
    if isinstance(execute, CudaExecutor):
        execute.expect(rows)


class _RowExecutor:
    """torch on the CPU, row by row."""

    def __init__(self, module: nn.Module, precision: str) -> None:
        self._module = module.to(memory_format=torch.channels_last)
        self._half = HALF.get(precision)

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=self._half, enabled=self._half is not None):
            rows = zip(*(torch.split(tensor, 1) for tensor in inputs), strict=True)
            results = [self._module(*row) for row in rows]
        return tuple(torch.cat(column) for column in zip(*results, strict=True))


class _OpenVinoExecutor:
    """One inference request a row, as many at once as the CPU takes."""

    def __init__(self, ov: Any, module: nn.Module, example: tuple[Tensor, ...], precision: str) -> None:
        core = ov.Core()
        path = _converted(ov, module, example)
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
        }
        try:
            model = core.compile_model(core.read_model(path), "CPU", hints)
        except RuntimeError as error:
            raise QgateError(f"OpenVINO cannot compile {path} ({error}); delete that folder and repeat") from error
        self._queue = ov.AsyncInferQueue(model, model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # Not a method: the queue, which Python's collector cannot look into, would hold its own holder for ever.
        self._queue.set_callback(_keep_outputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        results: list[list[Tensor]] = [[] for _ in range(inputs[0].shape[0])]
        for row, slot in enumerate(results):
            self._queue.start_async([tensor[row : row + 1].numpy() for tensor in inputs], slot)
        self._queue.wait_all()
        return tuple(torch.cat(column) for column in zip(*results, strict=True))


def _keep_outputs(request: Any, slot: list[Tensor]) -> None:
    """Copy a row's outputs into its slot: the next row uses the request's memory again."""
    slot.extend(torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors)


def _converted(ov: Any, module: nn.Module, example: tuple[Tensor, ...]) -> Path:
    """The module as an OpenVINO graph in the user's cache, converted at the first use."""
    entry = cache_dir() / "openvino" / _digest(ov, module, example)
    if not (entry / "graph.xml").exists():
        with warnings.catch_warnings(), torch.inference_mode(), new_entry(entry) as draft:
            warnings.simplefilter("ignore")  # torch announces the end of jit.trace, OpenVINO's documented way in
            traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            model = ov.convert_model(traced, example_input=example, input=[list(row.shape) for row in example])
            ov.save_model(model, draft / "graph.xml", compress_to_fp16=False)
    return entry / "graph.xml"


def _digest(ov: Any, module: nn.Module, example: tuple[Tensor, ...]) -> str:
    """Names what a converted graph depends on: structure, weights, our own code, shapes, library versions."""
    shapes = [(tuple(row.shape), str(row.dtype)) for row in example]
    digest = hashlib.sha256(f"{torch.__version__} {ov.__version__} {shapes} {module}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    ours = {type(part).__module__ for part in module.modules()}
    # And the modules of what they call, such as the rounding to pixels.
    ours |= {str(getattr(value, "__module__", "")) for name in ours for value in vars(sys.modules[name]).values()}
    for name in sorted(name for name in ours if name.startswith("qgate.")):
        digest.update(Path(str(sys.modules[name].__file__)).read_bytes())
    return digest.hexdigest()[:32]


def _openvino() -> Any | None:
    """OpenVINO, None where it is not installed.

    Its telemetry reports to an analytics server from the import on and has no switch that counts for one process.
    Where that package cannot be imported, OpenVINO takes a stub of its own.
    """
    before = {TELEMETRY: sys.modules[TELEMETRY]} if TELEMETRY in sys.modules else {}
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        return None
    finally:
        del sys.modules[TELEMETRY]
        sys.modules.update(before)
    return openvino
