"""Answers on their way from the page to the store, in a real browser: none is lost, and what holds them up is said."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.label_server import make_faces, serve_in_thread
from tests.label_tab import IN_A_BROWSER, Tab, open_browser

pytestmark = IN_A_BROWSER

STORED = "return Object.keys(localStorage).filter((key) => key.startsWith('qgate.outbox.')).length"
SAVED = "document.querySelector('#saved').textContent"


@pytest.fixture
def driver() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


def test_answers_wait_while_the_store_is_locked_and_the_page_says_why(tmp_path: Path, driver: Any) -> None:
    faces, path = make_faces(tmp_path / "faces", ["a.png", "b.png", "c.png"]), tmp_path / "labels.db"
    with serve_in_thread(faces, path, busy_seconds=0.2) as served:
        tab = Tab(driver, served.address, "anna")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        typed = {tab.judge("d"): "artifact", tab.judge("a"): "clean"}
        tab.wait(f"{SAVED}.endsWith('close it; 2 answers wait here and are sent again')")
        assert "database is locked" in driver.execute_script(f"return {SAVED}")
        assert (driver.execute_script(STORED), served.kept) == (2, 0)
        other.close()
        tab.saved()

        assert {a.face.file_name.split("/")[1]: a.decision.value for a in served.page.store.standing()} == {
            name.split("/")[-1]: said for name, said in typed.items()
        }
        assert driver.execute_script(STORED) == 0
        assert driver.execute_script(f"return {SAVED}") == "all saved"


def test_an_undo_waits_while_the_store_is_locked(tmp_path: Path, driver: Any) -> None:
    faces, path = make_faces(tmp_path / "faces", ["a.png", "b.png"]), tmp_path / "labels.db"
    with serve_in_thread(faces, path, busy_seconds=0.2) as served:
        tab = Tab(driver, served.address, "anna")
        first = tab.judge("d")
        tab.saved()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        tab.press("\ue003")
        tab.wait(f"{SAVED}.includes('database is locked')")
        other.close()
        tab.wait(f"document.querySelector('#name').textContent === '{first}'")

        assert driver.execute_script(f"return {SAVED}") == "all saved"


def test_an_answer_that_the_server_refuses_stays_in_the_browser_and_is_sent_again_by_the_next_page(
    tmp_path: Path, driver: Any
) -> None:
    """As an answer that an older page left behind, which breaks a rule of this one."""
    faces, path = make_faces(tmp_path / "faces", ["a.png", "b.png", "c.png"]), tmp_path / "labels.db"
    with serve_in_thread(faces, path) as served:
        tab = Tab(driver, served.address, "anna")
        left = served.answer(int(tab.item or 0), severity=9, time=1)
        script = "localStorage.setItem('qgate.outbox.' + arguments[0].faces + '.x', JSON.stringify(arguments[0]))"
        driver.execute_script(script, left)
        driver.execute_script("localStorage.setItem('qgate.outbox.' + arguments[0] + '.y', '{')", left["faces"])
        driver.refresh()
        tab.wait(f"{SAVED}.startsWith('1 refused (body.severity: ')")
        tab.wait("document.body.dataset.item")
        assert tab.item != str(left["item"])
        tab.judge("d")
        tab.saved()

        assert driver.execute_script(f"return {SAVED}").startswith("1 refused (body.severity: ")
        assert (driver.execute_script(STORED), served.kept) == (2, 1)


def test_a_mark_too_many_is_left_out_and_the_answer_is_kept(tmp_path: Path, driver: Any) -> None:
    from selenium.webdriver import ActionChains

    faces, path = make_faces(tmp_path / "faces", ["a.png", "b.png"], size=256), tmp_path / "labels.db"
    with serve_in_thread(faces, path) as served:
        tab = Tab(driver, served.address, "anna")
        chain = ActionChains(driver, duration=0)
        chain.move_to_element(driver.find_element("id", "marks"))
        for number in range(101):
            chain.click_and_hold().move_by_offset(*((20, 15) if number % 2 else (-20, -15))).release()
        chain.perform()
        assert driver.execute_script("return document.querySelector('#says').textContent") == (
            "no more marks fit into one answer"
        )
        tab.judge("d")
        tab.saved()
        [found] = served.page.store.standing()

        assert len(found.marks) == 100
