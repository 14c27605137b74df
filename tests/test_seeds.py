import numpy as np
import pytest

from qgate.errors import ConfigError, InputError
from qgate.seeds import SeedPlan, class_of, draw_z, parse_seeds


def test_seed_ranges_are_sorted_and_merged() -> None:
    assert parse_seeds("7000,6000-6002,6003") == ((6000, 6003), (7000, 7000))


@pytest.mark.parametrize("text", ["", "x", "5-", "-5", "9-3", "4294967296", "1.5"])
def test_what_is_no_seed_range_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        parse_seeds(text)


def test_a_plan_gives_the_seeds_at_positions_across_ranges() -> None:
    plan = SeedPlan(((10, 12), (20, 20), (30, 39)))

    assert len(plan) == 14
    assert list(plan.slice(2, 6)) == [12, 20, 30, 31]
    assert list(plan.slice(12, 99)) == [38, 39]


def test_a_seed_has_the_class_asked_for_or_takes_its_turn() -> None:
    assert [class_of(seed, "all", 3) for seed in (0, 1, 2, 3, 7)] == [0, 1, 2, 0, 1]
    assert class_of(7, 2, 3) == 2


def test_seed_0_gives_the_latent_of_nvidias_generate_py() -> None:
    z = draw_z([0], 512)

    assert z.shape == (1, 512)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z[0, :3], np.float32([1.764052345967664, 0.4001572083672233, 0.9787379841057392]))


def test_a_seeds_latent_does_not_depend_on_its_batch() -> None:
    np.testing.assert_array_equal(draw_z([5, 6000, 4294967295], 64)[1], draw_z([6000], 64)[0])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_an_error_and_never_wrapped(seed: int) -> None:
    with pytest.raises(InputError, match=r"seeds are 0\.\.4294967295"):
        draw_z([seed], 8)
