import pytest
import torch
from pydantic import ValidationError

from qgate.gate.preprocess import Preprocessing

HALF = Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)

    assert torch.equal(HALF.resize(image)[0], image)


def test_shrinking_is_antialiased() -> None:
    stripes = torch.zeros(3, 128, 128, dtype=torch.uint8)
    stripes[:, ::2] = 200

    assert HALF.resize(stripes)[0, :, 8:-8].float().sub(100).abs().max() <= 1


def test_the_middle_square_of_an_oblong_image_is_judged() -> None:
    image = torch.zeros(3, 64, 104, dtype=torch.uint8)
    image[:, :, 20:84] = 7

    assert HALF.resize(image).unique().tolist() == [7]


def test_a_row_does_not_depend_on_its_batch() -> None:
    images = torch.randint(0, 256, (5, 3, 200, 200), dtype=torch.uint8)

    assert torch.equal(HALF.resize(images)[3], HALF.resize(images[3])[0])


def test_normalised_values_follow_mean_and_std() -> None:
    preprocessing = Preprocessing(size=32, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)

    assert preprocessing.normalise(white)[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def where() -> torch.Tensor:
    """An image (3, 128, 160) whose red is its column and whose green is its row."""
    image = torch.zeros(3, 128, 160, dtype=torch.uint8)
    image[0], image[1] = torch.arange(160), torch.arange(128)[:, None]
    return image


def test_a_crop_is_cut_out_of_the_middle_square() -> None:
    look = Preprocessing(size=64, crop=(0.25, 0.5, 0.75, 1.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    (found,) = look.resize(where())

    # The middle square begins at column 16; a quarter of its 128 pixels is 32, a half is 64.
    assert found.shape == (3, 64, 64)
    assert found[0, 0].tolist() == list(range(48, 112))
    assert found[1, :, 0].tolist() == list(range(64, 128))


def test_a_crop_is_resized_like_an_image_of_its_own() -> None:
    look = Preprocessing(size=32, crop=(0.25, 0.5, 0.75, 1.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    (found,) = look.resize(where())

    # Two columns are one: 48 and 49 give 48.5, and so on; the antialiased edge may be off by one.
    assert (found[0, 0].float() - torch.arange(48.5, 112, 2)).abs().max() <= 1
    assert (found[1, :, 0].float() - torch.arange(64.5, 128, 2)).abs().max() <= 1
    alone = HALF.model_copy(update={"size": 32}).resize(where()[:, 64:, 48:112])
    assert torch.equal(found, alone[0])


def test_images_of_several_sizes_are_cut_each_by_its_own() -> None:
    look = Preprocessing(size=32, crop=(0.5, 0.5, 1.0, 1.0), mean=(0.5,) * 3, std=(0.5,) * 3)
    images = [where(), where()[:, :64, :64], where()[:, :100]]

    assert torch.equal(look.resize_all(images), torch.cat([look.resize(image) for image in images]))
    assert torch.equal(look.resize_all(images[:1] * 2), look.resize_all(torch.stack(images[:1] * 2)))


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ((0.0, 0.0, 0.5, 0.6), r"crop \(0\.0, 0\.0, 0\.5, 0\.6\): is no square"),
        ((0.0, 0.0, 1.1, 1.1), "give left, top, right, bottom from 0 to 1"),
        ((0.5, 0.5, 0.5, 0.5), "give left, top, right, bottom from 0 to 1"),
        ((0.6, 0.0, 0.4, 0.2), "give left, top, right, bottom from 0 to 1"),
        ((float("nan"), 0.0, 1.0, 1.0), "finite number"),
    ],
)
def test_a_crop_that_is_no_square_within_the_picture_is_refused(
    crop: tuple[float, float, float, float], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocessing(size=32, crop=crop, mean=(0.5,) * 3, std=(0.5,) * 3)
