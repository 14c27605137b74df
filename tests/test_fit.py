"""Learning: what is frozen, how the rate moves, what augmentation does, and gradients."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from qgate.gate.bundle import Architecture
from qgate.gate.classifier import build_network
from qgate.labels.rows import Face, Label
from qgate.records import REGIONS
from training.config import TargetSettings
from training.data.targets import make_targets
from training.fitting.cpu import speed_up
from training.fitting.fit import freeze, schedule

LITE0 = Architecture(backbone="tf_efficientnet_lite0", arguments={"global_pool": "catavgmax"})


def test_targets_are_means_over_the_votes() -> None:
    face = Face("fake:64", 1)
    votes = [[Label(face, 1, (), "a"), Label(face, 3, ("eyes", "mouth"), "b")], [Label(face, 0, (), "a")]]
    targets = make_targets(votes, [1.0] * 2, [None] * 2, TargetSettings(clean_by_severity=(1.0, 0.9, 0.1, 0.0)))
    assert targets.clean.tolist() == [0.45, 1.0]
    assert targets.clean_votes.tolist() == [0.5, 1.0]
    assert dict(zip(REGIONS, targets.regions[0].tolist(), strict=True)) == {
        region: 0.5 if region in ("eyes", "mouth") else 0.0 for region in REGIONS
    }


def test_votes_teach_as_far_as_they_are_trusted_and_count_as_before() -> None:
    face = Face("fake:64", 1)
    votes = [[Label(face, severity, (), "a")] for severity in (0, 1, 3, 0)]
    settings = TargetSettings(clean_by_severity=(1.0, 0.9, 0.1, 0.0))
    targets = make_targets(votes, [0.8, 0.8, 0.8, 1.0], [None] * 4, settings)
    assert targets.clean.tolist() == pytest.approx([0.9, 0.82, 0.1, 1.0])
    assert targets.clean_votes.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_a_clean_face_with_rare_contents_counts_more_and_an_artifact_does_not() -> None:
    face = Face("fake:64", 1)
    votes = [[Label(face, severity, (), "a")] for severity in (0, 1, 3, 0, 0)]
    contents = [frozenset({"headwear", "hand"}), frozenset({"glasses"}), frozenset({"hand"}), frozenset(), None]
    settings = TargetSettings(clean_weights={"headwear": 3.0, "hand": 4.0})
    assert make_targets(votes, [1.0] * 5, contents, settings).weight.tolist() == [4.0, 1.0, 1.0, 1.0, 1.0]


def test_an_artifact_without_a_region_teaches_nothing_of_regions() -> None:
    face = Face("fake:64", 1)
    votes = [[Label(face, 0, (), "a")], [Label(face, 3, (), "a")], [Label(face, 3, ("eyes",), "a")]]
    assert make_targets(votes, [1.0] * 3, [None] * 3, TargetSettings()).named.tolist() == [True, False, True]


def test_every_backbone_can_have_its_first_stages_frozen() -> None:
    for backbone in ("resnet18", "test_vit", "test_convnext"):
        network = build_network(Architecture(backbone=backbone))
        still = freeze(network, 1)
        learned = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        assert still
        assert 0 < len(learned) < len(list(network.parameters()))
        assert network.training


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_are_those_of_the_plain_convolution(stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, 3, stride, 1, groups=4, bias=False)
    fast = nn.Conv2d(4, 4, 3, stride, 1, groups=4, bias=False)
    fast.load_state_dict(plain.state_dict())
    speed_up(fast)
    image = torch.randn(2, 4, 8, 8)
    outputs = []
    for conv in (plain, fast):
        x = image.clone().requires_grad_()
        conv(x).float().square().sum().backward()
        assert x.grad is not None
        assert conv.weight.grad is not None
        outputs.append((x.grad, conv.weight.grad))
    for expected, found in zip(*outputs, strict=True):
        assert (expected - found).norm() < 0.02 * expected.norm()


def test_frozen_stages_take_no_gradient() -> None:
    network = build_network(LITE0)
    freeze(network, 2)
    still = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in still} == {"conv_stem", "bn1", "blocks"}
    assert {name.split(".")[1] for name in still if name.startswith("blocks.")} == {"0", "1"}


def test_the_learning_rate_rises_and_falls() -> None:
    assert [round(schedule(step, 10, 0.2), 3) for step in range(10)] == [
        0.5, 1.0, 0.962, 0.854, 0.691, 0.5, 0.309, 0.146, 0.038, 0.0,
    ]  # fmt: skip


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by its own rules")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    code = """
import resource
import numpy as np
from training.fitting.cpu import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
keep_freed_memory()
faults()
assert faults() < given_back / 10, (faults(), given_back)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
