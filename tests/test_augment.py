"""Augmentation changes what a gate must not mind, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.config import AugmentSettings
from training.fitting.augment import augment

STILL = AugmentSettings(jitter=0.0)


def faces(n: int, side: int = 32) -> Tensor:
    """Noise that differs from place to place, uint8 (n, 3, side, side)."""
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_with_everything_off_faces_are_mirrored_or_as_they_were() -> None:
    torch.manual_seed(0)
    x = torch.arange(4, dtype=torch.uint8).view(1, 1, 1, 4).repeat(64, 3, 1, 1)
    found = augment(x, STILL)
    assert found.dtype == torch.float32
    assert {tuple(row) for row in found[:, 0, 0].tolist()} == {(0.0, 1.0, 2.0, 3.0), (3.0, 2.0, 1.0, 0.0)}


def test_a_moved_face_keeps_its_middle_and_shows_no_black_border() -> None:
    torch.manual_seed(0)
    x = torch.full((16, 3, 64, 64), 200, dtype=torch.uint8)
    x[:, :, 24:40, 24:40] = 100
    found = augment(x, STILL.model_copy(update={"rotation": 10.0, "zoom": 0.1, "shift": 0.05}))
    assert found.min() >= 99.9
    assert torch.allclose(found[:, :, 32, 32], torch.tensor(100.0), atol=0.1)


@pytest.mark.parametrize("change", [{"rescaled": 1.0}, {"jpeg": 1.0}, {"noise": 1.0}, {"tint": 0.2}, {"jitter": 0.2}])
def test_each_change_changes_every_face_a_little_and_stays_in_range(change: dict[str, float]) -> None:
    x = faces(8)
    torch.manual_seed(3)
    still = augment(x, STILL)
    torch.manual_seed(3)
    found = augment(x, AugmentSettings(**{"jitter": 0.0, **change}))
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 255
    mirrored = torch.minimum((found - x).abs().mean((1, 2, 3)), (found - x.flip(3)).abs().mean((1, 2, 3)))
    assert (mirrored > 0.05).all()
    assert not torch.equal(still, found)


def test_the_same_state_of_the_generator_gives_the_same_faces() -> None:
    settings = AugmentSettings(
        jitter=0.2, tint=0.1, rotation=5, zoom=0.1, shift=0.05, rescaled=0.5, jpeg=0.5, noise=0.5
    )
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(augment(faces(8), settings))
    assert torch.equal(*results)


def test_smallest_says_how_coarse_a_rescaled_face_may_get() -> None:
    x = faces(8)
    change: dict[float, float] = {}
    for smallest in (1.0, 0.9, 0.2):
        torch.manual_seed(3)
        found = augment(x, STILL.model_copy(update={"rescaled": 1.0, "smallest": smallest}))
        mirrored = torch.minimum((found - x).abs().mean((1, 2, 3)), (found - x.flip(3)).abs().mean((1, 2, 3)))
        change[smallest] = float(mirrored.mean())
    assert change[1.0] == pytest.approx(0.0, abs=1e-3)
    assert 1 < change[0.9] < 0.7 * change[0.2]
