from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from qgate.dataset.encode import ImageFormat
from qgate.dataset.manifest import card
from qgate.records import Tally
from tests.dataset_driver import HEADER, drive, face


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_metadata_has_a_line_for_each_face_with_file_name_first(tmp_path: Path) -> None:
    drive(tmp_path, count=2)
    first, second = lines(tmp_path / "dataset" / "metadata.jsonl")
    assert list(first) == ["file_name", "seed", "truncation_psi", "clean_prob", "generator", "gate", "sha256"]
    assert (first["seed"], second["seed"]) == (0, 1)
    del second["sha256"]
    assert second == {
        "file_name": "000000/seed0000000001.png",
        "seed": 1,
        "truncation_psi": 0.7,
        "clean_prob": 0.6875,
        "generator": "made-up",
        "gate": "coin",
    }


def test_metadata_says_so_where_the_stored_pixels_are_not_the_judged_ones(tmp_path: Path) -> None:
    drive(tmp_path / "jpeg", count=1, image_format=ImageFormat("jpeg"))
    drive(tmp_path / "small", count=1, image_format=ImageFormat(resolution=8))
    for name, suffix in (("jpeg", "jpg"), ("small", "png")):
        (line,) = lines(tmp_path / name / "dataset" / "metadata.jsonl")
        assert line["judged_pixels"] == "original"
        assert line["file_name"] == f"000000/seed0000000000.{suffix}"
        assert "not these" in (tmp_path / name / "dataset" / "README.md").read_text()


def test_metadata_names_the_source_of_images_from_a_folder(tmp_path: Path) -> None:
    drive(tmp_path, count=1, image_format=ImageFormat(synthetic=False))
    (line,) = lines(tmp_path / "dataset" / "metadata.jsonl")
    assert line["source"] == ""


def test_the_review_sample_is_listed_with_verdicts_and_reasons(tmp_path: Path) -> None:
    drive(tmp_path, count=3)
    assert lines(tmp_path / "review" / "metadata.jsonl") == [
        {"file_name": "seed0000000001.jpg", "seed": 1, "clean_prob": 0.6875, "verdict": "accepted", "reasons": []},
        {
            "file_name": "seed0000000002.jpg",
            "seed": 2,
            "clean_prob": 0.375,
            "verdict": "rejected",
            "reasons": ["shape"],
        },
        {
            "file_name": "seed0000000004.jpg",
            "seed": 4,
            "clean_prob": 0.75,
            "verdict": "accepted",
            "reasons": [],
        },
    ]


def test_the_card_says_how_the_faces_were_chosen() -> None:
    text = card(HEADER, Tally(accepted=7, rejected=12, failed=1))
    assert "Generator: made-up, truncation_psi 0.7; sha256 `aa11`" in text
    assert "Gate: coin; sha256 `bb22`" in text
    assert "clean_prob is at least 0.5" in text
    assert "Yield (accepted / judged): 0.3500" in text
    assert "PNG, lossless" in text
    assert "The labels behind this gate were made by a vision-language model." in text
    assert "Made-up faces are free." in text
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {
        "license": "other",
        "task_categories": ["unconditional-image-generation"],
        "size_categories": ["n<1K"],
        "tags": ["faces", "qgate", "synthetic"],
    }


@pytest.mark.parametrize(
    ("accepted", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (2_000_000, "1M<n<10M")]
)
def test_the_card_names_the_size_as_the_hub_does(accepted: int, category: str) -> None:
    text = card(HEADER, Tally(accepted=accepted))
    assert yaml.safe_load(text.split("---\n")[1])["size_categories"] == [category]


def test_photographs_are_not_called_synthetic() -> None:
    assert "synthetic" not in card(replace(HEADER, image_format=ImageFormat(synthetic=False)), Tally(accepted=1))


@pytest.mark.filterwarnings("ignore")
def test_the_dataset_loads_as_a_hugging_face_imagefolder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install datasets")
    drive(tmp_path / "run")
    faces = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "run" / "dataset"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert faces["seed"][:] == [0, 1, 4, 7, 8, 13, 14]
    assert np.array_equal(np.asarray(faces[3]["image"]), face(7))
