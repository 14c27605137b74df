"""`qgate train` and `qgate evaluate`: what they print, how they end, and the loop train, promote, run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qgate.cli.main import main
from tests.test_tracker import empty_store  # noqa: F401
from tests.training_recipe import brightness, learnable, look, write_labels
from training.data.split import Split, split_of
from training.train import train


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache and a working folder of its own."""
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def qgate(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    code = end.value.code
    return code if isinstance(code, int) else 0


def write_recipe(path: Path, **changes: Any) -> str:
    """The learnable recipe as a file."""
    path.write_text(yaml.safe_dump(learnable(Path(), **changes).model_dump(mode="json")))
    return str(path)


def read(query: str) -> list[Any]:
    with sqlite3.connect("file:mlruns/mlflow.db?mode=ro", uri=True) as store:
        rows = store.execute(query).fetchall()
    store.close()
    return rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--labels", "gone.csv"), "labels gone.csv: no such file or folder"),
        (("--labels", "few.csv"), "labels few.csv: 6 labelled faces are too few, 20 are needed"),
        (("--labels", "clean.csv"), "labels clean.csv: all 40 faces are clean"),
        (("--labels", "few.csv", "--set", "optimiser.epoch=3"), "the nearest is 'optimiser.epochs'"),
        (("--labels", "few.csv", "--config", "gone.yaml"), "gone.yaml"),
        (("--labels", "few.csv", "--device", "cuda:77"), "use cpu or auto"),
        (
            ("--labels", "few.csv", "--set", "pretrained=none", "--set", f"looks=[{json.dumps(look('resnet19'))}]"),
            "has no model 'resnet19'; near: ",
        ),
        (("--labels", "few.csv", "--folds", "1"), "folds = 1: give 2 folds or more"),
        (("--labels", "few.csv", "--output", "few.csv"), "few.csv is no folder; name a folder for the gate"),
        (("--labels", "few.csv", "--output", "few.csv/deeper"), "few.csv is no folder; name a folder for the gate"),
    ],
)
def test_bad_input_is_one_line_with_exit_2_and_nothing_written(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(Path("few.csv"), range(6))
    write_labels(Path("clean.csv"), range(40), lambda seed: 0)
    before = sorted(Path().iterdir())
    assert qgate("train", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert sorted(path for path in Path().iterdir() if path.name != "cache") == before


def test_help_imports_no_torch() -> None:
    code = "import sys; sys.argv = ['qgate', 'train', '--help']\nfrom qgate.cli.main import main\ntry: main()\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_one_command_trains_what_a_recipe_starts_from_once(capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(Path("base.yaml"), output="base", name="base", device="cpu")
    second = {"pretrained": "base", "after": "base.yaml", "output": "second", "name": "second", "rehearse": 0}
    path = write_recipe(Path("second.yaml"), **second, optimiser={"epochs": 1, "batch_size": 8, "precision": "fp32"})
    Path("base").mkdir()  # as a kill leaves it that came before the card was written
    assert qgate("train", "--config", path, "--set", "seed=1") == 0
    assert "qgate: base is not there yet: training it as base.yaml says" in capsys.readouterr().err
    base, card = (json.loads(Path(name, "gate.json").read_text()) for name in ("base", "second"))
    assert card["training"]["started_from"] == f"gate base, {base['weights_sha256'][:12]}"
    assert (base["training"]["recipe"]["seed"], card["training"]["recipe"]["seed"]) == (0, 1)
    assert qgate("train", "--config", path) == 0
    assert "not there yet" not in capsys.readouterr().err


def test_a_recipe_after_another_that_makes_something_else_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(Path("base.yaml"), output="other")
    path = write_recipe(Path("second.yaml"), pretrained="base", after="base.yaml")
    assert qgate("train", "--config", path) == 2
    assert "after = 'base.yaml': that recipe makes other, and this one starts from base" in capsys.readouterr().err


def test_two_gates_are_compared_on_faces_that_neither_learned_from(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(Path("a.yaml"))
    assert qgate("train", "--config", path, "--output", "one") == 0
    assert qgate("train", "--config", path, "--output", "two", "--set", "seed=1") == 0
    capsys.readouterr()
    both = ("--gate", "one", "--gate", "two", "--labels", "labels.csv", "--set", "resamples=20")
    assert qgate("evaluate", *both, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    config = learnable(Path())
    test = [seed for seed in range(200) if split_of(str(seed), config.splits) is Split.TEST]
    assert [gate["faces"] for gate in found["gates"]] == [len(test)] * 2
    assert found["gates"][0]["auroc"] == json.loads(Path("one/gate.json").read_text())["figures"]["auroc"]
    difference = found["gates"][1]["auroc"]["value"] - found["gates"][0]["auroc"]["value"]
    assert found["differences"]["auroc"]["value"] == pytest.approx(difference, abs=2e-5)
    assert qgate("evaluate", *both) == 0
    table = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert table[1][-1] == "second - first"
    shown = {line[0]: line[1:] for line in table[2:]}
    assert [len(shown[name]) for name in ("auroc", "ece", "auroc, psi 1.0", "purity at 0.5")] == [3, 2, 2, 2]
    purity = found["gates"][0]["thresholds"][0]["purity"]
    assert shown["purity at 0.5"][0].startswith(f"{purity:.3f} (")


def test_faces_of_other_origin_are_judged_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(Path("labels.csv"), range(200), brightness)
    write_labels(Path("other.csv"), range(1000, 1060), brightness)
    path = write_recipe(Path("a.yaml"), sources=["labels.csv", {"path": "other.csv", "use": "apart"}])
    assert qgate("train", "--config", path, "--output", "one") == 0
    figures = json.loads(Path("one/gate.json").read_text())["figures"]
    capsys.readouterr()
    assert qgate("evaluate", "--gate", "one", "--config", path, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["gates"]
    assert (found["faces"], found["auroc"]) == (figures["faces"], figures["auroc"])
    assert found["apart"].keys() == {"other.csv"}
    assert found["apart"]["other.csv"]["auroc"]["value"] == figures["apart"]["other.csv"]["auroc"]["value"]
    assert qgate("evaluate", "--gate", "one", "--config", path) == 0
    assert f"other.csv, {found['apart']['other.csv']['faces']} faces: auroc" in capsys.readouterr().out


def test_a_gate_is_judged_on_the_splits_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(Path("second.csv"), range(100), brightness, "other")
    config = learnable(Path())
    assert qgate("train", "--config", write_recipe(Path("a.yaml")), "--output", "one") == 0
    held = [seed for seed in range(200) if split_of(str(seed), config.splits) in (Split.VALIDATION, Split.CALIBRATION)]
    wanted = {("validation", "calibration"): held, ("all",): range(200)}
    for splits, seeds in wanted.items():
        capsys.readouterr()
        asked = [word for split in splits for word in ("--split", split)]
        both = ("--labels", "labels.csv", "--labels", "second.csv", "--set", "resamples=20", *asked)
        assert qgate("evaluate", "--gate", "one", *both, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["gates"][0]["faces"] == len(seeds)
        assert found["gates"][0]["agreed"]["faces"] == sum(seed < 100 for seed in seeds)
        assert found["differences"] is None
    assert qgate("evaluate", "--gate", "one", *both) == 0
    table = capsys.readouterr().out
    assert "; agreed: the 100 whose annotators, two or more, say the same" in table
    assert re.search(r"^auroc, agreed  ", table, re.MULTILINE)
    assert qgate("evaluate", "--gate", "one", "--split", "train") == 2
    said = "--split train: allowed are test, validation, calibration, all"
    assert said in capsys.readouterr().err


def test_report_and_mlflow_show_the_faces_whose_annotators_agree(empty_store: Path) -> None:  # noqa: F811
    Path("mlruns").mkdir()
    shutil.copy(empty_store, "mlruns/mlflow.db")
    write_labels(Path("labels.csv"), range(200), brightness)
    write_labels(Path("second.csv"), range(100), brightness, "other")
    path = write_recipe(Path("a.yaml"), sources=["labels.csv", "second.csv"], tracking={"enabled": True})
    assert qgate("train", "--config", path, "--output", "one") == 0
    agreed = json.loads(Path("one/gate.json").read_text())["figures"]["agreed"]
    shown = dict(read("select key, value from latest_metrics where key like 'test.agreed.%'"))
    assert shown["test.agreed.auroc"] == agreed["auroc"]["value"]
    assert shown["test.agreed.ece"] == agreed["ece"]["value"]
    assert shown["test.agreed.brier.high"] == agreed["brier"]["interval"][1]
    assert f"The same on the {agreed['faces']} faces of which" in Path("one-report/report.html").read_text()


def test_a_gate_that_beats_the_champion_is_promoted_and_run(
    empty_store: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mlruns").mkdir()
    shutil.copy(empty_store, "mlruns/mlflow.db")
    path = write_recipe(Path("a.yaml"), tracking={"enabled": True})
    assert qgate("train", "--config", path, "--promote", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["promotion"]["champion"] == "the shipped gate"
    assert summary["promotion"]["promoted"] is True, summary
    assert read("SELECT name, version FROM model_versions") == [("qgate-gate", 1)]
    assert read("SELECT alias, version FROM registered_model_aliases") == [("champion", 1)]
    assert read("SELECT name, digest FROM datasets")[0][0] == "labels"
    assert read("SELECT count(*) FROM metrics WHERE key = 'validation.whole.auroc'") == [(6,)]
    assert read("SELECT status FROM runs") == [("FINISHED",)]
    assert {path.name for path in Path("mlruns/artifacts").rglob("*.*")} >= {"gate.json", "report.html", "roc.png"}

    assert qgate("train", "--config", path, "--promote", "--output", "other") == 0  # the same gate again
    assert "not promoted: AUROC " in capsys.readouterr().err
    assert read("SELECT alias, version FROM registered_model_aliases") == [("champion", 1)]
    assert read("SELECT count(*) FROM model_versions") == [(2,)]

    champion = ("--gate", "models:/qgate-gate@champion", "--generator", "fake", "--set", "tracking.enabled=false")
    assert qgate("run", *champion, "--count", "3", "--threshold", "0.1", "--output", "faces") == 0
    assert json.loads(Path("faces/run.json").read_text())["gate"]["name"] == "small"


def test_a_training_that_is_stopped_says_that_the_same_command_goes_on() -> None:
    path = write_recipe(Path("a.yaml"), optimiser={"epochs": 500, "batch_size": 8, "precision": "fp32"})
    command = [sys.executable, "-m", "training", "--config", path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "whole, epoch 1:" in line)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(60) == 3
    assert rest.splitlines()[-1] == "qgate: error: stopped; the same command goes on"


def test_a_dead_server_does_not_stop_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    summary = train(learnable(Path(), tracking={"enabled": True}), promote=True)
    assert summary.run_id is None
    assert summary.promotion is not None
    assert summary.promotion.text.startswith("not promoted: the champion cannot be asked for")
    assert list(Path("mlruns/spool").glob("*.jsonl"))
