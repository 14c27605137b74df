import itertools

import numpy as np
import pytest
import torch

import qgate
from qgate.generators.fake import FakeGenerator


def test_candidates_come_with_verdict_reasons_and_pixels() -> None:
    gate = qgate.load_gate(device="cpu")
    candidates = list(qgate.judge([3, 9], threshold=0.0, generator="fake:128", gate=gate, device="cpu"))

    assert [candidate.seed for candidate in candidates] == [3, 9]
    assert [str(candidate.verdict) for candidate in candidates] == ["accepted", "accepted"]
    assert candidates[0].image is not None
    np.testing.assert_array_equal(
        candidates[0].image, FakeGenerator("128").draw([3]).images[0].permute(1, 2, 0).numpy()
    )
    assert list(candidates[0].region_probs)[:2] == ["forehead", "eyes"]


def test_an_endless_walk_can_be_left_at_any_time() -> None:
    walk = qgate.judge(itertools.count(), threshold=1.0, generator=FakeGenerator("64"), device="cpu")
    first = next(walk)

    assert (first.verdict, len(first.reasons) >= 1) == ("rejected", True)


def test_a_gate_scores_tensors_of_mixed_sizes() -> None:
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8) for size in (100, 384, 500)]

    assert len(qgate.load_gate(device="cpu").score(images)) == 3


def test_public_names_are_there_and_others_are_not() -> None:
    for name in qgate.__all__:
        assert getattr(qgate, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qgate.nothing
