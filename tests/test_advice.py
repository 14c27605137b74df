"""When the next training pays: measured where it can be, else a rule of thumb that says so."""

import pytest

from qgate.labels.advice import Trained, advise, exponent


def test_a_first_training_pays_at_a_hundred_faces() -> None:
    assert (advise(30, []).at, advise(30, []).left, advise(130, []).left) == (100, 70, 0)
    assert advise(30, []).in_words() == "70 more until the next training pays"
    assert advise(130, []).in_words() == "the next training pays now"
    assert "rule of thumb" in advise(30, []).why


def test_few_trainings_are_no_curve_and_the_rule_of_thumb_says_that_it_is_one() -> None:
    found = advise(150, [Trained(100, 0.2, 0.3), Trained(120, 0.18, 0.27)])

    assert (found.at, found.left) == (240, 90)
    assert found.why == "rule of thumb: twice the 120 faces of the last training"


def test_a_power_law_is_found_again_and_a_fifth_less_error_pays() -> None:
    """error = 2 * faces^-0.5: a fifth less error takes 1 / 0.8^2 = 1.5625 times the faces."""
    trainings = [Trained(faces, 2 * faces**-0.5, 2.2 * faces**-0.5) for faces in (100, 400, 1600)]
    found = advise(1600, trainings)

    assert exponent(trainings) == pytest.approx(0.5)
    assert (found.at, found.left) == (2500, 900)
    assert found.why == "20% less error expected, from 3 trainings: error falls with faces^-0.50"


@pytest.mark.parametrize(
    "trainings",
    [
        # Intervals far wider than the fall, a rising error, one size only, and no error at all.
        [Trained(100, 0.20, 0.6), Trained(150, 0.19, 0.6), Trained(200, 0.18, 0.6)],
        [Trained(100, 0.10, 0.11), Trained(200, 0.11, 0.12), Trained(400, 0.12, 0.13)],
        [Trained(100, 0.20, 0.21), Trained(100, 0.10, 0.11), Trained(100, 0.05, 0.06)],
        [Trained(100, 0.0, 0.1), Trained(200, 0.0, 0.05), Trained(400, 0.0, 0.02)],
    ],
)
def test_noise_is_not_taken_for_a_curve(trainings: list[Trained]) -> None:
    assert exponent(trainings) is None
    assert "rule of thumb" in advise(500, trainings).why
