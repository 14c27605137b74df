"""The label store: one SQLite file to which answers are only ever added.

An answer that `add` or `undo` has returned survives SIGKILL and a power cut (write-ahead log, flushed at each commit).
An undo is an event of its own, so the whole history stays. Several processes and threads may write at once.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from qgate.errors import LabelError, StoreError
from qgate.labels.advice import Advice, Trained, advise
from qgate.labels.answers import NEVER_SHOWN, VOTES, Answer, Decision, Mark, Purpose
from qgate.labels.rows import Face, Label, read_labels
from qgate.labels.trainings import read_trainings

APPLICATION_ID = 0x71674C53
"""Marks a SQLite file as a label store ("qgLS")."""

BUSY_SECONDS = 20.0
"""How long a store waits, unless told otherwise, for another program that writes to it."""

SUFFIXES = (".db", ".sqlite")
"""What the name of a store ends in; other names are label files."""

SCHEMAS = (
    """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE faces (
    id INTEGER PRIMARY KEY,
    generator TEXT NOT NULL, seed INTEGER NOT NULL, psi REAL NOT NULL, file_name TEXT NOT NULL,
    UNIQUE (generator, seed, psi, file_name)
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    time REAL NOT NULL,
    annotator TEXT NOT NULL,
    face INTEGER NOT NULL REFERENCES faces,
    undoes INTEGER REFERENCES events,
    purpose TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('clean', 'artifact', 'unsure')),
    severity INTEGER CHECK (severity BETWEEN 0 AND 3),
    regions TEXT NOT NULL,
    marks TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL,
    seconds REAL,
    score_seen INTEGER NOT NULL
);
CREATE UNIQUE INDEX undone_once ON events (undoes) WHERE undoes IS NOT NULL;
CREATE TRIGGER no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
""",
    """
CREATE TABLE trainings (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL, faces INTEGER NOT NULL, error REAL NOT NULL, high REAL NOT NULL
);
""",
)
"""What each version of the store added to the one before. `trainings` is what qgate noted there until 2026-11."""


class LabelStore:
    """A store opened for reading and writing; made where it does not exist.

    >>> with LabelStore(Path("labels.db")) as store:
    ...     labels = store.labels()
    """

    def __init__(self, path: Path, create: bool = True, busy_seconds: float = BUSY_SECONDS) -> None:
        """busy_seconds: how long to wait for another program that writes to the store.

        Raises LabelError where the file is missing (unless `create`), no label store, or of a newer qgate. Here and in
        every method, StoreError says that SQLite could not read or write: nothing was kept, and trying again may help.
        """
        if not create and not path.is_file():
            raise LabelError(f"label store {path}: no such file; `qgate label` makes one")
        self.path = path
        self._lock = threading.RLock()
        self._answers: dict[int, Answer] = {}
        self._seen = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise LabelError(f"label store {path}: cannot be opened ({error})") from error
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        with self._faults():
            self._check_kind()
            self._db.execute("PRAGMA synchronous = FULL")
            self._use_log()
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(SCHEMAS):
                raise LabelError(f"label store {self.path}: was written by a newer qgate; upgrade qgate")
            for schema in SCHEMAS[version:]:
                for statement in _statements(schema):
                    self._db.execute(statement)
            if version == 0:
                self._db.execute("INSERT INTO facts VALUES ('salt', ?)", (secrets.token_hex(16),))
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            if version < len(SCHEMAS):
                self._db.execute(f"PRAGMA user_version = {len(SCHEMAS)}")

    def _check_kind(self) -> None:
        try:
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            mark = self._db.execute("PRAGMA application_id").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if _code(error) == sqlite3.SQLITE_NOTADB:
                raise LabelError(f"{self.path}: is not a database, so no label store; give another path") from error
            raise
        if tables and mark != APPLICATION_ID:
            raise LabelError(f"{self.path}: is a database, but no label store; give another path")

    def _use_log(self) -> None:
        """Turn write-ahead logging on; SQLite does not wait here for another process that does the same."""
        for _ in range(200):
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                time.sleep(0.05)
        self._db.execute("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def salt(self) -> str:
        """Random text of this store: orders that must be unpredictable follow from it, the same after a restart."""
        with self._lock, self._faults():
            return str(self._db.execute("SELECT value FROM facts WHERE name = 'salt'").fetchone()[0])

    def add(self, answer: Answer) -> Answer:
        """Keep an answer for good; returns it as kept, with id and time. A known key changes nothing."""
        return self.add_all([answer])[0]

    def add_all(self, answers: Iterable[Answer]) -> list[Answer]:
        """Keep several answers, all of them or none."""
        with self._transaction():
            return [self._insert(answer, None) for answer in answers]

    def undo(self, annotator: str, key: str, shown: Callable[[Face], bool] = lambda face: True) -> Answer | None:
        """Take back the annotator's last standing answer; returns it, or None where none is left.

        key: as of an answer: asked twice with the same key, one answer is taken back, and returned both times.
        shown: which faces count; the others are passed over.
        """
        with self._transaction():
            known = self._db.execute("SELECT undoes FROM events WHERE key = ?", (key,)).fetchone()
            if known is not None:
                return None if known[0] is None else next(self._read("WHERE events.id = ?", (known[0],)))[0]
            self._refresh()
            mine = (a for a in reversed(self._answers.values()) if a.annotator == annotator and shown(a.face))
            last = next((answer for answer in mine if answer.purpose not in NEVER_SHOWN), None)
            if last is not None:
                self._insert(replace(last, key=key), last.id)
            return last

    def standing(self) -> list[Answer]:
        """Every answer that was not undone, in the order in which they were given."""
        with self._lock, self._faults():
            self._refresh()
            return list(self._answers.values())

    def history(self) -> list[tuple[Answer, int | None]]:
        """Every event ever, undone ones too: (answer, None), or (the answer that is undone, its id)."""
        with self._lock, self._faults():
            return list(self._read("", ()))

    def votes(self) -> list[Answer]:
        """The independent first answers, one for each face and annotator: the last one given."""
        latest = {(a.face, a.annotator): a for a in self.standing() if a.purpose in VOTES}
        return list(latest.values())

    def gold(self) -> dict[Face, Answer]:
        """Face -> the answer that is held to be right."""
        return {answer.face: answer for answer in self.standing() if answer.purpose is Purpose.REFERENCE}

    def resolved(self) -> list[Answer]:
        """What is to be believed: one answer for each face and annotator, in the order in which they were given.

        Where a disagreement was reviewed, only the last review stands. Repeats and gold tests are measurements of the
        annotator, not answers.
        """
        best: dict[tuple[Face, str], Answer] = {}
        reviewed: dict[Face, Answer] = {}
        for answer in self.standing():
            if answer.purpose is Purpose.REVIEW:
                reviewed[answer.face] = answer
            elif answer.purpose in VOTES or answer.purpose is Purpose.SUSPECT:
                held = best.get((answer.face, answer.annotator))
                if held is None or _OVERRULES.get(answer.purpose, 0) >= _OVERRULES.get(held.purpose, 0):
                    best[answer.face, answer.annotator] = answer
        kept = [answer for answer in best.values() if answer.face not in reviewed]
        return sorted([*kept, *reviewed.values()], key=lambda answer: answer.id)

    def labels(self) -> list[Label]:
        """The resolved answers as label rows; those who were unsure said nothing."""
        return [label for answer in self.resolved() if (label := answer.to_label()) is not None]

    def advice(self) -> Advice:
        """When the next training with these labels pays."""
        with self._lock, self._faults():
            rows = self._db.execute("SELECT faces, error, high FROM trainings ORDER BY id").fetchall()
        trainings = [Trained(*row) for row in rows] + read_trainings(self.path)
        return advise(len({label.face for label in self.labels()}), trainings)

    def _insert(self, answer: Answer, undoes: int | None) -> Answer:
        key = answer.key or secrets.token_hex(16)
        known = self._db.execute("SELECT id FROM events WHERE key = ?", (key,)).fetchone()
        if known is None:
            face = answer.face
            place = (face.generator, face.seed, face.psi, face.file_name)
            self._db.execute("INSERT OR IGNORE INTO faces (generator, seed, psi, file_name) VALUES (?, ?, ?, ?)", place)
            row = (
                *(key, time.time(), answer.annotator, *place, undoes, answer.purpose.value, answer.decision.value),
                *(answer.severity, json.dumps(answer.regions), _marks_to_json(answer.marks)),
                *(answer.width, answer.height, answer.seconds, int(answer.score_seen)),
            )
            known = (self._db.execute(_INSERT, row).lastrowid,)
        return next(self._read("WHERE events.id = ?", known))[0]

    def _refresh(self) -> None:
        """Take notice of events that this or another process has added."""
        for answer, undoes in self._read("WHERE events.id > ?", (self._seen,)):
            self._seen = answer.id
            if undoes is None:
                self._answers[answer.id] = answer
            else:
                self._answers.pop(undoes, None)

    def _read(self, where: str, values: tuple[Any, ...]) -> Iterator[tuple[Answer, int | None]]:
        for row in self._db.execute(f"{_SELECT} {where} ORDER BY events.id", values).fetchall():
            yield _answer(row), row[16]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._faults():
            # IMMEDIATE: a reader that turns writer later could find the file changed beneath it.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # After some faults SQLite has rolled back by itself; and a rollback that fails must not hide the cause.
                with suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"label store {self.path}: {error}; {_REMEDIES.get(_code(error), 'try again')}") from error


def read_any(path: Path) -> list[Label]:
    """The labels of a store (`SUFFIXES`), or of a CSV or JSON Lines file, as training takes them."""
    return read_store(path) if path.suffix in SUFFIXES else read_labels(path)


def read_store(path: Path) -> list[Label]:
    """The labels of a store, as `qgate.labels.rows.read_labels` gives those of a file."""
    with LabelStore(path, create=False) as store:
        return store.labels()


_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another program is writing to it: wait for that one, or close it",
    sqlite3.SQLITE_FULL: "make space on its disk",
    sqlite3.SQLITE_IOERR: "look whether its disk is full or failing",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "look whether its folder is there and can be written to",
    sqlite3.SQLITE_CORRUPT: "restore it from a copy",
    sqlite3.SQLITE_NOTADB: "restore it from a copy",
}
"""What may help, by SQLite's primary result code."""


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where Python itself raised the error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_OVERRULES = {Purpose.REVIEW: 2, Purpose.SUSPECT: 1}
"""Answers given with more knowledge than a vote; they stand instead of the annotator's own vote."""


_SELECT = """SELECT events.id, key, time, annotator, generator, seed, psi, file_name, purpose, decision, severity,
regions, marks, width, height, seconds, undoes, score_seen FROM events JOIN faces ON faces.id = events.face"""

_INSERT = """INSERT INTO events (key, time, annotator, face, undoes, purpose, decision, severity, regions, marks, width,
height, seconds, score_seen) VALUES (?, ?, ?, (SELECT id FROM faces WHERE generator = ? AND seed = ? AND psi = ? AND
file_name = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def _answer(row: tuple[Any, ...]) -> Answer:
    id, key, moment, annotator, generator, seed, psi, name, purpose, decision, severity, regions, marks, *rest = row
    width, height, seconds, _, score_seen = rest
    return Answer(
        face=Face(generator, seed, psi, name),
        annotator=annotator,
        decision=Decision(decision),
        severity=severity,
        regions=tuple(json.loads(regions)),
        marks=_marks_from_json(marks),
        purpose=Purpose(purpose),
        width=width,
        height=height,
        seconds=seconds,
        score_seen=bool(score_seen),
        key=key,
        id=id,
        time=moment,
    )


def _marks_to_json(marks: Iterable[Mark]) -> str:
    return json.dumps([{"region": mark.region, "points": mark.points, "radius": mark.radius} for mark in marks])


def _marks_from_json(text: str) -> tuple[Mark, ...]:
    found = json.loads(text)
    return tuple(
        Mark(mark["region"], tuple((float(x), float(y)) for x, y in mark["points"]), mark["radius"]) for mark in found
    )


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one, since `executescript` would commit before it starts."""
    text = ""
    for line in script.splitlines():
        text += line + "\n"
        if sqlite3.complete_statement(text):
            yield text
            text = ""
