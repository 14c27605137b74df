"""A gate's name means the same wherever one is asked for: the shipped gate, a folder, or a gate of the registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

import qgate
from qgate.errors import BundleError
from qgate.gate.bundle import DEFAULT, read_bundle
from qgate.gate.open import keep_registered, open_bundle
from qgate.tracking.tracker import RegisteredModel, track
from qgate.web.faces import generator_faces
from qgate.web.scorer import start_scoring
from tests.test_classifier import save_bundle
from tests.test_cli import qgate as command
from tests.test_tracker import empty_store  # noqa: F401
from tests.training_recipe import brightness, lineage_of, quiet, write_labels
from training.teach import taught_faces, teach_faces

CHAMPION = "models:/qgate-gate@champion"


@pytest.fixture(scope="module")
def home(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A working folder whose registry has a tiny gate, which lies in `tiny` too."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mlruns").mkdir()
    shutil.copy(empty_store, folder / "mlruns" / "mlflow.db")
    model = RegisteredModel("qgate-gate", save_bundle(folder / "tiny"), {}, {"champion": None})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        session = track(experiment="qgate-train", key="k", name="tiny", params={}, folder=folder)
        assert session.finish("FINISHED", model=model).warning is None
    return folder


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("QGATE_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)


def tiny_prob(seed: int) -> float | None:
    """What the tiny gate says of a fake face, by the gate's folder."""
    (candidate,) = qgate.judge([seed], generator="fake:64", gate="tiny", device="cpu")
    return candidate.clean_prob


def test_the_three_kinds_of_names() -> None:
    tiny = read_bundle(Path("tiny")).digest

    assert open_bundle("default").digest == read_bundle(DEFAULT).digest
    assert open_bundle("tiny").digest == open_bundle(Path("tiny")).digest == tiny
    assert open_bundle(CHAMPION).digest == tiny


def test_a_name_that_means_no_gate_is_an_error_in_one_line() -> None:
    with pytest.raises(BundleError, match=r"gate gone: gate\.json is missing; a gate is a folder with"):
        open_bundle("gone")


def test_a_registered_gate_is_kept_under_its_digest() -> None:
    kept = keep_registered("models:/qgate-gate/1")

    assert kept.name == read_bundle(kept).digest == read_bundle(Path("tiny")).digest


def test_python_judges_with_a_registered_gate() -> None:
    (candidate,) = qgate.judge([5], generator="fake:64", gate=CHAMPION, device="cpu")

    assert candidate.clean_prob == tiny_prob(5)


def test_a_run_takes_a_registered_gate(tmp_path: Path) -> None:
    asked = ("--gate", CHAMPION, "--generator", "fake", "--seeds", "5", "--threshold", "0")
    assert command("run", *asked, "--output", str(tmp_path / "faces"), "--set", "tracking.enabled=false") == 0

    (line,) = (tmp_path / "faces" / "dataset" / "metadata.jsonl").read_text().splitlines()
    assert (json.loads(line)["gate"], json.loads(line)["clean_prob"]) == ("tiny", tiny_prob(5))


def test_files_are_scored_with_a_registered_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (face,) = qgate.judge([5], generator="fake:64", gate="tiny", device="cpu")
    assert face.image is not None
    Image.fromarray(face.image).save(tmp_path / "face.png")

    assert command("score", str(tmp_path / "face.png"), "--gate", CHAMPION, "--no-align", "--json") == 0
    assert json.loads(capsys.readouterr().out)["clean_prob"] == tiny_prob(5)


def test_what_asks_for_no_threshold_takes_that_which_the_gate_recommends(tmp_path: Path) -> None:
    probs = sorted(prob for seed in range(4) if (prob := tiny_prob(seed)) is not None)
    middle = (probs[1] + probs[2]) / 2
    gate = str(save_bundle(tmp_path / "gate", recommended_threshold=middle))
    output = tmp_path / "faces"
    asked = ("run", "--gate", gate, "--generator", "fake:64", "--seeds", "0-3", "--output", str(output))

    assert command(*asked, "--set", "tracking.enabled=false") == 0
    assert len((output / "dataset" / "metadata.jsonl").read_text().splitlines()) == 2
    assert json.loads((output / "run.json").read_text())["selection"]["threshold"] == middle
    verdicts = [str(c.verdict) for c in qgate.judge(range(4), generator="fake:64", gate=gate, device="cpu")]
    assert sorted(verdicts) == ["accepted", "accepted", "rejected", "rejected"]
    drawn = generator_faces("fake:64", 1.0, ((0, 3),), "cpu")
    start_scoring(drawn, gate, "cpu").join()
    assert drawn.threshold == middle
    assert read_bundle(Path("tiny")).card.recommended_threshold == 0.9  # whose card recommends none


def test_the_label_page_is_scored_with_a_registered_gate() -> None:
    faces = generator_faces("fake:64", 1.0, ((5, 6),), "cpu")
    start_scoring(faces, CHAMPION, "cpu").join()

    assert faces.clean_prob(0) == tiny_prob(5)


def test_a_registered_gate_teaches() -> None:
    asked = taught_faces([], "5", "fake:64", [1.0])
    (taught,) = teach_faces([CHAMPION], asked, "cpu", quiet).values()

    assert taught == pytest.approx(tiny_prob(5), abs=1e-3)  # which does not look at the mirror image


def test_a_training_starts_from_a_registered_gate_and_is_evaluated_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = str(write_labels(tmp_path / "labels.csv", range(200), brightness))
    values = {
        "sources": [labels],
        "rehearse": 0,
        "resamples": 20,
        "tracking": {"enabled": False},
        "optimiser": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "ema_decay": 0.0, "precision": "fp32"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    output, first = str(tmp_path / "gate"), f"pretrained={CHAMPION}"
    assert command("train", "--config", str(tmp_path / "recipe.yaml"), "--output", output, "--set", first) == 0

    card, tiny = read_bundle(Path(output)).card, read_bundle(Path("tiny")).card
    assert lineage_of(card).started_from == f"gate tiny, {tiny.weights_sha256[:12]}"
    assert card.looks == tiny.looks
    capsys.readouterr()
    both = ("--gate", CHAMPION, "--gate", output, "--labels", labels, "--set", "resamples=20")
    assert command("evaluate", *both, "--json") == 0
    assert [gate["gate"] for gate in json.loads(capsys.readouterr().out)["gates"]] == [CHAMPION, output]
