"""The real default generator, against numbers made with the official weights by another program."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qgate.config import GeneratorSettings
from qgate.errors import WeightsError
from qgate.generators import open_generator
from qgate.generators.mobile_stylegan import network as mobile_stylegan
from qgate.generators.mobile_stylegan import weights as random_face
from qgate.generators.mobile_stylegan.fused import FusedBlock, FusedMobileStyleGan, FusedToRgb
from qgate.generators.mobile_stylegan.network import Block, MobileStyleGan, ToRgb, inverse_haar
from qgate.seeds import draw_z

GOLDEN = np.load(Path(__file__).parent / "mobile_stylegan.npz")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> MobileStyleGan:
    return mobile_stylegan.build(random_face.load_arrays(None))


@torch.inference_mode()
def test_the_mean_w_is_the_golden_one(model: MobileStyleGan) -> None:
    np.testing.assert_allclose(model.w_avg.numpy(), GOLDEN["w_avg"].ravel(), atol=1e-6)


@pytest.mark.parametrize("case", ["0_1.0", "42_0.85", "6500_1.0"])
@torch.inference_mode()
def test_fp32_reproduces_the_golden_faces(model: MobileStyleGan, case: str) -> None:
    seed, psi = case.split("_")
    w = model.map(torch.from_numpy(draw_z([int(seed)], 512)))
    rgb = model.synthesize(model.w_avg.lerp(w, float(psi)))[0]

    np.testing.assert_allclose(w.numpy(), GOLDEN[f"{case}/w"].reshape(1, 512), atol=1e-4)
    np.testing.assert_allclose(F.avg_pool2d(rgb, 16).numpy(), GOLDEN[f"{case}/mean16"], atol=1e-4)
    np.testing.assert_allclose(rgb[:, 480:544, 480:544].numpy(), GOLDEN[f"{case}/crop"], atol=1e-4)


def test_the_cpu_runtime_draws_what_torch_draws_in_every_batch(model: MobileStyleGan) -> None:
    generator = open_generator(GeneratorSettings(precision="fp32", truncation_psi=0.7), CPU)
    alone = generator.draw([7])
    third = generator.draw([5, 6, 7])
    with torch.inference_mode():
        reference, _ = model(torch.from_numpy(draw_z([7], 512)), torch.full((1, 1), 0.7))

    assert alone.images[0] is not None and third.images[2] is not None
    assert torch.equal(alone.images[0], third.images[2])
    assert alone.faults == [None]
    assert (alone.images[0].int() - reference[0].int()).abs().max() <= 1


@torch.inference_mode()
def test_the_fused_layers_compute_what_the_plain_ones_do() -> None:
    torch.manual_seed(0)
    block, to_rgb = Block(32, 16, 8), ToRgb(16)
    for parameter in [*block.parameters(), *to_rgb.parameters()]:
        torch.nn.init.normal_(parameter, std=0.3)
    x, w = torch.randn(2, 32, 4, 4), torch.randn(2, 512) / 10
    expected = block(x, w)

    found = FusedBlock(block, torch.float32)(x.permute(0, 2, 3, 1), w)

    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected, atol=1e-4, rtol=1e-5)
    rgb = FusedToRgb(to_rgb, torch.float32)(found, w).permute(0, 3, 1, 2)
    torch.testing.assert_close(rgb, to_rgb(expected, w), atol=1e-3, rtol=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_the_fused_network_reproduces_a_golden_face_and_fp16_stays_near_it(model: MobileStyleGan) -> None:
    z, psi = torch.from_numpy(draw_z([42], 512)), torch.full((1, 1), 0.85)
    w = model.w_avg.lerp(model.map(z), psi)
    rgb = FusedMobileStyleGan(model, None).synthesize(w)[0]
    halved, _ = FusedMobileStyleGan(model, torch.float16)(z, psi)
    with torch.autocast("cpu", torch.float16):  # as the plain network runs on a GPU
        plain, _ = model(z, psi)

    np.testing.assert_allclose(rgb[:, 480:544, 480:544].numpy(), GOLDEN["42_0.85/crop"], atol=1e-4)
    for pixels in (halved, plain):
        assert ((rgb * 127.5 + 128).clamp(0, 255).byte().int() - pixels[0].int()).abs().float().mean() < 0.2


def test_the_inverse_haar_transform_of_one_low_coefficient_is_a_flat_square() -> None:
    low = torch.zeros(1, 4, 1, 2)
    low[0, 0, 0, 1] = 3.0

    assert inverse_haar(low)[0, 0].tolist() == [[0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 3.0]]


def test_the_inverse_haar_transform_puts_each_detail_in_its_direction() -> None:
    assert inverse_haar(torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1, 1))[0, 0].tolist() == [[1, 1], [-1, -1]]
    assert inverse_haar(torch.tensor([0.0, 0.0, 1.0, 0.0]).view(1, 4, 1, 1))[0, 0].tolist() == [[1, -1], [1, -1]]
    assert inverse_haar(torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 4, 1, 1))[0, 0].tolist() == [[1, -1], [-1, 1]]


def test_truncated_weights_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "half.whl"
    file.write_bytes(b"PK\x03\x04 not the whole file")

    with pytest.raises(WeightsError, match=r"half\.whl is truncated or another file"):
        open_generator(GeneratorSettings(name=f"mobile-stylegan:{file}"), CPU)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.whl cannot be read"):
        random_face.load_arrays(str(tmp_path / "gone.whl"))


def test_an_unknown_generator_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(WeightsError, match="the nearest is 'mobile-stylegan'"):
        open_generator(GeneratorSettings(name="mobile-stilegan"), CPU)
