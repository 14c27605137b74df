"""A face is in one split, which follows from the face alone and from what its source is for."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from qgate.labels.rows import gather_votes, read_labels
from training.config import LABELS, SHIPPED, SplitSettings, Use, find, load_train_config
from training.data.sources import take
from training.data.split import JUDGING, Split, fold_of, split_of, split_rows

SHARES = SplitSettings(validation=0.08, calibration=0.1, test=0.1)
SEEDS = [str(seed) for seed in range(2000)]

OLDER = "training/labels/train.csv"


def test_a_face_stays_in_its_split_whatever_the_order_and_the_other_faces() -> None:
    rows = split_rows(SEEDS, SHARES, [Use.ALL] * 2000)
    assert {split.value: len(rows[split]) for split in Split} == {
        "train": 1478,
        "validation": 135,
        "calibration": 211,
        "test": 176,
        "apart": 0,
    }
    assert sorted(row for found in rows.values() for row in found) == list(range(2000))
    backwards = split_rows(SEEDS[::-1][:500], SHARES, [Use.ALL] * 500)
    assert [1999 - row for row in backwards[Split.TEST]][::-1] == [row for row in rows[Split.TEST] if row >= 1500]


def test_faces_only_learned_from_are_trained_on_unless_another_split_has_their_seed() -> None:
    rows = split_rows([*SEEDS, *SEEDS, "2000", "2001"], SHARES, [Use.ALL] * 2000 + [Use.LEARN] * 2002)
    plain = split_rows(SEEDS, SHARES, [Use.ALL] * 2000)
    again = [2000 + row for row in plain[Split.TRAIN]]
    assert rows == plain | {Split.TRAIN: [*plain[Split.TRAIN], *again, 4000, 4001]}


def test_folds_are_of_about_one_size_and_none_of_their_business_is_the_split() -> None:
    folds = [fold_of(str(seed), 4) for seed in range(2000)]
    assert all(440 < folds.count(fold) < 560 for fold in range(4))
    test = [fold_of(str(seed), 4) for seed in range(2000) if split_of(str(seed), SHARES) is Split.TEST]
    assert len(set(test)) == 4


def test_one_face_is_never_in_two_splits_of_the_shipped_labels() -> None:
    faces = {face: source.use for source in SHIPPED for face in gather_votes(read_labels(find(source.path)))}
    rows = split_rows([str(face.seed) for face in faces], SHARES, list(faces.values()))
    seeds = {split: {list(faces)[row].seed for row in found} for split, found in rows.items()}
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values())) == len(faces) == 1240 + 4102


def test_the_faces_that_judge_the_shipped_gate_are_in_no_other_labels() -> None:
    judge, *_ = SHIPPED
    judging = {label.face.seed for label in read_labels(find(judge.path))}
    assert (judge.use, len(judging)) == (Use.JUDGE, 1240)
    others = [path for path in find(LABELS).glob("*.csv") if path.name not in (Path(judge.path).name, "contents.csv")]
    drawn = [path for path in others if path.read_text().startswith("generator,seed,psi")]
    assert {path.name for path in drawn} >= {"train.csv", "more.csv", "again.csv", "broken.csv", "taught.csv"}
    for path in drawn:
        with path.open(newline="") as file:
            assert judging.isdisjoint(int(row["seed"]) for row in csv.DictReader(file)), path


def test_one_face_is_never_in_two_splits_of_the_older_labels() -> None:
    faces = sorted(gather_votes(read_labels(find(OLDER))))
    rows = split_rows([str(face.seed) for face in faces], SHARES, [Use.ALL] * len(faces))
    seeds = {split: {faces[row].seed for row in rows[split]} for split in Split}
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values())) == 5400


def test_the_later_votes_are_of_faces_that_the_step_before_the_shipped_gate_is_not_judged_by() -> None:
    again, judged = (gather_votes(read_labels(find(path))) for path in ("training/labels/again.csv", OLDER))
    splits = load_train_config(find("configs/train-weak.yaml")).splits
    shared = {face for face in again if face in judged}
    assert len(shared) > 2000
    assert {split_of(str(face.seed), splits) for face in shared} == {Split.TRAIN}


def test_a_limit_keeps_both_kinds_in_every_split_and_a_larger_one_keeps_them_all() -> None:
    faces = [(str(seed), seed % 5 > 0) for seed in range(1000)]
    few, more = take(faces, 40, SHARES), take(faces, 300, SHARES)
    assert (len(few), len(more)) == (40, 300)
    assert few < more
    found = {(split_of(faces[row][0], SHARES), faces[row][1]) for row in few}
    assert found == {(split, clean) for split in (Split.TRAIN, *JUDGING) for clean in (True, False)}
    assert 0.15 < sum(not faces[row][1] for row in more) / 300 < 0.25


@pytest.mark.parametrize("shares", [SHARES, SplitSettings(validation=0.06, calibration=0.1, test=0.1)])
def test_a_face_that_only_judges_is_never_trained_on_and_judges_as_it_would_among_all(shares: SplitSettings) -> None:
    rows = split_rows(SEEDS, shares, [Use.JUDGE] * 2000)
    total = sum(getattr(shares, split.value) for split in JUDGING)
    assert rows[Split.TRAIN] == rows[Split.APART] == []
    assert sum(len(rows[split]) for split in JUDGING) == 2000
    for split in JUDGING:
        assert len(rows[split]) == pytest.approx(2000 * getattr(shares, split.value) / total, abs=70)
    # A gate that was trained on these faces as on all others was not trained on those that test now as they did then.
    assert set(split_rows(SEEDS, shares, [Use.ALL] * 2000)[Split.TEST]) <= set(rows[Split.TEST])


def test_a_face_of_other_origin_is_trained_on_or_held_apart_and_nothing_else() -> None:
    rows, plain = (split_rows(SEEDS, SHARES, [use] * 2000) for use in (Use.APART, Use.ALL))
    assert [rows[split] for split in JUDGING] == [[], [], []]
    assert rows[Split.TRAIN] == plain[Split.TRAIN]
    assert rows[Split.APART] == sorted(row for split in JUDGING for row in plain[split])


@pytest.mark.parametrize("learner", [Use.LEARN, Use.ALL, Use.APART])
def test_a_seed_that_judges_elsewhere_is_not_trained_on(learner: Use) -> None:
    rows = split_rows([*SEEDS, *SEEDS], SHARES, [learner] * 2000 + [Use.JUDGE] * 2000)
    assert rows[Split.TRAIN] == []
    assert sorted(row for split in JUDGING for row in rows[split] if row >= 2000) == list(range(2000, 4000))


def test_a_seed_that_is_held_apart_is_not_learned_from_at_another_truncation() -> None:
    rows = split_rows([*SEEDS, *SEEDS], SHARES, [Use.APART] * 2000 + [Use.LEARN] * 2000)
    learned = {row % 2000 for row in rows[Split.TRAIN]}
    assert learned.isdisjoint(rows[Split.APART])
    assert learned | set(rows[Split.APART]) == set(range(2000))
