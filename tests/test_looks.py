"""A gate of two looks: whom the second look is given, what both say together, and cards that hold them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from qgate.errors import BundleError
from qgate.gate.bundle import Bundle, read_bundle, write_bundle
from qgate.gate.classifier import Gate, build_network
from qgate.records import Score
from tests.test_classifier import TINY, a_look, faces

CROP = (0.25, 0.375, 0.75, 0.875)
WHOLE, MIDDLE = a_look(), a_look(name="middle", size=32, crop=CROP)
FIRST, BOTH = {"weights": [1.5], "offset": 0.25}, {"weights": [0.75, 2.0], "offset": -0.5}


def two_looks(folder: Path, ask_from: float = 0.0, **changes: Any) -> Path:
    """A bundle of random weights whose logits differ from face to face."""
    networks = {}
    for number, name in enumerate(("whole", "middle")):
        torch.manual_seed(number)
        state = build_network(TINY).state_dict()
        networks[name] = state | {"classifier.weight": 20 * state["classifier.weight"]}
    card: dict[str, Any] = {
        "name": "two",
        "looks": [WHOLE, MIDDLE | {"ask_from": ask_from}],
        "calibrations": [FIRST, BOTH],
        "notes": "random weights",
        "license": "MIT",
    }
    write_bundle(folder, networks, card | changes)
    return folder


def open_gate(folder: Path) -> Gate:
    return Gate(read_bundle(folder), "cpu", "fp32")


def logits_of(bundle: Bundle, images: Tensor) -> list[Tensor]:
    """Of each look (n, 13), by the plain network."""
    found = []
    for look in bundle.card.looks:
        network = build_network(look.architecture).eval()
        network.load_state_dict(bundle.weights_of(look))
        with torch.inference_mode():
            found.append(network(look.preprocessing.normalise(look.preprocessing.resize(images))))
    return found


def split_level(folder: Path, images: Tensor, **changes: Any) -> float:
    """A clean_prob after the first look that half of the faces reach."""
    probs = torch.sigmoid(1.5 * logits_of(read_bundle(two_looks(folder, **changes)), images)[0][:, 0] + 0.25)
    return float(probs.sort().values[len(images) // 2 - 1 : len(images) // 2 + 1].mean())


def probs_of(scores: list[Score]) -> Tensor:
    return torch.tensor([score.clean_prob if score.clean_prob is not None else float("nan") for score in scores])


def test_both_looks_together_judge_a_face_that_is_given_both(tmp_path: Path) -> None:
    folder, images = two_looks(tmp_path), faces(6)
    first, second = logits_of(read_bundle(folder), images)
    scores = open_gate(folder).score(images)

    expected = torch.sigmoid(0.75 * first[:, 0] + 2.0 * second[:, 0] - 0.5)
    torch.testing.assert_close(probs_of(scores), expected, atol=1e-5, rtol=0)
    regions = torch.tensor([score.region_probs for score in scores])
    torch.testing.assert_close(regions, torch.sigmoid((first + second)[:, 1:] / 2), atol=1e-5, rtol=0)


def test_a_face_below_ask_from_keeps_what_the_first_look_says_and_costs_no_second_look(tmp_path: Path) -> None:
    images = faces(8)
    folder = two_looks(tmp_path, ask_from=split_level(tmp_path, images))
    first, second = logits_of(read_bundle(folder), images)
    gate, given = open_gate(folder), []
    execute = gate._execute[1]

    def counted(pixels: Tensor) -> tuple[Tensor, ...]:
        given.append(len(pixels))
        return execute(pixels)

    gate._execute[1] = counted
    scores = gate.score(images)

    alone = torch.sigmoid(1.5 * first[:, 0] + 0.25)
    asked = alone >= gate.card.looks[1].ask_from
    assert asked.sum() == 4
    assert given == [4]
    together = torch.sigmoid(0.75 * first[:, 0] + 2.0 * second[:, 0] - 0.5)
    torch.testing.assert_close(probs_of(scores), torch.where(asked, together, alone), atol=1e-5, rtol=0)
    low = int(alone.argmin())
    torch.testing.assert_close(torch.tensor(scores[low].region_probs), first[low, 1:].sigmoid(), atol=1e-5, rtol=0)
    gate.score(images[low : low + 1])
    assert given == [4]


def test_a_third_look_is_given_only_where_the_second_was(tmp_path: Path) -> None:
    images = faces(8)
    middle = MIDDLE | {"ask_from": split_level(tmp_path / "two", images)}
    states = {name: build_network(TINY).state_dict() for name in ("whole", "middle", "last")}
    kept = read_bundle(tmp_path / "two")
    states |= {look.name: kept.weights_of(look) for look in kept.card.looks}
    last = {"weights": [0.0, 0.0, 1.0], "offset": 0.0}
    looks = [WHOLE, middle, MIDDLE | {"name": "last", "ask_from": 0.0}]
    card = {"name": "three", "looks": looks, "calibrations": [FIRST, BOTH, last], "notes": "", "license": "MIT"}
    write_bundle(tmp_path / "three", states, card)
    first, _, third = logits_of(read_bundle(tmp_path / "three"), images)

    alone = torch.sigmoid(1.5 * first[:, 0] + 0.25)
    expected = torch.where(alone >= middle["ask_from"], third[:, 0].sigmoid(), alone)
    torch.testing.assert_close(probs_of(open_gate(tmp_path / "three").score(images)), expected, atol=1e-5, rtol=0)


def test_scores_of_images_are_those_of_their_views(tmp_path: Path) -> None:
    images = faces(8)
    gate = open_gate(two_looks(tmp_path, ask_from=split_level(tmp_path, images)))
    views = [look.preprocessing.resize_all(images) for look in gate.card.looks]

    assert gate.score_views(views) == gate.score(images)
    expected = torch.stack(logits_of(read_bundle(tmp_path), images), 1)
    torch.testing.assert_close(torch.from_numpy(gate.look_logits(views)).float(), expected, atol=1e-4, rtol=0)


def test_a_batch_gives_what_single_images_give_whatever_their_sizes_and_how_many_were_expected(tmp_path: Path) -> None:
    images = [*faces(7), torch.nn.functional.pad(faces(8)[7], (0, 40)), faces(9)[8][:, 8:, 8:]]
    gate = open_gate(two_looks(tmp_path, ask_from=split_level(tmp_path, faces(8))))
    alone = [gate.score([image])[0] for image in images]

    assert gate.score(images) == alone
    gate.expect(4)
    assert gate.score(images) == alone
    assert gate.score(faces(7)) == alone[:7]


def test_a_flat_image_is_degenerate_and_the_others_keep_their_places(tmp_path: Path) -> None:
    gate = open_gate(two_looks(tmp_path))
    flat = torch.full((1, 3, 80, 80), 90, dtype=torch.uint8)

    scores = gate.score(torch.cat([faces(1), flat, faces(3)[1:]]))
    assert scores[1] == Score(None, fault="degenerate")
    assert [scores[0], *scores[2:]] == gate.score(faces(3))
    assert gate.score(flat) == [Score(None, fault="degenerate")]


@pytest.mark.parametrize("broken", ["whole.classifier.bias", "middle.classifier.bias"])
@pytest.mark.parametrize("output", [0, 5])
def test_logits_that_are_no_numbers_give_nonfinite_where_that_look_is_given(
    tmp_path: Path, broken: str, output: int
) -> None:
    images = faces(8)
    level = split_level(tmp_path, images)
    bundle = read_bundle(two_looks(tmp_path, ask_from=level))
    kept = torch.sigmoid(1.5 * logits_of(bundle, images)[0][:, 0] + 0.25) < level
    bundle.weights[broken][output] = float("nan")
    scores = Gate(bundle, "cpu", "fp32").score(images)

    fine = kept if broken.startswith("middle") else torch.zeros(8, dtype=torch.bool)
    assert [score.fault for score in scores] == [None if row else "nonfinite" for row in fine]
    assert [score.clean_prob is None for score in scores] == [not row for row in fine]


# Cards


def as_format_1(folder: Path, slope: float = 1.5) -> Path:
    """A bundle as they were written when a gate had one look."""
    folder.mkdir()
    torch.manual_seed(0)
    content = save(build_network(TINY).state_dict())
    (folder / "gate.safetensors").write_bytes(content)
    (name, architecture, preprocessing) = (WHOLE[key] for key in ("name", "architecture", "preprocessing"))
    assert name == "whole"
    two = json.loads((two_looks(folder / "two") / "gate.json").read_text())
    card = {key: two[key] for key in ("name", "regions", "notes", "license", "training", "figures", "versions")} | {
        "format": 1,
        "architecture": architecture,
        "preprocessing": preprocessing,
        "calibration": {"slope": slope, "offset": 0.25},
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / "gate.json").write_text(json.dumps(card))
    return folder


def test_a_card_of_format_1_is_one_look_and_scores_as_it_did(tmp_path: Path) -> None:
    folder = as_format_1(tmp_path / "old")
    bundle = read_bundle(folder)
    (look,), (calibration,) = bundle.card.looks, bundle.card.calibrations
    assert (look.name, look.ask_from, look.preprocessing.crop) == ("whole", 0.0, (0.0, 0.0, 1.0, 1.0))
    assert (calibration.weights, calibration.offset) == ((1.5,), 0.25)

    (logits,) = logits_of(bundle, faces(4))
    expected = torch.sigmoid(1.5 * logits[:, 0] + 0.25)
    torch.testing.assert_close(probs_of(open_gate(folder).score(faces(4))), expected, atol=1e-5, rtol=0)


def test_what_was_read_as_format_1_is_written_as_format_2(tmp_path: Path) -> None:
    old = read_bundle(as_format_1(tmp_path / "old"))
    write_bundle(tmp_path / "new", {"whole": old.weights_of(old.card.looks[0])}, old.card.model_dump(mode="json"))

    assert json.loads((tmp_path / "new" / "gate.json").read_text())["format"] == 2
    new = read_bundle(tmp_path / "new").card
    assert (new.looks, new.calibrations) == (old.card.looks, old.card.calibrations)
    assert open_gate(tmp_path / "new").score(faces(4)) == open_gate(tmp_path / "old").score(faces(4))


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": {"slope": -1.0, "offset": 0.0}},
        {"calibration": {"slope": 0.0, "offset": 0.0}},
        {"calibration": {"offset": 0.0}},
        {"calibration": [1.5, 0.25]},
        {"calibration": None},
        {"architecture": None},
        {"preprocessing": {"size": 64}},
    ],
    ids=str,
)
def test_a_card_of_format_1_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = as_format_1(tmp_path / "old") / "gate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(BundleError, match=r"gate .*gate\.json: .*; restore the file or train again$"):
        read_bundle(path.parent)


def crop(*edges: float) -> dict[str, Any]:
    return {"looks": [WHOLE, a_look(name="middle", crop=edges)]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"calibrations": [FIRST]}, "there is one after each look, with a weight for each look so far"),
    ({"calibrations": [FIRST, BOTH, BOTH]}, "there is one after each look, with a weight for each look so far"),
    ({"calibrations": [FIRST, FIRST]}, "there is one after each look, with a weight for each look so far"),
    ({"calibrations": [BOTH, FIRST]}, "there is one after each look, with a weight for each look so far"),
    ({"calibrations": [FIRST, {"weights": [1.0, -0.1], "offset": 0}]}, "greater than or equal to 0"),
    ({"calibrations": [FIRST, {"weights": [0.0, 0.0], "offset": 0}]}, "all weights are 0"),
    ({"calibrations": [{"weights": [], "offset": 0}, BOTH]}, "at least 1 item"),
    ({"looks": [WHOLE, MIDDLE | {"name": "whole"}]}, r"two looks have one name: \['whole', 'whole'\]"),
    ({"looks": [WHOLE | {"ask_from": 0.1}, MIDDLE]}, "the first look is given to every face"),
    ({"looks": [WHOLE, MIDDLE | {"ask_from": 1.0}]}, "less than 1"),
    ({"looks": [WHOLE, MIDDLE | {"ask_from": -0.1}]}, "greater than or equal to 0"),
    ({"looks": [WHOLE, MIDDLE | {"name": "The Middle"}]}, "should match pattern"),
    ({"looks": [], "calibrations": []}, "at least 1 item"),
    (crop(0.25, 0.25, 0.75, 0.5), "is no square"),
    (crop(-0.1, 0.0, 0.9, 1.0), "give left, top, right, bottom from 0 to 1"),
    (crop(0.5, 0.5, 1.5, 1.5), "give left, top, right, bottom from 0 to 1"),
    (crop(0.75, 0.25, 0.25, 0.75), "give left, top, right, bottom from 0 to 1"),
    (crop(0.5, 0.5, 0.5, 0.5), "give left, top, right, bottom from 0 to 1"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_looks_and_calibrations_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        two_looks(tmp_path / "written", **change)
    path = two_looks(tmp_path / "read") / "gate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(path.parent)
    assert "\n" not in str(caught.value)


def test_a_look_without_weights_is_named(tmp_path: Path) -> None:
    bundle = read_bundle(two_looks(tmp_path))
    weights = {name: tensor for name, tensor in bundle.weights.items() if name.startswith("whole.")}

    with pytest.raises(BundleError, match="gate two: the weights of the look middle do not fit its architecture"):
        Gate(bundle.model_copy(update={"weights": weights}), "cpu")


# Heat maps


def one_look(bundle: Bundle, number: int, **changes: Any) -> Bundle:
    """The gate of one of the looks alone."""
    look = bundle.card.looks[number].model_copy(update={"ask_from": 0.0})
    calibrations = tuple(bundle.card.calibrations[:1])
    card = bundle.card.model_copy(update={"looks": (look,), "calibrations": calibrations, **changes})
    return bundle.model_copy(update={"card": card})


def places(ask_from: float = 0.0) -> list[dict[str, Any]]:
    """Two looks that are large enough to have places: 3 x 3 of them, and 4 x 4."""
    return [a_look(size=96), a_look(name="middle", size=128, crop=CROP) | {"ask_from": ask_from}]


def test_the_highest_heat_of_two_looks_is_what_is_left_of_clean_prob(tmp_path: Path) -> None:
    images = faces(4)
    level = split_level(tmp_path, images, looks=places())
    gate = open_gate(two_looks(tmp_path, looks=places(level)))
    maps, probs = gate.explain(images), probs_of(gate.score(images))

    assert gate.explains
    assert maps.shape == (4, 96, 96) and maps.dtype == np.float32 and maps.min() >= 0
    np.testing.assert_allclose(maps.max((1, 2)), 1 - probs.numpy(), atol=1e-6)
    assert np.array_equal(gate.explain(images[2:3])[0], maps[2])


def test_what_only_the_second_look_minds_lies_inside_its_crop(tmp_path: Path) -> None:
    blind = {"weights": [0.0, 2.0], "offset": -0.5}
    heat = open_gate(two_looks(tmp_path, looks=places(), calibrations=[FIRST, blind])).explain(faces(2))
    outside = np.ones((96, 96), bool)
    outside[36:84, 24:72] = False  # 0.375 to 0.875 of 96 rows, 0.25 to 0.75 of 96 columns

    assert heat[:, outside].max() == 0
    assert (heat[:, ~outside].max(1) > 0.01).all()


def test_a_face_that_gets_one_look_has_the_map_of_that_look(tmp_path: Path) -> None:
    images = faces(4)
    level = split_level(tmp_path, images, looks=places())
    bundle = read_bundle(two_looks(tmp_path, looks=places(level)))
    both, first = (Gate(found, "cpu", "fp32") for found in (bundle, one_look(bundle, 0)))
    low = [row for row, prob in enumerate(probs_of(first.score(images))) if prob < bundle.card.looks[1].ask_from]

    assert len(low) == 2
    assert first.explain(images[low]).max() > 0.01
    np.testing.assert_allclose(both.explain(images[low]), first.explain(images[low]), atol=1e-6)
