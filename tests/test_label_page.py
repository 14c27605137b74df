"""The label page's server: who may ask, what it takes, what it gives out. Rows 42-48 of the fault table."""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from qgate.cli.main import main
from qgate.errors import InputError
from qgate.labels.rows import Face
from qgate.labels.store import LabelStore
from qgate.records import REGIONS, Score
from qgate.web.app import train_command
from qgate.web.faces import Faces, Shown
from qgate.web.scorer import start_scorer
from qgate.web.serve import Request, farewell, label
from tests.label_server import SAME_ORIGIN, Served, make_faces, serve_in_thread

NAMES = ["a.png", "b.jpg", "c.webp"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serve_in_thread(make_faces(tmp_path / "faces", NAMES), tmp_path / "labels.db") as page:
        yield page


def test_an_answer_of_our_own_page_is_kept(served: Served) -> None:
    reply = served.post("/api/answer", served.answer(1, decision="artifact", severity=3, regions=["eyes"]))

    assert (reply.status, reply.json) == (200, {"id": 1, "clean_prob": None})
    [label] = served.page.store.labels()
    assert (label.face.file_name, label.severity, label.regions) == ("faces/b.jpg", 3, ("eyes",))


def test_the_page_and_its_parts_are_served(served: Served) -> None:
    types = {
        "/": "text/html; charset=utf-8",
        "/static/main.js": "text/javascript; charset=utf-8",
        "/static/style.css": "text/css; charset=utf-8",
        "/image/0": "image/png",
        "/image/1": "image/jpeg",
        "/image/2": "image/webp",
    }

    assert {path: served.ask("GET", path).headers["content-type"] for path in types} == types


def test_two_annotators_on_one_face_are_both_kept(served: Served) -> None:
    """Row 46: and two tabs of one annotator, whose last word counts."""
    for name, severity in (("anna", 0), ("ben", 1), ("anna", 1)):
        served.post("/api/answer", served.answer(0, annotator=name, severity=severity))

    assert [(found.annotator, found.severity) for found in served.page.store.labels()] == [("ben", 1), ("anna", 1)]
    assert served.kept == 3


def test_an_answer_that_is_sent_again_is_kept_once(served: Served) -> None:
    body = served.answer(0)
    replies = [served.post("/api/answer", body).json["id"] for _ in range(3)]

    assert (replies, served.kept) == ([1, 1, 1], 1)


def test_a_fault_of_the_store_is_no_fault_of_the_answer_and_says_its_cause(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with serve_in_thread(make_faces(tmp_path / "faces", NAMES), path, busy_seconds=0.1) as served:
        body = served.answer(0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        replies = [served.post("/api/answer", body), served.post("/api/undo", {"annotator": "anna", "key": "undo-key"})]
        other.close()

        assert [reply.status for reply in replies] == [503, 503]
        assert all("database is locked; another program" in reply.json["error"] for reply in replies)
        assert served.post("/api/answer", body).json["id"] == 1
        served.page.store.close()
        assert served.post("/api/answer", served.answer(1)).status == 503


def test_the_largest_answer_that_the_page_can_give_is_kept(served: Served) -> None:
    stroke = {"region": "background", "points": [[0.1234, 0.5678]] * 500, "radius": 0.02}
    box = {"region": "background", "points": [[0.1234, 0.5678]] * 2, "radius": 0}
    marks = [stroke] * 5 + [{**stroke, "points": stroke["points"][:300]}] + [box] * 93 + [stroke]
    body = served.answer(0, annotator="a" * 64, regions=list(REGIONS), marks=marks)
    # As a browser writes it, without blanks.
    reply = served.ask("POST", "/api/answer", json.dumps(body, separators=(",", ":")).encode(), SAME_ORIGIN)

    assert (len(marks), reply.status) == (100, 200)


def test_what_breaks_within_a_route_is_told_to_the_page(tmp_path: Path) -> None:
    with serve_in_thread(BrokenFaces("broken", [Shown(Face("fake:64", 1, 1.0))]), tmp_path / "labels.db") as served:
        reply = served.ask("GET", "/image/0")

        assert (reply.status, reply.json) == (500, {"error": "RuntimeError: the generator is gone"})


class BrokenFaces(Faces):
    def picture(self, index: int) -> tuple[bytes, str]:
        raise RuntimeError("the generator is gone")


def test_an_answer_to_the_faces_of_an_earlier_start_is_refused(served: Served) -> None:
    assert served.post("/api/answer", served.answer(0, faces="0123456789abcdef")).status == 409
    assert served.kept == 0


class BrokenGate:
    def score(self, images: Sequence[Tensor] | Tensor) -> list[Score]:
        raise RuntimeError("the device\nis gone")


def test_a_gate_that_dies_beside_the_page_is_told_on_page_and_terminal(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    start_scorer(served.page.faces, BrokenGate()).join(20)
    state = served.post("/api/state", {"annotator": "anna", "order": "random"}).json

    assert state["scoring_fault"] == "the device is gone"
    assert "warning: the gate stopped scoring after 0 of 3 faces: the device is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"item": -1},
        {"severity": 4},
        {"decision": "perhaps"},
        {"regions": ["nose"]},
        {"marks": [{"region": "", "points": [[0, 1.5]]}]},
        {"marks": [{"region": "", "points": [[0, 0.5]], "radius": 9}]},
        {"marks": [{"region": "", "points": []}]},
        {"seconds": -1},
        {"annotator": "  "},
        {"annotator": "a\nb"},
        {"annotator": "a" * 65},
        {"key": "short"},
        {"key": "'; DROP TABLE x"},
        {"purpose": "import"},
        {"purpose": "reference"},
        {"decision": "clean", "severity": 3},
        {"extra": 1},
    ],
)
def test_an_answer_that_breaks_the_rules_is_refused(served: Served, change: dict[str, object]) -> None:
    reply = served.post("/api/answer", served.answer(0, **change))

    assert (reply.status, served.kept) == (422, 0)
    assert reply.json["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"item": NaN}', b"\xff\xfe", b"[" * 30000])
def test_a_body_that_is_no_answer_is_refused(served: Served, body: bytes) -> None:
    assert served.ask("POST", "/api/answer", body, SAME_ORIGIN).status in (400, 422)
    assert served.ask("GET", "/api/about").status == 200


def test_a_page_for_the_network_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add --token"):
        label(Request(store=tmp_path / "labels.db", target=tmp_path, host="0.0.0.0"))

    assert not (tmp_path / "labels.db").exists()


def test_undo_gives_back_what_was_said(served: Served) -> None:
    marks = [{"region": "eyes", "points": [[0.1, 0.2], [0.3, 0.4]], "radius": 0.0}]
    served.post("/api/answer", served.answer(0))
    served.post("/api/answer", served.answer(2, decision="artifact", severity=3, regions=["eyes"], marks=marks))
    body = {"annotator": "anna", "key": "undo-key-1"}
    first, again = served.post("/api/undo", body).json, served.post("/api/undo", body).json

    assert first == again
    assert first["answer"]["score_seen"] is False
    assert (first["item"], first["answer"]["severity"], first["answer"]["marks"]) == (2, 3, marks)
    assert served.post("/api/undo", {"annotator": "ben", "key": "undo-key-2"}).json is None
    assert [found.face.file_name for found in served.page.store.labels()] == ["faces/a.png"]


def test_the_page_and_the_end_say_how_the_labels_are_trained_with_and_when(served: Served) -> None:
    served.post("/api/answer", served.answer(0))
    served.post("/api/answer", served.answer(0, annotator="ben"))
    served.post("/api/answer", served.answer(1, decision="unsure", severity=None))
    state = served.post("/api/state", {"annotator": "anna", "order": "random"}).json

    assert state["training"]["labelled"] == 1
    assert state["training"]["words"] == "99 more until the next training pays"
    assert train_command(Path("my labels.db")) == "qgate train --labels 'my labels.db' --output mygate"
    assert farewell(served.page.store) == (
        f"1 faces labelled in {served.page.store.path}; 99 more until the next training pays "
        f"(rule of thumb: 100 faces for a first training)\n  {served.ask('GET', '/api/about').json['train_command']}"
    )


def test_an_answer_after_an_undo_is_not_blind_where_the_score_was_told(tmp_path: Path) -> None:
    shown = [Shown(Face("fake:64", 1, 1.0), score=Score(0.8, tuple([0.1] * len(REGIONS))))]
    with serve_in_thread(Faces("one", shown), tmp_path / "labels.db") as served:
        assert served.post("/api/answer", served.answer(0)).json["clean_prob"] == 0.8
        back = served.post("/api/undo", {"annotator": "anna", "key": "undo-key-1"}).json

        assert (back["answer"]["score_seen"], served.page.store.history()[0][0].score_seen) == (True, False)


def test_a_marked_answer_knows_the_size_of_its_picture(served: Served) -> None:
    served.post("/api/answer", served.answer(0, marks=[{"region": "", "points": [[0.1, 0.2], [0.3, 0.4]]}]))
    [found] = served.page.store.standing()

    assert (found.width, found.height) == (64, 64)


def test_the_score_is_told_on_request_only(served: Served) -> None:
    queue = served.post("/api/queue", {"annotator": "anna", "order": "random", "count": 3, "have": []}).json

    assert "clean_prob" not in json.dumps(queue)
    assert served.post("/api/score", {"item": 0}).json == {"clean_prob": None, "regions": {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to label"),
        (("faces", "--generator", "fake"), "say what to label"),
        (("--generator", "fake"), "--seeds is missing"),
        (("--seeds", "5-4"), "runs backwards"),
        (("gone",), "no such folder"),
        (("faces", "--audit"), "is no output folder of a run"),
        (("faces", "--annotator", "\t"), "annotator"),
        (("faces", "--host", "0.0.0.0"), "add --token"),
        (("--generator", "folder:faces", "--seeds", "0-1"), "label it by its path"),
    ],
)
def test_what_cannot_be_labelled_is_said_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_faces(tmp_path / "faces", NAMES)
    with pytest.raises(SystemExit) as end:
        main(["label", "--no-browser", *arguments])

    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not os.path.exists("labels.db")


def test_labels_travel_over_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "generator,seed,psi,severity,regions,annotator\nfake:64,3,1.0,2,eyes,anna\nfake:64,3,1.0,0,,ben\n"
    Path("in.csv").write_text(rows)
    for arguments in (
        ("import", "in.csv"),
        ("export", "out.csv"),
        ("export", "coco.json", "--format", "coco"),
        ("agreement",),
    ):
        with pytest.raises(SystemExit) as end:
            main(["labels", *arguments])
        assert end.value.code == 0

    assert Path("out.csv").read_text() == rows
    with LabelStore(Path("labels.db")) as store:
        assert len(store.labels()) == 2
    assert "anna and ben: equal on 0 of 1 (0% to 98%)" in capsys.readouterr().out
