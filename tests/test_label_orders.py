"""Which faces annotators see, in which order, and what an audit makes of their answers."""

import json
from pathlib import Path

import pytest
import torch

from qgate.dataset.header import RunHeader
from qgate.dataset.ledger import iter_rows
from qgate.generators.fake import FakeGate, FakeGenerator
from qgate.labels.answers import Decision, Purpose
from qgate.labels.rows import Face
from qgate.labels.store import LabelStore
from qgate.records import REGIONS, Score, Verdict
from qgate.web.audit import audit
from qgate.web.faces import Faces, Shown, generator_faces, run_faces
from qgate.web.orders import Orders, Rules
from qgate.web.scorer import start_scorer
from tests.dataset_driver import drive
from tests.label_driver import answer

PROBS = [0.05, 0.88, 0.3, 0.91, 0.99, 0.6]


def scored_faces(probs: list[float] | None = None) -> Faces:
    shown = [
        Shown(Face("fake:64", seed, 1.0), score=Score(prob, tuple([prob] * len(REGIONS))))
        for seed, prob in enumerate(probs or PROBS)
    ]
    return Faces("six faces", shown, threshold=0.9)


def plain_faces(count: int) -> Faces:
    return Faces("plain", [Shown(Face("fake:64", seed, 1.0), accepted=True) for seed in range(count)])


def items(orders: Orders, annotator: str, order: Purpose, count: int = 100) -> list[int]:
    return [ask.item for ask in orders.next(annotator, order, count, [])]


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    with LabelStore(tmp_path / "labels.db") as opened:
        yield opened


def test_the_uncertain_come_first(store: LabelStore) -> None:
    assert items(Orders(scored_faces(), store, Rules()), "anna", Purpose.UNCERTAIN) == [3, 1, 4, 5, 2, 0]


def test_the_diverse_order_takes_the_farthest_next(store: LabelStore) -> None:
    order = items(Orders(scored_faces(), store, Rules()), "anna", Purpose.DIVERSE)

    assert sorted(order) == [0, 1, 2, 3, 4, 5]
    assert {0, 4} & set(order[:2])


def test_the_random_order_is_the_same_after_a_restart_and_another_in_another_store(tmp_path: Path) -> None:
    walks = []
    for name in ("a.db", "a.db", "b.db"):
        with LabelStore(tmp_path / name) as store:
            walks.append(items(Orders(plain_faces(50), store, Rules()), "anna", Purpose.RANDOM))

    assert walks[0] == walks[1] != walks[2]
    assert sorted(walks[0]) == list(range(50)) != walks[0]


def test_without_scores_the_orders_that_need_them_are_not_offered(store: LabelStore) -> None:
    assert Orders(plain_faces(3), store, Rules()).offered == ["random", "review"]
    assert Orders(scored_faces(), store, Rules()).offered == ["uncertain", "random", "diverse", "suspect", "review"]
    assert Orders(plain_faces(3), store, Rules(audit=True)).offered == ["audit"]


def test_a_random_sample_asks_for_faces_that_were_labelled_for_their_looks(store: LabelStore) -> None:
    """Leaving them out would make the sample one of the certain faces."""
    orders = Orders(scored_faces(), store, Rules())
    store.add(answer(3, purpose=Purpose.UNCERTAIN))

    assert 3 not in items(orders, "anna", Purpose.UNCERTAIN)
    assert sorted(items(orders, "anna", Purpose.RANDOM)) == [0, 1, 2, 3, 4, 5]


def test_each_face_is_shown_to_k_annotators(store: LabelStore) -> None:
    orders = Orders(plain_faces(4), store, Rules(per_face=2))
    seen = {name: items(orders, name, Purpose.RANDOM) for name in ("anna", "ben", "cleo")}

    assert (len(seen["anna"]), len(seen["ben"]), len(seen["cleo"])) == (4, 4, 0)


def test_two_annotators_at_once_get_different_faces(store: LabelStore) -> None:
    orders = Orders(plain_faces(6), store, Rules())
    one, other = items(orders, "anna", Purpose.RANDOM, 3), items(orders, "ben", Purpose.RANDOM, 3)

    assert sorted(one + other) == [0, 1, 2, 3, 4, 5]


def test_a_face_that_the_page_has_is_not_handed_out_again(store: LabelStore) -> None:
    orders = Orders(plain_faces(5), store, Rules())
    asked = orders.next("anna", Purpose.RANDOM, 10, [0, 1])

    assert sorted(ask.item for ask in asked) == [2, 3, 4]


def test_an_undone_face_comes_again_first(store: LabelStore) -> None:
    orders = Orders(scored_faces(), store, Rules())
    store.add(answer(3, purpose=Purpose.UNCERTAIN))
    store.undo("anna", "undo-key")

    assert items(orders, "anna", Purpose.UNCERTAIN)[0] == 3


def test_disagreements_are_reviewed_with_both_votes_until_somebody_settles_them(store: LabelStore) -> None:
    orders = Orders(plain_faces(4), store, Rules(per_face=2))
    store.add_all([answer(0, "anna", 0), answer(0, "ben", 3), answer(1, "anna", 0), answer(1, "ben", 1)])
    store.add_all([answer(2, "anna", 0), answer(2, "ben", None)])
    [ask] = orders.next("cleo", Purpose.REVIEW, 10, [])

    assert (ask.item, [(vote.annotator, vote.severity) for vote in ask.votes]) == (0, [("anna", 0), ("ben", 3)])
    store.add(answer(0, "cleo", 3, purpose=Purpose.REVIEW))
    assert orders.next("ben", Purpose.REVIEW, 10, []) == []


def test_labels_that_the_gate_contradicts_are_asked_again_the_boldest_first(store: LabelStore) -> None:
    orders = Orders(scored_faces(), store, Rules())
    store.add_all([answer(0, severity=0), answer(4, severity=3), answer(2, severity=3), answer(5, severity=2)])

    assert items(orders, "anna", Purpose.SUSPECT) == [4, 0, 5]
    store.add(answer(4, severity=0, purpose=Purpose.SUSPECT))
    assert items(orders, "anna", Purpose.SUSPECT) == [0, 5]
    assert [label.severity for label in store.labels() if label.face.seed == 4] == [0]


def test_gold_faces_and_repeats_are_mixed_in(store: LabelStore) -> None:
    shown = [Shown(Face("fake:64", seed, 1.0), sampled=seed != 59) for seed in range(60)]
    orders = Orders(Faces("plain", shown), store, Rules(repeat_every=10, gold_every=7))
    store.add(answer(59, "expert", 3, purpose=Purpose.REFERENCE))
    walk = [ask.item for ask in orders.next("anna", Purpose.RANDOM, 30, []) if ask.item != 59]
    store.add_all(answer(item) for item in walk[:25])
    asked = orders.next("anna", Purpose.RANDOM, 10, [])

    assert [ask.purpose for ask in asked if ask.purpose is not Purpose.RANDOM] == [Purpose.GOLD, Purpose.REPEAT]
    assert next(ask.item for ask in asked if ask.purpose is Purpose.GOLD) == 59
    assert next(ask.item for ask in asked if ask.purpose is Purpose.REPEAT) in walk[:5]


def test_progress_counts_what_is_done_and_left(store: LabelStore) -> None:
    orders = Orders(plain_faces(5), store, Rules())
    store.add_all([answer(0), answer(1, "ben")])

    assert orders.progress("anna", Purpose.RANDOM) == (1, 4)


def test_an_audit_counts_artifacts_among_the_accepted_with_an_exact_interval() -> None:
    faces = [Face("fake:64", seed, 1.0) for seed in range(50)]
    standing = [answer(seed, severity=3 if seed < 2 else 0, purpose=Purpose.AUDIT) for seed in range(40)]
    standing += [answer(40, severity=None, purpose=Purpose.AUDIT), answer(41, severity=3, purpose=Purpose.UNCERTAIN)]
    found = audit(faces, standing)

    assert (found.wanted, found.judged, found.unsure, found.done) == (50, 41, 1, False)
    assert (found.decided.hits, found.decided.total, found.decided.value) == (2, 40, 0.05)
    assert (round(found.decided.low, 4), round(found.decided.high, 4)) == (0.0061, 0.1692)
    assert (found.cautious.hits, found.cautious.total) == (3, 41)
    assert "escape rate 5.00% (2 of 40; 95% interval 0.61% to 16.92%)" in found.in_words()


def test_annotators_of_an_audit_who_are_even_count_as_an_artifact() -> None:
    face = Face("fake:64", 0, 1.0)
    votes = [answer(0, "anna", 0, purpose=Purpose.AUDIT), answer(0, "ben", 2, purpose=Purpose.AUDIT)]

    assert audit([face], votes).decided.hits == 1


def test_a_clean_sample_is_not_proof_of_cleanness() -> None:
    found = audit(
        [Face("fake:64", seed, 1.0) for seed in range(300)],
        [answer(seed, purpose=Purpose.AUDIT) for seed in range(300)],
    )

    assert (found.done, found.decided.value, round(found.decided.high, 4)) == (True, 0.0, 0.0122)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run without a generator: pixels and scores from the seeds."""
    drive(tmp_path / "run")
    return tmp_path / "run"


def test_the_faces_of_a_run_are_its_dataset_and_its_review_sample(run: Path, store: LabelStore) -> None:
    faces = run_faces(run, run.parent)
    rows = {row.seed: row for row in iter_rows(run)}
    accepted = [shown.face.seed for shown in faces.shown if shown.accepted]

    assert accepted == [seed for seed, row in rows.items() if row.verdict is Verdict.ACCEPTED]
    assert faces.threshold == RunHeader.read(run).threshold
    assert all(faces.picture(item)[0] for item in range(len(faces)))
    assert sorted(
        faces.shown[item].face.seed for item in Orders(faces, store, Rules(audit=True)).audit_items
    ) == sorted(accepted)


@pytest.mark.parametrize("changes", [{"class_idx": 2}, {"latents": "w.npz"}, {"generator": "faces.pkl"}])
def test_a_face_that_its_seed_does_not_name_is_labelled_as_a_file(run: Path, changes: dict[str, object]) -> None:
    header = json.loads((run / "run.json").read_text())
    header["config"] |= changes
    (run / "run.json").write_text(json.dumps(header))
    faces = [shown.face for shown in run_faces(run, run.parent).shown]
    assert faces and all((run.parent / face.file_name).is_file() for face in faces)


def test_a_generators_faces_are_drawn_when_asked_for_and_scored_beside_the_page(store: LabelStore) -> None:
    faces = generator_faces("fake:64", 0.7, ((5, 9),), "cpu")
    data, kind = faces.picture(0)

    assert (kind, faces.size(0), len(faces), faces.shown[4].face) == ("image/png", (64, 64), 5, Face("fake:64", 9, 0.7))
    assert data == faces.picture(0)[0]
    orders = Orders(faces, store, Rules())
    assert orders.offered == ["random", "review"]
    start_scorer(faces, FakeGate()).join()
    orders.next("anna", Purpose.RANDOM, 1, [])
    assert orders.offered == ["uncertain", "random", "diverse", "suspect", "review"]
    drawn = FakeGenerator("64").draw([5]).images[0]
    assert isinstance(drawn, torch.Tensor)
    assert faces.clean_prob(0) == FakeGate().score([drawn])[0].clean_prob
    faces.scores.clear()
    assert len(items(Orders(faces, store, Rules()), "anna", Purpose.UNCERTAIN)) == 5


def test_unsure_is_never_forced_into_a_class() -> None:
    assert answer(0, severity=None).decision is Decision.UNSURE
    assert answer(0, severity=None).to_label() is None
