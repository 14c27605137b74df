"""A training of two looks: each learns from what it sees, and the gate, its figures and a restart hold both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qgate.errors import ConfigError, StoppedError
from qgate.gate.bundle import read_bundle
from qgate.gate.open import load_gate
from qgate.images import read_image
from tests.training_recipe import brightness, learnable, lineage_of, look, quiet, write_labels
from training.config import TrainConfig
from training.data.pixels import Say
from training.data.split import Split
from training.metrics import metrics
from training.metrics.judged import score
from training.pipeline import Training, draw, fit_looks, look_names, prepare, write_gate
from training.train import train

CROP = (0.25, 0.25, 0.75, 0.75)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache and a working folder of its own."""
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def two_looks(folder: Path, ask_from: float = 0.2, epochs: int | None = None, **changes: Any) -> TrainConfig:
    """The whole face at 32 pixels, then its middle at 64. epochs: of the second look."""
    middle = look(size=64, crop=CROP) | {"name": "middle", "ask_from": ask_from, "epochs": epochs}
    return learnable(folder, **({"looks": [look(size=32), middle]} | changes))


def test_a_training_of_two_looks_makes_a_gate_that_judges_as_its_figures_say(tmp_path: Path) -> None:
    drawn = write_labels(tmp_path / "drawn.csv", range(200), brightness)
    other = write_labels(tmp_path / "other.csv", range(1000, 1060), brightness)
    sources = [str(drawn), {"path": str(other), "use": "apart"}]
    config = two_looks(tmp_path, epochs=4, sources=sources)
    summary = train(config)

    card = read_bundle(tmp_path / "gate").card
    assert card == summary.card
    assert [(part.name, part.preprocessing.size, part.preprocessing.crop, part.ask_from) for part in card.looks] == [
        ("whole", 32, (0.0, 0.0, 1.0, 1.0), 0.0),
        ("middle", 64, CROP, 0.2),
    ]
    assert [len(part.weights) for part in card.calibrations] == [1, 2]
    assert {name: len(found) for name, found in lineage_of(card).validation_by_epoch.items()} == {
        "whole": 6,
        "middle": 4,
    }
    assert [part["name"] for part in lineage_of(card).recipe.looks] == ["whole", "middle"]

    training = prepare(config, quiet)
    views = draw(training)
    assert [pixels[[0]].shape for pixels in views] == [(1, 3, 32, 32), (1, 3, 64, 64)]
    gate = load_gate(tmp_path / "gate", "cpu")
    for split, figures in ((Split.TEST, card.figures), (Split.APART, card.figures["apart"][str(other)])):
        clean, rows = training.data.decided(training.data.rows[split])
        assert figures["faces"] == len(rows) == lineage_of(card).faces[split.value]
        probs = score(gate, views, rows, quiet)
        assert figures["auroc"]["value"] == pytest.approx(metrics.auroc(clean, probs), abs=1e-5)
        pictures = list(training.data.labels.pictures(rows[:8], torch.device("cpu")))
        assert {picture.shape for picture in pictures} == {(3, 64, 64)}
        found = [scored.clean_prob for scored in gate.score(pictures)]
        np.testing.assert_allclose(np.array(found, float), probs[:8], atol=1e-6)


def test_the_report_of_two_looks_shows_whole_faces_and_those_of_other_origin(tmp_path: Path) -> None:
    drawn = write_labels(tmp_path / "drawn.csv", range(200), brightness)
    other = write_labels(tmp_path / "other.csv", range(1000, 1060), brightness)
    optimiser = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"}
    sources = [str(drawn), {"path": str(other), "use": "apart"}]
    contents = tmp_path / "contents.csv"
    contents.write_text("generator,seed,psi,contents\n" + "".join(f"fake:64,{seed},1.0,\n" for seed in range(1060)))
    train(two_looks(tmp_path, sources=sources, optimiser=optimiser, contents=str(contents)))

    folder = tmp_path / "gate-report"
    report = json.loads((folder / "report.json").read_text())
    assert report["test"]["apart"].keys() == {str(other)}
    page = (folder / "report.html").read_text()
    assert "whole: test_efficientnet, 32 pixels; middle: test_efficientnet, 64 pixels" in page
    section = page.partition("<h2>Faces of other origin</h2>")[2].partition("<h2>")[0]
    part = report["test"]["apart"][str(other)]
    assert f'{part["faces"]} <span class="soft">{part["clean"]} of them clean</span>' in section
    assert f"{part['auroc']['value']:.3f}" in section
    assert f"{part['ece']['value']:.3f}" in section
    for table in part["at_threshold"]:
        assert f"at threshold {table['threshold']}" in section
    accepted = report["test"]["at_threshold"][0]["clean_accepted_by_contents"]["none of these"]
    assert f"{accepted['hits']} of {accepted['faces']}" in page
    assert ('<span class="soft">ratio 1.00</span>' in page) == (accepted["value"] > 0)
    faces = sorted((folder / "false_rejects").iterdir())
    assert {read_image(path).shape for path in faces} == {(3, 64, 64)}  # as drawn, and not as a look sees them


def run(config: TrainConfig, output: Path, say: Say = quiet) -> tuple[Training, list[tuple[str, int]]]:
    """Train and write; returns the training, and the epochs that were trained now."""
    training, epochs = prepare(config, say), []
    views = draw(training)
    networks = fit_looks(training, views, lambda epoch, found: epochs.append((min(found).partition(".")[0], epoch)))
    write_gate(training, networks, views, output)
    return training, epochs


def test_a_training_killed_in_its_second_look_goes_on_there_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    optimiser = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"}
    config = two_looks(tmp_path, epochs=3, optimiser=optimiser)
    training, epochs = run(config, tmp_path / "whole")
    assert epochs == [("whole", 1), ("whole", 2), ("middle", 1), ("middle", 2), ("middle", 3)]
    training.forget(look_names(training.config))

    def stop(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        if text.startswith("middle, epoch 2 of 3"):
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        run(config, tmp_path / "killed", stop)
    assert not (tmp_path / "killed").exists()
    _, epochs = run(config, tmp_path / "again")
    assert epochs == [("middle", 2), ("middle", 3)]
    assert len(list((tmp_path / "cache" / "training").iterdir())) == 2
    whole, again = (tmp_path / name for name in ("whole", "again"))
    assert (whole / "gate.safetensors").read_bytes() == (again / "gate.safetensors").read_bytes()
    first, second = (read_bundle(folder).card for folder in (whole, again))
    assert first.calibrations == second.calibrations
    assert first.figures == second.figures


def test_a_look_is_calibrated_on_the_faces_that_come_to_it(tmp_path: Path) -> None:
    heard: list[str] = []

    def hear(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        heard.extend([text] if "calibrated" in text else [])

    optimiser = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"}
    config = two_looks(tmp_path, optimiser=optimiser)
    training = prepare(config, hear)
    views = draw(training)
    networks = fit_looks(training, views)
    rows = training.data.rows[Split.CALIBRATION]
    votes = training.data.targets.clean_votes[rows]
    found = {}
    for ask_from in (0.0, 0.5, 0.9999):
        middle = training.config.looks[1].model_copy(update={"ask_from": ask_from})
        asking = replace(training, config=config.model_copy(update={"looks": (config.looks[0], middle)}))
        card, _ = write_gate(asking, networks, views, tmp_path / f"gate-{ask_from}")
        found[ask_from] = card.calibrations
        gate = load_gate(tmp_path / f"gate-{ask_from}", "cpu")
        logits = gate.look_logits([torch.from_numpy(pixels[rows]) for pixels in views])
        asked = card.calibrations[0].prob(logits[:, :1]) >= (ask_from if ask_from < 0.9 else 0)
        expected = metrics.fit_calibration(logits[asked], votes[asked])
        assert card.calibrations[1].table == pytest.approx(expected.table, rel=1e-6)
    assert found[0.0][0] == found[0.5][0]
    assert found[0.0][1] != found[0.5][1]
    # Nobody comes to a look that asks for certainty: it is calibrated on all faces, and that is said.
    assert found[0.9999][1] == found[0.0][1]
    assert heard == [f"middle: too few of {len(rows)} calibration faces come to it; it is calibrated on all of them"]


def test_a_look_of_no_epochs_is_kept_and_weighed_anew(tmp_path: Path) -> None:
    optimiser = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"}
    train(two_looks(tmp_path, optimiser=optimiser))
    first = read_bundle(tmp_path / "gate")
    again = {"pretrained": str(tmp_path / "gate"), "output": str(tmp_path / "second"), "rehearse": 0}
    train(two_looks(tmp_path, epochs=0, optimiser=optimiser, **again))

    second = read_bundle(tmp_path / "second")
    whole, middle = second.card.looks
    kept, learned = second.weights_of(middle), second.weights_of(whole)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in first.weights_of(middle).items())
    assert not torch.equal(learned["classifier.weight"], first.weights_of(whole)["classifier.weight"])
    assert second.card.calibrations[1] != first.card.calibrations[1]
    assert lineage_of(second.card).validation_by_epoch["middle"] == []


def test_only_a_look_of_the_gate_that_is_refined_can_be_kept(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"looks\.middle\.epochs = 0: keeps that look .* pretrained = 'none' has none"
    ):
        prepare(two_looks(tmp_path, epochs=0, pretrained="none"), quiet)
