"""Figures are those of the textbook, and their intervals what resampling gives."""

from __future__ import annotations

import numpy as np
import pytest

from qgate.errors import QgateError
from qgate.gate.bundle import Calibration
from qgate.labels.rows import Face, Label
from qgate.records import REGIONS
from training.data.sources import Sample
from training.data.targets import Floats
from training.metrics import metrics
from training.metrics.figures import apart_figures, at_threshold, compare, figures
from training.metrics.judged import Judged, join
from training.metrics.suspects import find_suspects
from training.report.curves import curves


def silent(clean: Floats) -> Floats:
    """Logits of clean (n, looks), and of regions that say nothing."""
    return np.concatenate([clean[:, :, None], np.zeros((*clean.shape, len(REGIONS)))], 2)


def test_platts_fit_finds_the_numbers_that_made_the_votes() -> None:
    for spread in (4.0, 0.001):
        logits = np.linspace(-spread, spread, 81)
        found = metrics.fit_calibration(silent(logits[:, None]), 1 / (1 + np.exp(-(1.7 * logits - 0.6))))
        assert found.weights == pytest.approx((1.7,), abs=1e-3)
        assert found.offset == pytest.approx(-0.6, abs=1e-4)
    with pytest.raises(QgateError, match="says the same of every face"):
        metrics.fit_calibration(silent(np.ones((4, 1))), np.array([0.0, 1.0, 0.5, 0.5]))
    with pytest.raises(QgateError, match="what the network says are no numbers; lower the learning rate"):
        metrics.fit_calibration(silent(np.array([[0.0], [1.0], [np.nan]])), np.array([0.0, 1.0, 1.0]))


def test_the_fit_finds_the_weight_of_each_look() -> None:
    logits = np.random.default_rng(4).normal(size=(400, 2)) * (3.0, 0.5) + (1.0, -2.0)
    found = metrics.fit_calibration(silent(logits), 1 / (1 + np.exp(-(logits @ (0.4, 1.9) + 0.7))))
    assert found.weights == pytest.approx((0.4, 1.9), abs=1e-3)
    assert found.offset == pytest.approx(0.7, abs=1e-3)


def test_no_look_is_given_a_negative_weight() -> None:
    logits = np.random.default_rng(5).normal(size=(400, 2))
    found = metrics.fit_calibration(silent(logits), 1 / (1 + np.exp(-(1.2 * logits[:, 0] - 0.8 * logits[:, 1] + 0.3))))
    first, second = found.weights
    assert (first > 0.5, second) == (True, 0.0)
    with pytest.raises(QgateError, match="its logits do not rise with clean votes; train longer"):
        metrics.fit_calibration(silent(logits), 1 / (1 + np.exp(logits @ (1.2, 0.8))))


def test_a_region_counts_as_it_foretells_artifacts_and_never_the_other_way_round() -> None:
    logits = np.random.default_rng(6).normal(size=(4000, 2, 1 + len(REGIONS)))
    odds = logits[:, 0, 0] + logits[:, 1, 0] - 0.7 * logits[:, 1, 3] + 0.5 * logits[:, 0, 5]
    found = metrics.fit_calibration(logits, 1 / (1 + np.exp(-odds)))

    assert found.table[1, 3] == pytest.approx(-0.7, abs=0.07)
    assert found.table[0, 5] == 0.0
    assert np.abs(np.delete(found.table[:, 1:].ravel(), len(REGIONS) + 2)).max() < 0.05


def test_few_faces_hardly_move_a_calibration_and_many_decide_it() -> None:
    before = Calibration(weights=(1.0,), offset=0.0)
    found = {}
    for n in (5, 5000):
        clean = np.linspace(-3, 3, n)
        logits, votes = silent(clean[:, None]), 1 / (1 + np.exp(-(3.0 * clean - 2.0)))
        fitted = metrics.fit_calibration(logits, metrics.lean_on(before, logits, votes))
        found[n] = (*fitted.weights, fitted.offset)
    assert found[5] == pytest.approx((1.0, 0.0), abs=0.15)
    assert found[5000] == pytest.approx((3.0, -2.0), abs=0.15)


def test_log_odds_of_what_float32_rounds_to_one_are_finite() -> None:
    found = metrics.to_logits(np.array([0.0, 0.5, 1.0]))
    assert found.tolist() == [pytest.approx(-16.118, abs=1e-3), 0.0, pytest.approx(16.118, abs=1e-3)]


CLEAN = np.array([True, False, True, True, False])
PROB = np.array([0.9, 0.8, 0.7, 0.6, 0.1])


def test_metrics_are_those_of_the_textbook() -> None:
    assert metrics.auroc(CLEAN, PROB) == pytest.approx(4 / 6)
    assert metrics.auprc_clean(CLEAN, PROB) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.auprc_artifact(CLEAN, PROB) == pytest.approx((1 + 2 / 4) / 2)
    assert metrics.brier(CLEAN, PROB) == pytest.approx((0.01 + 0.64 + 0.09 + 0.16 + 0.01) / 5)
    assert metrics.ece(CLEAN, PROB) == pytest.approx((0.1 + 0.8 + 0.3 + 0.4 + 0.1) / 5)


def test_the_yield_at_a_purity_is_the_largest_that_a_threshold_reaches() -> None:
    assert metrics.yield_at_purity(0.95)(CLEAN, PROB) == 0.2
    assert metrics.yield_at_purity(0.75)(CLEAN, PROB) == 0.8
    assert metrics.yield_at_purity(0.95)(~CLEAN, PROB) == 0.0
    tied = np.array([0.9, 0.9, 0.7, 0.6, 0.1])
    assert metrics.yield_at_purity(0.95)(CLEAN, tied) == 0.0


def test_the_threshold_table_leaves_out_what_accepts_nothing() -> None:
    table = metrics.threshold_table(CLEAN, PROB, (0.5, 0.85, 0.95))
    assert [(row["threshold"], row["purity"], row["clean_accepted"]) for row in table] == [
        (0.5, 0.75, 1.0),
        (0.85, 1.0, 0.33333),
    ]
    # Clopper-Pearson for 1 of 1: 0.025^(1/1).
    assert table[1]["purity_interval"] == (0.025, 1.0)


def test_the_bootstrap_holds_the_value_and_is_the_same_again() -> None:
    random = np.random.default_rng(1)
    prob = random.random(200)
    clean = random.random(200) < prob
    low, high = metrics.bootstrap(metrics.brier, clean, prob, 200)
    assert low < metrics.brier(clean, prob) < high
    assert (low, high) == metrics.bootstrap(metrics.brier, clean, prob, 200)


def test_chance_alone_gives_a_calibrated_gate_some_calibration_error() -> None:
    low, high = metrics.ece_if_calibrated(np.linspace(0, 1, 300), 100)
    assert 0.01 < low < high < 0.12
    assert metrics.ece_if_calibrated(np.array([0.0, 1.0, 1.0]), 20) == (0.0, 0.0)


def judged(clean: list[bool], prob: list[float], **changes: object) -> Judged:
    n = len(clean)
    parts: dict[str, object] = {
        "rows": list(range(n)),
        "clean": np.array(clean),
        "severity": np.where(clean, 0.0, 3.0),
        "several": np.zeros(n, bool),
        "agreed": np.zeros(n, bool),
        "regions": np.zeros((n, len(REGIONS)), bool),
        "prob": np.array(prob),
        "psi": np.ones(n),
        "source": ["labels.csv"] * n,
        "contents": [None] * n,
        "tones": [""] * n,
    }
    return Judged(**(parts | changes))  # type: ignore[arg-type]


def test_the_threshold_of_a_purity_is_the_lowest_that_reaches_it() -> None:
    assert metrics.purity_threshold(CLEAN, PROB, 0.75) == 0.6
    assert metrics.purity_threshold(CLEAN, PROB, 0.95) == 0.9
    assert metrics.purity_threshold(~CLEAN, PROB, 0.95) is None
    assert metrics.clean_accepted_at_purity(0.75)(CLEAN, PROB) == 1.0
    assert metrics.clean_accepted_at_purity(0.95)(CLEAN, PROB) == pytest.approx(1 / 3)


def test_a_paired_difference_of_a_gate_with_itself_is_nothing() -> None:
    faces = judged(CLEAN.tolist(), PROB.tolist())
    found = compare(faces, faces, 20)
    assert found["auroc"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found["agreed"] is None


def test_a_paired_difference_is_that_of_the_metrics() -> None:
    agreed = np.array([False, True, True, True, True])
    first, perfect = (
        judged(CLEAN.tolist(), prob, agreed=agreed) for prob in (PROB.tolist(), [0.9, 0.2, 0.8, 0.7, 0.1])
    )
    found = compare(first, perfect, 40)
    assert found["auroc"]["value"] == pytest.approx(1 - 4 / 6, abs=1e-5)
    assert found["auroc"]["interval"][0] >= 0.0
    assert found["agreed"]["auroc"]["value"] == pytest.approx(1 - 2 / 4, abs=1e-5)


def test_rejections_are_counted_by_severity_region_and_contents() -> None:
    regions = np.zeros((6, len(REGIONS)), bool)
    regions[3:5, REGIONS.index("mouth")] = True
    faces = judged(
        [True, True, True, False, False, False],
        [0.95, 0.5, 0.92, 0.91, 0.1, 0.2],
        severity=np.array([0.0, 1.0, 0.0, 2.0, 3.0, 2.4]),
        regions=regions,
        contents=[frozenset({"headwear"}), frozenset({"headwear", "hand"}), frozenset(), None, None, None],
    )
    found = at_threshold(faces, 0.9)
    shares = {name: share and (share["hits"], share["faces"]) for name, share in found["rejected_by_severity"].items()}
    assert shares == {"0": (0, 2), "1": (1, 1), "2": (1, 2), "3": (1, 1)}
    assert found["recall_by_region"]["mouth"]["value"] == 0.5
    assert found["recall_by_region"]["ears"] is None
    accepted = found["clean_accepted_by_contents"]
    assert accepted.keys() == {"none of these", "headwear", "hand"}
    assert (accepted["headwear"]["hits"], accepted["headwear"]["faces"]) == (1, 2)
    assert {name: figure["ratio"] for name, figure in accepted.items()} == {
        "none of these": 1.0,
        "headwear": 0.5,
        "hand": 0.0,
    }


def test_clean_faces_are_counted_by_skin_tone_and_none_is_compared_where_no_face_is_plain() -> None:
    faces = judged(
        [True, True, True, True, False],
        [0.95, 0.5, 0.92, 0.91, 0.99],
        contents=[frozenset({"hand"}), frozenset({"hand"}), None, None, None],
        tones=["dark", "dark", "light", "", "dark"],
    )
    found = at_threshold(faces, 0.9)["clean_accepted_by_contents"]
    assert {name: (figure["hits"], figure["faces"]) for name, figure in found.items()} == {
        "hand": (1, 2),
        "skin light": (1, 1),
        "skin dark": (1, 2),
    }
    assert not any("ratio" in figure for figure in found.values())


def test_faces_of_other_origin_have_figures_of_their_own_by_source() -> None:
    faces = judged(
        [True, True, False, False, True, True],
        [0.95, 0.6, 0.7, 0.2, 0.99, 0.4],
        source=["drawings", "drawings", "drawings", "drawings", "photographs", "photographs"],
        contents=[frozenset(), frozenset(), None, None, frozenset(), frozenset({"glasses"})],
    )
    found = apart_figures(faces, 0.9, 20)
    assert found.keys() == {"drawings", "photographs"}
    drawings, photographs = found["drawings"], found["photographs"]
    assert [(part["faces"], part["clean"]) for part in (drawings, photographs)] == [(4, 2), (2, 2)]
    assert (drawings["auroc"]["value"], photographs["auroc"]) == (0.75, None)
    # Four faces are four bins: |0.95 - 1|, |0.6 - 1|, |0.7 - 0| and |0.2 - 0|.
    assert drawings["ece"]["value"] == pytest.approx((0.05 + 0.4 + 0.7 + 0.2) / 4)
    assert [table["threshold"] for table in drawings["at_threshold"]] == [0.5, 0.9]
    assert [table["accepted"]["value"] for table in drawings["at_threshold"]] == [0.75, 0.25]
    accepted = photographs["at_threshold"][0]["clean_accepted_by_contents"]
    assert {name: (figure["value"], figure["ratio"]) for name, figure in accepted.items()} == {
        "none of these": (1.0, 1.0),
        "glasses": (0.0, 0.0),
    }
    assert apart_figures(faces.part([]), 0.9, 20) == {}


def test_figures_hold_every_metric_with_its_interval_and_groups_of_both_kinds() -> None:
    random = np.random.default_rng(2)
    prob = random.random(120)
    clean = random.random(120) < prob
    psi = np.where(np.arange(120) < 60, 0.7, np.nan)
    found = figures(judged(clean.tolist(), prob.tolist(), psi=psi), 0.75, 20)
    for name in metrics.METRICS:
        low, high = found[name]["interval"]
        assert 0 <= low <= high <= 1, name
    assert found["auroc"]["interval"][0] < found["auroc"]["value"] < found["auroc"]["interval"][1]
    assert found["by_psi"].keys() == {"0.7", "image files"}
    even, recommended = found["at_threshold"]
    assert (even["threshold"], recommended["threshold"]) == (0.5, 0.75)
    assert even["accepted"]["hits"] == (prob >= 0.5).sum() > recommended["accepted"]["hits"] == (prob >= 0.75).sum()
    assert found["agreed"] is None


def test_the_faces_whose_annotators_agree_have_figures_of_their_own() -> None:
    random = np.random.default_rng(3)
    prob = random.random(90)
    clean = random.random(90) < prob
    agreed = random.random(90) < 0.6
    found = figures(judged(clean.tolist(), prob.tolist(), agreed=agreed), 0.9, 20)
    alone = figures(judged(clean[agreed].tolist(), prob[agreed].tolist()), 0.9, 20)
    assert found["agreed"] == {name: alone[name] for name in ("faces", "clean", *metrics.METRICS, "ece")}
    assert found["faces"] == 90 > found["agreed"]["faces"]


def test_artifacts_of_which_all_annotators_are_sure_are_counted_where_two_or_more_voted() -> None:
    faces = judged(
        [False, False, True, False, False],
        [0.95, 0.9, 0.99, 0.97, 0.3],
        several=np.array([True, True, True, False, True]),
        agreed=np.array([True, False, True, False, True]),
    )
    found = at_threshold(faces, 0.9)
    assert (found["sure_artifacts"]["hits"], found["sure_artifacts"]["faces"]) == (1, 3)
    assert (found["purity"]["hits"], found["purity"]["faces"]) == (1, 4)
    assert at_threshold(faces, 1.0)["sure_artifacts"] is None


def test_the_recommended_threshold_is_the_lowest_round_one_that_promises_the_purity() -> None:
    prob = np.array([0.99, 0.97, 0.82, 0.71, 0.66, 0.2])
    assert metrics.recommended_threshold(prob, 0.82) == 0.5  # the mean of five
    assert metrics.recommended_threshold(prob, 0.87) == 0.7  # of four: 0.8725; 0.65 lets 0.66 in
    assert metrics.recommended_threshold(prob, 0.9) == 0.75
    assert metrics.recommended_threshold(prob, 0.97) == 0.85
    assert metrics.recommended_threshold(prob[2:], 0.9) == 0.95  # nothing is so sure


def test_annotators_agree_where_two_or_more_say_the_same() -> None:
    votes = {"one": [("a", 0)], "same": [("a", 0), ("b", 1)], "tie": [("a", 0), ("b", 3)]}
    votes |= {"most": [("a", 3), ("b", 3), ("c", 0)], "twice": [("a", 3), ("a", 3)]}
    samples = [
        Sample(face, name, tuple(Label(face, severity, (), who) for who, severity in said), 1, "labels.csv")
        for seed, (name, said) in enumerate(votes.items())
        for face in [Face("fake:64", seed, 1.0)]
    ]
    rows = [row for row, sample in enumerate(samples) if sample.identity != "tie"]
    found = join(samples, rows, np.zeros(len(rows)), {})
    assert dict(zip((samples[row].identity for row in rows), found.agreed.tolist(), strict=True)) == {
        "one": False,
        "same": True,
        "most": False,
        "twice": False,
    }


def test_curves_end_where_they_must() -> None:
    found = curves(judged(CLEAN.tolist(), PROB.tolist()))
    assert (found["roc"][0], found["roc"][-1]) == ([0.0, 0.0], [1.0, 1.0])
    assert sum(found["scores"]["clean"]) == 3
    assert sum(point["faces"] for point in found["reliability"]) == 5


def test_a_label_that_the_scores_contradict_is_a_suspect() -> None:
    clean = [True, False] * 20
    prob = [0.9, 0.1] * 20
    prob[4], prob[7] = 0.02, 0.99
    assert find_suspects(judged(clean, prob)) == [7, 4]
    assert find_suspects(judged([True] * 4, [0.9] * 4)) == []
