"""A file is replaced whole or not at all, and the random orders are those that earlier data rest on."""

from pathlib import Path

import numpy as np
import pytest

from qgate.errors import OutputError
from qgate.files import move, order_key, order_keys, order_place, replace, replacing


def test_a_file_takes_its_place_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"

    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half of the n")
        raise ZeroDivisionError

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_draft_may_lie_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "file").write_bytes(b"longer, left by a kill")
    replace(tmp_path / "file", [b"one", b"two"], tmp_path / "staging")

    assert (tmp_path / "file").read_bytes() == b"onetwo"
    assert list((tmp_path / "staging").iterdir()) == []


def test_what_cannot_be_written_is_said_as_of_an_output_folder_or_left_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(OutputError, match=r"file/new: cannot be written \(Not a directory\); give another --output"):
        replace(tmp_path / "file" / "new", [b""])
    with pytest.raises(NotADirectoryError), replacing(tmp_path / "file" / "new"):
        pass


def test_a_folder_moves_with_all_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"content")

    assert (move(tmp_path / "a", tmp_path / "b") / "file").read_bytes() == b"content"


def test_the_orders_are_those_of_data_made_before() -> None:
    assert order_key(b"qgate-review", (6000).to_bytes(4, "little")).hex() == "ffe0145f4971d057"
    assert order_key(b"salt", b"\0mobile-stylegan\x006000\x000.7\0", 16).hex() == "b65b8de08eda65ab62c04b15041a61d8"
    assert order_place("split", "6000") == 0.47097272921284994
    assert order_keys(np.array([0, 6000, 2**32 - 1])).tolist() == [
        16294208416658607535,
        62038261678603536,
        8336509955162079680,
    ]
