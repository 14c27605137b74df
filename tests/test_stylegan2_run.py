"""StyleGAN2-ADA files on the command line: runs, classes, conversion, and input that cannot be used."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from qgate.config import load_config
from qgate.generators import options_of
from tests.nvidia_writer import SOURCE, dump, tf_format, torch_format
from tests.test_cli import UNTRACKED, qgate
from tests.test_stylegan2 import GOLDEN, HERE, network

EXACT = ("--threshold", "0", "--set", "generator.precision=fp32", *UNTRACKED)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a folder of its own with a network without classes and one with three."""
    monkeypatch.chdir(tmp_path)
    Path("faces.pkl").write_bytes((HERE / "stylegan2_ada_torch_format.pkl").read_bytes())
    Path("classes.pkl").write_bytes(tf_format(*network("cond3_skip_32_clamp")))


def lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(output, "dataset/metadata.jsonl").read_text().splitlines()]


def pixels(output: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(output).rglob("seed*.png")}


def test_a_pickle_is_drawn_and_a_conversion_of_the_other_format_goes_on_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = ("run", *EXACT, "--truncation", "0.7", "--output", "out", "--generator")
    assert qgate(*run, "faces.pkl", "--seeds", "6000-6004", "--count", "2") == 0
    assert qgate("weights", "convert", str(HERE / "stylegan2_ada_tf_format.pkl"), "--output", "converted") == 0
    converted = "stylegan2-ada:converted/stylegan2_ada_tf_format.safetensors"
    assert qgate(*run, converted, "--seeds", "6000-6004", "--count", "3") == 0

    assert [line["seed"] for line in lines("out")] == [6000, 6001, 6002]
    assert {(line["generator"], line["truncation_psi"]) for line in lines("out")} == {("stylegan2-ada", 0.7)}
    assert "class" not in lines("out")[0]
    assert "non-commercial use" in Path("out/dataset/README.md").read_text()
    scoring = json.loads(Path("out/run.json").read_text())["scoring"]
    assert sorted(scoring) == ["gate", "generator", "seeds", "shard_size", "truncation_psi", "weights"]
    assert qgate("verify", "out") == 0
    assert not Path("marker").exists()


def test_all_classes_come_in_turn_and_regating_keeps_class_noise_and_cutoff() -> None:
    asked = ("--class", "all", "--noise-mode", "random", "--set", "generator.truncation_cutoff=2")
    run = ("run", "--generator", "classes.pkl", "--seeds", "4-9", *asked, "--truncation", "0.5", *EXACT)
    assert qgate(*run, "--output", "out") == 0
    whole = pixels("out")
    assert len(whole) == 6
    assert [(line["seed"], line["class"]) for line in lines("out")] == [(4, 1), (5, 2), (6, 0), (7, 1), (8, 2), (9, 0)]

    assert qgate(*run, "--threshold", "1", "--output", "bare") == 0
    assert lines("bare") == []
    assert qgate("regate", "bare", "--threshold", "0") == 0
    recorded = json.loads(Path("bare/run.json").read_text())
    assert recorded["scoring"]["class_idx"] == "all"
    assert (recorded["scoring"]["noise_mode"], recorded["scoring"]["truncation_cutoff"]) == ("random", 2)
    assert pixels("bare") == whole
    assert qgate("verify", "bare") == 0


def test_projected_w_vectors_are_drawn_as_they_are() -> None:
    np.savez("w.npz", w=GOLDEN["uncond_skip_64/ws"])
    assert qgate("run", "--generator", "faces.pkl", "--latents", "w.npz", *EXACT, "--output", "out") == 0

    drawn = [np.asarray(Image.open(io.BytesIO(content))) for _, content in sorted(pixels("out").items())]
    expected = np.clip(GOLDEN["uncond_skip_64/img/psi1_const"] * 127.5 + 128, 0, 255).astype(np.uint8)
    assert np.abs(np.stack(drawn).transpose(0, 3, 1, 2).astype(int) - expected).max() <= 1
    assert [(line["seed"], line["latents"]) for line in lines("out")] == [(seed, "w.npz") for seed in range(4)]
    shutil.move("w.npz", "elsewhere.npz")
    command = ("run", "--generator", "faces.pkl", "--latents", "elsewhere.npz", *EXACT)
    assert qgate(*command, "--output", "out") == 0
    assert qgate(*command, "--output", "more", "--seeds", "3-4") == 2


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.zeros((2, 10, 31)), (), "w has the shape (2, 10, 31); this network takes (faces, 10, 32) or (faces, 32)"),
        (np.full((1, 32), np.nan), (), "w holds values that are not finite"),
        (np.array([["a"]]), (), "numbers are expected"),
        (np.array([{}], dtype=object), (), "is no .npz file with an array of numbers named w"),
        (np.zeros((1, 32)), ("--truncation", "0.5"), "--truncation 0.5: the w vectors of --latents are drawn as they"),
        (np.zeros((1, 32)), ("--seeds", "1"), "--seeds 1: stylegan2-ada holds the candidates 0..0"),
    ],
)
def test_latents_that_do_not_fit_are_refused(
    array: NDArray[Any], arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("w.npz", w=array)

    assert qgate("run", "--generator", "faces.pkl", "--latents", "w.npz", *arguments) == 2
    assert message in capsys.readouterr().err


def test_another_class_is_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = ("run", "--generator", "classes.pkl", "--seeds", "0-1", *EXACT, "--output", "out", "--class")
    assert qgate(*run, "0") == 0

    assert qgate(*run, "1") == 2
    assert "holds another run: class_idx is 0 there and 1 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--generator", "faces.pkl", "--class", "0"), "--class 0: faces.pkl has no classes; drop --class"),
        (("--generator", "classes.pkl"), "--class is missing: classes.pkl has the classes 0..2"),
        (("--generator", "classes.pkl", "--class", "3"), "--class 3: classes.pkl has the classes 0..2"),
        (("--generator", "classes.pkl", "--class", "-1"), "give a class as 0, 1, ... or all"),
        (("--generator", "faces.pkl", "--noise-mode", "loud"), "generator.noise_mode = 'loud'"),
        (("--generator", "fake", "--class", "1"), "generator.class_idx = '1': fake has no such option"),
        (("--generator", "fake", "--noise-mode", "none"), "generator.noise_mode = 'none': fake has no such option"),
        (("--generator", "gone.pkl"), "gone.pkl: cannot be read"),
        (("--generator", "https://example.org/ffhq.pkl"), "give the path of a network pickle on this machine"),
        (("--generator", "half.pkl"), "half.pkl: is truncated"),
        (("--generator", "evil.pkl"), "evil.pkl: refused, since it asks for builtins.exec"),
        (("--generator", "judge.pkl"), "judge.pkl: holds a discriminator and no generator"),
        (("--generator", "stylegan2-ada"), "give the network after the colon"),
        (("--generator", "alone.safetensors"), "alone.json: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_exit_2_and_nothing_written(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("half.pkl").write_bytes(Path("faces.pkl").read_bytes()[:200_000])
    Path("evil.pkl").write_bytes(b"\x80\x04cbuiltins\nexec\n\x8c\x01x\x85R.")
    Path("judge.pkl").write_bytes(dump({"D": None}, 3))
    Path("alone.safetensors").write_bytes(b"")
    before = sorted(Path().rglob("*"))

    code = qgate("run", "--seeds", "0-1", *arguments)

    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if not line.startswith("qgate: converting")]
    assert (code, printed.out, len(said)) == (2, "", 1)
    assert said[0].startswith("qgate: error: ") and message in said[0]
    assert sorted(Path().rglob("*")) == before


def test_a_conversion_holds_no_source_text_and_prints_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("real.pkl").write_bytes(torch_format(*network("uncond_resnet_32")))

    assert qgate("weights", "convert", "real.pkl") == 0

    assert capsys.readouterr().out.split() == ["real.json", "real.safetensors"]
    assert json.loads(Path("real.json").read_text())["network"]["architecture"] == "resnet"
    assert SOURCE[:30].encode() not in Path("real.safetensors").read_bytes() + Path("real.json").read_bytes()
    assert qgate("weights", "convert", "real.pkl", "--output", "real.json/x") == 2


def test_settings_left_as_they_are_are_no_extras_and_a_class_may_be_a_number_or_all() -> None:
    def chosen(flags: dict[str, object], assignments: list[str]) -> dict[str, object]:
        return options_of(load_config(None, {"generator.name": "net.pkl", **flags}, assignments).generator).chosen()

    assert chosen({}, []) == {}
    assert chosen({"generator.class_idx": "07", "generator.noise_mode": "const"}, []) == {"class_idx": 7}
    assert chosen({}, ["generator.class_idx=0"]) == {"class_idx": 0}
    assert chosen({"generator.class_idx": "all"}, []) == {"class_idx": "all"}
