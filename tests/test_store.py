"""The label store keeps every acknowledged answer, its history, and the answers of all who write at once."""

import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from qgate.errors import LabelError, StoreError
from qgate.labels.advice import Trained
from qgate.labels.answers import Answer, Decision, Mark, Purpose
from qgate.labels.rows import Face, Label
from qgate.labels.store import LabelStore, read_store
from qgate.labels.trainings import history_path, note_training
from tests.label_driver import answer

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: apt-get install strace")


def add_by_process(path: Path, annotator: str, count: int, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "tests.label_driver", str(path), annotator, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_answer_comes_back_as_it_was_given(tmp_path: Path) -> None:
    marks = (Mark("eyes", ((0.1, 0.2), (0.3, 0.4))), Mark("", ((0.5, 0.5),), 0.02))
    given = answer(7, severity=3, regions=("eyes",), marks=marks, width=64, height=64, seconds=1.5, score_seen=True)
    with LabelStore(tmp_path / "labels.db") as store:
        store.add(given)
    with LabelStore(tmp_path / "labels.db") as store:
        [kept] = store.standing()

    assert (kept.face, kept.severity, kept.regions, kept.marks) == (Face("fake:64", 7, 1.0), 3, ("eyes",), marks)
    assert (kept.width, kept.height, kept.seconds, kept.score_seen, kept.id) == (64, 64, 1.5, True, 1)


def test_training_reads_the_labels_of_a_store(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_all([answer(0), answer(1, severity=2, regions=("mouth",)), answer(2, severity=None)])

    assert read_store(tmp_path / "labels.db") == [
        Label(Face("fake:64", 0, 1.0), 0, (), "anna"),
        Label(Face("fake:64", 1, 1.0), 2, ("mouth",), "anna"),
    ]


def test_the_same_key_twice_is_one_answer(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        first = store.add(answer(0, key="one-and-only"))
        again = store.add(answer(0, severity=3, key="one-and-only"))

        assert again == first
        assert len(store.standing()) == 1


def test_undo_goes_back_through_all_answers_and_keeps_the_history(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_all([answer(0), answer(1), answer(0, "ben")])
        undone = [store.undo("anna", f"undo-{number}") for number in range(3)]

        assert [found.face.seed if found else None for found in undone] == [1, 0, None]
        assert [found.annotator for found in store.standing()] == ["ben"]
        assert [undoes for _, undoes in store.history()] == [None, None, None, 2, 1]


def test_an_undo_that_is_sent_twice_takes_back_one_answer(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_all([answer(0), answer(1)])
        first, again = store.undo("anna", "same-key"), store.undo("anna", "same-key")

        assert first is not None and again is not None
        assert (first.face, again.face, len(store.standing())) == (first.face, first.face, 1)


def test_no_event_can_be_changed_or_deleted(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add(answer(0))
    db = sqlite3.connect(tmp_path / "labels.db")
    for statement in ("UPDATE events SET severity = 3", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="events are never"):
            db.execute(statement)
    db.close()


def test_a_review_stands_instead_of_the_votes_it_settles(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_all([answer(0, "anna", 0), answer(0, "ben", 3), answer(0, "cleo", 2, purpose=Purpose.REVIEW)])

        assert [(label.annotator, label.severity) for label in store.labels()] == [("cleo", 2)]
        assert [vote.annotator for vote in store.votes()] == ["anna", "ben"]


def test_repeats_and_gold_answers_are_no_labels(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add(answer(0, severity=1))
        store.add_all(answer(0, severity=3, purpose=purpose) for purpose in (Purpose.REPEAT, Purpose.GOLD))
        store.add(answer(5, "key", purpose=Purpose.REFERENCE))

        assert [label.severity for label in store.labels()] == [1]
        assert list(store.gold()) == [Face("fake:64", 5, 1.0)]


def test_severity_and_decision_must_fit() -> None:
    with pytest.raises(LabelError, match="severity None does not fit clean"):
        Answer(face=Face(), annotator="anna", decision=Decision.CLEAN, severity=None)


def test_two_stores_on_one_file_see_each_other(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as one, LabelStore(tmp_path / "labels.db") as other:
        one.add(answer(0, "anna"))
        other.add(answer(0, "ben"))
        other.undo("anna", "undo-key")

        assert [found.annotator for found in one.standing()] == ["ben"]


def test_four_processes_at_once_lose_nothing_and_overwrite_nothing(tmp_path: Path) -> None:
    processes = [add_by_process(tmp_path / "labels.db", name, 25) for name in ("anna", "ben", "cleo", "dan")]
    errors = [process.communicate(timeout=60)[1] for process in processes]

    assert errors == ["", "", "", ""]
    with LabelStore(tmp_path / "labels.db") as store:
        assert len(store.standing()) == 100
        assert {len(votes) for votes in _by_face(store).values()} == {4}


def _by_face(store: LabelStore) -> dict[Face, list[str]]:
    found: dict[Face, list[str]] = {}
    for vote in store.votes():
        found.setdefault(vote.face, []).append(vote.annotator)
    return found


@needs_strace
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync,fsync"])
@pytest.mark.parametrize("number", [1, 2, 5, 9, 14, 20])
def test_an_acknowledged_answer_survives_a_kill_within_any_system_call(tmp_path: Path, call: str, number: int) -> None:
    """Row 45 of the fault table."""
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.add(answer(100, key="before-it-all"))
    inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e")
    process = add_by_process(path, "anna", 40, (*inject, f"inject={call}:signal=SIGKILL:when={number}"))
    acknowledged = process.communicate(timeout=60)[0].split()

    assert process.returncode != 0
    with LabelStore(path) as store:
        kept = [found.key for found in store.standing()]
        # The answer on its way may be kept without having been acknowledged, never the other way round.
        assert kept[: 1 + len(acknowledged)] == ["before-it-all", *acknowledged]
        assert len(kept) <= 2 + len(acknowledged)
        store.add(answer(101))


@needs_strace
def test_every_answer_is_flushed_to_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    trace = ("strace", "-f", "-qq", "-o", str(log), "-e", "trace=fdatasync,fsync,write", "-e", "signal=none")
    add_by_process(tmp_path / "labels.db", "anna", 5, trace).communicate(timeout=60)
    calls = [line.split(None, 1)[1] for line in log.read_text().splitlines()]
    said = [index for index, call in enumerate(calls) if "anna-" in call]

    assert len(said) == 5
    assert all("sync(" in calls[index - 1] for index in said)


def test_a_store_that_another_program_holds_is_said_to_be_locked_and_goes_on_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore(path, busy_seconds=0.1) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for change in (lambda: store.add(answer(0, key="one-answer")), lambda: store.undo("anna", "one-undo")):
            with pytest.raises(StoreError) as fault:
                change()
            assert str(fault.value) == (
                f"label store {path}: database is locked; "
                "another program is writing to it: wait for that one, or close it"
            )
        other.close()
        store.add(answer(0, key="one-answer"))

        assert [found.key for found in store.standing()] == ["one-answer"]


@pytest.mark.parametrize("count", [1, 12000])
def test_a_full_disk_is_said_whatever_it_does_to_the_transaction_and_keeps_nothing_in_halves(
    tmp_path: Path, count: int
) -> None:
    """Many answers at once overflow SQLite's memory before the commit; then it rolls back by itself."""
    with LabelStore(tmp_path / "labels.db") as store:
        store.add(answer(0))
        largest = max(file.stat().st_size for file in tmp_path.iterdir())
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 100, before[1]))
        try:
            with pytest.raises(StoreError) as fault:
                store.add_all(answer(seed, "ben") for seed in range(count))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

        assert str(fault.value) == (
            f"label store {tmp_path / 'labels.db'}: disk I/O error; look whether its disk is full or failing"
        )
        assert len(store.history()) == 1
        store.add(answer(1))
        assert len(store.history()) == 2


@needs_strace
def test_a_disk_without_space_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    LabelStore(path).close()
    inject = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e")
    process = add_by_process(path, "anna", 40, (*inject, "inject=pwrite64:error=ENOSPC:when=9+"))

    assert "StoreError: label store" in (said := process.communicate(timeout=60)[1])
    assert "database or disk is full; make space on its disk" in said


def test_a_store_that_is_closed_already_is_no_fault_of_the_answer(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.db")
    store.close()
    with pytest.raises(StoreError, match="closed database"):
        store.add(answer(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("generator,seed\n" * 100), "not a database"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE other (a)").connection.close(), "but no label store"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "other.db"
    make(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(LabelError, match=message):
        LabelStore(path)

    assert path.read_bytes() == before


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    LabelStore(tmp_path / "labels.db").close()
    db = sqlite3.connect(tmp_path / "labels.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LabelError, match="newer qgate"):
        LabelStore(tmp_path / "labels.db")


def test_a_missing_store_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such file"):
        read_store(tmp_path / "labels.db")

    assert list(tmp_path.iterdir()) == []


def test_a_store_remembers_its_trainings(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.add_all([answer(1), answer(1, "ben", 3), answer(2), answer(3, severity=None)])
        assert (store.advice().labelled, store.advice().at) == (2, 100)
    note_training(path, Trained(faces=2, error=0.25, high=0.5))
    with history_path(path).open("a") as file:
        file.write('{"faces": 9')  # a kill
    with LabelStore(path) as store:
        assert (store.advice().at, store.advice().left) == (4, 2)


def test_a_store_of_the_first_version_is_taken_on_with_its_answers(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.add(answer(1))
    db = sqlite3.connect(tmp_path / "labels.db")
    db.execute("DROP TABLE trainings")
    db.execute("PRAGMA user_version = 1")
    db.close()
    with LabelStore(tmp_path / "labels.db") as store:
        assert (len(store.labels()), store.advice().at) == (1, 100)
