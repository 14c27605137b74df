"""The rates are the textbook's, and their edges are the gate's."""

from __future__ import annotations

import numpy as np
import pytest

from qgate.gate.decide import decide
from qgate.rates import Rate, accepted_at, escape_rate, false_reject_rate, rate, threshold_for, yield_sweep
from qgate.records import REGIONS, Score, Verdict

NOTHING = (0.1,) * len(REGIONS)


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.3085),
        (10, 10, 0.6915, 1.0),
        (4, 20, 0.0573, 0.4366),
        (0, 300, 0.0, 0.0122),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_clopper_and_pearsons(hits: int, total: int, low: float, high: float) -> None:
    # Expected values: tables of the exact binomial interval; 0 of n is 1 - 0.025^(1/n).
    found = rate(hits, total)
    assert (found.hits, found.total) == (hits, total)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    assert rate(4, 20, 0.99).low < rate(4, 20, 0.95).low < rate(4, 20, 0.5).low
    assert rate(4, 20, 0.99).high > rate(4, 20, 0.95).high > rate(4, 20, 0.5).high


def test_nothing_counted_has_no_value() -> None:
    assert rate(0, 0).value is None
    assert rate(1, 4).value == 0.25


@pytest.mark.parametrize(("hits", "total"), [(-1, 3), (4, 3)])
def test_more_hits_than_candidates_are_refused(hits: int, total: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        rate(hits, total)


def test_escape_and_false_reject_count_what_their_names_say() -> None:
    clean = [True, True, False, False, True, False]
    accepted = [True, False, True, False, True, False]
    escapes, rejects = escape_rate(clean, accepted), false_reject_rate(clean, accepted)
    assert (escapes.hits, escapes.total) == (1, 3)
    assert (rejects.hits, rejects.total) == (1, 3)


def test_a_decision_without_a_judgement_is_refused() -> None:
    with pytest.raises(ValueError, match="one judgement per decision"):
        escape_rate([True], [True, False])


def test_the_yield_never_rises_with_the_threshold_and_the_failed_stay_in_its_total() -> None:
    sweep = yield_sweep([0.2, 0.6, None, 0.95, float("nan")], [0.0, 0.5, 0.6, 0.9, 1.0])
    assert [(r.hits, r.total) for r in sweep] == [(3, 5), (2, 5), (2, 5), (1, 5), (0, 5)]
    assert all(isinstance(r, Rate) for r in sweep)


def test_a_sweep_agrees_with_the_gate_at_a_score_that_float32_would_round_up_to_the_threshold() -> None:
    probs = np.array([0.9, 0.95], dtype=np.float32)  # float32(0.9) is below 0.9
    verdicts = [decide(Score(float(p), NOTHING), 0.9)[0] for p in probs]
    assert verdicts == [Verdict.REJECTED, Verdict.ACCEPTED]
    assert accepted_at(probs, [0.9]) == [1]


def test_the_threshold_for_a_count_accepts_that_many_and_any_higher_one_fewer() -> None:
    probs = np.array([0.1, 0.7, np.nan, 0.7, 0.9], dtype=np.float32)
    found = threshold_for(probs, 2)
    assert found == float(np.float32(0.7))
    assert accepted_at(probs, [found, np.nextafter(found, 1)]) == [3, 1]


def test_no_threshold_suffices_where_too_few_could_be_judged() -> None:
    assert threshold_for([0.4, None], 2) is None
    assert threshold_for([], 1) is None
    with pytest.raises(ValueError, match="at least 1"):
        threshold_for([0.4], 0)
