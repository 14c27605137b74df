"""Labels of every kind become one set of faces, a face is in one split, and wrong input is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from qgate.errors import LabelError
from qgate.gate.preprocess import Preprocessing
from qgate.labels.answers import Answer, Decision
from qgate.labels.rows import Face, gather_votes, read_labels
from qgate.labels.store import LabelStore
from tests.training_recipe import HEADER, quiet, recipe, write_image, write_labels
from training.config import SHIPPED, SplitSettings, TrainConfig, find, load_train_config
from training.data.sources import read_sources, take
from training.data.split import Split, fold_of, split_of, split_rows
from training.data.tables import read_contents

SHARES = SplitSettings(validation=0.08, calibration=0.1, test=0.1)
SMALL = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache and a working folder of its own."""
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def settings(*sources: object, **changes: object) -> TrainConfig:
    return recipe(Path(), sources=list(sources), **({"min_faces": 2} | changes))


# Splits


def test_a_face_stays_in_its_split_whatever_the_order_and_the_other_faces() -> None:
    seeds = [str(seed) for seed in range(2000)]
    rows = split_rows(seeds, SHARES)
    assert {split.value: len(rows[split]) for split in Split} == {
        "train": 1478,
        "validation": 135,
        "calibration": 211,
        "test": 176,
    }
    assert sorted(row for found in rows.values() for row in found) == list(range(2000))
    backwards = split_rows(seeds[::-1][:500], SHARES)
    assert [1999 - row for row in backwards[Split.TEST]][::-1] == [row for row in rows[Split.TEST] if row >= 1500]


def test_faces_only_learned_from_are_trained_on_unless_another_split_has_their_seed() -> None:
    seeds = [str(seed) for seed in range(2000)]
    rows = split_rows([*seeds, *seeds, "2000", "2001"], SHARES, [False] * 2000 + [True] * 2002)
    plain = split_rows(seeds, SHARES)
    again = [2000 + row for row in plain[Split.TRAIN]]
    assert rows == plain | {Split.TRAIN: [*plain[Split.TRAIN], *again, 4000, 4001]}


def test_folds_are_of_about_one_size_and_none_of_their_business_is_the_split() -> None:
    folds = [fold_of(str(seed), 4) for seed in range(2000)]
    assert all(440 < folds.count(fold) < 560 for fold in range(4))
    test = [fold_of(str(seed), 4) for seed in range(2000) if split_of(str(seed), SHARES) is Split.TEST]
    assert len(set(test)) == 4


def test_one_face_is_never_in_two_splits_of_the_shipped_labels() -> None:
    faces = sorted(gather_votes(read_labels(find(SHIPPED))))
    rows = split_rows([str(face.seed) for face in faces], SHARES)
    seeds = {split: {faces[row].seed for row in rows[split]} for split in Split}
    assert sum(map(len, seeds.values())) == len(set().union(*seeds.values())) == 5400


def test_the_later_votes_are_of_faces_that_the_shipped_gate_is_not_judged_by() -> None:
    again, judged = (gather_votes(read_labels(find(path))) for path in ("training/labels/again.csv", SHIPPED))
    splits = load_train_config(find("configs/train.yaml")).splits
    shared = {face for face in again if face in judged}
    assert len(shared) > 2000
    assert {split_of(str(face.seed), splits) for face in shared} == {Split.TRAIN}


def test_a_limit_keeps_both_kinds_in_every_split_and_a_larger_one_keeps_them_all() -> None:
    faces = [(str(seed), seed % 5 > 0) for seed in range(1000)]
    few, more = take(faces, 40, SHARES), take(faces, 300, SHARES)
    assert (len(few), len(more)) == (40, 300)
    assert few < more
    found = {(split_of(faces[row][0], SHARES), faces[row][1]) for row in few}
    assert found == {(split, clean) for split in Split for clean in (True, False)}
    assert 0.15 < sum(not faces[row][1] for row in more) / 300 < 0.25


# Sources


def test_sources_of_every_kind_are_one_set_of_faces() -> None:
    write_labels(Path("drawn.csv"), range(10))
    for seed in range(4):
        write_image(Path(f"sorted/{'artifact' if seed % 2 else 'clean'}/{seed}.png"), seed)
    write_image(Path("data/a.png"), 10)
    Path("data/metadata.jsonl").write_text(
        '{"file_name": "a.png", "severity": 2, "regions": ["eyes"]}\n'
        '{"file_name": "gone.png", "severity": 0, "generator": "fake:64", "seed": 11, "truncation_psi": 1.0}\n'
    )
    with LabelStore(Path("labels.db")) as store:
        face = Face("fake:64", 0, 1.0)
        store.add(Answer(face=face, annotator="ann", decision=Decision.ARTIFACT, severity=2))
    labels = read_sources(settings("drawn.csv", "sorted", "data/metadata.jsonl", "labels.db"), quiet)
    assert len(labels.samples) == 10 + 4 + 1 + 1
    assert [fact["faces"] for fact in labels.facts] == [10, 4, 2, 1]
    (zero,) = [sample for sample in labels.samples if sample.face == Face("fake:64", 0, 1.0)]
    assert [(vote.annotator, vote.severity) for vote in zero.votes] == [("test", 0), ("ann", 2)]
    files = [sample for sample in labels.samples if sample.face.file_name]
    assert {len(sample.identity) for sample in files} == {64}
    pixels = labels.pixels(SMALL, torch.device("cpu"), quiet)
    assert pixels[range(len(pixels))].shape == (16, 3, 32, 32)  # type: ignore[index]


def test_a_name_of_the_rows_is_the_generator_that_draws_them() -> None:
    write_labels(Path("a.csv"), range(6), annotator="a")
    Path("b.csv").write_text(Path("a.csv").read_text().replace("fake:64", "old-name").replace(",a\n", ",b\n"))
    labels = read_sources(settings("a.csv", "b.csv", generators={"old-name": "fake:64"}), quiet)
    assert [len(sample.votes) for sample in labels.samples] == [2] * 6


def test_a_models_vote_counts_once_in_a_persons_store_unless_a_weight_is_given() -> None:
    write_labels(Path("theirs.csv"), range(4), annotator="vlm-a")
    write_labels(Path("mine.csv"), range(4), annotator="ann")
    Path("mine.csv").write_text(Path("mine.csv").read_text() + "fake:64,0,1.0,3,eyes,vlm-b\n")
    base: dict[str, object] = {"path": "theirs.csv", "weight": 1}
    (first, *others) = read_sources(settings(base, "mine.csv"), quiet).samples
    assert [vote.annotator for vote in first.votes] == ["vlm-a", *["ann"] * 4, "vlm-b"]
    assert {sample.weight for sample in (first, *others)} == {4}
    (first, *_) = read_sources(settings(base, {"path": "mine.csv", "weight": 2}), quiet).samples
    assert [vote.annotator for vote in first.votes] == ["vlm-a", *["ann"] * 2, *["vlm-b"] * 2]


def test_the_same_image_under_two_names_is_one_face() -> None:
    for seed in range(4):
        write_image(Path(f"sorted/{'artifact' if seed % 2 else 'clean'}/{seed}.png"), seed)
    shutil.copy("sorted/clean/0.png", "sorted/clean/again.png")
    assert len(read_sources(settings("sorted"), quiet).samples) == 4
    shutil.copy("sorted/clean/0.png", "sorted/artifact/again.png")
    with pytest.raises(LabelError, match=r"artifact/again\.png: annotator 'sorted' says severity 3.*clean/0\.png says"):
        read_sources(settings("sorted"), quiet)


def test_a_new_source_draws_only_its_own_faces() -> None:
    write_labels(Path("a.csv"), range(40))
    write_labels(Path("b.csv"), range(30, 45))
    said: list[str] = []

    def say(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        said.append(text)

    first = read_sources(settings("a.csv"), quiet).pixels(SMALL, torch.device("cpu"), say)
    both = read_sources(settings("a.csv", "b.csv"), quiet).pixels(SMALL, torch.device("cpu"), say)
    assert said == ["drawing 32 of 40 faces", "drawing 40 of 40 faces", "drawing 5 of 5 faces"]
    assert (first[list(range(40))] == both[list(range(40))]).all()
    both.paths[3].write_bytes(both.paths[3].read_bytes()[:100])
    said.clear()
    again = read_sources(settings("a.csv"), quiet).pixels(SMALL, torch.device("cpu"), say)
    assert said == ["drawing 1 of 1 faces"]
    assert (first[list(range(40))] == again[list(range(40))]).all()


def test_peoples_labels_weigh_more_than_the_shipped_ones_which_are_mixed_in_where_a_gate_is_refined() -> None:
    write_labels(Path("mine.csv"), range(40))
    labels = read_sources(settings("mine.csv", pretrained="default", rehearse=80), quiet)
    assert [(fact["faces"], fact["weight"]) for fact in labels.facts] == [(40, 4), (80, 1)]
    assert {(sample.weight, len(sample.votes)) for sample in labels.samples if sample.source == "mine.csv"} == {(4, 4)}
    assert len(read_sources(settings("mine.csv", pretrained="default", rehearse=0), quiet).samples) == 40
    assert {sample.weight for sample in read_sources(settings("mine.csv"), quiet).samples} == {1}


# Bad input


def test_an_annotator_who_says_two_things_of_a_face_is_named_with_both_lines() -> None:
    Path("labels.csv").write_text(f"{HEADER}\nfake:64,1,1.0,0,,ann\nfake:64,2,1.0,3,,ann\nfake:64,1,1,3,eyes,ann\n")
    with pytest.raises(LabelError) as caught:
        read_sources(settings("labels.csv"), quiet)
    assert str(caught.value) == (
        "labels labels.csv, line 4: annotator 'ann' says severity 3, regions eyes; labels.csv, line 2 says severity 0, "
        "regions none of the same face; remove one of the two"
    )


def test_unreadable_images_are_left_out_up_to_a_limit() -> None:
    for seed in range(20):
        write_image(Path(f"sorted/{'artifact' if seed % 2 else 'clean'}/{seed}.png"), seed)
    path = Path("sorted/clean/4.png")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(LabelError, match=r"labels sorted: 1 of 20 images cannot be read, at most 1\.0% may .*4\.png"):
        read_sources(settings("sorted"), quiet)
    labels = read_sources(settings("sorted", max_bad_fraction=0.1), quiet)
    assert (len(labels.samples), len(labels.bad)) == (19, 1)
    assert "4.png: damaged image" in labels.bad[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,1,,ann", r"labels labels\.csv, line 2: the image .*a\.png is missing"),
        ("a.png,4,,ann", r"labels labels\.csv, line 2: severity '4'"),
        ("a.png,1,teeth,ann", r"labels labels\.csv, line 2: region 'teeth'"),
    ],
)
def test_a_wrong_row_is_named(rows: str, message: str) -> None:
    Path("labels.csv").write_text(f"file_name,severity,regions,annotator\n{rows}\n")
    with pytest.raises(LabelError, match=message):
        read_sources(settings("labels.csv"), quiet)


def test_too_few_labels_and_one_kind_alone_are_refused_with_numbers() -> None:
    write_labels(Path("labels.csv"), range(12))
    with pytest.raises(LabelError, match=r"labels labels\.csv: 12 labelled faces are too few, 20 are needed .* 8 more"):
        read_sources(settings("labels.csv", min_faces=20), quiet)
    write_labels(Path("labels.csv"), range(30), lambda seed: 0)
    with pytest.raises(LabelError, match="all 30 faces are clean; label some that are artifacts too"):
        read_sources(settings("labels.csv"), quiet)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.csv", "no such file or folder"),
        ("notes.txt", r"give a \.csv or \.jsonl file"),
        ("empty.csv", "holds no labels"),
        ("half", "artifact/ is missing"),
    ],
)
def test_a_source_of_no_known_kind_is_refused(path: str, message: str) -> None:
    Path("notes.txt").write_text("x")
    Path("empty.csv").write_text(HEADER + "\n")
    write_image(Path("half/clean/1.png"), 1)
    with pytest.raises(LabelError, match=message):
        read_sources(settings(path), quiet)


def test_contents_are_read_and_a_wrong_one_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "contents.csv"
    path.write_text("generator,seed,psi,contents\nold,1,0.7,headwear;hand\nold,2,0.7,\n")
    assert read_contents(path, {"old": "fake:64"}) == {
        Face("fake:64", 1, 0.7): frozenset({"headwear", "hand"}),
        Face("fake:64", 2, 0.7): frozenset(),
    }
    path.write_text("generator,seed,psi,contents\nold,1,0.7,hat\n")
    with pytest.raises(LabelError, match=r"line 2: 'hat'; allowed are headwear, hand, person, glasses"):
        read_contents(path, {})
    path.write_text("generator,seed,psi,contents\nold,x,0.7,\n")
    with pytest.raises(LabelError, match="line 2: seed or psi is no number"):
        read_contents(path, {})
