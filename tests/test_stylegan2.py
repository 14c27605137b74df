"""Our StyleGAN2-ADA network, against numbers made with the official code by another program."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qgate.config import GeneratorSettings
from qgate.errors import ConfigError, WeightsError
from qgate.generators import Generator, open_generator
from qgate.generators.stylegan2.files import convert, load_network, write_network
from qgate.generators.stylegan2.fused import FusedBlock
from qgate.generators.stylegan2.layers import Block
from qgate.generators.stylegan2.network import build, draw_noise, noise_size
from qgate.generators.stylegan2.nvidia.networks import read_network
from qgate.generators.stylegan2.spec import Arrays, Spec, check_arrays
from qgate.runtime.executor import make_executor
from tests.nvidia_writer import tf_format, torch_format

HERE = Path(__file__).parent
GOLDEN = np.load(HERE / "stylegan2_ada.npz")
CASES = json.loads((HERE / "stylegan2_ada.json").read_text())
CPU = torch.device("cpu")


@cache
def network(case: str) -> tuple[Spec, Arrays]:
    names = ("z_dim", "w_dim", "c_dim", "resolution", "architecture", "mapping_layers", "conv_clamp", "num_fp16_res")
    prefix = f"{case}/params/"
    arrays = {name.removeprefix(prefix): GOLDEN[name] for name in GOLDEN.files if name.startswith(prefix)}
    return Spec(**{name: CASES[case][name] for name in names}), arrays


def inputs(case: str, psi: float = 1.0, cutoff: int | None = None) -> list[torch.Tensor]:
    """z, truncation and, for a conditional network, classes of the golden seeds."""
    spec, _ = network(case)
    truncation = torch.full((4, spec.num_ws), psi)
    truncation[:, cutoff if cutoff is not None else spec.num_ws :] = 1.0
    classes = [torch.from_numpy(GOLDEN[f"{case}/c"])] if spec.c_dim else []
    return [torch.from_numpy(GOLDEN[f"{case}/z"]).float(), truncation, *classes]


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_mapping_gives_the_golden_w(case: str) -> None:
    model = build(*network(case))

    np.testing.assert_allclose(model.map(*inputs(case)).numpy(), GOLDEN[f"{case}/ws"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("block", [Block, FusedBlock])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("image", "psi", "cutoff", "noise_mode"),
    [("psi1_const", 1.0, None, "const"), ("psi0.7_const", 0.7, None, "const"), ("psi0.5_cut4_none", 0.5, 4, "none")],
)
@torch.inference_mode()
def test_fp32_reproduces_the_golden_images(
    case: str, image: str, psi: float, cutoff: int | None, noise_mode: str, block: type[Block]
) -> None:
    model = build(*network(case), noise_mode, block=block)  # type: ignore[arg-type]

    rgb = model.synthesize(model.map(*inputs(case, psi, cutoff)))

    np.testing.assert_allclose(rgb.numpy(), GOLDEN[f"{case}/img/{image}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_the_cpu_runtime_draws_what_torch_draws_in_every_batch(case: str) -> None:
    model = build(*network(case))
    rows = inputs(case)
    execute = make_executor(model, tuple(row[:1] for row in rows), CPU, "fp32")
    together, means = execute(*rows)
    alone, _ = execute(*(row[2:3] for row in rows))
    with torch.inference_mode():
        reference, _ = model(*rows)

    assert torch.equal(alone[0], together[2])
    assert (together.int() - reference.int()).abs().max() <= 1
    assert together.dtype == torch.uint8 and means.isfinite().all()


def test_the_network_is_one_graph_without_a_break_for_torch_compile() -> None:
    case = "cond3_skip_32_clamp"
    model = build(*network(case), block=FusedBlock)
    with torch.inference_mode():
        compiled, _ = torch.compile(model, fullgraph=True, backend="eager")(*inputs(case))
        reference, _ = model(*inputs(case))

    assert torch.equal(compiled, reference)


def test_pixels_are_rounded_as_in_the_official_script() -> None:
    expected = np.clip(GOLDEN["uncond_skip_64/img/psi1_const"] * 127.5 + 128, 0, 255).astype(np.uint8)
    with torch.inference_mode():
        images, _ = build(*network("uncond_skip_64"))(*inputs("uncond_skip_64"))

    assert (images.numpy().astype(int) - expected).max() <= 1
    assert (images.numpy() != expected).mean() < 1e-3


@pytest.mark.parametrize(("half", "error"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize("block", [Block, FusedBlock])
@torch.inference_mode()
def test_half_precision_stays_near_fp32(block: type[Block], half: torch.dtype, error: float) -> None:
    case = "cond3_skip_32_clamp"  # images of about -6..6 here, so of FFHQ's range a sixth of the error
    single, halved = build(*network(case)), build(*network(case), half=half, block=block)
    ws = single.map(*inputs(case))

    assert (single.synthesize(ws) - halved.synthesize(ws)).abs().mean() < error
    # All convolutions but those at 4x4 have tensor cores then.
    kinds = {r: b.conv1.weight.dtype for r, b in zip(halved.spec.block_resolutions, halved.blocks, strict=True)}
    assert kinds == {4: torch.float32, 8: half, 16: half, 32: half}


def test_random_noise_of_a_seed_is_the_same_in_every_batch_and_another_for_each_seed() -> None:
    spec, _ = network("uncond_orig_32")
    together = draw_noise([5, 6, 7], spec)

    assert noise_size(spec) == 16 + 2 * 64 + 2 * 256 + 2 * 1024
    assert together.shape == (3, 2704)
    assert np.array_equal(draw_noise([7], spec)[0], together[2])
    assert abs(np.corrcoef(together)[0, 1]) < 0.1
    np.testing.assert_allclose([together.mean(), together.std()], [0, 1], atol=0.05)


@torch.inference_mode()
def test_random_noise_of_zeros_is_no_noise_and_the_constant_as_noise_is_the_constant() -> None:
    case = "uncond_resnet_32"
    spec, arrays = network(case)
    random = build(spec, arrays, "random")
    ws = random.map(*inputs(case, 0.5, 4))
    none = random.synthesize(ws, torch.zeros(4, noise_size(spec)))
    names = [f"synthesis.b{r}.{conv}.noise_const" for r in spec.block_resolutions for conv in spec.convs(r)]
    constant = np.concatenate([arrays[name].ravel() for name in names])
    same = random.synthesize(random.map(*inputs(case)), torch.from_numpy(np.tile(constant, (4, 1))))

    np.testing.assert_allclose(none.numpy(), GOLDEN[f"{case}/img/psi0.5_cut4_none"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(same.numpy(), GOLDEN[f"{case}/img/psi1_const"], rtol=0, atol=1e-4)


def changed(**changes: NDArray[np.float32] | None) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, array in {**network("uncond_skip_64")[1], **changes}.items():
        if array is not None:
            yield name, array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthesis.b8.conv0.bias": None}, r"synthesis\.b8\.conv0\.bias is missing"),
        ({"synthesis.b64.conv1.weight": None}, r"'synthesis\.b64\.conv1\.weight' is missing"),
        ({"synthesis.b8.skip.weight": np.zeros((32, 32, 1, 1))}, r"b8\.skip\.weight is not expected"),
        ({"mapping.w_avg": np.zeros(31)}, r"mapping\.w_avg is of a wrong shape"),
        ({"mapping.w_avg": np.full(32, np.nan)}, r"mapping\.w_avg is not finite"),
    ],
)
def test_a_partial_or_odd_set_of_parameters_is_named(changes: dict[str, None], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        check_arrays(network("uncond_skip_64")[0], dict(changed(**changes)))


def test_a_network_trained_without_noise_draws() -> None:
    spec, arrays = network("uncond_skip_64")
    silent = {name: array for name, array in arrays.items() if ".noise_" not in name}
    with torch.inference_mode():
        images, _ = build(spec, silent)(*inputs("uncond_skip_64"))
        reference, _ = build(spec, arrays, "none")(*inputs("uncond_skip_64"))

    assert torch.equal(images, reference)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("sg2") / "classes", *network("cond3_skip_32_clamp"), {})[1]


def opened(path: Path, **settings: object) -> Generator:
    return open_generator(GeneratorSettings(name=str(path), precision="fp32", **settings), CPU)  # type: ignore[arg-type]


def test_a_class_is_drawn_and_all_takes_them_in_turn(conditional: Path) -> None:
    every = opened(conditional, class_idx="all")
    second = opened(conditional, class_idx="2")

    assert every.info.classes == 3 and every.info.resolution == 32
    assert torch.equal(every.draw([5]).images[0], second.draw([5]).images[0])  # type: ignore[arg-type]
    assert not torch.equal(every.draw([6]).images[0], second.draw([6]).images[0])  # type: ignore[arg-type]


def test_a_seed_draws_the_golden_pixels_of_its_class(conditional: Path) -> None:
    case = "cond3_skip_32_clamp"
    class_idx = int(GOLDEN[f"{case}/c"][2].argmax())
    (image,) = opened(conditional, class_idx=class_idx, truncation_psi=0.7).draw([6000]).images
    expected = np.clip(GOLDEN[f"{case}/img/psi0.7_const"][2] * 127.5 + 128, 0, 255).astype(np.uint8)

    assert image is not None
    assert np.abs(image.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"--class is missing: .*classes\.safetensors has the classes 0\.\.2"),
        ({"class_idx": 3}, r"--class 3: .* has the classes 0\.\.2"),
        ({"class_idx": 0, "truncation_cutoff": 9}, r"truncation_cutoff = 9: .* has 8 layers"),
    ],
)
def test_a_class_or_cutoff_that_is_not_there_is_refused(
    conditional: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(conditional, **settings)


def test_random_noise_through_the_runtime_is_the_same_in_every_batch(conditional: Path) -> None:
    generator = opened(conditional, class_idx=1, noise_mode="random")
    alone, third = generator.draw([7]).images[0], generator.draw([5, 6, 7]).images[2]

    assert alone is not None and third is not None
    assert torch.equal(alone, third)


def test_a_pickle_and_its_conversion_are_the_same_network(tmp_path: Path) -> None:
    written = convert(HERE / "stylegan2_ada_torch_format.pkl", tmp_path)

    assert [path.name for path in written] == [
        "stylegan2_ada_torch_format.json",
        "stylegan2_ada_torch_format.safetensors",
    ]
    torch_format = load_network(HERE / "stylegan2_ada_torch_format.pkl")
    assert load_network(written[1]).digest == torch_format.digest
    assert load_network(HERE / "stylegan2_ada_tf_format.pkl").digest == torch_format.digest


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("write", "protocol"), [(torch_format, 3), (torch_format, 4), (tf_format, 4), (tf_format, 5)])
def test_every_architecture_is_read_from_both_formats(
    case: str, write: Callable[..., bytes], protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec, arrays = network(case)

    read_spec, read_arrays = read_network(write(spec, arrays, protocol), "made.pkl")

    assert read_spec == spec
    assert read_arrays.keys() == arrays.keys()
    for name, array in read_arrays.items():
        np.testing.assert_allclose(array, arrays[name], rtol=0, atol=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_another_up_sampling_filter_is_read() -> None:
    spec, arrays = network(next(iter(CASES)))
    line = np.array([1.0, 2.0, 2.0, 1.0]) / 6
    spec = replace(spec, resample_filter=tuple(map(tuple, np.outer(line, line).tolist())))

    read_spec, _ = read_network(torch_format(spec, arrays, 4), "made.pkl")

    np.testing.assert_allclose(read_spec.resample_filter, spec.resample_filter, atol=1e-7)


def test_a_cut_or_lonely_conversion_is_refused(tmp_path: Path) -> None:
    settings, weights = convert(HERE / "stylegan2_ada_tf_format.pkl", tmp_path)
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"format\.safetensors: is damaged"):
        load_network(weights)
    settings.unlink()
    with pytest.raises(WeightsError, match=r"format\.json: cannot be read"):
        load_network(weights)
