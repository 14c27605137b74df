import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field

from qgate.config import GeneratorSettings, RunConfig, load_config
from qgate.dataset.header import RunHeader
from qgate.errors import ConfigError, ImageError, WeightsError
from qgate.generators import Generator, open_generator, options_of, stylegan2_path
from qgate.generators.options import Options
from qgate.images import read_image
from qgate.run.run import regate, run

CPU = torch.device("cpu")


def open_named(name: str) -> Generator:
    """The generator of this name; the pictures of a folder show no faces and are taken as they are."""
    align = "never" if name.startswith("folder:") else "auto"
    return open_generator(GeneratorSettings.model_validate({"name": name, "align": align}), torch.device("cpu"))


def save(path: Path, size: tuple[int, int] = (80, 80), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(1).randint(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_a_fake_face_is_the_same_in_every_batch() -> None:
    fake = open_named("fake:32")
    first, second = fake.draw([3]).images[0], fake.draw([1, 2, 3]).images[2]

    assert first is not None and second is not None
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert torch.equal(first, second)


def test_a_fake_of_no_size_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"the resolution is 16\.\.1024"):
        open_named("fake:huge")


def test_a_folders_images_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.webp", "a.png", "b/1.jpg"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    folder = open_named(f"folder:{tmp_path}")

    drawn = folder.draw([0, 1, 2])

    assert folder.info.length == 3
    assert drawn.sources == ["a.png", "b/1.jpg", "b/2.webp"]
    assert [tuple(image.shape) for image in drawn.images if image is not None] == [(3, 80, 80)] * 3


def test_a_truncated_image_of_a_folder_is_a_fault_and_the_others_are_drawn(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    whole = save(tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])

    drawn = open_named(f"folder:{tmp_path}").draw([0, 1])

    assert drawn.faults[0] is None
    assert "b.png: damaged image" in str(drawn.faults[1])
    assert drawn.images[1] is None


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no PNG, JPEG or WebP image"):
        open_named(f"folder:{tmp_path}")
    with pytest.raises(ImageError, match="no such folder"):
        open_named(f"folder:{tmp_path / 'gone'}")


def test_a_text_file_named_png_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("hello")

    with pytest.raises(ImageError, match=r"b\.png: no PNG, JPEG or WebP image"):
        open_named(f"folder:{tmp_path}")


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    image.rename(os.fsdecode(bytes(tmp_path) + b"/\xff.png"))

    with pytest.raises(ImageError, match="characters that cannot be printed"):
        open_named(f"folder:{tmp_path}")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"

    assert read_image(save(tmp_path / f"x.{suffix}", mode=mode)).shape == (3, 80, 80)


def test_a_rotated_photograph_is_set_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(tmp_path / "x.jpg", exif=exif)

    assert read_image(tmp_path / "x.jpg").shape == (3, 80, 100)


def test_a_tiny_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is 40x80; images of 64x64 to 64 megapixels are judged"):
        read_image(save(tmp_path / "x.png", size=(40, 80)))


def test_a_generator_of_another_package_gets_what_follows_the_colon_a_pkl_too(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("mine", "tests.test_generators:open_mine", "qgate.generators")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == entry.group else [])

    assert open_named("mine:net.pkl").info.name == "fake of net.pkl"
    assert stylegan2_path("mine:net.pkl") is None
    assert stylegan2_path("net.pkl") == Path("net.pkl")


def test_a_generator_of_another_package_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = metadata.EntryPoint("mine", "tests.test_generators:open_mine", "qgate.generators")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == entry.group else [])

    def asked(*assignments: str) -> RunConfig:
        return load_config(None, {"generator.name": "mine", "seeds.ranges": "0-3"}, list(assignments))

    assert open_generator(asked("generator.mood=sad").generator, CPU).info.name == "sad fake of None"
    assert options_of(asked().generator).chosen() == {}
    shipped = Path(__file__).parents[1] / "configs" / "run.yaml"
    assert options_of(load_config(shipped, {"generator.name": "mine"}, []).generator).chosen() == {}
    for assignment, message in (
        ("generator.mood=odd", r"generator\.mood = 'odd': input should be 'glad' or 'sad'"),
        ("generator.mod=sad", r"unknown setting 'generator\.mod'; the nearest is 'generator\.mood'"),
        ("generator.class_idx=2", r"generator\.class_idx = 2: mine has no such option; drop it"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_generator(asked(assignment).generator, CPU)

    config = asked("generator.mood=sad", f"output.path={tmp_path / 'out'}", "tracking.enabled=false")
    run(config)
    header = RunHeader.read(tmp_path / "out")
    assert (header.scoring["mood"], header.config["mood"]) == ("sad", "sad")
    assert regate(tmp_path / "out", {"selection.threshold": 0.0}).tally.accepted == 4


class Moods(Options):
    mood: Literal["glad", "sad"] = Field("glad", description="how the faces look")


def open_mine(argument: str | None, settings: GeneratorSettings, device: torch.device) -> Generator:
    fake = open_generator(GeneratorSettings(name="fake:64"), device)
    mood = "sad " if settings.read(Moods).mood == "sad" else ""
    fake.info = replace(fake.info, name=f"{mood}fake of {argument}")
    return fake


open_mine.Options = Moods  # type: ignore[attr-defined]
