"""The CPU runtime against torch itself, on a small module that stands for a network."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from qgate.config import GeneratorSettings
from qgate.errors import ConfigError
from qgate.generators import open_generator
from qgate.runtime.cuda import COMPILED_ROWS
from qgate.runtime.executor import _RowExecutor, make_executor, pick_device, pick_precision

CHECKOUT = Path(__file__).parent.parent
CONVERT_OFFLINE = """
import sys

def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("localhost", "127.0.0.1", "::1"):
        print("asked for", arguments[0], flush=True)
        raise OSError("no network")
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("connected to", arguments[1][0], flush=True)
        raise OSError("no network")

sys.addaudithook(refuse)
import torch
from qgate.runtime.executor import make_executor

class Double(torch.nn.Module):
    def forward(self, x):
        return (x * 2,)

row = torch.ones(1, 2)
print(make_executor(Double().eval(), (row,), torch.device("cpu"), "fp32")(row)[0].tolist())
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
"""
CPU = torch.device("cpu")
EXAMPLE = (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.ones(1, 1))


class Small(nn.Module):
    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.offset = nn.Conv2d(3, 4, 3), offset

    def extra_repr(self) -> str:
        return f"offset={self.offset}"

    def forward(self, pixels: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.conv(pixels.float() / 255).mean((2, 3)) * factor + self.offset
        return mean, pixels


def rows(n: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=random), torch.arange(1.0, n + 1)[:, None]


def eager(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        outputs: tuple[Tensor, ...] = module(*inputs)
    return outputs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path))
    return tmp_path


def test_openvino_computes_what_torch_computes_for_every_batch() -> None:
    execute = make_executor(Small().eval(), EXAMPLE, CPU, "fp32")
    expected = eager(Small().eval(), *rows(5))

    torch.testing.assert_close(execute(*rows(5))[0], expected[0], atol=1e-5, rtol=0)
    assert torch.equal(execute(*rows(5))[1], rows(5)[0])
    assert torch.equal(execute(*rows(5))[0][:2], execute(*rows(2))[0])


def test_what_is_not_used_any_more_gives_its_memory_back() -> None:
    execute = make_executor(Small().eval(), EXAMPLE, CPU, "fp32")
    execute(*EXAMPLE)
    left = weakref.ref(execute)
    del execute
    gc.collect()
    assert left() is None


def test_torch_row_by_row_computes_the_same_where_openvino_is_missing() -> None:
    expected = eager(Small().eval(), *rows(5))

    torch.testing.assert_close(_RowExecutor(Small().eval(), "fp32")(*rows(5))[0], expected[0], atol=1e-5, rtol=0)


def test_a_converted_graph_is_kept_and_another_constant_gives_another_one(own_cache: Path) -> None:
    graphs = own_cache / "openvino"
    first = make_executor(Small(offset=0.0).eval(), EXAMPLE, CPU, "fp32")
    make_executor(Small(offset=0.0).eval(), EXAMPLE, CPU, "fp32")
    assert len(list(graphs.iterdir())) == 1

    second = make_executor(Small(offset=1.0).eval(), EXAMPLE, CPU, "fp32")

    assert len(list(graphs.iterdir())) == 2
    torch.testing.assert_close(second(*rows(1))[0], first(*rows(1))[0] + 1, atol=1e-5, rtol=0)


def test_a_conversion_asks_for_no_server_and_writes_nothing_into_the_home_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in ("CI", "OPENVINO_TELEMETRY_OPT_OUT")}
    environment = kept | {"HOME": str(home), "QGATE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(CHECKOUT)}

    done = subprocess.run([sys.executable, "-c", CONVERT_OFFLINE], env=environment, capture_output=True, text=True)

    assert done.stdout.splitlines() == ["[[2.0, 2.0]]", "[]"], done.stderr
    assert not (home / "intel").exists()


@pytest.mark.parametrize("name", ["cuda:99", "cuda:0"])
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    if name == "cuda:0" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ConfigError, match="use cpu or auto"):
        pick_device(name)


def test_cpus_draw_in_fp32_or_bf16() -> None:
    assert pick_precision("auto", CPU) in ("fp32", "bf16")
    assert pick_precision("fp32", CPU) == "fp32"
    with pytest.raises(ConfigError, match="use auto"):
        pick_precision("fp16", CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["mobile-stylegan", str(Path(__file__).parent / "stylegan2_ada_torch_format.pkl")])
def test_a_gpu_draws_the_cpus_faces_and_in_every_batch_the_same(
    name: str, precision: Literal["fp32", "fp16"], capsys: pytest.CaptureFixture[str]
) -> None:
    exact, asked = (GeneratorSettings(name=name, precision=p) for p in ("fp32", precision))
    seeds = list(range(1, COMPILED_ROWS + 4))  # enough to be compiled and captured
    cpu, cuda = open_generator(exact, CPU), open_generator(asked, torch.device("cuda"))
    reference, drawn = cpu.draw(seeds).images, cuda.draw(seeds).images
    alone = cuda.draw([2]).images[0]

    assert "warning" not in capsys.readouterr().err
    for there, here in zip(reference, drawn, strict=True):
        assert there is not None and here is not None
        assert (there.int() - here.cpu().int()).abs().float().mean() < (0.05 if precision == "fp32" else 1)
    assert alone is not None and drawn[1] is not None
    assert torch.equal(alone, drawn[1])
