"""Label rows are read as they are meant, and a wrong one is named with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qgate.errors import LabelError
from qgate.labels.rows import Face, Label, gather_votes, read_labels

HEADER = "generator,seed,psi,severity,regions,annotator\n"


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_row_becomes_a_label_with_regions_in_the_rubrics_order(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "fake:64,7,0.85,2,hair;eyes,ann\nfake:64,8,1.0,0,,ann\n")
    assert read_labels(path) == [
        Label(Face("fake:64", 7, 0.85), 2, ("eyes", "hair"), "ann"),
        Label(Face("fake:64", 8, 1.0), 0, (), "ann"),
    ]


def test_json_lines_and_image_files_are_read_too(tmp_path: Path) -> None:
    text = '{"file_name": "a/b.png", "severity": 1, "regions": ["mouth"], "annotator": "bo"}\n\n'
    path = write(tmp_path, text, "labels.jsonl")
    assert read_labels(path) == [Label(Face(file_name="a/b.png"), 1, ("mouth",), "bo")]
    path = write(tmp_path, "file_name,severity,regions,annotator\na/b.png,1,mouth,bo\n")
    assert read_labels(path) == [Label(Face(file_name="a/b.png"), 1, ("mouth",), "bo")]


@pytest.mark.parametrize(("severity", "artifact"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_face_is_an_artifact_from_noticeable_on(severity: int, artifact: bool) -> None:
    assert Label(Face("fake:64", 1), severity, (), "ann").artifact is artifact


def test_annotators_vote_and_the_same_row_twice_counts_once(tmp_path: Path) -> None:
    rows = ["fake:64,1,1.0,2,eyes,ann", "fake:64,1,1,2,eyes,ann", "fake:64,1,1.0,3,eyes,bo"]
    votes = gather_votes(read_labels(write(tmp_path, HEADER + "\n".join(rows))))
    assert {face: [(v.annotator, v.severity) for v in labels] for face, labels in votes.items()} == {
        Face("fake:64", 1, 1.0): [("ann", 2), ("bo", 3)]
    }


def test_an_annotator_who_contradicts_himself_is_named_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "fake:64,1,1.0,0,,ann\nfake:64,1,1.0,3,,bo\nfake:64,1,1.0,2,eyes,ann\n")
    with pytest.raises(
        LabelError, match=r"labels\.csv, line 4: annotator 'ann' says severity 2.*line 2 says severity 0"
    ):
        gather_votes(read_labels(path))


def test_the_metadata_of_a_dataset_with_a_severity_is_a_label_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, "file_name,seed,truncation_psi,generator,severity\na/b.png,5,0.7,fake:64,2\n", "metadata.csv"
    )
    assert read_labels(path) == [Label(Face("fake:64", 5, 0.7), 2, (), "metadata")]
    path = write(tmp_path, '{"file_name": "b.png", "severity": 0, "generator": "folder:x", "seed": 3}\n', "m.jsonl")
    assert read_labels(path) == [Label(Face(file_name="b.png"), 0, (), "m")]


def test_a_face_that_a_seed_does_not_name_goes_by_its_file(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "seed": 1, "generator": "stylegan2-ada", "class": 3, "severity": 0},
        {"file_name": "b.png", "seed": 2, "generator": "stylegan2-ada", "latents": "w.npz", "severity": 0},
        {"file_name": "c.png", "seed": 3, "generator": "fake", "truncation_psi": 0.7, "severity": 0},
    ]
    (path := tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    faces = [label.face for label in read_labels(path)]
    assert faces == [Face(file_name="a.png"), Face(file_name="b.png"), Face("fake", 3, 0.7)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("fake:64,-1,1.0,0,,ann", "seed '-1'; seeds are 0..4294967295"),
        ("fake:64,4294967296,1.0,0,,ann", "seed '4294967296'"),
        ("fake:64,1,nan,0,,ann", "psi 'nan'; a number from -2 to 2"),
        ("fake:64,1,1.0,4,,ann", "severity '4'; allowed are 0 clean"),
        ("fake:64,1,1.0,2,teeth,ann", "region 'teeth'; allowed are forehead, eyes"),
        ("fake:64,1,1.0,2,eyes,", "annotator ''; a text that is not empty"),
        ("fake:64,1,1.0,2,eyes", "5 fields, the header has 6"),
    ],
)
def test_a_wrong_row_is_named_with_file_line_and_what_is_allowed(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path, HEADER + "fake:64,1,1.0,0,,ann\n" + row + "\n")
    with pytest.raises(LabelError) as caught:
        read_labels(path)
    assert f"labels {path}, line 3: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "seed,severity\n1,2\n", "line 1: the columns are 'seed,severity'"),
        ("labels.csv", "", "line 1: the columns are ''"),
        ("labels.csv", HEADER + 'fake:64,1,"1.0,0,,ann', "line 2: no CSV"),
        ("labels.jsonl", "{}\n", "line 1: the columns are ''"),
        ("labels.jsonl", "[1\n", "line 1: no JSON"),
        ("labels.txt", "", "the name must end in .csv or .jsonl"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(LabelError, match="labels ") as caught:
        read_labels(write(tmp_path, text, name))
    assert message in str(caught.value)


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot be read as UTF-8"):
        read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(HEADER.encode() + b"\xff\xfe")
    with pytest.raises(LabelError, match="cannot be read as UTF-8"):
        read_labels(tmp_path / "labels.csv")


def test_the_shipped_set_holds_what_its_rubric_says() -> None:
    labels = read_labels(Path("training/labels/train.csv"))
    votes = gather_votes(labels)
    assert len(labels) == 7800
    assert len(votes) == 5400
    assert sum(len(by_face) == 2 for by_face in votes.values()) == 2400
    assert all(label.annotator.startswith("vlm-") for label in labels)
