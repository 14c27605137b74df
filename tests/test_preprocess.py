import torch

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
