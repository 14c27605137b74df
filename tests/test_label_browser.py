"""The label page in a real browser: what was typed is what is exported, whatever happens in between."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qgate.labels.rows import read_labels
from qgate.labels.store import LabelStore
from qgate.web.faces import run_faces
from qgate.web.orders import Rules
from tests.dataset_driver import drive
from tests.label_server import make_faces, serve_command, serve_in_thread
from tests.label_tab import IN_A_BROWSER, Tab, open_browser

pytestmark = IN_A_BROWSER

KEYS = {"a": ("clean", 0), "s": ("unsure", None), "d": ("artifact", 2)}
KEYS |= {"q": ("clean", 0), "w": ("clean", 1), "e": ("artifact", 2), "r": ("artifact", 3)}


@pytest.fixture
def driver() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def open_tab(driver: Any) -> Callable[[str, str], Tab]:
    return lambda address, annotator: Tab(driver, address, annotator)


def test_fifty_faces_by_keyboard_a_reload_a_kill_and_an_export(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    make_faces(tmp_path / "faces", [f"{number:02d}.png" for number in range(50)])
    arguments = ("faces", "--labels", "labels.db", "--port", "0")
    typed: dict[str, str] = {}
    keys = ["a", "d", "s", "q", "w", "e", "r", "1d", "3=r", "2w"]
    with serve_command(*arguments, cwd=tmp_path) as (process, address):
        port = address.rsplit(":", 1)[1].strip("/")
        tab = open_tab(address, "anna")
        for number in range(20):
            typed[tab.judge(keys[number % 10])] = keys[number % 10]
        tab.saved()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # Typed while no server is there: the faces that were loaded ahead are judged, and wait.
        for number in range(20, 23):
            typed[tab.judge(keys[number % 10])] = keys[number % 10]
    with LabelStore(tmp_path / "labels.db") as store:
        assert len(store.standing()) == 20
    with serve_command(*arguments[:-1], port, cwd=tmp_path) as (process, address):
        tab.saved()
        driver.refresh()
        tab.wait("document.body.dataset.item")
        undone = [undo(tab), undo(tab), undo(tab)]
        assert undone == list(reversed(typed))[:3]
        for name in reversed(undone):
            assert tab.name_shown == name
            typed[tab.judge("r")] = "r"
        for number in range(23, 50):
            typed[tab.judge(keys[number % 10])] = keys[number % 10]
        tab.saved()
        assert "All faces" in driver.find_element("id", "notice").text

    regions = {"1": "forehead", "2": "eyes", "3": "mouth", "=": "shape"}
    expected = {name: (*KEYS[text[-1]], tuple(regions[digit] for digit in text[:-1])) for name, text in typed.items()}
    with LabelStore(tmp_path / "labels.db") as store:
        found = {a.face.file_name: (a.decision.value, a.severity, a.regions) for a in store.standing()}
        assert found == expected and len(found) == 50
        from qgate.labels.exchange import export_labels

        export_labels(store, tmp_path / "out.csv", "csv")
    exported = {label.face.file_name: (label.severity, label.regions) for label in read_labels(tmp_path / "out.csv")}
    assert exported == {name: (said[1], said[2]) for name, said in expected.items() if said[1] is not None}


def test_keys_faster_than_faces_load_judge_the_face_that_they_were_meant_for(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    press = (
        "for (const key of arguments) document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
    )
    with serve_in_thread(make_faces(tmp_path / "faces", ["a.png", "b.png", "c.png"]), tmp_path / "labels.db") as served:
        tab = open_tab(served.address, "anna")
        names = [tab.judge("a"), tab.judge("a")]
        tab.saved()
        driver.execute_script(press, "Backspace", "Backspace", "d")
        tab.wait(f"document.querySelector('#says').textContent === {json.dumps(f'artifact. Now {names[1]}')}")
        tab.saved()
    with LabelStore(tmp_path / "labels.db") as store:
        assert [(f"{a.face.file_name}", a.decision.value) for a in store.standing()] == [(names[0], "artifact")]


def undo(tab: Tab) -> str:
    before = tab.item
    tab.press("\ue003")
    tab.wait(f"document.body.dataset.item !== {json.dumps(before)}")
    return tab.name_shown


def test_boxes_strokes_and_regions_are_stored_where_they_were_drawn(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    faces = make_faces(tmp_path / "faces", ["a.png", "b.png"], size=256)
    with serve_in_thread(faces, tmp_path / "labels.db") as served:
        tab = open_tab(served.address, "anna")
        side = driver.execute_script(
            "const c = document.querySelector('#face'); return Math.min(c.clientWidth, c.clientHeight)"
        )
        tab.draw(0, 0, int(side / 4), int(side / 8))
        tab.press("3")
        tab.press("f")
        tab.draw(0, 0, int(side / 4), int(side / 4))
        tab.press("2")
        tab.press("f", "b")
        tab.draw(-int(side / 4), 0, int(side / 8), 0)
        tab.judge("d")
        tab.saved()
        assert tab.errors() == []
    with LabelStore(tmp_path / "labels.db") as store:
        [found] = store.standing()
    box, mirrored, stroke = found.marks

    assert (found.regions, found.width, found.height) == (("eyes", "mouth"), 256, 256)
    assert (box.region, box.radius) == ("mouth", 0)
    assert flat(box.points) == pytest.approx([0.5, 0.5, 0.75, 0.625], abs=0.01)
    assert flat(mirrored.points) == pytest.approx([0.5, 0.5, 0.25, 0.75], abs=0.01)
    assert (stroke.region, stroke.radius) == ("eyes", 0.02)
    assert flat((stroke.points[0], stroke.points[-1])) == pytest.approx([0.25, 0.5, 0.375, 0.5], abs=0.02)


def test_by_touch_one_finger_draws_two_zoom_and_taps_decide(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    faces = make_faces(tmp_path / "faces", ["a.png", "b.png"], size=256)
    with serve_in_thread(faces, tmp_path / "labels.db") as served:
        tab = open_tab(served.address, "anna")
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})
        tab.wait("matchMedia('(pointer: coarse)').matches && matchMedia('(hover: none)').matches")
        x, y, side = driver.execute_script(
            "const r = document.querySelector('#face').getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2, Math.min(r.width, r.height)]"
        )
        tab.touch([(x, y), (x + side / 8, y + side / 8), (x + side / 4, y + side / 4)])
        tab.tap("[data-region=mouth]", "document.querySelector('[data-region=mouth]').ariaPressed === 'true'")
        # Two fingers from 100 to 200 pixels apart: twice as large, the middle where it was.
        tab.touch([(x - 50, y), (x - 75, y), (x - 100, y)], [(x + 50, y), (x + 75, y), (x + 100, y)])
        tab.touch([(x, y), (x - side / 8, y - side / 8), (x - side / 4, y - side / 4)])
        tab.tap("[data-region=eyes]", "document.querySelector('[data-region=eyes]').ariaPressed === 'true'")
        tab.touch([(x, y)])
        tab.touch([(x, y)])
        tab.wait("document.querySelector('[data-act=fit]').ariaPressed === 'true'")
        tab.touch([(x, y)])
        tab.touch([(x, y)])
        tab.wait("document.querySelector('[data-act=four]').ariaPressed === 'true'")
        before = tab.item
        tab.tap("[data-decide=artifact]", f"document.body.dataset.item !== '{before}'")
        tab.saved()
        assert tab.errors() == []
    with LabelStore(tmp_path / "labels.db") as store:
        [found] = store.standing()

    assert (found.decision, found.regions) == ("artifact", ("eyes", "mouth"))
    assert [mark.region for mark in found.marks] == ["mouth", "eyes"]
    assert flat(found.marks[0].points) == pytest.approx([0.5, 0.5, 0.75, 0.75], abs=0.01)
    assert flat(found.marks[1].points) == pytest.approx([0.5, 0.5, 0.375, 0.375], abs=0.01)


def test_the_zoom_keeps_what_is_under_the_pointer(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    faces = make_faces(tmp_path / "faces", ["a.png"], size=256)
    with serve_in_thread(faces, tmp_path / "labels.db") as served:
        tab = open_tab(served.address, "anna")
        side = driver.execute_script(
            "const c = document.querySelector('#face'); return Math.min(c.clientWidth, c.clientHeight)"
        )
        for key in "zx":
            tab.press(key)
            tab.draw(int(side / 4), 0, 64, 32)
        tab.press("2")
        tab.judge("d")
        tab.saved()
    with LabelStore(tmp_path / "labels.db") as store:
        [found] = store.standing()
    four, one = found.marks

    assert flat(four.points) == pytest.approx([0.75, 0.5, 0.75 + 16 / 256, 0.5 + 8 / 256], abs=0.005)
    assert flat(one.points) == pytest.approx([0.75, 0.5, 1.0, 0.5 + 32 / 256], abs=0.005)
    # A digit names the mark that was drawn last; the first one was never named.
    assert (four.region, one.region) == ("", "eyes")


def test_the_score_is_hidden_until_the_answer_and_an_audit_ends_with_its_rate(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    drive(tmp_path / "run")
    gate = "document.querySelector('#gate').innerText"
    faces = run_faces(tmp_path / "run", tmp_path)
    with serve_in_thread(faces, tmp_path / "labels.db") as served:
        tab = open_tab(served.address, "anna")
        assert driver.execute_script("return document.querySelector('#gate').hidden")
        tab.judge("a")
        tab.wait(f"{gate}.includes('last face: you clean, gate ')")
        tab.press("g")
        tab.wait("/^GATE\\s+clean with/.test(" + gate + ")")
        tab.judge("d")
        undo(tab)
        tab.judge("a")
        tab.judge("a")
        tab.saved()
        tab.wait(
            "document.querySelector('#training').textContent === '3 labelled, 97 more until the next training pays'"
        )
        assert driver.find_element("id", "command").text == served.page.about()["train_command"]
    with LabelStore(tmp_path / "labels.db") as store:
        assert [answer.score_seen for answer in store.standing()] == [False, True, False]
    with serve_in_thread(faces, tmp_path / "labels.db", Rules(sample=3, audit=True)) as served:
        tab = open_tab(served.address, "anna")
        for key in "daa":
            assert driver.execute_script("return document.querySelector('#gate').hidden")
            tab.judge(key)
        tab.wait("document.querySelector('#notice').textContent.includes('Escape rate 33.3 %')")
        assert "95 % interval 0.8 % to 90.6 %: 1 of 3 are artifacts" in driver.find_element("id", "notice").text
        assert tab.errors() == []


def flat(points: Any) -> list[float]:
    return [value for point in points for value in point]


def test_two_annotators_disagree_and_a_third_settles_it_with_both_votes_in_view(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    faces = make_faces(tmp_path / "faces", ["a.png", "b.png", "c.png"])
    with serve_in_thread(faces, tmp_path / "labels.db", Rules(per_face=2)) as served:
        address = served.address
        anna, ben = open_tab(address, "anna"), open_tab(address, "ben")
        said = {}
        for tab, keys in ((anna, "aad"), (ben, "ard")):
            tab.focus()
            said[tab] = [tab.judge(key) for key in keys]
            tab.saved()
        assert said[anna] == said[ben]
        cleo = open_tab(address, "cleo")
        choose(driver, "review")
        cleo.wait("document.body.dataset.purpose === 'review'")
        votes = driver.find_element("id", "votes").text
        assert "anna" in votes and "clean" in votes and "ben" in votes and "artifact, severe" in votes
        cleo.judge("d")
        cleo.saved()
        driver.find_element("id", "agreement").click()
        cleo.wait("document.querySelector('#numbers').open")
        assert "anna and ben: equal 2 of 3 (9 % to 99 %)" in driver.find_element("id", "numbers").text
    with LabelStore(tmp_path / "labels.db") as store:
        assert [label.severity for label in store.labels() if label.annotator == "cleo"] == [2]
        assert len(store.votes()) == 6


def choose(driver: Any, order: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(driver.find_element("id", "order")).select_by_value(order)


def test_hostile_names_are_text_and_run_nothing(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    """Row 48."""
    evil = "<img src=x onerror=alert(1)>"
    make_faces(tmp_path / evil, [f"{evil}.png", "b.png"])
    with serve_command(evil, "--port", "0", "--per-face", "2", cwd=tmp_path) as (_, address):
        for name in (evil, "<script>alert(2)</script>"):
            tab = open_tab(address, name)
            driver.execute_script("document.querySelector('#agreement').click()")
            tab.wait("document.querySelector('#numbers').open")
            tab.press("\ue00c")
            assert tab.name_shown.endswith(".png")
            tab.judge("a")
            tab.judge("d" if name == evil else "a")
            tab.saved()
        choose(driver, "review")
        tab.wait("document.body.dataset.purpose === 'review'")
        assert evil in driver.find_element("id", "votes").text
        assert driver.execute_script("return document.querySelectorAll('img, main script').length") == 0
        assert driver.find_element("id", "who").text == "<script>alert(2)</script>"
        # An open dialog would make this raise.
        assert tab.errors() == []


CONTRAST = """
const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [[r, g, b], a]; };
const ground = (e) => { for (; e; e = e.parentElement) {
  const [rgb, a] = parse(getComputedStyle(e).backgroundColor); if (a === 1) return rgb; } return [0, 0, 0]; };
return [...document.querySelectorAll("body *")]
  .filter((e) => e.getClientRects().length && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => { const [x, y] = [light(parse(getComputedStyle(e).color)[0]), light(ground(e))].sort((a, b) => b - a);
    return [(x + 0.05) / (y + 0.05), e.id || e.textContent]; }).sort((a, b) => a[0] - b[0])[0];
"""


def test_everything_has_a_name_and_is_reached_by_tab(
    tmp_path: Path, driver: Any, open_tab: Callable[[str, str], Tab]
) -> None:
    with serve_in_thread(make_faces(tmp_path / "faces", ["a.png", "b.png"]), tmp_path / "labels.db") as served:
        tab = open_tab(served.address, "anna")
        tab.press("?")
        tab.wait("document.querySelector('#help').open")
        assert driver.execute_script(CONTRAST)[0] >= 4.5
        tab.press("\ue00c")
        nameless = driver.execute_script(
            "const all = document.querySelectorAll('button, select, input, canvas, [role]:not([role=status])');"
            "return [...all].filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length || "
            "e.ariaHidden === 'true' || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)"
        )
        reached, unseen = [], []
        for _ in range(45):
            tab.press("\ue004")
            reached.append(driver.execute_script("return document.activeElement.textContent.replace(/\\s.*/, '')"))
            unseen += driver.execute_script(
                "const e = document.activeElement, s = getComputedStyle(e);"
                "const seen = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;"
                "return e === document.body || seen ? [] : [e.outerHTML]"
            )

        assert (nameless, unseen) == ([], [])
        assert {"1forehead", "=shape", "CleanA", "UnsureS", "ArtifactD", "Help", "qgate"} <= set(reached)
        # Keys that decide can be switched off, for those who speak or read by screen.
        driver.execute_script("document.querySelector('#helper').click(); document.querySelector('#keys').click()")
        tab.press("\ue00c")
        before = tab.item
        tab.press("d")
        driver.find_element("css selector", "[data-decide=clean]").click()
        tab.wait(f"document.body.dataset.item !== '{before}'")
        tab.saved()
        assert tab.errors() == []
    with LabelStore(tmp_path / "labels.db") as store:
        assert [answer.decision for answer in store.standing()] == ["clean"]
