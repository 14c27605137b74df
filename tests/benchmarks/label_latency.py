"""Time from a key to the next face painted on the label page, in headless Chromium.

    python -m tests.benchmarks.label_latency [FOLDER] [--pause 0.5]

FOLDER: images to label; without it, 200 pictures of 1024x1024 are made, which take as many bytes as PNG as faces do.
--pause: seconds between two keys, as of an annotator who needs no time to look.
The page measures: from the time stamp of the key's event to the first task after the frame in which the next face was
drawn, which is when the browser has handed the frame over.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from selenium import webdriver
from selenium.webdriver import ActionChains

from tests.label_server import serve_command

FACES = 200
SIDE = 1024


def make_pictures(folder: Path) -> None:
    """Blurred noise with grain: about 1.7 MB each as PNG."""
    folder.mkdir()
    for number in range(FACES):
        random = np.random.default_rng(number)
        soft = Image.fromarray(random.integers(0, 256, (SIDE // 16, SIDE // 16, 3), np.uint8)).resize((SIDE, SIDE))
        grain = random.integers(-4, 5, (SIDE, SIDE, 3))
        pixels = np.clip(np.asarray(soft.filter(ImageFilter.GaussianBlur(8))) + grain, 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03d}.png", compress_level=1)


def measure(folder: Path, pause: float) -> list[float]:
    """Milliseconds for each key."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1000"):
        options.add_argument(argument)
    with (
        tempfile.TemporaryDirectory() as work,
        serve_command(str(folder.absolute()), "--annotator", "bench", "--port", "0", cwd=Path(work)) as (_, address),
    ):
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.get(address)
            time.sleep(3)
            driver.execute_script("performance.clearMeasures()")
            for _ in range(FACES - 1):
                ActionChains(driver).send_keys("a").perform()
                time.sleep(pause)
            found: list[float] = driver.execute_script(
                "return performance.getEntriesByName('key-to-paint').map(entry => entry.duration)"
            )
            return found
        finally:
            driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pause", type=float, default=0.5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "faces"
        if arguments.folder is None:
            make_pictures(folder)
        times = sorted(measure(folder, arguments.pause))
    tenth, last = times[int(0.9 * len(times))], times[-1]
    print(f"key to next face painted, {len(times)} keys: median {statistics.median(times):.1f} ms, ", end="")
    print(f"90 % below {tenth:.1f} ms, longest {last:.1f} ms")


if __name__ == "__main__":
    main()
