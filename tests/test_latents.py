import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qgate.errors import WeightsError
from qgate.generators.stylegan2.latents import read_latents

W = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


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
