"""The benchmark of the generators, as far as it can go wrong without a GPU."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.benchmarks import generator_speed as speed

CPU = torch.device("cpu")


def draw_at_most(most: int) -> object:
    def draw(n: int) -> Tensor:
        if n > most:
            raise torch.OutOfMemoryError("fake")
        return torch.zeros(n)

    return draw


def test_a_batch_that_does_not_fit_is_halved_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    batch, rate, peak = speed.measure_or_halve(draw_at_most(4), 16, 0.001, CPU)

    assert (batch, peak) == (4, None) and rate > 0
    assert capsys.readouterr().err == "a batch of 16 does not fit; halved\na batch of 8 does not fit; halved\n"


def test_where_not_even_one_face_fits_there_is_no_figure() -> None:
    assert speed.measure_or_halve(draw_at_most(0), 2, 0.001, CPU) is None


def test_the_best_of_ours_is_compared_with_the_best_of_the_official_code(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        speed.Measurement("stylegan2-ada", precision, 8, what, rate, None, None)
        for precision, what, rate in (
            ("fp32", "draw", 100.0),
            ("fp16", "draw", 900.0),
            ("fp16", "draw + score", 1e6),
            ("fp32", "official", 200.0),
            ("fp16", "official, nhwc", 300.0),
        )
    ]
    speed.compare(rows)

    assert "(fp16, batch 8), of the official code 300.0 (fp16, batch 8): 3.00 times" in capsys.readouterr().out


def test_an_official_checkout_that_lacks_something_is_said_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "training"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    (tmp_path / "training" / "networks.py").write_text("import requests\nimport ninepins\n")

    assert speed.find_official(str(tmp_path)) is None
    assert "lacking for the official code: No module named 'ninepins'" in capsys.readouterr().err
