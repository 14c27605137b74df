"""Heat maps: where the evidence is known, there is the peak; pictures and the command that writes them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from qgate.cli.main import main
from qgate.errors import BundleError
from qgate.gate.classifier import build_network
from qgate.gate.heat_picture import explain_picture, paint
from qgate.gate.heatmap import HeatMapper
from qgate.gate.open import load_gate
from qgate.gate.preprocess import Preprocessing
from qgate.images import read_image
from tests.test_classifier import TINY, faces, save_bundle

SIDE = 96
PREPROCESSING = Preprocessing(size=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class RedIsAnArtifact(nn.Module):
    """Features (n, 2, 12, 12): red and green; the more red somewhere or on average, the lower the logit of clean.

    layout: nchw, nhwc or tokens, the last with one class token before the places.
    """

    num_features = 2

    def __init__(self, layout: str = "nchw", pool: str = "max") -> None:
        super().__init__()
        self.layout, self.pool = layout, pool
        self.num_prefix_tokens = int(layout == "tokens")
        self.weight = nn.Parameter(torch.tensor([-8.0, 0.0]), requires_grad=False)

    def forward_features(self, x: Tensor) -> Tensor:
        grid = nn.functional.avg_pool2d(x[:, :2], SIDE // 12)
        if self.layout == "nhwc":
            return grid.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return torch.cat([torch.ones(len(x), 1, 2), grid.flatten(2).transpose(1, 2)], 1)
        return grid

    def forward_head(self, features: Tensor) -> Tensor:
        if self.layout == "tokens":
            features = features[:, 1:]
        else:
            features = (features if self.layout == "nhwc" else features.permute(0, 2, 3, 1)).flatten(1, 2)
        pooled = features.amax(1) if self.pool == "max" else features.mean(1)
        return (2 + pooled @ self.weight)[:, None].repeat(1, 13)


def mapper(network: nn.Module) -> HeatMapper:
    return HeatMapper(network, PREPROCESSING)


def red_spot(row: int, column: int) -> Tensor:
    """A green face (1, 3, 96, 96) with a red square of 16 pixels whose middle is at row, column."""
    pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[:, 1] = 120
    pixels[:, 0, row - 8 : row + 8, column - 8 : column + 8] = 255
    return pixels


def peak(heat: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(column)


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "tokens"])
def test_the_peak_lies_where_the_evidence_is(layout: str, pool: str) -> None:
    _, heat = mapper(RedIsAnArtifact(layout, pool))(red_spot(24, 64))
    row, column = peak(heat[0])

    assert abs(row - 24) <= 8 and abs(column - 64) <= 8


def test_a_map_says_by_how_much_each_logit_would_rise() -> None:
    logits, heats = mapper(RedIsAnArtifact())(red_spot(24, 64))
    heat = heats[0]

    assert logits.tolist() == pytest.approx([-6.0] * 13, abs=1e-5)  # 2 - 8
    assert heats.shape == (13, 96, 96) and heats.dtype == np.float32
    # The spot is 2 of 12 places wide: only two windows of 3 take all of it away, to its mean of 4 in 144 red.
    assert 0 < heat.max() <= 8 * (1 - 4 / 144)
    assert heat[80, 20] == pytest.approx(0, abs=1e-6)


def test_a_mirrored_image_has_the_mirrored_map() -> None:
    explain, pixels = mapper(RedIsAnArtifact()), red_spot(40, 24)

    np.testing.assert_allclose(explain(pixels.flip(-1))[1], explain(pixels)[1][..., ::-1], atol=1e-6)


def test_where_nothing_is_against_it_an_image_gets_no_cleaner() -> None:
    plain = torch.full((1, 3, SIDE, SIDE), 60, dtype=torch.uint8)

    assert mapper(RedIsAnArtifact(pool="max"))(plain)[1].max() == pytest.approx(0, abs=1e-6)


def test_a_network_that_reads_no_places_is_refused() -> None:
    network = RedIsAnArtifact()
    network.global_pool = "token"

    with pytest.raises(BundleError, match="class token"):
        mapper(network)


def test_a_gate_explains_each_image_by_itself_and_the_same_each_time(tmp_path: Path) -> None:
    gate = load_gate(save_bundle(tmp_path), "cpu")
    maps = gate.explain(faces(3))

    assert maps.shape == (3, 64, 64) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1
    assert np.array_equal(gate.explain(list(faces(3)))[1], maps[1])
    assert np.array_equal(gate.explain(faces(3)[2:])[0], maps[2])
    assert gate.explain([]).shape == (0, 64, 64)


def test_what_cannot_be_judged_has_an_empty_map(tmp_path: Path) -> None:
    flat = torch.full((1, 3, 80, 80), 90, dtype=torch.uint8)

    assert load_gate(save_bundle(tmp_path), "cpu").explain(flat).max() == 0


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_other_backbones_of_timm_have_maps_too(backbone: str) -> None:
    torch.manual_seed(0)
    arguments: dict[str, str | int] = {"global_pool": "avg"} | ({"img_size": SIDE} if "vit" in backbone else {})
    network = build_network(TINY.model_copy(update={"backbone": backbone, "arguments": arguments})).eval()
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)

    assert mapper(network)(pixels)[1].max() > 0


def test_heat_is_painted_where_it_is_and_leaves_the_rest() -> None:
    heat = np.zeros((64, 64), np.float32)
    heat[16:32, 32:48] = 1
    picture = paint(Image.new("RGB", (128, 128), (100, 100, 100)), heat)

    assert picture.size == (128, 128)
    assert picture.getpixel((10, 100)) == (100, 100, 100)
    assert picture.getpixel((80, 48)) != (100, 100, 100)
    assert explain_picture(picture, heat, "clean_prob 0.1", ["mouth 0.9"]).size == (1096, 636)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny gate, and images in a folder, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    Path("in/deep").mkdir(parents=True)
    for row, name in enumerate(("in/a.jpg", "in/b.png", "in/deep/a.png")):
        Image.fromarray(faces(3)[row].permute(1, 2, 0).numpy()).save(name)
    return str(save_bundle(tmp_path / "gate"))


def qgate_score(gate: str, *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["score", "--gate", gate, "--device", "cpu", "--no-align", *arguments])
    return int(end.value.code or 0)


def test_one_file_is_explained_in_one_picture(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert qgate_score(bundle, "in/b.png", "--explain", "new/why.png", "--json") == 0

    assert json.loads(capsys.readouterr().out)["picture"] == "new/why.png"
    first = Path("new/why.png").read_bytes()
    assert read_image("new/why.png").shape == (3, 662, 1096)
    assert qgate_score(bundle, "in/b.png", "--explain", "new/why.png") == 0
    assert Path("new/why.png").read_bytes() == first


def test_a_folder_is_explained_in_a_folder(bundle: str) -> None:
    assert qgate_score(bundle, "in", "--explain", "why") == 0

    assert sorted(str(path) for path in Path("why").rglob("*.png")) == ["why/a.png", "why/b.png", "why/deep/a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in/b.png", "--explain", "why"), "--explain why: for one file it is the picture to write; give a name that"),
        (("in", "--explain", "why.png"), "--explain why.png: for several files or a folder it is a folder"),
        (("in/b.png", "--explain", "in/b.png"), "in/b.png is an image to score"),
        (("in", "--explain", "in"), "in/b.png is an image to score"),
        (("in/a.jpg", "in/deep/a.png", "--explain", "why"), "would both be why/a.png"),
        (("in/b.png", "--explain", "in/a.jpg/x.png"), "cannot be written"),
    ],
)
def test_an_output_that_does_not_fit_is_one_line(
    bundle: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path().rglob("*"))

    assert qgate_score(bundle, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
