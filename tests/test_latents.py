import numpy as np
import pytest

from qgate.errors import InputError
from qgate.latents import draw_z


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
