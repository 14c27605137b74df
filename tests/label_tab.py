"""One annotator at the label page in a real browser, as tests drive it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

TAPS, ANSWER_SECONDS = 4, 5

IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="Chromium is missing: apt-get install chromium chromium-driver",
    ),
    # Selenium leaves its pipe to chromedriver to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@contextmanager
def open_browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


class Tab:
    """One annotator at the page."""

    def __init__(self, driver: Any, address: str, annotator: str) -> None:
        self.driver = driver
        driver.switch_to.new_window("tab")
        self.handle = driver.current_window_handle
        driver.get(address)
        self.wait("document.querySelector('#login').open || document.querySelector('#who').textContent")
        if driver.execute_script("return document.querySelector('#login').open"):
            self.name(annotator)
        elif driver.execute_script("return document.querySelector('#who').textContent") != annotator:
            driver.execute_script("document.querySelector('#who').click()")
            self.name(annotator)
        self.wait(f"document.querySelector('#who').textContent === {json.dumps(annotator)}")
        self.wait("document.body.dataset.item || document.querySelector('#notice').textContent.startsWith('All')")

    def name(self, annotator: str) -> None:
        from selenium.webdriver.common.keys import Keys

        field = self.driver.find_element("id", "annotator")
        field.clear()
        field.send_keys(annotator, Keys.ENTER)

    def focus(self) -> None:
        self.driver.switch_to.window(self.handle)

    def wait(self, condition: str, seconds: float = 20) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.02).until(lambda driver: driver.execute_script(f"return {condition}"))

    @property
    def item(self) -> str | None:
        found: str | None = self.driver.execute_script("return document.body.dataset.item ?? null")
        return found

    @property
    def name_shown(self) -> str:
        text: str = self.driver.execute_script("return document.querySelector('#name').textContent")
        return text

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def judge(self, keys: str) -> str:
        """Type; returns the name of the face that was judged once another, or none, is shown."""
        before, name = self.item, self.name_shown
        self.press(keys)
        self.wait(f"document.body.dataset.item !== {json.dumps(before)}")
        return name

    def saved(self) -> None:
        self.wait("document.body.dataset.waiting === '0'")

    def draw(self, x: int, y: int, across: int, down: int) -> None:
        from selenium.webdriver import ActionChains

        face = self.driver.find_element("id", "marks")
        chain = ActionChains(self.driver).move_to_element_with_offset(face, x, y).click_and_hold()
        chain.move_by_offset(across // 2, down // 2).move_by_offset(across - across // 2, down - down // 2)
        chain.release().perform()

    def touch(self, *ways: Sequence[tuple[float, float]]) -> None:
        """Put down one finger for each way, lead each along its points at once, and lift them all."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        # One request for the whole gesture: a slow test would turn a tap into a long press.
        builder = ActionBuilder(self.driver, mouse=PointerInput("touch", "finger0"), duration=10)
        fingers = [builder.pointer_action.source]
        for number in range(1, len(ways)):
            fingers.append(builder.add_pointer_input("touch", f"finger{number}"))
        for finger, way in zip(fingers, ways, strict=True):
            finger.create_pointer_move(duration=0, x=round(way[0][0]), y=round(way[0][1]), origin="viewport")
            finger.create_pointer_down(button=0)
            for x, y in way[1:]:
                finger.create_pointer_move(duration=10, x=round(x), y=round(y), origin="viewport")
            finger.create_pointer_up(button=0)
        builder.perform()

    def tap(self, selector: str, until: str) -> None:
        """Tap until the page answers: on a busy machine a tap may become a long press, or find its place moved."""
        from selenium.common.exceptions import TimeoutException

        find = f"const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
        for _ in range(TAPS):
            self.touch([tuple(self.driver.execute_script(f"{find} return [r.x + r.width / 2, r.y + r.height / 2]"))])
            try:
                return self.wait(until, ANSWER_SECONDS)
            except TimeoutException:
                continue
        raise AssertionError(f"{TAPS} taps on {selector}, and not: {until}")

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
