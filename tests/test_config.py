from pathlib import Path

import pytest

from qgate.config import canonical_digest, describe, known_keys, load_config, merge_values
from qgate.errors import ConfigError
from qgate.generators.options import all_options


def test_flags_win_over_the_file_and_set_wins_over_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("selection: {count: 5, threshold: 0.5}\ngenerator: {truncation_psi: 0.7}\n")
    flags = {"selection.count": 6, "selection.threshold": None, "compute.batch_size": 2}

    config = load_config(file, flags, ["compute.batch_size=4"])

    assert (config.selection.count, config.selection.threshold) == (6, 0.5)
    assert (config.generator.truncation_psi, config.compute.batch_size) == (0.7, 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"selection.count": 0}, r"selection\.count = 0: .*greater than or equal to 1"),
        ({"selection.threshold": 1.5}, r"selection\.threshold = 1\.5: .*less than or equal to 1"),
        ({"selection.threshold": float("nan")}, r"selection\.threshold = nan: .*finite"),
        ({"seeds.start": 2**32}, r"seeds\.start = 4294967296: .*less than or equal to 4294967295"),
        ({"selection.treshold": 0.5}, r"unknown setting 'selection\.treshold'; the nearest is 'selection\.threshold'"),
        ({"seeds.start": 5, "seeds.ranges": "7-9"}, "exclude each other"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, flags, [])


def test_the_description_names_every_setting_and_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    config = load_config(None, {"selection.count": 7, "output.path": "a: b"}, [])
    file = tmp_path / "shown.yaml"
    file.write_text(describe(config))

    assert load_config(file, {}, []) == config
    assert all(f"{key.split('.')[-1]}:" in describe(config) for key in known_keys())


def test_the_shipped_configuration_shows_the_defaults() -> None:
    shipped, config = Path(__file__).parents[1] / "configs" / "run.yaml", load_config(None, {}, [])

    assert shipped.read_text().partition("\n")[2] == describe(config, all_options(config.generator))


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_digest({"a": 1, "b": [2, 3]}) == canonical_digest({"b": [2, 3], "a": 1})


def test_the_search_is_bounded_by_default_at_fifty_candidates_a_face() -> None:
    assert load_config(None, {"selection.count": 24}, []).max_candidates() == 1200
    assert load_config(None, {"seeds.ranges": "0-9"}, []).max_candidates() == 10


def test_a_setting_in_a_section_that_is_null_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "null.yaml"
    path.write_text("selection: null\n")
    assert merge_values(path, {}, ["selection.count=3"]) == {"selection": {"count": 3}}
