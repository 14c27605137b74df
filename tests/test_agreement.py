"""Agreement between annotators, against values that others computed."""

import numpy as np
import pytest

from qgate.labels.agreement import alpha_of, coincidences, estimate, kappa_of, measure, nominal, ordinal
from qgate.labels.answers import Purpose
from tests.label_driver import answer

# Krippendorff, Computing Krippendorff's alpha-reliability (2011), section C: four observers, twelve units.
KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def published_table() -> np.ndarray:
    rows = [line.split() for line in KRIPPENDORFF.strip().splitlines()]
    units = [[int(value) - 1 for value in column if value != "."] for column in zip(*rows, strict=True)]
    return sum(coincidences(unit, 5) for unit in units)  # type: ignore[return-value]


def test_alpha_is_the_published_one() -> None:
    table = published_table()

    assert alpha_of(table, nominal(5)) == pytest.approx(0.743, abs=5e-4)
    assert alpha_of(table, ordinal(table)) == pytest.approx(0.815, abs=5e-4)


def test_kappa_of_a_textbook_table() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: 0.7 observed, 0.5 by chance."""
    assert kappa_of(np.array([[20.0, 5.0], [10.0, 15.0]])) == pytest.approx(0.4)


def test_annotators_who_always_agree() -> None:
    votes = [answer(seed, name, 3 * (seed % 2)) for seed in range(10) for name in ("anna", "ben")]
    found = measure(votes)

    assert (found.percent.value, found.alpha.value, found.severity_alpha.value) == (1.0, 1.0, 1.0)
    assert (found.alpha.low, found.alpha.high, found.alpha.units) == (1.0, 1.0, 10)
    assert [(pair.first, pair.second, pair.percent.hits, pair.kappa.value) for pair in found.pairs] == [
        ("anna", "ben", 10, 1.0)
    ]


def test_annotators_who_answer_by_chance_have_an_alpha_around_zero() -> None:
    random = np.random.default_rng(0)
    votes = [answer(seed, name, int(random.integers(4))) for seed in range(400) for name in ("anna", "ben")]
    alpha = measure(votes).alpha

    assert alpha.low is not None and alpha.high is not None
    assert alpha.low < 0 < alpha.high
    assert alpha.high - alpha.low < 0.25


def test_unsure_is_a_missing_value() -> None:
    votes = [answer(0, "anna", 0), answer(0, "ben", None), answer(1, "anna", 3), answer(1, "ben", 3)]

    assert measure(votes).percent.units == 1


def test_nothing_to_compare_is_undefined_not_zero() -> None:
    found = measure([answer(0, "anna", 0)])

    assert (found.percent.value, found.alpha.value, found.pairs) == (None, None, ())
    assert "undefined" in found.in_words()


def test_few_faces_have_no_interval() -> None:
    found = measure([answer(seed, name, 0) for seed in range(9) for name in ("anna", "ben")])

    assert (found.percent.value, found.percent.low, found.percent.high) == (1.0, None, None)
    assert "too few faces for an interval" in found.in_words()


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(60):
        equal = random.random(150) < 0.8
        tables = np.stack([np.eye(2) if same else 1 - np.eye(2) for same in equal])
        found = estimate(tables, lambda table: float(np.trace(table) / table.sum()), seed=trial)
        hits += found.low <= 0.8 <= found.high  # type: ignore[operator]

    assert hits >= 52


def test_gold_and_repeats_measure_an_annotator() -> None:
    standing = [
        answer(0, "expert", 3, purpose=Purpose.REFERENCE),
        answer(1, "expert", 0, purpose=Purpose.REFERENCE),
        answer(0, "anna", 2, purpose=Purpose.GOLD),
        answer(1, "anna", 3, purpose=Purpose.GOLD),
        answer(5, "anna", 0),
        answer(5, "anna", 1, purpose=Purpose.REPEAT),
        answer(5, "ben", 3),
    ]
    found = measure([], standing)

    assert (found.gold["anna"].hits, found.gold["anna"].total) == (1, 2)
    assert (found.consistency["anna"].hits, found.consistency["anna"].total) == (1, 1)
    assert list(found.consistency) == ["anna"]
