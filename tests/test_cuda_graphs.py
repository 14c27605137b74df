"""What runs on CUDA is captured as a graph, which holds no copy from the host: shown with tensors that hold nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qgate.gate.bundle import DEFAULT, read_bundle
from qgate.gate.classifier import Gate
from qgate.generators.mobile_stylegan.fused import FusedMobileStyleGan
from qgate.generators.mobile_stylegan.network import MobileStyleGan
from qgate.generators.stylegan2.fused import FusedBlock
from qgate.generators.stylegan2.layers import Block
from qgate.generators.stylegan2.network import Synthesis, build, noise_size
from tests.test_stylegan2 import CASES, inputs, network


class HostCopies(TorchDispatchMode):
    """Notes operations that take tensors of the host and give tensors of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        taken, given = (
            {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
            for values in ((args, kwargs), results)
        )
        if "cpu" in taken and "cuda" in given:
            self.found.append(str(function))
        return results


def host_copies(module: nn.Module, *rows: Tensor) -> list[str]:
    """The copies that the module's forward would make on CUDA; its own tensors become empty ones.

    What waits for a value of the device, which no graph can, raises torch's DataDependentOutputException.
    """
    with FakeTensorMode(), torch.no_grad():

        def moved(tensor: Tensor) -> Tensor:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                part.register_parameter(name, nn.Parameter(moved(parameter), requires_grad=False))
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, moved(buffer))
        placed = [moved(row) for row in rows]
        with HostCopies() as copies:
            module(*placed)
    return copies.found


def judging(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network of the shipped gate with all that stands around it, as the runtime gets it."""
    made: list[nn.Module] = []
    monkeypatch.setattr("qgate.gate.classifier.make_executor", lambda module, *rest: made.append(module))
    Gate(read_bundle(DEFAULT), "cpu")
    return made[0]


def test_what_a_graph_cannot_hold_is_found() -> None:
    class Copying(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor([1.0, 2.0], device=x.device)

    assert host_copies(Copying(), torch.zeros(3, 2)) == ["aten._to_copy.default"]


def test_the_gate_is_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_copies(judging(monkeypatch), torch.zeros(2, 3, 384, 384, dtype=torch.uint8)) == []


@pytest.mark.parametrize("fused", [False, True])
def test_the_default_generator_is_a_graph(fused: bool) -> None:
    plain = MobileStyleGan().eval()
    module = FusedMobileStyleGan(plain, torch.float16) if fused else plain

    assert host_copies(module, torch.zeros(2, 512), torch.zeros(2, 1)) == []


@pytest.mark.parametrize("block", [Block, FusedBlock])
@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
@pytest.mark.parametrize("case", CASES)
def test_stylegan2_is_a_graph(case: str, noise_mode: str, block: type[Block]) -> None:
    spec, arrays = network(case)
    noise = [torch.zeros(4, noise_size(spec))] if noise_mode == "random" else []
    whole, synthesis = (build(spec, arrays, noise_mode, torch.float16, block) for _ in range(2))  # type: ignore[arg-type]

    assert host_copies(whole, *inputs(case), *noise) == []
    assert host_copies(Synthesis(synthesis), torch.zeros(4, spec.num_ws, spec.w_dim), *noise) == []
