import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from qgate.generators import Drawn, GeneratorInfo
from qgate.generators.fake import FakeGate, FakeGenerator
from qgate.records import Score
from qgate.run.worker import Worker


def scores(batch_size: int, seeds: Sequence[int]) -> list[tuple[int, float | None]]:
    worker = Worker(FakeGenerator("16"), FakeGate(), batch_size)
    return [(judged.seed, judged.score.clean_prob) for judged in worker.judge(seeds, lambda seed, score: False)]


def test_candidates_come_in_order_with_the_same_scores_for_every_batch_size() -> None:
    seeds = [*range(20), 100, 7000]

    assert [seed for seed, _ in scores(1, seeds)] == seeds
    assert scores(1, seeds) == scores(8, seeds) == scores(64, seeds)


def test_only_wanted_images_are_handed_over() -> None:
    worker = Worker(FakeGenerator("16"), FakeGate(), 4)
    judged = list(worker.judge(range(6), lambda seed, score: seed % 2 == 0))

    assert [candidate.image is not None for candidate in judged] == [True, False] * 3
    assert judged[0].image is not None and judged[0].image.shape == (16, 16, 3)


def test_leaving_early_ends_the_stages() -> None:
    stream = Worker(FakeGenerator("16"), FakeGate(), 4).judge(range(10**9), lambda seed, score: False)
    next(stream)
    stream.close()

    assert not [thread for thread in threading.enumerate() if thread.name == "qgate-stage"]


class _Small(FakeGenerator):
    """A device whose memory holds two candidates; remembers how many it was asked for."""

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        self.asked: list[int] = []

    def draw(self, seeds: Sequence[int]) -> Drawn:
        self.asked.append(len(seeds))
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("fake")
        return super().draw(seeds)


def test_out_of_memory_halves_the_batch_and_the_run_goes_on() -> None:
    generator = _Small("16")
    worker = Worker(generator, FakeGate(), 16)

    judged = list(worker.judge(range(40), lambda seed, score: False))

    assert [(candidate.seed, candidate.score.clean_prob) for candidate in judged] == scores(8, range(40))
    assert worker.batch_size == 2
    assert max(generator.asked[-12:]) == 2  # the later batches are asked for in what fits


class _SmallGate(FakeGate):
    """A device whose memory holds three images; remembers how many it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def begin(self, images: Sequence[Tensor] | Tensor) -> Callable[[], list[Score]]:
        self.given.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("fake")
        return super().begin(images)


def test_a_gate_out_of_memory_gets_fewer_images_from_then_on() -> None:
    gate = _SmallGate()
    judged = list(Worker(FakeGenerator("16"), gate, 8).judge(range(16), lambda seed, score: False))

    assert [(candidate.seed, candidate.score.clean_prob) for candidate in judged] == scores(8, range(16))
    assert gate.given == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


class _Broken:
    """Seed 2 comes out not finite, seed 3 not at all."""

    info = GeneratorInfo("broken", "0" * 64, 16, "")

    def draw(self, seeds: Sequence[int]) -> Drawn:
        faults = {2: "nonfinite", 3: "no pixels"}
        images: list[Tensor | None] = [None if s == 3 else torch.full((3, 16, 16), s).byte() for s in seeds]
        return Drawn(images, [faults.get(seed) for seed in seeds], [""] * len(seeds))


def test_faulty_candidates_carry_their_fault_and_no_probability() -> None:
    judged = list(Worker(_Broken(), FakeGate(), 3).judge(range(5), lambda seed, score: True))

    assert [candidate.score.fault for candidate in judged] == [None, None, "nonfinite", "no pixels", None]
    assert judged[2].score == Score(None, fault="nonfinite")


class _Failing(FakeGenerator):
    def draw(self, seeds: Sequence[int]) -> Drawn:
        if 8 in seeds:
            raise RuntimeError("the device is gone")
        return super().draw(seeds)


def test_an_error_of_a_stage_reaches_the_caller_after_what_came_before() -> None:
    stream = Worker(_Failing("16"), FakeGate(), 4).judge(range(100), lambda seed, score: False)

    assert [next(stream).seed for _ in range(8)] == list(range(8))
    with pytest.raises(RuntimeError, match="the device is gone"):
        next(stream)
