"""What a label store writes, others read, and it reads it back the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from qgate.errors import LabelError
from qgate.labels.answers import Mark, Purpose
from qgate.labels.exchange import annotator_name, export_labels, import_labels, to_coco, to_csv
from qgate.labels.marks import encode_mask
from qgate.labels.rows import Face, Label, read_labels
from qgate.labels.store import LabelStore
from tests.label_driver import answer

BOX = Mark("mouth", ((0.25, 0.5), (0.5, 0.75)))
STROKE = Mark("hair", ((0.5, 0.5),), 0.05)


def filled(path: Path, *answers: object) -> LabelStore:
    store = LabelStore(path)
    store.add_all(answers)  # type: ignore[arg-type]
    return store


def test_drawn_faces_as_csv(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", answer(3, severity=2, regions=("eyes", "hair")), answer(4, severity=None)) as store:
        assert export_labels(store, tmp_path / "out.csv", "csv") == (1, 1)

    assert (tmp_path / "out.csv").read_text() == (
        "generator,seed,psi,severity,regions,annotator\nfake:64,3,1.0,2,eyes;hair,anna\n"
    )


def test_image_files_as_csv(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", answer(0, severity=1, face=Face(file_name="faces/a, b.png"))) as store:
        export_labels(store, tmp_path / "out.csv", "csv")

    assert (tmp_path / "out.csv").read_text() == ('file_name,severity,regions,annotator\n"faces/a, b.png",1,,anna\n')


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("name", ["plain.png", "=cmd|' /C calc'!A0.png", "'=x.png", "-1.png", "@a.png", "ä 🙂.png"])
def test_rows_come_back_the_same(tmp_path: Path, suffix: str, name: str) -> None:
    given = [answer(0, "=anna", 2, face=Face(file_name=name), regions=("skin",)), answer(1, "ben", 0)]
    given[1:] = [answer(0, "ben", 0, face=Face(file_name=name))]
    path = tmp_path / f"out{suffix}"
    with filled(tmp_path / "a.db", *given) as store, LabelStore(tmp_path / "b.db") as other:
        export_labels(store, path, suffix[1:])
        assert import_labels(other, path) == (2, 0)
        assert other.labels() == store.labels()
        assert import_labels(other, path) == (0, 2)


def test_no_cell_of_a_csv_is_a_formula() -> None:
    labels = [Label(Face(file_name=f"{sign}1+1.png"), 0, (), f"{sign}SUM(A1)") for sign in "=+-@"]
    cells = [cell for line in to_csv(labels).splitlines() for cell in line.split(",")]

    assert [cell for cell in cells if cell.startswith(tuple("=+-@"))] == []
    assert "'=1+1.png" in cells


def test_a_csv_holds_one_kind_of_faces(tmp_path: Path) -> None:
    with (
        filled(tmp_path / "a.db", answer(0), answer(0, face=Face(file_name="a.png"))) as store,
        pytest.raises(LabelError, match="export as jsonl"),
    ):
        export_labels(store, tmp_path / "out.csv", "csv")
    assert not (tmp_path / "out.csv").exists()


def test_label_studio_files_come_back_with_boxes_strokes_and_unsure(tmp_path: Path) -> None:
    marked = answer(1, "anna", 3, regions=("mouth",), marks=(BOX, STROKE), width=64, height=32)
    path = tmp_path / "out.json"
    with filled(tmp_path / "a.db", marked, answer(1, "ben", None), answer(2, "ben", 1)) as store:
        assert export_labels(store, path, "label-studio") == (3, 0)
    tasks = json.loads(path.read_text())
    [box] = [found for found in tasks[0]["annotations"][0]["result"] if found["id"] == "mark0"]
    with LabelStore(tmp_path / "b.db") as other:
        import_labels(other, path)
        back = other.standing()

    assert box["value"] == {
        "x": 25,
        "y": 50,
        "width": 25,
        "height": 25,
        "rotation": 0,
        "rectanglelabels": ["mouth"],
    }
    assert [(a.annotator, a.severity, a.face.seed) for a in back] == [("anna", 3, 1), ("ben", None, 1), ("ben", 1, 2)]
    assert back[0].marks == (BOX, STROKE)
    assert (back[0].width, back[0].height, back[0].purpose) == (64, 32, Purpose.IMPORT)


def test_boxes_and_strokes_as_coco() -> None:
    found = to_coco([answer(1, severity=2, marks=(BOX, STROKE), width=64, height=32)])
    box, stroke = found["annotations"]

    assert found["images"] == [
        {
            "id": 1,
            "file_name": "seed0000000001.png",
            "width": 64,
            "height": 32,
            "generator": "fake:64",
            "seed": 1,
            "psi": 1.0,
        }
    ]
    assert (box["bbox"], box["area"], box["category_id"]) == ([16.0, 16.0, 16.0, 8.0], 128.0, 3)
    assert box["segmentation"] == [[16.0, 16.0, 32.0, 16.0, 32.0, 24.0, 16.0, 24.0]]
    assert stroke["segmentation"]["size"] == [32, 64]
    assert (box["iscrowd"], stroke["iscrowd"]) == (0, 0)
    assert sum(stroke["segmentation"]["counts"]) == 32 * 64
    assert stroke["area"] == sum(stroke["segmentation"]["counts"][1::2]) > 30
    assert {"id": 3, "name": "mouth"} in found["categories"]


def test_a_mask_runs_down_the_columns_and_starts_with_zeros() -> None:
    assert encode_mask(np.array([[1, 0], [1, 1]], np.bool_)) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
    assert encode_mask(np.array([[0, 0], [0, 1]], np.bool_)) == {"size": [2, 2], "counts": [3, 1]}


def test_gold_is_taken_in_as_such(tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("generator,seed,psi,severity,regions,annotator\nfake:64,3,1.0,2,,expert\n")
    with LabelStore(tmp_path / "a.db") as store:
        import_labels(store, tmp_path / "gold.csv", gold=True)

        assert store.labels() == []
        assert [gold.severity for gold in store.gold().values()] == [2]


def test_the_export_is_read_by_training(tmp_path: Path) -> None:
    with filled(tmp_path / "a.db", answer(3, severity=2, regions=("eyes",))) as store:
        export_labels(store, tmp_path / "out.jsonl", "jsonl")

        assert read_labels(tmp_path / "out.jsonl") == store.labels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "a list of Label Studio tasks"),
        ("nonsense", "cannot be read as JSON"),
        ('[{"data": {"image": "a.png"}, "annotations": [{"result": []}]}]', "task 1: ValueError: one choice named"),
        ('[{"annotations": []}]', "task 1: KeyError"),
    ],
)
def test_a_file_that_is_none_of_label_studio_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "in.json").write_text(text)
    with LabelStore(tmp_path / "a.db") as store, pytest.raises(LabelError, match=message):
        import_labels(store, tmp_path / "in.json")


@pytest.mark.parametrize("name", ["", "   ", "a" * 65, "tab\tinside", "\x1b[31mred"])
def test_a_name_must_be_short_and_printable(name: str) -> None:
    with pytest.raises(LabelError, match="1 to 64 printable"):
        annotator_name(name)
