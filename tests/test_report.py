"""The report says what the ledger holds, the same bytes each time, and shows hostile names as text."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from qgate.errors import OutputError
from qgate.report import contact_sheet, report_metrics, write_figures, write_report
from qgate.report.charts import FEW_ROWS, reason_bars

HOSTILE = "<img src=x onerror=alert(1)>.png"
SCHEMA = pa.schema(
    [
        ("seed", pa.uint32()),
        ("clean_prob", pa.float32()),
        ("verdict", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("file_name", pa.string()),
        ("source", pa.string()),
    ]
)


def write_shard(root: Path, shard: int, rows: list[tuple[Any, ...]], sealed: bool = True) -> None:
    path = root / "ledger" / f"{shard:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), path)
    if sealed:
        path.with_suffix(".json").write_text("{}")


def write_picture(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sealed shards and one torn: 8 judged, 3 accepted, 4 rejected, 1 failed."""
    out = tmp_path / "faces"
    accepted = ["000000/seed0000000001.png", "000000/seed0000000003.png", "000001/seed0000000005.png"]
    for name in accepted:
        write_picture(out / "dataset" / name, "teal")
    write_shard(
        out,
        0,
        [
            (0, 0.25, "rejected", ["mouth", "skin"], "", ""),
            (1, 0.9375, "accepted", [], accepted[0], HOSTILE),
            (2, None, "failed", [], "", ""),
            (3, 1.0, "accepted", [], accepted[1], ""),
        ],
    )
    write_shard(
        out,
        1,
        [
            (4, 0.75, "rejected", ["mouth"], "", ""),
            (5, 0.96875, "accepted", [], accepted[2], ""),
            (6, None, "rejected", ["nonfinite"], "", ""),
            (7, 0.5, "rejected", ["hair"], "", ""),
        ],
    )
    write_shard(out, 2, [(8, 0.99, "accepted", [], "", "")], sealed=False)
    write_picture(out / "review" / "seed0000000004.jpg", "brown")
    line: dict[str, Any] = {"file_name": "seed0000000004.jpg", "seed": 4, "clean_prob": 0.75, "verdict": "rejected"}
    line["reasons"] = ["mouth"]
    (out / "review" / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    run = {
        "qgate": "0.1.0",
        "selection": {"threshold": 0.9, "count": 3},
        "scoring": {"seeds": [[0, 3], [4, 9]], "shard_size": 4},
        "generator": {"name": "folder:<b>bold</b>", "digest": "ab" * 32},
        "gate": {"name": "default", "notes": "Its labels were made by a vision-language model."},
    }
    (out / "run.json").write_text(json.dumps(run))
    return out


def test_the_numbers_are_those_of_the_sealed_shards(root: Path) -> None:
    report = write_report(root)
    assert json.loads((root / "report.json").read_text()) == report
    assert [report[key] for key in ("judged", "accepted", "rejected", "failed")] == [8, 3, 4, 1]
    assert report["yield"] == {
        "value": 0.375,
        "low": pytest.approx(0.0852, abs=5e-5),
        "high": pytest.approx(0.7551, abs=5e-5),
        "confidence": 0.95,
    }
    assert report["reasons"] == {"mouth": 2, "hair": 1, "nonfinite": 1, "skin": 1}
    assert report["expected_escape_rate"]["value"] == 0.03125
    assert "not an audit" in report["expected_escape_rate"]["meaning"]
    counts = report["clean_prob_histogram"]["counts"]
    assert {k: n for k, n in enumerate(counts) if n} == {12: 1, 25: 1, 37: 1, 46: 1, 48: 1, 49: 1}
    accepted_at = {point["threshold"]: point["accepted"] for point in report["yield_at"]}
    assert [accepted_at[t] for t in (0.5, 0.51, 0.75, 0.76, 0.95, 0.97, 0.99)] == [5, 4, 4, 3, 2, 1, 1]
    assert report["run"]["selection"] == {"threshold": 0.9, "count": 3}


def test_the_same_run_gives_the_same_bytes(root: Path) -> None:
    names = ("report.json", "report.html")
    write_report(root)
    first = [(root / name).read_bytes() for name in names]
    write_report(root)
    assert [(root / name).read_bytes() for name in names] == first
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == ["report.html", "report.json", "run.json"]


def test_hostile_names_are_text_and_nothing_is_loaded_from_elsewhere(root: Path) -> None:
    write_report(root)
    page = (root / "report.html").read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert HOSTILE not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert set(re.findall(r"<img src=\"(.{11})", page)) == {"data:image/"}
    assert not re.findall(r"(?:href|src)=\"(?!#|data:)", page)


def test_the_page_shows_the_faces_and_what_the_gate_says_of_itself(root: Path) -> None:
    write_report(root)
    page = (root / "report.html").read_text()
    assert page.count("<img ") == 4
    assert page.count("<svg ") == 3
    assert "3 of 3, chosen at random, the lowest score first." in page
    assert "<td>0-3, 4-9</td>" in page
    assert "made by a vision-language model" in page
    assert "not an audit" in page


def test_a_run_that_judged_nothing_still_has_a_report(root: Path) -> None:
    for path in [*(root / "ledger").iterdir(), *(root / "review").iterdir()]:
        path.unlink()
    report = write_report(root)
    assert report["judged"] == 0
    assert report["yield"] == {"value": None, "low": 0.0, "high": 1.0, "confidence": 0.95}
    assert report["expected_escape_rate"]["value"] is None
    assert report_metrics(report) == {"judged": 0.0, "accepted": 0.0, "rejected": 0.0, "failed": 0.0}
    assert "review/ holds no rejected faces" in (root / "report.html").read_text()


def test_pictures_that_are_gone_or_broken_are_left_out(root: Path) -> None:
    (root / "dataset/000000/seed0000000001.png").unlink()
    (root / "dataset/000000/seed0000000003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_report(root)
    assert (root / "report.html").read_text().count("<img ") == 2


def test_the_sample_of_accepted_faces_is_capped_and_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    picked = []
    for size in (10, 100):
        out = tmp_path / str(size)
        for name in range(100):
            write_picture(out / "dataset" / f"{name}.png", "navy")
        for shard in range(100 // size):
            seeds = range(shard * size, (shard + 1) * size)
            write_shard(out, shard, [(seed, 0.95, "accepted", [], f"{seed}.png", "") for seed in seeds])
        (out / "run.json").write_text("{}")
        write_report(out)
        picked.append(re.findall(r"alt=\"seed (\d+)\"", (out / "report.html").read_text()))
    assert picked[0] == picked[1]
    assert len(picked[0]) == 48
    assert picked[0] != [str(seed) for seed in range(48)]


def test_figures_for_mlflow_stay_outside_the_output_folder(root: Path, tmp_path: Path) -> None:
    before = sorted(root.rglob("*"))
    paths = write_figures(root, tmp_path)
    assert [path.name for path in paths] == ["accepted.png", "rejected.png", "scores.png"]
    assert {path.read_bytes()[:4] for path in paths} == {b"\x89PNG"}
    assert sorted(root.rglob("*")) == before


def test_a_contact_sheet_has_one_captioned_tile_for_each_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", "red")
    sheet = contact_sheet([(tmp_path / "a.png", "0.950"), (tmp_path / "gone.png", "0.900")], columns=2, size=50)
    assert sheet.size == (2 * 62 + 12, 50 + 24 + 12 + 12)
    assert sheet.getpixel((30, 30)) == (255, 0, 0)
    assert sheet.getpixel((95, 40)) == (255, 255, 255)
    caption = sheet.crop((12, 62, 62, 86)).convert("L").tobytes()
    assert min(caption) < 128 < max(caption)


def test_numbers_for_a_tracker_are_flat(root: Path) -> None:
    metrics = report_metrics(write_report(root))
    assert metrics["yield"] == 0.375
    assert metrics["reason.mouth"] == 2.0
    assert metrics["expected_escape_rate"] == 0.03125


def test_a_damaged_shard_is_named(root: Path) -> None:
    (root / "ledger" / "000001.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(OutputError, match=r"000001\.parquet: cannot be read .* `qgate verify`"):
        write_report(root)


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"run\.json cannot be read"):
        write_report(tmp_path)


def test_rejected_faces_are_shown_with_their_heat_maps_and_the_same_bytes_each_time(root: Path) -> None:
    def corner(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert pixels.shape == (64, 64, 3)
        heat = np.zeros((32, 32), np.float32)
        heat[:8, :8] = 1
        return heat

    write_report(root, corner)
    page = (root / "report.html").read_text()
    assert page.count('alt="where the gate sees the artifact"') == 1
    uri = re.findall(r"base64,([^\"]+)\" alt=\"where", page)[0]
    with Image.open(io.BytesIO(base64.b64decode(uri))) as heat:
        hot, cold = (heat.getpixel(place) for place in ((10, 10), (140, 140)))
    assert isinstance(hot, tuple) and isinstance(cold, tuple)
    assert hot[0] > 200 > 120 > cold[0]
    write_report(root, corner)
    assert (root / "report.html").read_text() == page


def test_only_some_of_many_rejected_faces_are_explained(root: Path) -> None:
    index = root / "review" / "metadata.jsonl"
    line = json.loads(index.read_text())
    index.write_text("".join(json.dumps(line | {"seed": seed}) + "\n" for seed in range(40)))
    asked: list[int] = []

    def nothing(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(1)
        return np.zeros((8, 8), np.float32)

    write_report(root, nothing)
    assert len(asked) == 12
    assert (root / "report.html").read_text().count('alt="where the gate sees the artifact"') == 12


def test_few_reasons_make_thin_bars_with_the_commonest_on_top() -> None:
    from matplotlib.figure import Figure

    for count in (1, 3, 9):
        axes = Figure().subplots()
        reason_bars(axes, {"reasons": {f"reason {n}": 10 - n for n in range(count)}})
        low, high = axes.get_ylim()
        assert high - low == max(count, FEW_ROWS)
        assert (high, axes.get_yticklabels()[-1].get_text()) == (count - 0.5, "reason 0")
