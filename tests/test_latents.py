import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qgate.errors import InputError, WeightsError
from qgate.generators.stylegan2.latents import read_latents
from qgate.seeds import draw_z

W = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


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


def archive(content: bytes, name: str = "w.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return buffer.getvalue()


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def test_given_w_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(archive(npy(W)))

    np.testing.assert_array_equal(read_latents(tmp_path / "w.npz", 3, 4), W)


@pytest.mark.parametrize(
    "damaged",
    [
        lambda: b"",
        lambda: archive(npy(W))[:-30],
        lambda: archive(npy(W), "z.npy"),
        lambda: archive(npy(W)[:-8]),
        lambda: archive(b"no array"),
        lambda: archive(npy(np.array([{"a": 1}], object), allow_pickle=True)),
        lambda: archive(npy(W)).replace(b"\x08\x00", b"\x63\x00"),  # packed in a way that nobody knows
        lambda: archive(npy(W).replace(b"(2, 3, 4)", b"(9**9,  )")),
        lambda: archive(npy(np.full_like(W, np.nan))),
        lambda: archive(npy(W.astype("U8"))),
    ],
)
def test_a_damaged_file_of_w_is_one_clear_line(damaged: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(damaged())

    with pytest.raises(WeightsError, match=r"w\.npz: [^\n]+$"):
        read_latents(tmp_path / "w.npz", 3, 4)
