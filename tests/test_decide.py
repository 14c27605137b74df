import pytest

from qgate.gate.decide import decide
from qgate.records import Score, Verdict

NO_REGION = (0.0,) * 12
MOUTH_AND_HAIR = (0.0, 0.0, 0.6, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_candidate_at_the_threshold_is_accepted() -> None:
    assert decide(Score(0.75, NO_REGION), 0.75) == (Verdict.ACCEPTED, ())


def test_a_rejected_candidate_names_its_regions_likeliest_first() -> None:
    assert decide(Score(0.1, MOUTH_AND_HAIR), 0.5) == (Verdict.REJECTED, ("hair", "mouth"))


def test_a_rejected_candidate_names_one_region_even_where_none_is_likely() -> None:
    verdict, reasons = decide(Score(0.4, (0.01, 0.2, *NO_REGION[2:])), 0.5)

    assert (verdict, reasons) == (Verdict.REJECTED, ("eyes",))


@pytest.mark.parametrize("fault", ["nonfinite", "degenerate"])
def test_a_broken_image_is_rejected_even_at_threshold_0(fault: str) -> None:
    assert decide(Score(None, fault=fault), 0.0) == (Verdict.REJECTED, (fault,))


def test_what_could_not_be_judged_is_failed_and_not_rejected() -> None:
    assert decide(Score(None, fault="x.png: damaged image"), 0.0) == (Verdict.FAILED, ())


def test_yield_never_grows_with_the_threshold() -> None:
    scores = [Score(prob / 20, NO_REGION) for prob in range(21)]
    accepted = [sum(decide(score, t / 40)[0] is Verdict.ACCEPTED for score in scores) for t in range(41)]

    assert accepted == sorted(accepted, reverse=True)
    assert (accepted[0], accepted[40]) == (21, 1)
