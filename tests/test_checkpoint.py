"""An unfinished training's state is kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.fitting.checkpoint import Checkpoint

FACTS = {"labels": "5ac1", "seed": 0}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path))


def test_a_state_comes_back_as_it_was_until_it_is_cleared() -> None:
    checkpoint = Checkpoint(FACTS)
    assert checkpoint.load() is None
    network = torch.nn.Linear(3, 2)
    checkpoint.save({"epoch": 1, "network": network.state_dict(), "random": torch.get_rng_state()})
    checkpoint.save({"epoch": 2, "network": network.state_dict(), "random": torch.get_rng_state()})
    found = Checkpoint(FACTS).load()
    assert found is not None
    assert found["epoch"] == 2
    assert torch.equal(found["network"]["weight"], network.weight)
    assert len(list(checkpoint.path.parent.iterdir())) == 1
    checkpoint.clear()
    assert Checkpoint(FACTS).load() is None


def test_other_facts_are_another_state() -> None:
    Checkpoint(FACTS).save({"epoch": 1})
    assert Checkpoint(FACTS | {"seed": 1}).load() is None


def test_a_damaged_state_is_none() -> None:
    checkpoint = Checkpoint(FACTS)
    checkpoint.save({"epoch": 1, "weights": torch.zeros(1000)})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:500])
    assert checkpoint.load() is None
    checkpoint.path.write_bytes(b"")
    assert checkpoint.load() is None


def test_a_state_that_cannot_be_saved_leaves_the_one_before() -> None:
    checkpoint = Checkpoint(FACTS)
    checkpoint.save({"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"epoch": lambda: None})
    assert checkpoint.load() == {"epoch": 1}
    assert len(list(checkpoint.path.parent.iterdir())) == 1
