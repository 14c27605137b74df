"""Bundles and the gate made of them; the network here is tiny and random, the shipped gate has tests of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qgate.errors import BundleError
from qgate.gate.bundle import Architecture, read_bundle, write_bundle
from qgate.gate.classifier import Gate, LookNetwork, build_network
from qgate.gate.open import load_gate
from qgate.records import Score

TINY = Architecture(backbone="test_efficientnet")


def a_look(architecture: Architecture = TINY, name: str = "whole", **changes: Any) -> dict[str, Any]:
    """changes: of the preprocessing."""
    preprocessing = {"size": 64, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return {"name": name, "architecture": architecture.model_dump(), "preprocessing": preprocessing | changes}


def save_bundle(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    card = {
        "name": "tiny",
        "looks": [a_look()],
        "calibrations": [{"weights": [1.0], "offset": 0.0}],
        "notes": "random weights",
        "license": "MIT",
    }
    write_bundle(folder, {"whole": build_network(TINY).state_dict()}, card | changes)
    return folder


def faces(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 80, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_bundle_reads_back_as_it_was_written(tmp_path: Path) -> None:
    bundle = read_bundle(save_bundle(tmp_path))
    torch.manual_seed(0)

    assert bundle.card.name == "tiny"
    (look,) = bundle.card.looks
    assert (look.preprocessing.size, look.preprocessing.crop, look.ask_from) == (64, (0.0, 0.0, 1.0, 1.0), 0.0)
    for name, tensor in build_network(TINY).state_dict().items():
        assert torch.equal(bundle.weights_of(look)[name], tensor)


def test_a_score_is_a_calibrated_probability_with_one_for_each_region(tmp_path: Path) -> None:
    score = load_gate(save_bundle(tmp_path), "cpu").score(faces(1))[0]

    assert score.clean_prob is not None and 0 < score.clean_prob < 1
    assert len(score.region_probs) == 12


def test_calibration_changes_the_probability_and_not_its_order(tmp_path: Path) -> None:
    plain = load_gate(save_bundle(tmp_path / "a"), "cpu").score(faces(6))
    calibrations = [{"weights": [3.0], "offset": -1.0}]
    sharp = load_gate(save_bundle(tmp_path / "b", calibrations=calibrations), "cpu").score(faces(6))
    probs = [[score.clean_prob or 0.0 for score in scores] for scores in (plain, sharp)]

    expected = torch.sigmoid(3 * torch.logit(torch.tensor(probs[0])) - 1)
    torch.testing.assert_close(torch.tensor(probs[1]), expected, atol=1e-5, rtol=0)


def test_a_score_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    gate = load_gate(save_bundle(tmp_path), "cpu")

    assert gate.score(faces(5))[2] == gate.score(faces(5)[2:3])[0]
    assert gate.score([]) == []


def test_the_network_is_one_graph_without_a_break_for_torch_compile(tmp_path: Path) -> None:
    bundle = read_bundle(save_bundle(tmp_path))
    network = LookNetwork(bundle, bundle.card.looks[0]).eval()
    pixels = faces(2)[..., :64, :64]
    with torch.inference_mode():
        compiled = torch.compile(network, fullgraph=True, backend="eager")(pixels)
        expected = network(pixels)

    torch.testing.assert_close(compiled, expected)


def test_an_image_that_shows_nothing_is_degenerate(tmp_path: Path) -> None:
    gate = load_gate(save_bundle(tmp_path), "cpu")
    flat = torch.full((1, 3, 80, 80), 90, dtype=torch.uint8)

    assert gate.score(torch.cat([flat, faces(1)]))[0] == Score(None, fault="degenerate")


def test_weights_that_are_not_numbers_give_nonfinite_and_no_probability(tmp_path: Path) -> None:
    bundle = read_bundle(save_bundle(tmp_path))
    bundle.weights["whole.classifier.bias"][0] = float("nan")

    assert Gate(bundle, "cpu").score(faces(1))[0] == Score(None, fault="nonfinite")


def test_floats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        load_gate(save_bundle(tmp_path), "cpu").score(faces(1).float())


def test_a_missing_file_of_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gate\.json is missing"):
        read_bundle(tmp_path)
    (save_bundle(tmp_path) / "gate.safetensors").unlink()
    with pytest.raises(BundleError, match=r"gate\.safetensors is missing"):
        read_bundle(tmp_path)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    weights = save_bundle(tmp_path) / "gate.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)

    with pytest.raises(BundleError, match="is corrupted or belongs to another"):
        read_bundle(tmp_path)


EVIL = a_look() | {"architecture": {"backbone": "x", "arguments": {"checkpoint_path": "evil.pth"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "format"),
        ({"calibrations": [{"weights": [-1], "offset": 0}]}, r"calibrations\.0\.weights\.0"),
        ({"surprise": 1}, "surprise"),
        ({"looks": [EVIL]}, "no argument of a bundle"),
        ({"regions": ["mouth"]}, "its regions are"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = save_bundle(tmp_path) / "gate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(BundleError, match=message):
        read_bundle(tmp_path)


def test_a_card_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (save_bundle(tmp_path) / "gate.json").write_text("{")

    with pytest.raises(BundleError, match="restore the file"):
        read_bundle(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_bundle(tmp_path, looks=[a_look(Architecture(backbone="test_resnet"))])

    with pytest.raises(BundleError, match="the weights of the look whole do not fit its architecture"):
        load_gate(tmp_path, "cpu")


def test_an_unknown_backbone_is_answered_with_near_names(tmp_path: Path) -> None:
    save_bundle(tmp_path, looks=[a_look(Architecture(backbone="test_efficientnat"))])

    with pytest.raises(BundleError, match=r"no model 'test_efficientnat'.*test_"):
        load_gate(tmp_path, "cpu")
