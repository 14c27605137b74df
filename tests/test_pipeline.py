"""The whole way: labels go in and a bundle comes out, the same from the same seed, with a report beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qgate.errors import ConfigError, LabelError, StoppedError
from qgate.gate.bundle import DEFAULT, GateCard, read_bundle
from qgate.gate.open import load_gate
from qgate.labels.answers import Answer, Decision
from qgate.labels.rows import Face, read_labels
from qgate.labels.store import LabelStore
from tests.training_recipe import brightness, learnable, lineage_of, look, parity, quiet, recipe, same, write_labels
from training.config import SHIPPED, AugmentSettings, LookSettings, gate_splits
from training.crossfit import CrossValidation
from training.data.lineage import learned_identities
from training.data.pixels import Views
from training.data.sources import read_sources
from training.data.split import Split, split_of
from training.evaluate import UNSEEN, unseen
from training.fitting.fit import fit, predict
from training.metrics import metrics
from training.metrics.judged import score
from training.metrics.metrics import resampled
from training.pipeline import Fits, Training, draw, fit_looks, look_names, make_card, prepare, write_gate
from training.train import train


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache and a working folder of its own."""
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_small_training_makes_a_gate_that_judges_as_its_figures_say(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    training = prepare(config, quiet)
    views = draw(training)
    networks = fit_looks(training, views)
    # What so short a training finds is chance, and a calibration that falls would be refused: the votes follow it.
    rows = training.data.rows[Split.CALIBRATION]
    logits = predict(networks["whole"].network, config, config.looks[0], views[0], rows, quiet)[:, 0]
    training.data.targets.clean_votes[rows] = 1 / (1 + torch.exp(-2 * torch.from_numpy(logits))).numpy()
    card, judged = write_gate(training, networks, views, tmp_path / "gate")
    probs = score(load_gate(tmp_path / "gate", "cpu"), views, judged.rows, quiet)
    found = metrics.auroc(judged.clean, probs)
    assert card.figures["auroc"]["value"] == pytest.approx(found, abs=1e-5)
    assert card.calibrations[0].weights == pytest.approx((2.0,), rel=0.05)
    assert card.notes == "No person: a formula. Good for nothing."
    assert sum(lineage_of(card).faces.values()) == 32
    assert read_bundle(tmp_path / "gate").card == card


def test_the_same_seed_trains_the_same_weights_whatever_is_done_between_epochs(tmp_path: Path) -> None:
    training = prepare(recipe(tmp_path), quiet)
    views = draw(training)
    first = fit_looks(training, views)["whole"].network.state_dict()
    training.forget(look_names(training.config))
    again = fit_looks(training, views, lambda epoch, found: torch.manual_seed(epoch) and None)
    assert same(first, again["whole"].network.state_dict())


def test_faces_carry_the_weight_of_their_source(tmp_path: Path) -> None:
    heavy = write_labels(tmp_path / "heavy.csv", range(100, 132))
    light = write_labels(tmp_path / "light.csv", range(32))
    sources = [{"path": str(light), "weight": 1}, {"path": str(heavy), "weight": 3}]
    training = prepare(recipe(tmp_path, sources=sources), quiet)
    assert {sample.weight for sample in training.data.samples if sample.face.seed >= 100} == {3}
    assert {sample.weight for sample in training.data.samples if sample.face.seed < 100} == {1}


def test_a_training_leaves_a_pure_bundle_and_a_report_beside_it(tmp_path: Path) -> None:
    summary = train(learnable(tmp_path, folds=2))
    assert sorted(path.name for path in (tmp_path / "gate").iterdir()) == ["gate.json", "gate.safetensors"]
    report = json.loads((tmp_path / "gate-report" / "report.json").read_text())
    assert report["test"]["auroc"] == summary.to_json()["auroc"]
    assert report["cross_validated"]["faces"] == 200 - lineage_of(summary.card).faces["test"]
    assert "gates that did not learn from them" in report["suspects"]["note"]
    page = (tmp_path / "gate-report" / "report.html").read_text()
    assert "<script" not in page
    clean, artifacts = report["test"]["clean"], report["test"]["faces"] - report["test"]["clean"]
    assert page.count('alt="where the gate sees the artifact"') == min(clean, 24) + min(artifacts, 24)
    assert page.count("data:image/jpeg") == 2 * page.count('alt="where the gate sees the artifact"')
    for name in ("false_accepts.png", "false_rejects.png", "reliability.png", "roc.png"):
        assert (tmp_path / "gate-report" / name).stat().st_size > 1000
    suspects = read_labels(tmp_path / "gate-report" / "suspects.csv")
    assert len(suspects) == report["suspects"]["faces"]
    assert not list((tmp_path / "cache" / "training").iterdir())


def test_suspects_count_less_in_the_gate_and_not_in_the_folds_that_found_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[str, Training]] = []
    weights: list[NDArray[np.float64]] = []

    def watched(training: Training, views: Views, *args: Any, part: str = "", **kept: Any) -> Fits:
        fitted.append((part, training))
        weights.append(training.data.targets.weight.copy())
        return fit_looks(training, views, *args, part=part, **kept)

    monkeypatch.setattr("training.crossfit.fit_looks", watched)
    monkeypatch.setattr("training.train.fit_looks", watched)
    wrong = {3, 50, 120, 121}
    labels = write_labels(
        tmp_path / "l.csv", range(200), lambda seed: (3 - brightness(seed)) if seed in wrong else brightness(seed)
    )
    targets = {"suspect_weight": 0.25}
    train(learnable(tmp_path, folds=2, sources=[str(labels)], targets=targets))
    suspects = {label.face.seed for label in read_labels(tmp_path / "gate-report" / "suspects.csv")}
    assert [part for part, _ in fitted] == ["fold 1 of 2, ", "fold 2 of 2, ", ""]
    assert all((found == 1).all() for found in weights[:2])
    samples = fitted[-1][1].data.samples
    less = {sample.face.seed for sample, weight in zip(samples, weights[-1], strict=True) if weight == 0.25}
    assert less == suspects
    assert len(wrong & less) >= 2


def test_a_fold_never_judges_a_face_that_it_learned_from(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", range(96))
    training = prepare(recipe(tmp_path, sources=[str(labels)], folds=3), quiet)
    parts = [CrossValidation(training)._parts(number) for number in range(3)]
    assert all(not set(held) & set(others) for held, others in parts)
    everyone = sorted(row for held, _ in parts for row in held)
    assert everyone == sorted(set(range(96)) - set(training.data.rows[Split.TEST]))


def test_folds_that_would_judge_nothing_are_refused_at_once(tmp_path: Path) -> None:
    shipped = {"path": SHIPPED[0].path, "limit": 200}
    card = read_bundle(DEFAULT).card
    looks = tuple(LookSettings.model_validate(found.model_dump()) for found in card.looks)
    config = recipe(tmp_path, sources=[shipped], folds=2, pretrained="default", splits=gate_splits(card).model_dump())
    training = prepare(config.model_copy(update={"looks": looks}), quiet)
    with pytest.raises(LabelError, match="it would judge 0 faces"):
        CrossValidation(training)
    with pytest.raises(ValueError, match="faces of both kinds"):
        next(resampled(np.zeros(5, bool), 20))


def test_what_decides_the_weights_names_a_training(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", range(32), brightness)
    contents = tmp_path / "contents.csv"
    contents.write_text("generator,seed,psi,contents\n")
    config = recipe(tmp_path, sources=[str(labels)], contents=str(contents), targets={"clean_weights": {"hand": 3}})
    before = prepare(config, quiet).facts()
    assert prepare(config, quiet).facts() == before
    clean = [seed for seed in range(32) if brightness(seed) == 0]
    learned = [seed for seed in clean if split_of(str(seed), config.splits) is Split.TRAIN]
    contents.write_text(f"generator,seed,psi,contents\nfake:64,{learned[0]},1.0,hand\n")
    assert prepare(config, quiet).facts() != before


def test_votes_on_faces_that_only_judge_decide_the_weights_only_where_a_training_stops_by_them(tmp_path: Path) -> None:
    optimiser = {"epochs": 1, "precision": "fp32"}
    plain, patient = (recipe(tmp_path, optimiser=optimiser | {"patience": patience}) for patience in (None, 1))
    before = [prepare(config, quiet).facts() for config in (plain, patient)]
    test = next(seed for seed in range(32) if split_of(str(seed), plain.splits) is Split.TEST)
    write_labels(tmp_path / "labels.csv", range(32), lambda seed: 3 - parity(seed) if seed == test else parity(seed))
    after = [prepare(config, quiet).facts() for config in (plain, patient)]
    assert [first == second for first, second in zip(before, after, strict=True)] == [True, False]


def test_a_backbone_that_takes_no_such_images_is_refused_before_any_face_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no images of 64 pixels"):
        prepare(recipe(tmp_path, looks=[look("vit_tiny_patch16_224")]), quiet)


def test_faces_that_are_no_random_sample_are_only_learned_from(tmp_path: Path) -> None:
    plain = write_labels(tmp_path / "plain.csv", range(96))
    chosen = write_labels(tmp_path / "chosen.csv", range(1000, 1040))
    sources = [str(plain), {"path": str(chosen), "use": "learn"}]
    training = prepare(recipe(tmp_path, sources=sources, folds=3), quiet)
    mine = {row for row, sample in enumerate(training.data.samples) if sample.face.seed >= 1000}
    assert len(mine) == 40
    assert mine <= set(training.data.rows[Split.TRAIN])
    for held, others in (CrossValidation(training)._parts(number) for number in range(3)):
        assert not mine & set(held)
        assert mine <= set(others)


def test_a_fold_learns_from_no_face_whose_seed_it_judges_at_another_truncation(tmp_path: Path) -> None:
    plain = write_labels(tmp_path / "plain.csv", range(96))
    nearer = write_labels(tmp_path / "nearer.csv", range(96))
    nearer.write_text(nearer.read_text().replace(",1.0,", ",0.7,"))
    training = prepare(recipe(tmp_path, sources=[str(plain), {"path": str(nearer), "use": "learn"}], folds=3), quiet)
    for held, others in (CrossValidation(training)._parts(number) for number in range(3)):
        assert {training.data.samples[row].face.psi for row in held} == {1.0}
        assert {training.data.samples[row].face.psi for row in others} == {1.0, 0.7}
        seeds, learned = ({training.data.samples[row].face.seed for row in rows} for rows in (held, others))
        assert not seeds & learned


def test_a_source_that_now_only_judges_gives_no_face_that_taught_the_gate_before(tmp_path: Path) -> None:
    plain = write_labels(tmp_path / "plain.csv", range(200), brightness)
    config = learnable(tmp_path, sources=[str(plain)])
    train(config)
    taught = {seed for seed in range(200) if split_of(str(seed), config.splits) is Split.TRAIN}
    labels = read_sources(recipe(tmp_path, sources=[{"path": str(plain), "use": "judge"}]), quiet)
    rows = unseen(labels, [read_bundle(tmp_path / "gate")], UNSEEN)
    assert {labels.samples[row].face.seed for row in rows} == set(range(200)) - taught


def test_a_card_that_does_not_say_what_its_gate_learned_from_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    card = read_bundle(DEFAULT).card.model_copy(update={"training": None})
    assert learned_identities(card, ()) == set()
    assert "warning: the gate default does not say what it learned from" in capsys.readouterr().err


def test_faces_that_a_gate_only_learned_from_never_judge_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_labels(tmp_path / "plain.csv", range(200), brightness)
    chosen = write_labels(tmp_path / "chosen.csv", range(1000, 1040), brightness)
    config = learnable(tmp_path, sources=[str(plain), {"path": str(chosen), "use": "learn"}])
    train(config)
    gate = read_bundle(tmp_path / "gate")
    # The same faces in another file, of which nothing says that they were learned from.
    again = write_labels(tmp_path / "again.csv", range(1000, 1040), brightness)
    labels = read_sources(recipe(tmp_path, sources=[str(plain), str(again)]), quiet)
    known = {sample.face.seed for sample in labels.samples if split_of(sample.identity, config.splits) is Split.TEST}
    assert {labels.samples[row].face.seed for row in unseen(labels, [gate])} == {seed for seed in known if seed < 1000}
    assert any(seed >= 1000 for seed in known)
    # Nor do they judge a gate that comes from it.
    refined = learnable(tmp_path, sources=[str(plain), str(again)], pretrained=str(tmp_path / "gate"), rehearse=0)
    refined = refined.model_copy(update={"output": str(tmp_path / "refined")})
    training = prepare(refined, quiet)
    assert all(training.data.samples[row].face.seed < 1000 for row in training.data.rows[Split.TEST])
    card = GateCard.model_validate(gate.card.model_dump() | {"training": make_card(training, {})["training"]})
    assert learned_identities(card, ()) == {str(seed) for seed in range(1000, 1040)}
    chosen.unlink()
    assert len(unseen(labels, [gate])) == len(known)
    assert "a gate learned from" in capsys.readouterr().err


def test_a_training_that_gets_no_better_stops_and_takes_its_best_epoch(tmp_path: Path) -> None:
    optimiser = {"epochs": 9, "batch_size": 4, "learning_rate": 0.0, "precision": "fp32"}
    config = recipe(tmp_path).model_copy(update={"augment": AugmentSettings(jitter=0.0)})
    config = config.model_copy(
        update={"optimiser": config.optimiser.model_validate(optimiser | {"learning_rate": 1e-9})}
    )
    found = iter([0.6, 0.8, 0.7, 0.5, 0.9])
    heard: list[str] = []

    def hear(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        heard.extend([text] if important else [])

    training = prepare(config, quiet)
    settings = config.model_copy(update={"optimiser": config.optimiser.model_copy(update={"patience": 1})})
    rows = training.data.rows[Split.TRAIN]
    fitted = fit(
        settings,
        settings.looks[0],
        draw(training)[0],
        training.data.targets,
        rows,
        training.device,
        hear,
        lambda epoch, network: {"auroc": next(found)},
    )
    assert fitted.epoch == 2
    assert [figures["auroc"] for figures in fitted.history] == [0.6, 0.8, 0.7, 0.5]
    assert heard == ["stopped early: no epoch since epoch 2 was better"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_killed_training_goes_on_after_its_last_whole_epoch_and_ends_the_same(
    tmp_path: Path, accumulate: int
) -> None:
    config = recipe(tmp_path)
    optimiser = config.optimiser.model_copy(update={"accumulate": accumulate})
    training = prepare(config.model_copy(update={"optimiser": optimiser}), quiet)
    batches = len(training.data.rows[Split.TRAIN]) // optimiser.batch_size
    assert accumulate == 1 or batches % accumulate  # some wait at the end of an epoch
    views = draw(training)
    whole = fit_looks(training, views)["whole"].network.state_dict()
    training.forget(look_names(training.config))

    def stop_in_the_third(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        if text.startswith("whole, epoch 3 of 3"):
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        fit_looks(prepare(training.config, stop_in_the_third), views)
    epochs: list[int] = []
    again = fit_looks(prepare(training.config, quiet), views, lambda epoch, found: epochs.append(epoch))
    assert epochs == [3]
    assert same(whole, again["whole"].network.state_dict())


def test_a_store_remembers_what_a_training_with_its_labels_reached(tmp_path: Path) -> None:
    answers = {
        0: lambda face: Answer(face=face, annotator="test", decision=Decision.CLEAN, severity=0),
        3: lambda face: Answer(face=face, annotator="test", decision=Decision.ARTIFACT, severity=3),
    }
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_all(answers[brightness(seed)](Face("fake:64", seed)) for seed in range(96))
        assert store.advice().at == 100
    before = (tmp_path / "labels.db").read_bytes()
    summary = train(recipe(tmp_path, sources=[str(tmp_path / "labels.db")]))
    assert (tmp_path / "labels.db").read_bytes() == before
    with LabelStore(tmp_path / "labels.db") as store:
        assert store.advice().at == 192
    assert lineage_of(summary.card).sources[0].annotators == {"test": 96}
