"""Which face an annotator sees next, and why. Knows faces, answers and the gate's scores; nothing of HTTP.

The random order and the audit walk a fixed shuffle and ask for every face of it, labelled elsewhere or not, so that
their labels are a random sample. All other orders choose faces by their looks: no rate may be computed from them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from qgate.files import order_key
from qgate.labels.answers import NEVER_SHOWN, VOTES, Answer, Decision, Purpose
from qgate.labels.rows import Face
from qgate.labels.store import LabelStore
from qgate.web.faces import Faces

LEASE_SECONDS = 300.0
"""How long a face that was handed out is kept for its annotator."""

REPEAT_LAG = 20
"""Answers of an annotator between a face and its repetition, at least."""

DIVERSE = 2000
"""Faces that the diverse order chooses from: its cost grows with their square."""

ORDERS = (Purpose.UNCERTAIN, Purpose.RANDOM, Purpose.DIVERSE, Purpose.SUSPECT, Purpose.REVIEW, Purpose.AUDIT)
SAMPLES = frozenset({Purpose.RANDOM, Purpose.AUDIT})
MEASURES = frozenset({Purpose.GOLD, Purpose.REPEAT})


@dataclass(frozen=True, slots=True)
class Rules:
    """How faces are handed out.

    per_face: annotators who shall see each face.
    repeat_every, gold_every: one in so many is a repetition or a gold face; 0: none.
    sample: size of an audit.
    audit: nothing but the audit is asked for.
    """

    per_face: int = 1
    repeat_every: int = 0
    gold_every: int = 0
    sample: int = 300
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A face to be judged; `votes` are shown where a disagreement is reviewed."""

    item: int
    purpose: Purpose
    votes: tuple[Answer, ...] = ()


@dataclass(slots=True)
class _State:
    """The standing answers, sorted for one request."""

    mine: list[Answer] = field(default_factory=list)
    seen: dict[Purpose, set[int]] = field(default_factory=dict)
    voters: dict[Purpose | None, dict[int, set[str]]] = field(default_factory=dict)
    votes: dict[int, dict[str, Answer]] = field(default_factory=dict)
    reviewed: set[int] = field(default_factory=set)

    def add(self, item: int, answer: Answer, annotator: str) -> None:
        purpose = answer.purpose
        if answer.annotator == annotator and purpose not in NEVER_SHOWN:
            self.mine.append(answer)
            self.seen.setdefault(purpose, set()).add(item)
        if purpose in VOTES:
            self.votes.setdefault(item, {})[answer.annotator] = answer
            # Samples count their own answers only; the other orders take any vote for done.
            for kind in {None, purpose if purpose in SAMPLES else None}:
                self.voters.setdefault(kind, {}).setdefault(item, set()).add(answer.annotator)
        if purpose is Purpose.REVIEW:
            self.reviewed.add(item)


class Orders:
    """Hands out faces; one for all annotators and threads."""

    def __init__(self, faces: Faces, store: LabelStore, rules: Rules) -> None:
        self._faces, self._store, self.rules = faces, store, rules
        self._lock = threading.Lock()
        self._leases: dict[int, dict[str, float]] = {}
        salt = store.salt
        items = range(len(faces))
        shuffled = sorted(items, key=lambda item: _key(salt, faces.shown[item].face))
        accepted = sorted(
            (item for item in items if faces.shown[item].accepted),
            key=lambda item: _key(salt + "audit", faces.shown[item].face),
        )
        self._fixed: dict[Purpose, list[int]] = {
            Purpose.RANDOM: [item for item in shuffled if faces.shown[item].sampled],
            Purpose.AUDIT: accepted[: rules.sample],
        }
        self._shuffled, self._ranked = shuffled, -1
        self._rank()

    @property
    def offered(self) -> list[Purpose]:
        """The orders that make sense for these faces, the usual first one first."""
        if self.rules.audit:
            return [Purpose.AUDIT]
        scored = [Purpose.UNCERTAIN, Purpose.DIVERSE, Purpose.SUSPECT] if self._fixed[Purpose.UNCERTAIN] else []
        wanted = [*scored[:1], Purpose.RANDOM, *scored[1:], Purpose.REVIEW]
        return [order for order in wanted if order not in SAMPLES or self._fixed[order]]

    @property
    def audit_items(self) -> list[int]:
        return self._fixed[Purpose.AUDIT]

    def _rank(self) -> None:
        """Sort by scores, anew where a gate at work beside the page has given many more of them."""
        known = len(self._faces.scores)
        if known > 1.1 * self._ranked:
            self._ranked = known
            # What has no score yet comes last: a gate at work may be slower than an annotator.
            scored = _uncertain(self._faces)
            rest = [item for item in self._shuffled if item not in self._faces.scores] if self._faces.scoring else []
            self._fixed[Purpose.UNCERTAIN] = scored + rest
            self._fixed[Purpose.DIVERSE] = _diverse(self._faces, self._shuffled)

    def next(self, annotator: str, order: Purpose, count: int, have: Iterable[int]) -> list[Ask]:
        """The next faces for an annotator, besides those that the page has already."""
        with self._lock:
            self._rank()
            held = set(have)
            state = self._state(annotator)
            first = len(state.mine) + len(held)
            extras = {kind: self._extras(kind, state) for kind in MEASURES}
            walk = self._open(order, annotator, state)
            asks: list[Ask] = []
            while len(asks) < count:
                found = None
                for kind in self._due(first + len(asks), order):
                    found = found or next((Ask(item, kind) for item in extras[kind] if item not in held), None)
                found = found or next((ask for ask in walk if ask.item not in held), None)
                if found is None:
                    break
                asks.append(found)
                held.add(found.item)
            now = time.monotonic()
            for ask in asks:
                self._leases.setdefault(ask.item, {})[annotator] = now + LEASE_SECONDS
            return asks

    def progress(self, annotator: str, order: Purpose) -> tuple[int, int]:
        """How many faces of an order the annotator has done, and how many there are for them in all."""
        with self._lock:
            state = self._state(annotator)
            left = sum(1 for _ in self._open(order, annotator, state))
            return len(state.seen.get(order, ())), len(state.seen.get(order, ())) + left

    def release(self, annotator: str, item: int) -> None:
        """The face was answered: nobody waits for it."""
        with self._lock:
            self._leases.get(item, {}).pop(annotator, None)

    def _state(self, annotator: str) -> _State:
        state = _State()
        for answer in self._store.standing():
            item = self._faces.ids.get(answer.face)
            if item is not None:
                state.add(item, answer, annotator)
        return state

    def _open(self, order: Purpose, annotator: str, state: _State) -> Iterator[Ask]:
        if order is Purpose.REVIEW:
            for item, votes in _disputed(state):
                yield Ask(item, order, tuple(votes))
            return
        if order is Purpose.SUSPECT:
            done = state.seen.get(order, set())
            yield from (Ask(item, order) for item in _suspects(state, self._faces) if item not in done)
            return
        voters = state.voters.get(order if order in SAMPLES else None, {})
        now = time.monotonic()
        for item in self._fixed[order]:
            given = voters.get(item, set())
            waiting = {name for name, until in self._leases.get(item, {}).items() if until > now and name != annotator}
            if annotator not in given and len(given | waiting) < self.rules.per_face:
                yield Ask(item, order)

    def _due(self, number: int, order: Purpose) -> Iterator[Purpose]:
        """What the face of this number shall be instead of an ordinary one. Reviews stay among themselves."""
        if order in (Purpose.REVIEW, Purpose.SUSPECT):
            return
        for kind, every in ((Purpose.GOLD, self.rules.gold_every), (Purpose.REPEAT, self.rules.repeat_every)):
            if every and number % every == every - 1:
                yield kind

    def _extras(self, kind: Purpose, state: _State) -> list[int]:
        done = state.seen.get(kind, set())
        if kind is Purpose.GOLD:
            faces: Iterable[Face] = self._store.gold() if self.rules.gold_every else ()
        else:
            old = islice(state.mine, max(len(state.mine) - REPEAT_LAG, 0))
            faces = [answer.face for answer in old if answer.purpose in VOTES]
        return [item for face in faces if (item := self._faces.ids.get(face)) is not None and item not in done]


def _key(salt: str, face: Face) -> bytes:
    text = f"\0{face.generator}\0{face.seed}\0{face.psi!r}\0{face.file_name}"
    return order_key(salt.encode(), text.encode(), 16)


def _uncertain(faces: Faces) -> list[int]:
    # A copy: scores may arrive meanwhile.
    probs = {item: score.clean_prob for item, score in list(faces.scores.items()) if score.clean_prob is not None}
    return sorted(probs, key=lambda item: (abs(probs[item] - faces.threshold), item))


def _diverse(faces: Faces, shuffled: Sequence[int]) -> list[int]:
    """Each face as far as can be from all before it, in what the gate says of its regions.

    Source: greedy k-centre, Sener and Savarese, ICLR 2018.
    """
    known = [item for item in shuffled if item in faces.scores]
    items = [item for item in known if faces.scores[item].region_probs][:DIVERSE]
    if not items:
        return []
    points = np.array([(faces.scores[item].clean_prob or 0.0, *faces.scores[item].region_probs) for item in items])
    order, distance = [0], np.square(points - points[0]).sum(1)
    while len(order) < len(items):
        distance[order[-1]] = -1.0
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.square(points - points[order[-1]]).sum(1))
    return [items[index] for index in order]


def _disputed(state: _State) -> Iterator[tuple[int, list[Answer]]]:
    """Faces that some call clean and some an artifact, and nobody has reviewed."""
    for item, votes in state.votes.items():
        said = {vote.decision for vote in votes.values()} - {Decision.UNSURE}
        if len(said) > 1 and item not in state.reviewed:
            yield item, list(votes.values())


def _suspects(state: _State, faces: Faces) -> list[int]:
    """Labelled faces of which the gate says the contrary, the boldest contradiction first."""
    doubt: dict[int, float] = {}
    for item, votes in state.votes.items():
        prob = faces.clean_prob(item)
        if prob is not None:
            against: dict[Decision, Callable[[float], float]] = {
                Decision.CLEAN: lambda p: 1 - p,
                Decision.ARTIFACT: lambda p: p,
            }
            known = [against[vote.decision](prob) for vote in votes.values() if vote.decision in against]
            if known and max(known) > 0.5:
                doubt[item] = max(known)
    return sorted(doubt, key=lambda item: -doubt[item])
