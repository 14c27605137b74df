"""Gates that teach: what they say together is what a student learns, and no face that judges is learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit, logit

from qgate.errors import ConfigError, LabelError
from qgate.gate.bundle import DEFAULT, read_bundle
from qgate.labels.rows import Face
from tests.test_training_commands import inside, qgate, write_recipe  # noqa: F401
from tests.training_recipe import brightness, learnable, lineage_of, quiet, recipe, write_labels
from training.config import SHIPPED, SHIPPED_GENERATORS, TaughtSettings, find, gate_splits
from training.data.lineage import learned_identities, taught_facts
from training.data.split import Split
from training.data.targets import Floats
from training.data.taught import Taught, read_taught
from training.metrics.metrics import auroc
from training.pipeline import Training, draw, fit_looks, prepare, write_gate
from training.teach import taught_faces, teach_faces, write_taught

SHIPPED_TAUGHT = "training/labels/taught.csv"


def write(path: Path, seeds: range, prob: float | None = None) -> str:
    """What a teacher who knows brightness says of fake faces; or always the same."""
    said = {Face("fake:64", seed): (0.05 if brightness(seed) else 0.95) if prob is None else prob for seed in seeds}
    write_taught(path, said)
    return str(path)


def auroc_of(training: Training) -> float:
    """Of what a training learns, on its test faces."""
    views = draw(training)
    _, judged = write_gate(training, fit_looks(training, views), views, Path("gate"))
    return auroc(judged.clean, judged.prob)


def test_a_face_is_taught_what_the_gates_say_on_the_mean_of_their_log_odds(tmp_path: Path) -> None:
    faces = taught_faces([], "5-7", "fake:64", [1.0])
    twice: list[Taught] = [teach_faces([gate], faces, "cpu", quiet) for gate in ("default", str(other_gate(tmp_path)))]
    both = teach_faces(["default", str(tmp_path / "other")], [*faces, *faces], "cpu", quiet)
    assert list(both) == faces
    for face in faces:
        odds = [float(logit(np.clip(said[face], 1e-7, 1 - 1e-7))) for said in twice]
        assert odds[0] != pytest.approx(odds[1], abs=0.01)
        assert both[face] == pytest.approx(float(expit(np.mean(odds))), abs=1e-6)


def other_gate(folder: Path) -> Path:
    """A gate of another size and backbone."""
    training = prepare(learnable(folder), quiet)
    views = draw(training)
    write_gate(training, fit_looks(training, views), views, folder / "other")
    return folder / "other"


def test_faces_come_from_tables_of_any_kind_and_from_seeds_with_truncations_in_turn(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("generator,seed,psi,contents\nrandom-face-2021.7.21.1,3,0.7,hand\n")
    found = taught_faces([table, write_labels(tmp_path / "labels.csv", range(1))], "8,10-11", "fake:64", [1.0, 0.5])
    drawn = [Face("fake:64", 0), Face("fake:64", 8, 1.0), Face("fake:64", 10, 0.5), Face("fake:64", 11, 1.0)]
    assert found == [Face("mobile-stylegan", 3, 0.7), *drawn]
    with pytest.raises(ConfigError, match="no faces; name some with --faces or --seeds"):
        taught_faces([], None, "fake:64", [1.0])


def test_a_student_learns_from_faces_without_votes(tmp_path: Path) -> None:
    # One epoch of the labelled faces is too short to learn from; 400 further faces, without votes, make it enough.
    labels = write_labels(tmp_path / "labels.csv", range(200), brightness)
    optimiser = {"epochs": 1, "batch_size": 8, "learning_rate": 0.002, "precision": "fp32"}
    plain = learnable(tmp_path, sources=[str(labels)], optimiser=optimiser)
    taught = plain.model_copy(update={"taught": TaughtSettings(path=write(tmp_path / "taught.csv", range(1000, 1400)))})
    student = prepare(taught, quiet)
    assert (len(student.data.samples), [len(pixels) for pixels in draw(student)]) == (200, [600])
    assert auroc_of(student) > auroc_of(prepare(plain, quiet)) + 0.05


def test_of_a_labelled_face_votes_and_teachers_are_mixed_and_judging_faces_are_left_out(tmp_path: Path) -> None:
    sources = [str(write_labels(tmp_path / "labels.csv", range(60)))]
    said = write(tmp_path / "taught.csv", range(30, 90), 0.25)
    training = prepare(recipe(tmp_path, sources=sources, taught={"path": said, "share": 0.4}), quiet)
    plain = prepare(recipe(tmp_path, sources=sources), quiet)
    seeds = {row: training.data.samples[row].face.seed for row in range(60)}
    mixed = {row for row in training.data.rows[Split.TRAIN] if seeds[row] >= 30}
    assert 0 < len(mixed) < 30
    for row in range(60):
        before: float = plain.data.targets.clean[row]
        assert training.data.targets.clean[row] == pytest.approx(0.6 * before + 0.1 if row in mixed else before)
    assert sorted(face.seed for face in training.data.taught) == list(range(60, 90))
    after: Floats = training.data.targets.clean[60:]
    assert after.tolist() == [0.25] * 30
    assert not training.data.targets.named[60:].any()
    # A face nearer to the mean is the same person: where its seed judges, it is not learned from either.
    judging = [seeds[row] for row in training.data.rows[Split.TEST]]
    write_taught(Path(said), {Face("fake:64", seed, 0.5): 0.9 for seed in (*judging, 1000)})
    assert prepare(recipe(tmp_path, sources=sources, taught={"path": said}), quiet).data.taught == (
        Face("fake:64", 1000, 0.5),
    )


def test_what_a_gate_was_taught_never_judges_it_and_decides_its_weights(tmp_path: Path) -> None:
    said = write(tmp_path / "taught.csv", range(500, 520))
    config = learnable(tmp_path, taught={"path": said})
    training = prepare(config, quiet)
    views = draw(training)
    card, _ = write_gate(training, fit_looks(training, views), views, tmp_path / "gate")
    assert learned_identities(card, ()) == {str(seed) for seed in range(500, 520)}
    assert config.taught is not None
    assert lineage_of(card).taught == taught_facts(config.taught)
    facts = training.facts()
    write(tmp_path / "taught.csv", range(500, 520), 0.5)
    assert prepare(config, quiet).facts() != facts


def test_folds_and_teachers_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="folds and taught exclude each other"):
        recipe(tmp_path, folds=3, taught={"path": "taught.csv"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generator,seed,psi\n", "line 1: write the columns generator,seed,psi,clean_prob"),
        ("generator,seed,psi,clean_prob\n", "holds no faces"),
        ("generator,seed,psi,clean_prob\nfake:64,1,1,1.5\n", "line 2: clean_prob 1.5 is not from 0 to 1"),
        ("generator,seed,psi,clean_prob\nfake:64,1,1,nan\n", "line 2: clean_prob nan is not from 0 to 1"),
        ("generator,seed,psi,clean_prob\nfake:64,1,1,x\n", "line 2: clean_prob 'x' is no number"),
        ("generator,seed,psi,clean_prob\nfake:64,1,inf,0.5\n", "line 2: seed is 0..4294967295, psi a finite number"),
        ("generator,seed,psi,clean_prob\nfake:64,-1,1,0.5\n", "line 2: seed is 0..4294967295, psi a finite number"),
        ("generator,seed,psi,clean_prob\nfake:64,1\n", "line 2: 4 cells are wanted"),
        ("generator,seed,psi,clean_prob\nfake:64,1,1,0.5,6\n", "line 2: 4 cells are wanted"),
        ("generator,seed,psi,clean_prob\nfake:64,1,1,0.5\nfake:64,1,1.0,0.4\n", "line 3: the face stands there twice"),
        ('generator,seed,psi,clean_prob\n"fake:64,1,1,0.5\n', "cannot be read as CSV"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "taught.csv"
    path.write_text(text)
    with pytest.raises(LabelError, match=message) as caught:
        read_taught(path, {})
    assert str(caught.value).startswith(f"taught {path}")


def test_the_shipped_file_teaches_no_face_that_judges_the_shipped_gate(tmp_path: Path) -> None:
    taught = read_taught(find(SHIPPED_TAUGHT), SHIPPED_GENERATORS)
    splits = gate_splits(read_bundle(DEFAULT).card)
    training = prepare(recipe(tmp_path, sources=[source.model_dump() for source in SHIPPED], splits=splits), quiet)
    judging = {training.data.samples[row].face for split in list(Split)[1:] for row in training.data.rows[split]}
    assert len(judging) > 1000
    assert not judging & taught.keys()


def test_the_commands_teach_and_train_a_student(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(Path("recipe.yaml"), device="cpu")
    assert qgate("train", "--config", path, "--output", "teacher") == 0
    arguments = ("--gate", "teacher", "--faces", "labels.csv", "--seeds", "900-909", "--generator", "fake:64")
    capsys.readouterr()
    assert qgate("teach", "--out", "taught.csv", *arguments, "--device", "cpu", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": "taught.csv", "faces": 210, "gates": ["teacher"]}
    assert len(Path("taught.csv").read_text().splitlines()) == 211
    assert qgate("train", "--config", path, "--output", "student", "--set", "taught.path=taught.csv") == 0
    judging = sum(
        json.loads(Path("student/gate.json").read_text())["training"]["faces"][split.value] for split in list(Split)[1:]
    )
    assert f"taught.csv teaches {210 - judging} faces, {judging} that judge left out" in capsys.readouterr().err
    assert qgate("teach", "--gate", "teacher", "--seeds", "1", "--out", "gone/taught.csv") == 2
    assert capsys.readouterr().err == "qgate: error: --out gone/taught.csv: gone is no folder\n"
    assert qgate("train", "--config", path, "--set", "taught.path=gone.csv") == 2
    assert "taught gone.csv: cannot be read" in capsys.readouterr().err
