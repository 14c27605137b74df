"""Labels go in and a bundle comes out: splits, weights, figures and a whole small training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qgate.bundle import Architecture, read_bundle
from qgate.classifier import build_network, load_gate
from qgate.errors import ConfigError, LabelError, WeightsError
from qgate.labels import Face, Label, gather_votes, read_labels
from qgate.preprocess import Preprocessing
from qgate.records import REGIONS
from training import lite0, metrics
from training.config import SplitSettings, TargetSettings, TrainConfig, load_train_config
from training.depthwise import speed_up
from training.draw import draw_faces
from training.fit import augment, freeze, predict, schedule
from training.pipeline import Training, score
from training.split import Split, split_of, split_rows
from training.targets import make_targets

SHARES = SplitSettings(validation=0.08, calibration=0.1, test=0.1)
LITE0 = Architecture(backbone=lite0.BACKBONE, arguments={"global_pool": "catavgmax"})


def quiet(text: str, important: bool = False) -> None:
    pass


# Splits and targets


def test_a_face_stays_in_its_split_whatever_the_order_and_the_other_faces() -> None:
    faces = [Face("fake:64", seed, 1.0) for seed in range(2000)]
    rows = split_rows(faces, SHARES)
    assert {split.value: len(rows[split]) for split in Split} == {
        "train": 1478,
        "validation": 135,
        "calibration": 211,
        "test": 176,
    }
    assert sorted(row for found in rows.values() for row in found) == list(range(2000))
    backwards = split_rows(faces[::-1][:500], SHARES)
    assert [1999 - row for row in backwards[Split.TEST]][::-1] == [row for row in rows[Split.TEST] if row >= 1500]


def test_a_seed_is_in_one_split_at_every_truncation() -> None:
    for seed in range(200):
        assert len({split_of(Face("fake:64", seed, psi), SHARES) for psi in (0.7, 0.85, 1.0)}) == 1


def test_targets_are_means_over_the_votes() -> None:
    face = Face("fake:64", 1)
    votes = [[Label(face, 1, (), "a"), Label(face, 3, ("eyes", "mouth"), "b")], [Label(face, 0, (), "a")]]
    targets = make_targets(votes, TargetSettings(clean_by_severity=(1.0, 0.9, 0.1, 0.0)))
    assert targets.clean.tolist() == [0.45, 1.0]
    assert targets.clean_votes.tolist() == [0.5, 1.0]
    assert dict(zip(REGIONS, targets.regions[0].tolist(), strict=True)) == {
        region: 0.5 if region in ("eyes", "mouth") else 0.0 for region in REGIONS
    }


# Pixels


def test_faces_are_drawn_once_and_an_interrupted_drawing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path))
    faces = [Face("fake:64", seed, 1.0) for seed in range(40)]
    preprocessing = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    first = np.array(draw_faces(faces, preprocessing, torch.device("cpu"), quiet))
    (counter,) = tmp_path.glob("faces/*/drawn")
    counter.write_text("32")
    lines: list[str] = []
    again = draw_faces(faces, preprocessing, torch.device("cpu"), lambda text, important=False: lines.append(text))
    assert lines == ["drawing 40 of 40 faces"]
    assert again.shape == (40, 3, 32, 32)
    assert np.array_equal(first, again)


def test_a_face_that_is_a_file_cannot_be_drawn() -> None:
    preprocessing = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(LabelError, match=r"label of file a\.png"):
        draw_faces([Face(file_name="a.png")], preprocessing, torch.device("cpu"), quiet)


# The network


def test_every_tensor_of_the_imagenet_weights_finds_its_place() -> None:
    network = build_network(LITE0)
    own = network.state_dict()
    weights = lite0.read_weights()
    backbone = {name for name in own if not name.endswith("num_batches_tracked")}
    assert weights.keys() == backbone
    lite0.load_imagenet(network)
    for name, tensor in network.state_dict().items():
        if name in weights and not name.startswith("classifier."):
            assert torch.equal(tensor, weights[name]), name


def test_a_tensor_of_another_network_is_refused() -> None:
    assert lite0.timm_name("_blocks.3._bn1.weight") == "blocks.2.0.bn2.weight"
    assert lite0.timm_name("_blocks.0._project_conv.weight") == "blocks.0.0.conv_pw.weight"
    for key in ("_blocks.16._bn0.bias", "_blocks.0._expand_conv.weight", "_se.weight", "_fc"):
        with pytest.raises(WeightsError, match="unknown tensor"):
            lite0.timm_name(key)
    with pytest.raises(WeightsError, match="missing or left over"):
        lite0.load_imagenet(build_network(Architecture(backbone="resnet18")))


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


def test_augmentation_mirrors_and_cuts_nothing_away() -> None:
    torch.manual_seed(0)
    x = torch.arange(4.0).view(1, 1, 1, 4).repeat(64, 3, 1, 1)
    rows = {tuple(row) for row in augment(x, jitter=0.0)[:, 0, 0].tolist()}
    assert rows == {(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)}


# Figures


def test_platts_fit_finds_the_numbers_that_made_the_votes() -> None:
    for spread in (4.0, 0.001):
        logits = np.linspace(-spread, spread, 81)
        slope, offset = metrics.fit_platt(logits, 1 / (1 + np.exp(-(1.7 * logits - 0.6))))
        assert (slope, offset) == (pytest.approx(1.7, abs=1e-3), pytest.approx(-0.6, abs=1e-4))
    assert metrics.fit_platt(np.ones(4), np.array([0.0, 1.0, 0.5, 0.5])) == (0.0, 0.0)


def test_log_odds_of_what_float32_rounds_to_one_are_finite() -> None:
    found = metrics.to_logits(np.array([0.0, 0.5, 1.0]))
    assert found.tolist() == [pytest.approx(-16.118, abs=1e-3), 0.0, pytest.approx(16.118, abs=1e-3)]


CLEAN = np.array([True, False, True, True, False])
PROB = np.array([0.9, 0.8, 0.7, 0.6, 0.1])


def test_metrics_are_those_of_the_textbook() -> None:
    assert metrics.auroc(CLEAN, PROB) == pytest.approx(4 / 6)
    assert metrics.auprc_clean(CLEAN, PROB) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.auprc_artifact(CLEAN, PROB) == pytest.approx((1 + 2 / 4) / 2)
    assert metrics.brier(CLEAN, PROB) == pytest.approx((0.01 + 0.64 + 0.09 + 0.16 + 0.01) / 5)
    assert metrics.ece(CLEAN, PROB) == pytest.approx((0.1 + 0.8 + 0.3 + 0.4 + 0.1) / 5)


def test_the_yield_at_a_purity_is_the_largest_that_a_threshold_reaches() -> None:
    assert metrics.yield_at_purity(0.95)(CLEAN, PROB) == 0.2
    assert metrics.yield_at_purity(0.75)(CLEAN, PROB) == 0.8
    assert metrics.yield_at_purity(0.95)(~CLEAN, PROB) == 0.0
    tied = np.array([0.9, 0.9, 0.7, 0.6, 0.1])
    assert metrics.yield_at_purity(0.95)(CLEAN, tied) == 0.0


def test_the_threshold_table_leaves_out_what_accepts_nothing() -> None:
    table = metrics.threshold_table(CLEAN, PROB, (0.5, 0.85, 0.95))
    assert [(row["threshold"], row["purity"], row["clean_accepted"]) for row in table] == [
        (0.5, 0.75, 1.0),
        (0.85, 1.0, 0.33333),
    ]
    # Clopper-Pearson for 1 of 1: 0.025^(1/1).
    assert table[1]["purity_interval"] == (0.025, 1.0)


def test_the_bootstrap_holds_the_value_and_is_the_same_again() -> None:
    random = np.random.default_rng(1)
    prob = random.random(200)
    clean = random.random(200) < prob
    low, high = metrics.bootstrap(metrics.brier, clean, prob, 200)
    assert low < metrics.brier(clean, prob) < high
    assert (low, high) == metrics.bootstrap(metrics.brier, clean, prob, 200)


def test_chance_alone_gives_a_calibrated_gate_some_calibration_error() -> None:
    low, high = metrics.ece_if_calibrated(np.linspace(0, 1, 300), 100)
    assert 0.01 < low < high < 0.12
    assert metrics.ece_if_calibrated(np.array([0.0, 1.0, 1.0]), 20) == (0.0, 0.0)


# The whole way


def small(folder: Path) -> TrainConfig:
    """A recipe of seconds on faces of the fake generator, with labels that the pixels do not tell."""
    rows = ["generator,seed,psi,severity,regions,annotator"]
    rows += [f"fake:64,{seed},1.0,{(seed % 2) * 3},{'eyes' if seed % 2 else ''},test" for seed in range(32)]
    (folder / "labels.csv").write_text("\n".join(rows))
    return TrainConfig.model_validate(
        {
            "labels": str(folder / "labels.csv"),
            "output": str(folder / "gate"),
            "name": "small",
            "label_note": "No person: a formula.",
            "limits": "Good for nothing.",
            "license": "MIT",
            "pretrained": False,
            "device": "cpu",
            "resamples": 20,
            "preprocessing": {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3},
            "splits": {"validation": 0.25, "calibration": 0.25, "test": 0.25},
            "architecture": {"backbone": "test_efficientnet"},
            "optimiser": {"epochs": 3, "batch_size": 4, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"},
        }
    )


def test_a_small_training_makes_a_gate_that_judges_as_its_figures_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    config = small(tmp_path)
    training = Training(config, quiet)
    pixels = training.draw()
    network = training.fit(pixels)
    # What so short a training finds is chance, and a calibration that falls would be refused: the votes follow it.
    rows = training.rows[Split.CALIBRATION]
    logits = predict(network, config, pixels, rows, quiet)
    training.targets.clean_votes[rows] = 1 / (1 + np.exp(-2 * logits))
    card = training.write(network, pixels)
    gate = load_gate(tmp_path / "gate", "cpu")
    rows = training.rows[Split.TEST]
    probs = score(gate, pixels, rows, quiet)
    found = metrics.auroc(training.targets.clean_votes[rows] > 0.5, probs)
    assert card.figures["auroc"]["value"] == pytest.approx(found, abs=1e-5)
    assert card.calibration.slope == pytest.approx(2.0, rel=0.05)
    assert card.notes == "No person: a formula. Good for nothing."
    assert sum(card.training["faces"].values()) == 32
    assert read_bundle(tmp_path / "gate").card == card


def test_the_same_seed_trains_the_same_weights_whatever_is_done_between_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    config = small(tmp_path)
    training = Training(config, quiet)
    pixels = training.draw()
    first = training.fit(pixels).state_dict()

    def meddle(epoch: int, network: nn.Module) -> None:
        torch.manual_seed(epoch)

    again = training.fit(pixels, meddle).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_labels_that_leave_a_split_without_both_kinds_are_refused(tmp_path: Path) -> None:
    config = small(tmp_path)
    Path(config.labels).write_text("generator,seed,psi,severity,regions,annotator\nfake:64,1,1.0,0,,ann\n")
    with pytest.raises(LabelError, match="both kinds are needed: label more faces"):
        Training(config, quiet)


def test_the_shipped_recipe_reads_and_a_wrong_key_gets_the_nearest_name(tmp_path: Path) -> None:
    assert load_train_config(Path("configs/train.yaml")).labels == "training/labels/train.csv"
    path = tmp_path / "train.yaml"
    path.write_text(Path("configs/train.yaml").read_text() + "\nlabel: x\n")
    with pytest.raises(ConfigError, match="unknown setting 'label'; the nearest is 'labels'"):
        load_train_config(path)
    path.write_text(Path("configs/train.yaml").read_text().replace("epochs: 4", "epochs: 0"))
    with pytest.raises(ConfigError, match=r"optimiser\.epochs: .* \(found 0\)"):
        load_train_config(path)


def test_one_face_is_never_in_two_splits_of_the_shipped_labels() -> None:
    faces = sorted(gather_votes(read_labels(Path("training/labels/train.csv"))))
    rows = split_rows(faces, SHARES)
    seeds = {split: {faces[row].seed for row in rows[split]} for split in Split}
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values())) == 5400
