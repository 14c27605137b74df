"""The command line: what it prints, how it ends, and that bad input writes nothing."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qgate.cli.main import main
from qgate.config import RunConfig
from qgate.gate.bundle import DEFAULT
from qgate.generators import Drawn
from qgate.generators.fake import FakeGenerator
from qgate.images import read_image
from qgate.run.tracked_run import Watch
from tests.test_local import tree

UNTRACKED = ("--set", "tracking.enabled=false")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def qgate(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    code = end.value.code
    return code if isinstance(code, int) else 0


def save_image(path: str, size: int = 96) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(len(path)).randint(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).resize((size, size)).save(path)


def test_a_gpu_too_small_for_one_image_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: FakeGenerator, seeds: Sequence[int]) -> Drawn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FakeGenerator, "draw", full)
    assert qgate("run", "--generator", "fake", "--count", "3", "--threshold", "0.5", "--output", "out", *UNTRACKED) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("qgate: error: the GPU's memory does not suffice")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--count", "0"), "selection.count = 0"),
        (("--count", "3", "--threshold", "1.5"), "selection.threshold = 1.5"),
        (("--count", "3", "--threshold", "nan"), "selection.threshold = nan"),
        (("--count", "3", "--set", "selection.treshold=0.5"), "the nearest is 'selection.threshold'"),
        (("--count", "3", "--config", "bad.yaml"), "the nearest is 'generator.name'"),
        (("--count", "3", "--config", "gone.yaml"), "gone.yaml"),
        (("--count", "3", "--generator", "mobile-stylegan:gone.whl"), "gone.whl cannot be read"),
        (("--count", "3", "--generator", "mobile-stylegan:half.whl"), "half.whl is truncated or another file"),
        (("--count", "3", "--generator", "stylegan9"), "no generator 'stylegan9'"),
        (("--count", "3", "--gate", "bent"), "gate.safetensors: is corrupted"),
        (("--count", "3", "--gate", "gone"), "gate.json is missing"),
        (("--count", "3", "--seed-start", "4294967296"), "seeds.start = 4294967296"),
        (("--seeds", "5,4294967296"), "4294967296 is too large"),
        (("--count", "100000000"), "free; make room"),
        (("--generator", "folder:empty"), "holds no PNG, JPEG or WebP image"),
        (("--generator", "folder:texts"), "x.png: no PNG, JPEG or WebP image"),
        (("--count", "3", "--device", "cuda:77"), "use cpu or auto"),
        (("--count", "3", "--resolution", "2048"), "faces are only shrunk"),
        (("--threshold", "0.9"), "--count is missing"),
    ],
)
def test_bad_input_is_one_line_with_exit_2_and_nothing_written(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("generator: {nome: x}\n")
    Path("half.whl").write_bytes(b"PK")
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/x.png").write_text("no image")
    shutil.copytree(DEFAULT, "bent")
    with open("bent/gate.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff\xff\xff\xff")
    before = sorted(Path().rglob("*"))
    generator = () if "--generator" in arguments else ("--generator", "fake:1024")

    code = qgate("run", *arguments, *generator)

    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("qgate: error: ") and printed.err.count("\n") == 1
    assert message in printed.err
    assert sorted(Path().rglob("*")) == before


def test_an_output_folder_of_another_run_is_refused_and_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    fake = ("run", "--generator", "fake", "--threshold", "0", "--output", "out", *UNTRACKED)
    qgate(*fake, "--count", "2")
    before = tree(Path("out"))

    assert qgate(*fake, "--count", "2", "--seed-start", "5") == 2
    assert "holds another run: seeds" in capsys.readouterr().err
    assert qgate(*fake[:4], "0.5", "--output", "out", "--count", "2", *UNTRACKED) == 2
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("mine")
    assert qgate("run", "--generator", "fake", "--count", "2", "--output", "notes", *UNTRACKED) == 2
    assert tree(Path("out")) == before
    assert [path.name for path in Path("notes").iterdir()] == ["mine.txt"]


def test_the_same_command_without_output_finds_its_folder_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("run", "--generator", "fake", "--count", "3", "--threshold", "0", "--json", *UNTRACKED)
    assert qgate(*command) == 0
    first = json.loads(capsys.readouterr().out)
    before = tree(Path())

    assert qgate(*command) == 0
    second = json.loads(capsys.readouterr().out)

    assert tree(Path()) == before
    assert first["output"] == second["output"]
    assert (first["judged"], first["accepted"], first["count"], first["yield"]) == (3, 3, 3, 1.0)
    assert second["faces_per_second"] == 0


def test_a_regate_goes_on_with_the_settings_of_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[RunConfig] = []
    monkeypatch.setattr("qgate.run.run.Watch", lambda config, *rest: told.append(config) or Watch(config, *rest))
    made = ("--generator", "fake", "--threshold", "0", "--output", "out", "--seeds", "5-9,20", "--truncation", "0.7")
    jpeg = ("--set", "output.format=jpeg", "--set", "output.quality=80", "--set", "output.shard_size=2")
    assert qgate("run", *made, *jpeg, "--set", "output.review=3", *UNTRACKED) == 0

    assert qgate("regate", "out", "--threshold", "0.2", "--set", "compute.encoders=1") == 0
    first, second = told
    assert second.selection.threshold == 0.2
    assert second.compute.encoders == 1
    for section in ("generator", "gate", "seeds", "output", "tracking"):
        assert getattr(second, section) == getattr(first, section)
    assert not Path("mlruns").exists()
    capsys.readouterr()
    before = tree(Path("out"))
    assert qgate("regate", "out", "--threshold", "0.4", "--set", "output.format=webp") == 2
    assert "--set output.format: regate changes only selection, compute, tracking" in capsys.readouterr().err
    assert tree(Path("out")) == before


def test_a_folder_of_images_is_judged_whole_and_a_damaged_one_is_failed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.jpg", "c.webp"):
        save_image(f"in/{name}")
    Path("in/d.png").write_bytes(Path("in/a.png").read_bytes()[:2000])

    folder = ("--generator", "folder:in", "--set", "generator.align=never")
    code = qgate("run", *folder, "--threshold", "0", "--output", "out", "--json", *UNTRACKED)

    summary = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (summary["judged"], summary["accepted"], summary["failed"]) == (4, 3, 1)
    lines = Path("out/dataset/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["a.png", "b.jpg", "c.webp"]
    assert qgate("verify", "out") == 0


def test_a_target_out_of_reach_is_exit_4_with_advice_and_keeps_what_was_accepted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = qgate(
        *("run", "--generator", "fake", "--count", "3", "--threshold", "1", "--max-candidates", "10"),
        *("--output", "out", *UNTRACKED),
    )

    error = capsys.readouterr().err
    assert code == 4
    assert "0 of 3 faces accepted after 10 candidates" in error
    assert "would have sufficed" in error
    assert qgate("verify", "out") == 0


def test_verify_names_a_flipped_bit(capsys: pytest.CaptureFixture[str]) -> None:
    qgate("run", "--generator", "fake", "--count", "2", "--threshold", "0", "--output", "out", *UNTRACKED)
    face = Path("out/dataset/000000/seed0000000001.png")
    content = bytearray(face.read_bytes())
    content[len(content) // 2] ^= 1
    face.write_bytes(content)

    assert qgate("verify", "out") == 1
    printed = capsys.readouterr()
    assert str(face) in printed.out
    assert "1 problems found" in printed.err


def test_scores_are_one_json_object_a_line_and_a_bad_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    save_image("a.png")
    Path("b.png").write_text("no image")

    code = qgate("score", "a.png", "b.png", "--json", "--no-align")

    printed = capsys.readouterr()
    good, bad = (json.loads(line) for line in printed.out.splitlines())
    assert code == 2
    assert good["file"] == "a.png" and 0 <= good["clean_prob"] <= 1
    assert list(good["reasons"])[:3] == ["forehead", "eyes", "mouth"]
    assert bad["file"] == "b.png" and "no PNG" in bad["error"]
    assert "1 of 2 files could not be judged" in printed.err


def test_a_table_of_scores_has_a_line_for_each_file(capsys: pytest.CaptureFixture[str]) -> None:
    save_image("faces/a.png")
    save_image("faces/long-name.png")

    assert qgate("score", "faces", "--no-align") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["file", "faces/a.png", "faces/long-name.png"]


def test_shown_settings_are_what_a_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert qgate("config", "show", "--set", "selection.count=2") == 0
    Path("shown.yaml").write_text(capsys.readouterr().out)

    assert qgate("run", "--config", "shown.yaml", "--generator", "fake", "--threshold", "0", *UNTRACKED) == 0


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "qgate.cli.main", "run", "--generator", "fake:256", "--threshold", "0", *arguments]
    with open("stderr", "w") as stderr:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)


def finish(*arguments: str) -> int:
    return start(*arguments).wait()


def test_a_run_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one() -> None:
    command = ("--count", "100", "--set", "output.shard_size=5", *UNTRACKED, "--output")
    assert finish(*command, "whole") == 0
    kills = 0
    for sealed in (1, 4, 9, 15):
        run = start(*command, "out")
        while run.poll() is None and not Path(f"out/ledger/{sealed:06d}.json").exists():
            time.sleep(0.005)
        run.kill()
        kills += run.wait() == -signal.SIGKILL

    assert finish(*command, "out") == 0
    assert kills >= 2
    assert tree(Path("out")) == tree(Path("whole"))


def test_sigterm_stops_with_exit_3_and_the_same_command_goes_on() -> None:
    command = ("--count", "60", "--set", "output.shard_size=5", *UNTRACKED, "--output", "out")
    run = start(*command)
    while run.poll() is None and not Path("out/ledger/000001.json").exists():
        time.sleep(0.005)
    run.terminate()

    assert run.wait() == 3
    assert "qgate: error: out: stopped; the same command goes on" in Path("stderr").read_text()
    assert finish(*command) == 0
    assert qgate("verify", "out") == 0


def test_real_faces_pass_the_real_gate_and_the_run_is_finished_in_mlflow(capsys: pytest.CaptureFixture[str]) -> None:
    code = qgate("run", "--count", "2", "--threshold", "0.5", "--seed-start", "900000", "--output", "out", "--json")

    summary = json.loads(capsys.readouterr().out)
    faces = sorted(Path("out/dataset").rglob("*.png"))
    assert code == 0
    assert summary["accepted"] == len(faces) == 2
    assert {read_image(face).shape for face in faces} == {(3, 1024, 1024)}
    assert qgate("verify", "out") == 0
    with sqlite3.connect("mlruns/mlflow.db") as store:
        runs = store.execute("SELECT run_uuid, status FROM runs").fetchall()
        params = dict(store.execute("SELECT key, value FROM params").fetchall())
        metrics = dict(store.execute("SELECT key, value FROM latest_metrics").fetchall())
        [kind] = store.execute("SELECT value FROM experiment_tags WHERE key = 'mlflow.experimentKind'").fetchall()
        [note] = store.execute("SELECT value FROM tags WHERE key = 'mlflow.note.content'").fetchall()
        inputs = store.execute("SELECT name FROM datasets ORDER BY name").fetchall()
    assert runs == [(summary["run_id"], "FINISHED")]
    assert params["selection.threshold"] == "0.5"
    assert metrics["accepted"] == 2
    assert kind == ("custom_model_development",)
    assert note[0].startswith("2 faces of **mobile-stylegan** at threshold 0.5 of the gate **default**: 2 accepted of ")
    assert inputs == [("gate default",), ("out",)]
    artifacts = {path.name for path in Path("mlruns/artifacts").rglob("*") if path.is_file()}
    assert {"run.json", "report.html", "report.json", "accepted.png", "scores.png"} <= artifacts


def test_a_closed_pipe_is_no_fault() -> None:
    done = subprocess.run(
        f"{sys.executable} -m qgate.cli.main config show | head -n 1", shell=True, capture_output=True, text=True
    )

    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("generator:")
