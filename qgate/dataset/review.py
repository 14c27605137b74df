"""Which candidates are kept as the random sample for labelling and audits. Knows seeds, no files."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from qgate.files import order_key


class ReviewSample:
    """The `cap` candidates whose seeds have the smallest hashes: a uniform random sample without replacement.

    It depends on nothing but which seeds were judged: not on order, shards, batches or kills. Only candidates with
    a clean_prob belong in it. Source: bottom-k sampling, Cohen and Kaplan, PODC 2007.
    """

    def __init__(self, cap: int, seeds: Iterable[int] = ()) -> None:
        self._cap = cap
        self._heap: list[tuple[int, int]] = []
        self.seeds: set[int] = set()
        for seed in seeds:
            self.offer(seed)

    def admits(self, seed: int) -> bool:
        """Whether the candidate is in the sample, or would be if it were offered now."""
        if seed in self.seeds or len(self.seeds) < self._cap:
            return True
        return self._cap > 0 and _key(seed) > self._heap[0]

    def offer(self, seed: int) -> bool:
        """Take notice of a judged candidate; returns whether it is in the sample now."""
        if seed not in self.seeds and self.admits(seed):
            heapq.heappush(self._heap, _key(seed))
            self.seeds.add(seed)
            if len(self._heap) > self._cap:
                self.seeds.remove(heapq.heappop(self._heap)[1])
        return seed in self.seeds


def _key(seed: int) -> tuple[int, int]:
    """Smaller hash, larger key: the heap gives up its smallest key, the largest hash."""
    key = order_key(b"qgate-review", seed.to_bytes(4, "little"))
    return -int.from_bytes(key, "little"), seed
