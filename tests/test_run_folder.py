from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qgate.dataset.folder import RunFolder
from qgate.dataset.ledger import iter_rows
from qgate.dataset.verify import verify
from qgate.errors import OutputError
from qgate.records import Tally, Verdict
from qgate.seeds import SeedPlan
from tests.dataset_driver import HEADER, drive, face, score, tree


def accepted(root: Path) -> list[int]:
    return [row.seed for row in iter_rows(root) if row.verdict is Verdict.ACCEPTED]


def image_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root / "dataset")) for path in (root / "dataset").rglob("*.png"))


def test_the_count_is_met_by_the_accepted_candidates_with_the_lowest_seeds(tmp_path: Path) -> None:
    drive(tmp_path / "run")
    assert accepted(tmp_path / "run") == [0, 1, 4, 7, 8, 13, 14]


def test_files_are_the_accepted_rows_and_verdicts_add_up_to_judged(tmp_path: Path) -> None:
    drive(tmp_path, count=3)
    assert image_files(tmp_path) == [
        "000000/seed0000000000.png",
        "000000/seed0000000001.png",
        "000001/seed0000000004.png",
    ]
    with RunFolder.open(tmp_path, replace(HEADER, count=3)) as folder:
        assert folder.tally == Tally(accepted=3, rejected=2, failed=0)
        assert [(seal.judged, seal.complete) for seal in folder.seals.values()] == [(4, True), (1, False)]


def test_the_same_faces_come_out_whatever_the_shard_size(tmp_path: Path) -> None:
    for size in (1, 3, 64):
        root = tmp_path / str(size)
        drive(root, shard_size=size)
        assert accepted(root) == [0, 1, 4, 7, 8, 13, 14]
        names = {path.name for path in (root / "review").iterdir()}
        assert names == {"seed0000000001.jpg", "seed0000000002.jpg", "seed0000000012.jpg", "metadata.jsonl"}


def test_the_same_command_again_draws_nothing_and_changes_nothing(tmp_path: Path) -> None:
    drive(tmp_path)
    before = tree(tmp_path)
    assert drive(tmp_path) == []
    assert tree(tmp_path) == before
    assert ".staging/" not in before


def test_a_larger_count_goes_on_from_the_end_and_equals_a_direct_run(tmp_path: Path) -> None:
    drive(tmp_path / "grown", count=5)
    assert drive(tmp_path / "grown", count=9) == [9, 10, 11, 12, 13, 14, 15, 16, 17]
    drive(tmp_path / "direct", count=9)
    assert tree(tmp_path / "grown") == tree(tmp_path / "direct")


@pytest.mark.parametrize(("threshold", "drawn"), [(0.7, [14, 15, 16, 17, 18, 19, 20]), (0.3, [2, 5])])
def test_another_threshold_draws_only_what_is_missing_and_equals_a_direct_run(
    tmp_path: Path, threshold: float, drawn: list[int]
) -> None:
    drive(tmp_path / "run", count=6, review=0)
    assert drive(tmp_path / "run", count=6, review=0, threshold=threshold, regate=True) == drawn
    drive(tmp_path / "direct", count=6, review=0, threshold=threshold)
    assert tree(tmp_path / "run") == tree(tmp_path / "direct")


@pytest.mark.parametrize("threshold", [0.9, 0.7, 0.3, 0.0])
def test_another_threshold_and_back_gives_the_first_bytes_again(tmp_path: Path, threshold: float) -> None:
    drive(tmp_path)
    before = tree(tmp_path)
    drive(tmp_path, threshold=threshold, regate=True)
    assert tree(tmp_path) != before
    drive(tmp_path, regate=True)
    assert tree(tmp_path) == before


def test_a_regate_keeps_the_probabilities_of_the_ledger(tmp_path: Path) -> None:
    drive(tmp_path, count=2)
    with RunFolder.open(tmp_path, replace(HEADER, count=3, threshold=0.3), regate=True) as folder:
        builder = folder.begin(0)
        assert builder.todo == (2, 3)
        builder.add(2, score(2), face(2))
        builder.add(3, score(3), face(3))
        folder.commit(builder)
        assert [row.score.clean_prob for row in folder.rows(0)] == [1.0, 0.6875, 0.375]


def test_without_a_count_all_that_pass_are_kept(tmp_path: Path) -> None:
    drive(tmp_path, count=None, plan=SeedPlan(((5, 9), (20, 20))))
    assert accepted(tmp_path) == [7, 8, 20]
    with RunFolder.open(tmp_path, replace(HEADER, count=None, plan=SeedPlan(((5, 9), (20, 20))))) as folder:
        assert [(seal.judged, seal.complete) for seal in folder.seals.values()] == [(4, True), (2, True)]


def test_a_count_that_is_just_met_cuts_the_rows_after_it(tmp_path: Path) -> None:
    drive(tmp_path / "all", count=None, max_candidates=8)
    drive(tmp_path / "all", count=4)
    drive(tmp_path / "direct", count=4)
    assert tree(tmp_path / "all") == tree(tmp_path / "direct")


def test_the_search_stops_at_its_bound_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    assert drive(tmp_path / "run", max_candidates=6) == [0, 1, 2, 3, 4, 5]
    assert accepted(tmp_path / "run") == [0, 1, 4]
    drive(tmp_path / "run")
    drive(tmp_path / "direct")
    assert tree(tmp_path / "run") == tree(tmp_path / "direct")


def test_metadata_goes_before_the_first_new_shard(tmp_path: Path) -> None:
    drive(tmp_path, count=3)
    (tmp_path / "report.html").write_text("old")
    RunFolder.open(tmp_path, replace(HEADER, count=9)).close()
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == ["000000", "000001"]
    assert not (tmp_path / "report.html").exists()


def test_a_second_process_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.dataset_driver import HEADER, RunFolder\n"
        "RunFolder.open(Path(sys.argv[1]), HEADER); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(OutputError, match="is in use by another qgate process; wait for it or stop it"):
            RunFolder.open(tmp_path, HEADER)
        first.kill()
    RunFolder.open(tmp_path, HEADER).close()


def test_another_run_is_refused_with_the_keys_that_differ_and_nothing_is_written(tmp_path: Path) -> None:
    drive(tmp_path, count=2)
    before = tree(tmp_path)
    other = replace(HEADER, scoring={"generator": {"digest": "aa11", "truncation_psi": 1.0}, "gate": "bb22"})
    with pytest.raises(OutputError) as refused:
        RunFolder.open(tmp_path, replace(other, shard_size=8, review=4))
    assert str(refused.value) == (
        f"{tmp_path}: holds another run: generator.truncation_psi is 0.7 there and 1.0 here, "
        "shard_size is 4 there and 8 here, output.review is 3 there and 4 here; give another --output"
    )
    assert tree(tmp_path) == before


def test_another_threshold_is_refused_with_the_command_that_does_it(tmp_path: Path) -> None:
    drive(tmp_path, count=2)
    with pytest.raises(
        OutputError, match=r"threshold 0\.5, not 0\.8; select anew with `qgate regate .* --threshold 0\.8`"
    ):
        RunFolder.open(tmp_path, replace(HEADER, count=2, threshold=0.8))


def test_a_count_below_what_is_accepted_is_refused(tmp_path: Path) -> None:
    drive(tmp_path, count=4)
    with pytest.raises(OutputError, match="holds 4 accepted faces already, more than --count 3"):
        RunFolder.open(tmp_path, replace(HEADER, count=3))


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"sea")
    with pytest.raises(OutputError, match="is not empty and no qgate output folder; give another --output"):
        RunFolder.open(tmp_path, HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_an_output_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        RunFolder.open(tmp_path / "file" / "run", HEADER)


def test_a_shard_without_its_seal_is_done_again_and_the_others_are_kept(tmp_path: Path) -> None:
    drive(tmp_path)
    before = tree(tmp_path)
    (tmp_path / "ledger" / "000001.json").unlink()
    assert drive(tmp_path) == [4, 5, 6, 7]
    assert tree(tmp_path) == before


def test_a_lost_review_image_is_drawn_again(tmp_path: Path) -> None:
    drive(tmp_path)
    before = tree(tmp_path)
    (tmp_path / "review" / "seed0000000002.jpg").unlink()
    assert drive(tmp_path) == [2]
    assert tree(tmp_path) == before


def test_shards_may_be_built_at_once_and_nothing_is_left_of_the_superfluous_one(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", replace(HEADER, count=4), encoders=2) as folder:
        builders = [folder.begin(shard) for shard in (0, 1, 2)]
        for builder in reversed(builders):
            for seed in builder.todo:
                builder.add(seed, score(seed), face(seed))
        with pytest.raises(ValueError, match="shard 0 must be committed before shard 1"):
            folder.commit(builders[1])
        folder.commit(builders[0])
        folder.commit(builders[1])
        assert folder.next_shard(after=1) is None
        with pytest.raises(ValueError, match="the count is reached before shard 2"):
            folder.commit(builders[2])
        folder.finish()
    drive(tmp_path / "direct", count=4)
    assert tree(tmp_path / "run") == tree(tmp_path / "direct")


def test_a_stopped_run_keeps_its_sealed_shards_and_reads_well(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder.open(tmp_path, HEADER) as folder:
        for shard in (0, 1):
            builder = folder.begin(shard)
            for seed in builder.todo:
                builder.add(seed, score(seed), face(seed))
            if shard == 0:
                folder.commit(builder)
        folder.finish()
        raise KeyboardInterrupt
    found = verify(tmp_path)
    assert found.problems == ()
    assert not found.finished
    assert accepted(tmp_path) == [0, 1]


def test_candidates_come_in_the_order_of_todo_and_with_the_images_that_are_wanted(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, replace(HEADER, review=1)) as folder:
        builder = folder.begin(0)
        assert [builder.wants_image(seed, score(seed)) for seed in (0, 10)] == [True, False]
        with pytest.raises(ValueError, match="seed 1 is not the next to do of shard 0"):
            builder.add(1, score(1), face(1))
        with pytest.raises(ValueError, match="seed 0 needs its image"):
            builder.add(0, score(0), None)


def test_a_damaged_run_json_is_named(tmp_path: Path) -> None:
    drive(tmp_path, count=1)
    path = tmp_path / "run.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "scoring": {**values["scoring"], "gate": "cc33"}}))
    with pytest.raises(OutputError, match=r"run\.json: scoring_digest does not fit its contents"):
        RunFolder.open(tmp_path, HEADER)
    path.write_text("{")
    with pytest.raises(OutputError, match=r"run\.json: is damaged"):
        RunFolder.open(tmp_path, HEADER)


def test_run_json_holds_both_digests_and_the_selection(tmp_path: Path) -> None:
    drive(tmp_path, count=1)
    drive(tmp_path, count=2)
    values = json.loads((tmp_path / "run.json").read_text())
    assert values["selection"] == {"threshold": 0.5, "count": 2, "max_candidates": 1000}
    assert values["scoring_digest"] == "d6f43095834081e757d877652801e5cbb9295c6563a82bd6e1d64a08c3523d15"
    assert values["output"] == {"format": "png", "quality": 95, "resolution": None, "synthetic": True, "review": 3}


def test_a_dataset_that_lost_its_metadata_gets_it_again(tmp_path: Path) -> None:
    drive(tmp_path)
    before = tree(tmp_path)
    shutil.rmtree(tmp_path / "review")
    (tmp_path / "dataset" / "metadata.jsonl").unlink()
    drive(tmp_path)
    assert tree(tmp_path) == before
