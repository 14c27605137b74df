from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from qgate.dataset.review import ReviewSample


@given(st.lists(st.integers(0, 2**32 - 1)), st.integers(0, 10))
def test_the_sample_is_the_seeds_with_the_smallest_hashes_whatever_their_order(seeds: list[int], cap: int) -> None:
    ranked = sorted(
        set(seeds),
        key=lambda seed: int.from_bytes(
            blake2b(b"qgate-review" + seed.to_bytes(4, "little"), digest_size=8).digest(), "little"
        ),
    )
    assert ReviewSample(cap, seeds).seeds == set(ranked[:cap])
    assert ReviewSample(cap, reversed(seeds)).seeds == set(ranked[:cap])


def test_the_sample_of_the_first_hundred_seeds_never_changes() -> None:
    assert sorted(ReviewSample(5, range(100)).seeds) == [2, 32, 40, 47, 95]


def test_a_sample_is_spread_over_all_candidates() -> None:
    thirds = [sum(seed // 10_000 == part for seed in ReviewSample(300, range(30_000)).seeds) for part in range(3)]
    assert min(thirds) > 70


def test_what_a_full_sample_would_not_take_is_not_admitted() -> None:
    sample = ReviewSample(3, range(16))
    assert sorted(sample.seeds) == [2, 11, 12]
    assert [seed for seed in range(16) if sample.admits(seed)] == [2, 11, 12]
    assert not ReviewSample(0).admits(1)
