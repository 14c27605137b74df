"""Labels of every kind become one set of faces, and wrong input is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from qgate.errors import LabelError
from qgate.gate.preprocess import Preprocessing
from qgate.labels.answers import Answer, Decision
from qgate.labels.rows import Face
from qgate.labels.store import LabelStore
from tests.training_recipe import HEADER, quiet, recipe, write_image, write_labels
from training.config import TrainConfig, Use
from training.data.sources import read_source, read_sources
from training.data.tables import read_contents, read_picture_contents

SMALL = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache and a working folder of its own."""
    monkeypatch.setenv("QGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def settings(*sources: object, **changes: object) -> TrainConfig:
    return recipe(Path(), sources=list(sources), **({"min_faces": 2} | changes))


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
    assert [fact.faces for fact in labels.facts] == [10, 4, 2, 1]
    (zero,) = [sample for sample in labels.samples if sample.face == Face("fake:64", 0, 1.0)]
    assert [(vote.annotator, vote.severity) for vote in zero.votes] == [("test", 0), ("ann", 2)]
    files = [sample for sample in labels.samples if sample.face.file_name]
    assert {len(sample.identity) for sample in files} == {64}
    (pixels,) = labels.views([SMALL], torch.device("cpu"), quiet)
    assert pixels[range(len(pixels))].shape == (16, 3, 32, 32)


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

    (first,) = read_sources(settings("a.csv"), quiet).views([SMALL], torch.device("cpu"), say)
    (both,) = read_sources(settings("a.csv", "b.csv"), quiet).views([SMALL], torch.device("cpu"), say)
    assert said == ["drawing 32 of 40 faces", "drawing 40 of 40 faces", "drawing 5 of 5 faces"]
    assert (first[list(range(40))] == both[list(range(40))]).all()
    both.paths[3].write_bytes(both.paths[3].read_bytes()[:100])
    said.clear()
    (again,) = read_sources(settings("a.csv"), quiet).views([SMALL], torch.device("cpu"), say)
    assert said == ["drawing 1 of 1 faces"]
    assert (first[list(range(40))] == again[list(range(40))]).all()


def test_peoples_labels_weigh_more_than_the_shipped_ones_which_are_mixed_in_where_a_gate_is_refined() -> None:
    write_labels(Path("mine.csv"), range(40))
    labels = read_sources(settings("mine.csv", pretrained="default", rehearse=80), quiet)
    assert [(fact.faces, fact.weight) for fact in labels.facts] == [(40, 4), (80, 1), (80, 1)]
    assert {(sample.weight, len(sample.votes)) for sample in labels.samples if sample.source == "mine.csv"} == {(4, 4)}
    assert len(read_sources(settings("mine.csv", pretrained="default", rehearse=0), quiet).samples) == 40
    assert {sample.weight for sample in read_sources(settings("mine.csv"), quiet).samples} == {1}


def test_a_face_of_several_sources_is_for_what_the_strictest_of_them_says_and_is_believed_as_the_best() -> None:
    uses = (Use.LEARN, Use.APART, Use.ALL, Use.JUDGE)
    sources = []
    for number, use in enumerate(uses):  # face 0 is in the first alone, face 3 in all of them
        path = write_labels(Path(f"{use}.csv"), range(number, 4), annotator=use)
        sources.append({"path": str(path), "use": use, "trust": 0.5 + number / 10})
    labels = read_sources(settings(*sources[::-1]), quiet)
    assert [sample.use for sample in labels.samples] == list(uses)
    assert [sample.trust for sample in labels.samples] == [0.5, 0.6, 0.7, 0.8]
    assert [fact.use for fact in labels.facts] == list(uses[::-1])
    assert {sample.use for sample in labels.learned({"3"}).samples if sample.identity == "3"} == {Use.LEARN}


def test_of_every_picture_of_a_folder_one_severity_may_be_said() -> None:
    for seed, name in enumerate(("a.png", "deep/b.png", "deep/er/c.png")):
        write_image(Path("photographs", name), seed)
    write_labels(Path("drawn.csv"), range(4))
    labels = read_sources(settings("drawn.csv", {"path": "photographs", "severity": 0}), quiet)
    files = {sample.name: sample for sample in labels.samples if sample.face.file_name}
    assert files.keys() == {"a.png", "b.png", "c.png"}
    assert {sample.votes[0].severity for sample in files.values()} == {0}
    assert labels.facts[1].clean == 3
    assert {label.severity for label in read_source(Path("photographs"), severity=2)} == {2}
    with pytest.raises(LabelError, match="clean/ is missing"):
        read_source(Path("photographs"))
    with pytest.raises(LabelError, match=r"labels drawn\.csv: severity = 0 is said of all pictures of a folder"):
        read_source(Path("drawn.csv"), severity=0)


def test_file_names_are_relative_to_their_table_or_to_the_root_that_is_named() -> None:
    rows = ["file_name,severity,regions,annotator", *(f"{seed}.png,{seed % 2 * 3},,ann" for seed in range(4))]
    Path("tables").mkdir()
    Path("tables/labels.csv").write_text("\n".join(rows) + "\n")
    for seed in range(4):
        write_image(Path(f"elsewhere/{seed}.png"), seed)
    with pytest.raises(LabelError, match=r"the image .*tables/0\.png is missing"):
        read_sources(settings("tables/labels.csv"), quiet)
    labels = read_sources(settings({"path": "tables/labels.csv", "root": "elsewhere"}), quiet)
    assert [Path(sample.face.file_name) for sample in labels.samples] == [
        Path(f"elsewhere/{seed}.png").absolute() for seed in range(4)
    ]


def test_what_needs_the_folder_of_pictures_is_left_out_with_a_line_where_none_is_given() -> None:
    write_labels(Path("drawn.csv"), range(6))
    for seed in range(2):
        write_image(Path(f"all/photographs/{seed}.png"), seed)
    write_image(Path("all/other/2.png"), 2)
    Path("pictures.csv").write_text("file_name,severity,regions,annotator\nother/2.png,3,eyes,ann\n")
    sources = (
        "drawn.csv",
        {"path": "pictures:photographs", "severity": 0, "use": "apart"},
        {"path": "pictures.csv", "root": "pictures:", "use": "apart"},
    )
    said: list[str] = []

    def say(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        said.extend([text] if important else [])

    without = read_sources(settings(*sources), say)
    assert (len(without.samples), len(without.facts)) == (6, 1)
    assert said == [
        "no folder of pictures is given (--pictures): the gate learns nothing from pictures:photographs, pictures.csv"
    ]
    said.clear()
    given = read_sources(settings(*sources, pictures="all"), say)
    assert said == []
    assert [fact.faces for fact in given.facts] == [6, 2, 1]
    found = {sample.name: (sample.clean_votes, sample.use) for sample in given.samples if sample.face.file_name}
    assert found == {"0.png": (1.0, "apart"), "1.png": (1.0, "apart"), "2.png": (0.0, "apart")}
    with pytest.raises(LabelError, match="0 labelled faces are too few"):
        read_sources(settings(*sources[1:]), quiet)


def test_contents_of_pictures_are_known_where_their_folder_is_given(tmp_path: Path) -> None:
    (tmp_path / "contents.csv").write_text("file_name,contents\nother/2.png,headwear;glasses\nother/3.png,\n")
    assert read_picture_contents(tmp_path / "contents.csv", Path("all")) == {
        Face(file_name=str(tmp_path / "all/other/2.png")): frozenset({"headwear", "glasses"}),
        Face(file_name=str(tmp_path / "all/other/3.png")): frozenset(),
    }
    (tmp_path / "contents.csv").write_text("file_name,contents\nother/2.png,hat\n")
    with pytest.raises(LabelError, match="line 2: 'hat'; allowed are headwear"):
        read_picture_contents(tmp_path / "contents.csv", Path("all"))


def test_each_look_has_its_own_pixels_of_every_face_and_draws_none_twice() -> None:
    write_labels(Path("drawn.csv"), range(3))
    for seed in range(2):
        write_image(Path(f"sorted/{'artifact' if seed else 'clean'}/{seed}.png"), seed)
    labels = read_sources(settings("drawn.csv", "sorted"), quiet)
    said: list[str] = []

    def say(text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        said.append(text)

    middle = Preprocessing(size=32, crop=(0.25, 0.25, 0.75, 0.75), mean=(0.5,) * 3, std=(0.5,) * 3)
    views = labels.views([SMALL, middle], torch.device("cpu"), say)
    assert [text for text in said if "drawing" in text] == ["drawing 3 of 3 faces"]
    for row, picture in enumerate(labels.pictures(range(5), torch.device("cpu"))):
        for pixels, look in zip(views, (SMALL, middle), strict=True):
            assert (pixels[[row]] == look.resize(picture).numpy()).all()
    said.clear()
    labels.views([middle], torch.device("cpu"), say)
    assert not [text for text in said if "drawing" in text]


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
