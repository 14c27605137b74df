import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qgate.errors import ConfigError
from qgate.run.interpolate import mixed, parse_layers, parse_stations, walk
from tests.test_cli import qgate
from tests.test_stylegan2 import GOLDEN, HERE
from tests.test_stylegan2_run import EXACT, lines


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def test_a_walk_goes_in_even_steps_and_holds_both_ends() -> None:
    stations = np.array([0.0, 3.0, 1.0], np.float32).reshape(3, 1, 1)

    assert walk(stations, 2).ravel().tolist() == [0.0, 1.5, 3.0, 2.0, 1.0]


def test_stations_keep_their_order_and_what_is_no_seed_is_named() -> None:
    assert parse_stations("6000, 7,6000") == [6000, 7, 6000]
    for text in ("", "1-3", "4294967296", "x"):
        with pytest.raises(ConfigError, match="is no seed"):
            parse_stations(text)


def test_a_walk_passes_through_the_golden_faces_and_becomes_a_gif() -> None:
    network = str(HERE / "stylegan2_ada_tf_format.pkl")
    walk = ("--seeds", "0,6000", "--steps", "2", "--truncation", "0.7", "--output", "out", "--gif", "out.gif")

    assert qgate("interpolate", "--generator", network, *walk, *EXACT) == 0

    assert [(line["seed"], line["latents"]) for line in lines("out")] == [
        (0, "out.npz"),
        (1, "out.npz"),
        (2, "out.npz"),
    ]
    last = np.asarray(Image.open(sorted(Path("out/dataset").rglob("*.png"))[-1]).convert("RGB")).astype(int)
    expected = np.clip(GOLDEN["uncond_skip_64/img/psi0.7_const"][2] * 127.5 + 128, 0, 255).astype(np.uint8)
    assert np.abs(last.transpose(2, 0, 1) - expected).max() <= 1
    with Image.open("out.gif") as gif:
        assert (gif.size, gif.n_frames) == ((64, 64), 3)  # type: ignore[attr-defined]


def test_another_walk_to_the_same_folder_leaves_the_vectors_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    network = str(HERE / "stylegan2_ada_tf_format.pkl")
    walk = ("interpolate", "--generator", network, "--steps", "1", "--output", "out", *EXACT)
    assert qgate(*walk, "--seeds", "0,6000") == 0
    first = Path("out.npz").read_bytes()

    assert qgate(*walk, "--seeds", "1,6000") == 2

    assert "out: is of other vectors than these; give another --output" in capsys.readouterr().err
    assert Path("out.npz").read_bytes() == first
    assert qgate(*walk, "--seeds", "0,6000") == 0


def test_a_mixed_face_has_the_columns_layers_and_otherwise_the_rows() -> None:
    rows, columns = np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([[7, 8, 9]], np.float32)

    assert mixed(rows[:, :, None], columns[:, :, None], [0, 2]).squeeze().tolist() == [[7, 2, 9], [7, 5, 9]]


def test_layers_are_numbers_and_ranges_and_what_is_no_layer_is_named() -> None:
    assert parse_layers("5,0-2") == [0, 1, 2, 5]
    for text in ("x", "3-1", "0-99", ""):
        with pytest.raises(ConfigError, match="--layers"):
            parse_layers(text)


def test_mixing_all_layers_gives_the_columns_faces() -> None:
    network = str(HERE / "stylegan2_ada_torch_format.pkl")
    seeds = ("--rows", "1,2", "--columns", "6000", "--truncation", "0.7", "--output", "out")

    assert qgate("mix", "--generator", network, *seeds, "--layers", "0-10", *EXACT) == 2
    assert qgate("mix", "--generator", network, *seeds, "--layers", "0-9", *EXACT) == 0

    first, second = (np.asarray(Image.open(path).convert("RGB")) for path in sorted(Path("out/dataset").rglob("*.png")))
    expected = np.clip(GOLDEN["uncond_skip_64/img/psi0.7_const"][2] * 127.5 + 128, 0, 255).astype(np.uint8)
    assert np.array_equal(first, second)
    assert np.abs(first.astype(int).transpose(2, 0, 1) - expected).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--generator", "fake", "--seeds", "1,2"),
            "only seeds of a StyleGAN2-ADA network can be combined, not those of fake",
        ),
        (("--generator", "faces.pkl", "--seeds", "1"), "1 seeds and 60 steps make no walk"),
        (("--generator", "gone.pkl", "--seeds", "1,2"), "gone.pkl: cannot be read"),
        (("--generator", "faces.pkl", "--seeds", "1,2", "--class", "0"), "faces.pkl has no classes"),
    ],
)
def test_a_walk_that_cannot_be_made_is_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(HERE / "stylegan2_ada_tf_format.pkl", "faces.pkl")

    assert qgate("interpolate", "--output", "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["faces.pkl"]
