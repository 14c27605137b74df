"""What runs a network on CUDA, as far as a CPU can show it: graph and pinned memory are stand-ins."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from qgate.generators.stylegan2.fused import FusedBlock
from qgate.generators.stylegan2.layers import Block
from qgate.generators.stylegan2.network import build
from qgate.runtime.cuda import CudaExecutor, _captured, difference
from tests.benchmarks.generator_speed import random_network

CPU = torch.device("cpu")


class Rows(nn.Module):
    """Pixels, and how many rows the batch has; a device's memory holds `most` of them."""

    def __init__(self, most: int = 100) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("fake")
        return (x * 2).to(torch.uint8), torch.full((len(x),), float(len(x)))


class Same(nn.Module):
    """Pixels, and the same number for every row."""

    def __init__(self, number: float = 1.0) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x * 2).to(torch.uint8), torch.full((len(x),), self.number)


class Looking(Same):
    """Looks at a value, which no compiled graph can."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x if x.sum().item() > 0 else -x)


def rows(n: int) -> Tensor:
    return torch.arange(1.0, n + 1)[:, None]


def executor(module: nn.Module, fused: nn.Module | None = None) -> CudaExecutor:
    return CudaExecutor(module, fused, CPU, None, backend="eager")


def test_a_smaller_batch_is_filled_up_and_its_own_rows_come_back() -> None:
    execute = executor(Rows())
    execute(rows(8))
    pixels, size = execute(rows(3))

    assert pixels.tolist() == [[2], [4], [6]]
    assert size.tolist() == [8.0, 8.0, 8.0]


def test_the_first_batch_is_filled_up_to_what_is_expected() -> None:
    execute = executor(Rows())
    execute.expect(9)

    assert [execute(rows(n))[1][0].item() for n in (2, 9, 1)] == [9, 9, 9]


def test_rows_that_share_their_memory_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    def pinned(tensor: Tensor) -> Tensor:
        """As torch does it where there is a device."""
        return torch.empty_strided(tensor.shape, tensor.stride()).copy_(tensor)

    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    execute = executor(Rows())
    execute._rows, execute._device = 4, torch.device("cuda")

    assert execute._filled(torch.ones(1, 2).expand(4, -1)).tolist() == [[1, 1]] * 4


def test_a_larger_batch_doubles_the_size_at_least() -> None:
    execute = executor(Rows())

    assert [execute(rows(n))[1][0].item() for n in (3, 4, 2, 20)] == [3, 6, 6, 20]


def test_the_compiled_form_runs_where_it_computes_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    execute = executor(Same(), Same(1.0005))

    assert execute(rows(8))[1].tolist() == pytest.approx([1.0005] * 8)
    assert "warning" not in capsys.readouterr().err


def test_a_handful_is_not_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert executor(Same(), Same(1.0005))(rows(7))[1].tolist() == [1.0] * 7
    assert capsys.readouterr().err == ""


def test_a_compiled_form_that_computes_otherwise_is_said_and_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    execute = executor(Same(), Same(1.5))

    assert execute(rows(8))[1].tolist() == [1.0] * 8
    assert execute(rows(2))[1].tolist() == [1.0] * 2
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "output 1 differs by 0.5 on average, 0.001 is allowed" in warning


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_stylegan2_in_half_precision_stands_the_comparison(
    half: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, arrays = random_network(64)
    plain, fused = (build(spec, arrays, half=half, block=block) for block in (Block, FusedBlock))
    execute = CudaExecutor(plain, fused, CPU, None, backend="eager")
    z, psi = torch.randn(8, spec.z_dim, generator=torch.Generator().manual_seed(0)), torch.ones(8, spec.num_ws)

    assert torch.equal(execute(z, psi)[0], fused(z, psi)[0])
    assert "warning" not in capsys.readouterr().err


def test_what_cannot_be_compiled_is_said_once_and_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    execute = executor(Looking())

    assert execute(rows(8))[0][:3].tolist() == [[2], [4], [6]]
    assert execute(rows(8))[0][:3].tolist() == [[2], [4], [6]]
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "torch.compile failed" in warning


def test_compiling_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")

    assert executor(Same(), Same(1.5))(rows(8))[1].tolist() == [1.0] * 8
    assert capsys.readouterr().err == ""


def test_after_running_out_of_memory_a_smaller_batch_is_not_filled_up_again() -> None:
    execute = executor(Rows(most=4))
    with pytest.raises(torch.OutOfMemoryError):
        execute(rows(7))

    assert execute(rows(4))[1].tolist() == [4.0] * 4


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (torch.tensor([1.0, float("nan")]), None),
        (torch.tensor([1.01, float("nan")]), None),
        (torch.tensor([1.0, 2.0]), "output 0 is finite elsewhere"),
        (torch.tensor([1.2, float("nan")]), "output 0 differs by 0.1 on average, 0.02 is allowed"),
    ],
)
def test_rounding_is_allowed_and_more_is_not(found: Tensor, words: str | None) -> None:
    assert difference((found,), (torch.tensor([1.0, float("nan")]),), half=True) == words


def test_full_precision_allows_less() -> None:
    pixels = torch.zeros(4, 4, dtype=torch.uint8)
    wrong = torch.eye(4, dtype=torch.uint8)  # a quarter of a level on average
    assert difference((wrong,), (pixels,), half=True) is None
    assert difference((wrong,), (pixels,), half=False) == "output 0 differs by 0.25 on average, 0.05 is allowed"
    assert difference((torch.tensor([1.01]),), (torch.ones(1),), half=False) is not None


EXACT = ("ieee", "ieee", True, False)


def arithmetic() -> tuple[object, ...]:
    """What torch is set to, for the whole process."""
    cudnn = torch.backends.cudnn
    precision = (cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision)  # type: ignore[attr-defined]
    return (*precision, cudnn.deterministic, cudnn.benchmark)


class Noting(Same):
    """Notes what torch is set to while it runs, and waits to be let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[object, ...]] = []
        self.runs, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(arithmetic())
        self.runs.set()
        assert self.go_on.wait(60)
        self.seen.append(arithmetic())
        return super().forward(x)


@pytest.fixture
def fast() -> Iterator[None]:
    """A process whose owner wants speed, not exactness."""
    before = arithmetic()
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    for place in settings:
        place.fp32_precision = "tf32"
    torch.backends.cudnn.benchmark = True
    yield
    for place, value in zip(settings, before[:2], strict=True):
        place.fp32_precision = value
    torch.backends.cudnn.benchmark = False


def test_arithmetic_is_exact_while_a_module_runs_and_as_before_afterwards(fast: None) -> None:
    module = Noting()
    module.go_on.set()
    execute = executor(module)
    assert arithmetic() == ("tf32", "tf32", False, True)

    execute(rows(3))

    assert module.seen == [EXACT, EXACT]
    assert arithmetic() == ("tf32", "tf32", False, True)


def test_arithmetic_stays_exact_for_a_thread_when_another_one_is_done(fast: None) -> None:
    first, second = Noting(), Noting()
    threads = [threading.Thread(target=executor(module), args=(rows(3),)) for module in (first, second)]
    for module, thread in zip((first, second), threads, strict=True):
        thread.start()
        assert module.runs.wait(60)
    for module, thread in zip((first, second), threads, strict=True):
        module.go_on.set()
        thread.join()

    assert [first.seen, second.seen] == [[EXACT, EXACT], [EXACT, EXACT]]
    assert arithmetic() == ("tf32", "tf32", False, True)


def test_arithmetic_is_as_before_after_a_failure(fast: None) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        executor(Rows(most=4))(rows(7))

    assert arithmetic() == ("tf32", "tf32", False, True)


class Graph:
    """Stands for a CUDA graph: what ran while it was captured runs again, on the same memory."""

    capturing: "Graph | None" = None

    def __init__(self) -> None:
        self.kernels: list[Callable[[], object]] = []

    def replay(self) -> None:
        for kernel in self.kernels:
            kernel()


class Stream:
    """Stands for a stream of a device."""

    def wait_stream(self, other: "Stream") -> None:
        """Nothing runs at the same time here."""


@contextmanager
def capture(graph: Graph, capture_error_mode: str) -> Iterator[None]:
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What capturing asks of torch.cuda, without a device."""
    for name, stand_in in (
        ("Stream", lambda device: Stream()),
        ("current_stream", lambda device: Stream()),
        ("stream", lambda stream: nullcontext()),
        ("CUDAGraph", Graph),
        ("graph", capture),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)


def test_a_captured_function_computes_what_comes_and_gives_memory_of_its_own(cuda: None) -> None:
    calls = []

    def double(x: Tensor) -> tuple[Tensor]:
        calls.append(x)
        found = x * 2
        if Graph.capturing is not None:
            Graph.capturing.kernels.append(lambda: torch.mul(x, 2, out=found))
        return (found,)

    run = _captured(double, (rows(3),), CPU)
    first, second = run(rows(3) + 1)[0], run(rows(3) + 5)[0]

    assert [first.flatten().tolist(), second.flatten().tolist()] == [[4, 6, 8], [12, 14, 16]]
    assert len(calls) == 2  # to set itself up, and to be captured; the rest are replays


def test_what_cannot_be_captured_is_said_and_runs_as_it_is(cuda: None, capsys: pytest.CaptureFixture[str]) -> None:
    def waiting(x: Tensor) -> tuple[Tensor]:
        if Graph.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (x * 2,)

    assert _captured(waiting, (rows(2),), CPU)(rows(2))[0].flatten().tolist() == [2, 4]
    assert "CUDA graph capture failed" in capsys.readouterr().err
