"""Runs a torch module on CUDA: compiled, captured as a graph, and compared with the plain module before it is used.

A call launches a few copies and one graph and waits for nothing: its results are on the device, in the order of the
current stream. What cannot be compiled, captured or trusted is said in one line, and the plain module runs instead.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from qgate.progress import warn

HALVES = (torch.float16, torch.bfloat16)

LEVELS = {True: 2.0, False: 0.05}
"""In half precision and in full: mean difference of uint8 pixels, in levels, that rounding may make between the
compiled and the plain module. Two ways to round bf16 differ by about one level."""

PART = {True: 0.02, False: 0.001}
"""Likewise of other outputs, as a part of their mean size or of 1, whichever is larger."""

CHECKED_ROWS = 2
"""Rows of the first batch that the plain module computes too."""

COMPILED_ROWS = 8
"""Smaller batches run as they are: whoever draws or scores a handful would wait longer for the compiler."""

_PREPARING = threading.Lock()
"""Held while a module is compiled and captured: one at a time in a process."""

ARITHMETIC: tuple[tuple[Any, str, object], ...] = (
    (torch.backends.cudnn.conv, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)
"""Settings of torch while a module runs: TF32 rounds to ten bits, which is not what fp32 promises; and the same command
gives the same bytes, whatever the clock says of an algorithm."""


class _Exact:
    """A context in which `ARITHMETIC` holds.

    The settings are those of the process: the first thread that enters makes them, the last one that leaves puts back
    what was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[object] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [getattr(place, name) for place, name, _ in ARITHMETIC]
                for place, name, value in ARITHMETIC:
                    setattr(place, name, value)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for (place, name, _), value in zip(ARITHMETIC, self._before, strict=True):
                    setattr(place, name, value)


_EXACT = _Exact()


class CudaExecutor:
    """Whole batches of a steady size; a smaller one is filled up, as kernels of another shape may round otherwise."""

    def __init__(
        self,
        module: nn.Module,
        fused: nn.Module | None,
        device: torch.device,
        half: torch.dtype | None,
        backend: str = "inductor",
    ) -> None:
        """module: in eval mode, its weights final; its forward takes tensors and returns a tuple of them, rows first.

        fused: the same function in the form to compile, which computes as it is; None: the module itself.
        device: a CUDA device; on the CPU, for tests, nothing is captured.
        half: the module's autocast; None: it computes as it is.
        backend: of torch.compile.
        """
        self._plain = _Function(_placed(module, device), device, half)
        form = self._plain if fused is None else _Function(_placed(fused, device), device, None)
        self._fused = _Function(
            torch.compile(form.module, fullgraph=True, dynamic=False, backend=backend), device, form.half
        )
        self._device = device
        self._half = half is not None or any(tensor.dtype in HALVES for tensor in module.state_dict().values())
        self._rows, self._expected, self._run = 0, 0, self._plain.__call__

    def expect(self, rows: int) -> None:
        """Say how large batches are going to be, so that the first one is filled up even if it is a last one."""
        self._expected = rows

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Tensors with n rows each, on the CPU or the device -> the outputs, n rows each, on the device."""
        n = inputs[0].shape[0]
        grown = max(n, self._expected) > self._rows
        if grown:
            # Doubled at least, so that a caller whose batches grow and grow does not compile for each of them.
            self._rows, self._run = max(n, self._expected, 2 * self._rows), self._plain.__call__
        try:
            with _EXACT, torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
                filled = tuple(self._filled(tensor) for tensor in inputs)
                if grown:
                    with _PREPARING:
                        self._run = self._prepare(filled)
                outputs = self._run(*filled)
        except torch.OutOfMemoryError:
            # The caller comes again with less, which must not be filled up to this size.
            self._rows, self._expected, self._run = 0, 0, self._plain.__call__
            raise
        return tuple(output[:n] for output in outputs)

    def _filled(self, tensor: Tensor) -> Tensor:
        """As many rows as the steady batch has, on the device or in pinned memory, whose copy nobody waits for."""
        missing = self._rows - tensor.shape[0]
        if missing:
            tensor = torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
        if self._device.type != "cuda" or tensor.is_cuda:
            return tensor
        # A tensor is pinned with its strides, which fails where rows share their memory, as expanded ones do.
        return tensor.contiguous().pin_memory()

    def _prepare(self, inputs: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """What computes batches of this size: compiled if that works and is right, captured if that works."""
        if self._rows < COMPILED_ROWS:
            return self._plain
        function = self._fused if self._compiles(inputs) else self._plain
        return _captured(function, inputs, self._device) if self._device.type == "cuda" else function

    def _compiles(self, inputs: tuple[Tensor, ...]) -> bool:
        if os.environ.get("TORCH_COMPILE_DISABLE") == "1":
            return False
        print(f"qgate: compiling for batches of {self._rows}", file=sys.stderr, flush=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's advice to its authors
                found = self._fused(*inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler may raise anything
            reason = " ".join(str(error).split())[:200]
            warn(f"torch.compile failed; the network runs op by op, several times slower ({reason})")
            return False
        expected = self._plain(*(tensor[:CHECKED_ROWS] for tensor in inputs))
        wrong = difference(found, expected, self._half)
        if wrong is not None:
            warn(f"the compiled network does not compute what the plain one does ({wrong}); the plain one runs, slower")
        return wrong is None


class _Function:
    """A module that takes its inputs from anywhere."""

    def __init__(
        self, module: Callable[..., tuple[Tensor, ...]], device: torch.device, half: torch.dtype | None
    ) -> None:
        self.module, self.device, self.half = module, device, half

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        moved = [tensor.to(self.device, non_blocking=True) for tensor in inputs]
        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            return self.module(*moved)


def difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], half: bool) -> str | None:
    """What differs by more than rounding, in half precision or in full, in words; None: nothing does.

    found may have more rows than expected, and only the first ones are compared. Values that are not finite must be so
    in both.
    """
    for index, (rows, right) in enumerate(zip(found, expected, strict=True)):
        ours = rows[: len(right)]
        if not torch.equal(ours.isfinite(), right.isfinite()):
            return f"output {index} is finite elsewhere"
        ours, theirs = ours.float().nan_to_num(), right.float().nan_to_num()
        allowed = LEVELS[half] if right.dtype == torch.uint8 else PART[half] * max(1.0, theirs.abs().mean().item())
        found_mean = (ours - theirs).abs().mean().item()
        if found_mean > allowed:
            return f"output {index} differs by {found_mean:.3g} on average, {allowed:.3g} is allowed"
    return None


def _captured(
    function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], device: torch.device
) -> Callable[..., tuple[Tensor, ...]]:
    """The function as a CUDA graph over memory of its own; the function itself where it cannot be captured."""
    places = tuple(tensor.to(device, copy=True) for tensor in inputs)
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        function(*places)  # libraries set themselves up at the first call on a stream, which no capture may hold
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        # The other stage of the run may use the device meanwhile, from its own thread.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = function(*places)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        warn(
            f"CUDA graph capture failed; kernels are launched one by one, slower ({' '.join(str(error).split())[:200]})"
        )
        return function

    def replay(*inputs: Tensor) -> tuple[Tensor, ...]:
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor, non_blocking=True)
        graph.replay()
        return tuple(output.clone() for output in outputs)

    return replay


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device).to(memory_format=torch.channels_last)
