"""The whole way on each device that this machine has: what runs on a GPU is what runs on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qgate.config import GeneratorSettings
from qgate.gate.open import load_gate
from qgate.generators import Generator, open_generator
from qgate.run.worker import Worker
from qgate.runtime.cuda import COMPILED_ROWS
from tests.training_recipe import learnable
from training.train import train

NETWORK = str(Path(__file__).parent / "stylegan2_ada_torch_format.pkl")
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
SEEDS = range(COMPILED_ROWS + 4)
"""Enough to be compiled and captured, and a rest."""


def generator_on(device: str, **settings: object) -> Generator:
    return open_generator(GeneratorSettings.model_validate({"name": NETWORK, **settings}), torch.device(device))


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    found = generator_on("cpu").draw(list(SEEDS)).images
    return [image for image in found if image is not None]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_a_worker_judges_what_generator_and_gate_do_apart(
    device: str, noise_mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, gate = generator_on(device, noise_mode=noise_mode), load_gate(device=device)
    judged = list(Worker(generator, gate, COMPILED_ROWS).judge(SEEDS, lambda seed, score: True))
    parts = [generator.draw(seeds).images for seeds in (SEEDS[:COMPILED_ROWS], SEEDS[COMPILED_ROWS:])]
    drawn, scores = ([row for part in parts for row in rows(part)] for rows in (list, gate.score))

    assert "warning" not in capsys.readouterr().err
    assert [each.seed for each in judged] == list(SEEDS)
    for each, image, score in zip(judged, drawn, scores, strict=True):
        assert each.image is not None and image is not None
        assert np.array_equal(each.image, image.permute(1, 2, 0).cpu().numpy())
        assert each.score.clean_prob == pytest.approx(score.clean_prob, abs=1e-6)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_gate_judges_as_on_the_cpu(
    device: str, images: list[torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = ([score.clean_prob for score in load_gate(device=name).score(images)] for name in (device, "cpu"))

    assert "warning" not in capsys.readouterr().err
    assert here == pytest.approx(there, abs=0.01)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_heat_map_is_as_on_the_cpu(device: str, images: list[torch.Tensor]) -> None:
    here, there = (load_gate(device=name).explain(images[:2]) for name in (device, "cpu"))

    assert np.abs(here - there).max() < 0.01


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_training_learns(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))

    assert train(learnable(tmp_path, device=device)).card.figures["auroc"]["value"] > 0.9
