"""The page of who speaks when, opened from the disk in Chromium, headless."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from speech_zoo.recordings.conversation import conversation
from speech_zoo.recordings.formats import read_rttm, to_rttm
from speech_zoo.recordings.report import report
from speech_zoo.recordings.segment import Segment
from wavs import write_wav

SECONDS = 20
HOSTILE = "</script><script>document.title='hacked'</script>"
THEME = {"light": "rgb(246, 246, 243)", "dark": "rgb(18, 20, 24)"}  # of the page's ground


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(downloads: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    root = ["--no-sandbox"] if os.getuid() == 0 else []
    for argument in ("--headless=new", "--window-size=1240,900", "--disable-dev-shm-usage", "--mute-audio", *root):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Segment]]:
    """A conversation of three, of whom one bears a name that is markup; and its segments."""
    samples, segments = conversation(3, SECONDS, 1)
    path = write_wav(tmp_path_factory.mktemp("talk") / "<b>our talk.wav", samples)
    names = {"voice 1": "speaker 1", "voice 2": HOSTILE, "voice 3": "speaker 3"}
    return path, [replace(s, label=names[s.label], score=0.5 + i / 97) for i, s in enumerate(segments)]


@pytest.fixture
def page(browser: Any, talk: tuple[Path, list[Segment]], tmp_path: Path) -> Iterator[Any]:
    """The page, just opened; afterwards the browser must have had nothing to say, and asked for nothing else."""
    where = report(*talk, tmp_path / "report.html").as_uri()
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(where)
    wait(lambda: browser.execute_script("return audio.readyState") > 0)
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert where in asked
    assert {url for url in asked - {where} if not url.startswith("blob:")} == set()


def wait(true: Callable[[], Any]) -> None:
    """Until something is true, for ten seconds at most."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def now(page: Any) -> float:
    return float(page.execute_script("return audio.currentTime"))


def paused(page: Any) -> bool:
    return bool(page.execute_script("return audio.paused"))


def found(page: Any, what: str) -> list[Any]:
    return page.find_elements(By.CSS_SELECTOR, what)  # type: ignore[no-any-return]


def click(page: Any, element: Any) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def press(page: Any, *keys: str) -> None:
    """Keys, on whatever has the focus."""
    for key in keys:
        ActionChains(page).send_keys(key).perform()


def test_a_lane_for_each_speaker(page: Any, talk: tuple[Path, list[Segment]]) -> None:
    path, segments = talk
    labels = list(dict.fromkeys(segment.label for segment in segments))
    assert [field.get_attribute("value") for field in found(page, ".who input")] == labels
    assert len(found(page, ".lane")) == 3
    wave = found(page, "#wave")[0].rect
    blocks = sorted(found(page, ".seg"), key=lambda block: int(block.get_attribute("data-i")))
    for block, segment in zip(blocks, segments, strict=True):
        assert block.rect["x"] == pytest.approx(wave["x"] + segment.start / SECONDS * wave["width"], abs=2)
        assert block.rect["width"] == pytest.approx((segment.end - segment.start) / SECONDS * wave["width"], abs=2)
    assert len(found(page, "#turns button")) == len(segments)
    assert found(page, "h1")[0].text == path.name
    assert "hacked" not in page.title
    ink = "const c = document.querySelector('canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height)"
    assert page.execute_script(f"{ink}.data.filter((value) => value > 0).length") > 10000


def test_a_click_plays_from_there(page: Any, talk: tuple[Path, list[Segment]]) -> None:
    click(page, found(page, "#turns button")[2])
    wait(lambda: now(page) > talk[1][2].start + 0.3)
    assert not paused(page)
    found(page, "#play")[0].click()
    assert paused(page)
    assert now(page) == pytest.approx(talk[1][2].start + 1, abs=1.5)
    block = max(found(page, ".seg"), key=lambda one: one.rect["width"])
    start = talk[1][int(block.get_attribute("data-i"))].start
    click(page, block)
    wait(lambda: now(page) > start + 0.2)
    assert now(page) < start + 3
    assert "on" in block.get_attribute("class")
    before = found(page, "#head")[0].rect["x"]
    wait(lambda: found(page, "#head")[0].rect["x"] > before)
    wave = found(page, "#wave")[0]
    ActionChains(page).move_to_element_with_offset(wave, wave.rect["width"] // 4, 0).click().perform()
    wait(lambda: now(page) > 15.1)  # three quarters of it
    assert now(page) < 18
    shown = float(found(page, "#time")[0].text.split(":")[1])
    assert shown == pytest.approx(now(page), abs=0.5)


def test_names_are_edited_and_saved(page: Any, talk: tuple[Path, list[Segment]], downloads: Path) -> None:
    path, segments = talk
    saved = downloads / "<b>our_talk.rttm"

    def save() -> str:
        for old in downloads.iterdir():
            old.unlink()
        found(page, "#save")[0].click()
        wait(lambda: [one for one in downloads.iterdir() if one.suffix == ".rttm"])
        return next(downloads.iterdir()).read_text(encoding="utf-8")

    assert save() == to_rttm({path: segments})
    assert saved.suffix == ".rttm"
    field = found(page, ".who input")[0]
    old = field.get_attribute("value")
    press(page, Keys.ARROW_DOWN)
    assert found(page, "#now")[0].text == old
    field.clear()
    field.send_keys("  Ann \u00a0Lee ", Keys.SPACE)
    assert paused(page)  # the space belongs to the name
    assert "Ann \u00a0Lee" in {name.get_property("textContent") for name in found(page, "#turns .name")}
    assert found(page, ".lane")[0].get_attribute("aria-label").split()[0] == "Ann"
    assert " ".join(found(page, "#now")[0].text.split()) == "Ann Lee"
    assert found(page, "#saved")[0].text == "Names not saved"
    assert save() == to_rttm({path: [replace(s, label="Ann Lee") if s.label == old else s for s in segments]})
    assert found(page, "#saved")[0].text == "Saved"
    (rows,) = read_rttm(next(downloads.iterdir())).values()
    assert {row.label for row in rows} == {"Ann_Lee"} | {s.label.replace(" ", "_") for s in segments if s.label != old}
    field.clear()
    field.send_keys(" ")
    assert save() == to_rttm({path: segments})  # without a name the old one


def test_keys(page: Any, talk: tuple[Path, list[Segment]]) -> None:
    segments = talk[1]
    press(page, Keys.ARROW_RIGHT)
    assert now(page) == 5
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
    assert now(page) == 4
    starts = sorted({segment.start for segment in segments})
    later = [start for start in starts if start > 4.02]
    press(page, Keys.ARROW_DOWN)
    assert now(page) == pytest.approx(later[0], abs=1e-3)
    press(page, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert now(page) == pytest.approx(later[0], abs=1e-3)
    assert paused(page)
    press(page, Keys.SPACE)
    wait(lambda: now(page) > later[0] + 0.2)
    press(page, Keys.SPACE)
    assert paused(page)
    press(page, Keys.END)
    assert now(page) == pytest.approx(SECONDS, abs=0.1)
    press(page, Keys.HOME)
    assert now(page) == 0


def test_the_space_bar_in_the_list_pauses_and_plays(page: Any, talk: tuple[Path, list[Segment]]) -> None:
    click(page, found(page, "#turns button")[1])
    wait(lambda: now(page) > talk[1][1].start + 0.3)
    press(page, Keys.SPACE)
    assert paused(page)
    assert now(page) > talk[1][1].start + 0.3  # not from its start again
    press(page, Keys.ARROW_DOWN)
    assert page.switch_to.active_element.get_attribute("data-i") == "2"


def test_all_controls_are_reached_with_tab(page: Any) -> None:
    reached, rings = [], []
    for _ in range(12):
        press(page, Keys.TAB)
        element = page.switch_to.active_element
        name = element.get_attribute("id") or element.get_attribute("aria-label")
        reached.append(name or element.text.split("\n")[0])
        rings.append(element.value_of_css_property("outline-style"))
    names = [field.get_attribute("aria-label") for field in found(page, ".who input")]
    first = found(page, "#turns button")[0].text.split("\n")[0]
    assert set(reached) >= {"save", "in", "wave", *names, first, "play", "speed"}
    ringed = {name for name, ring in zip(reached, rings, strict=True) if ring == "solid"}
    assert ringed >= {"save", "in", "wave", *names, first, "play"}


def test_zoom(page: Any) -> None:
    wave, scroller = found(page, "#wave")[0], found(page, "#scroller")[0]
    width = wave.rect["width"]
    press(page, Keys.END)
    found(page, "#in")[0].click()
    assert wave.rect["width"] == pytest.approx(2 * width, abs=2)
    wait(lambda: scroller.get_property("scrollLeft") == pytest.approx(width, abs=3))
    head = found(page, "#head")[0].rect["x"]
    assert head == pytest.approx(scroller.rect["x"] + scroller.rect["width"], abs=4)
    press(page, Keys.HOME)
    wait(lambda: scroller.get_property("scrollLeft") == 0)
    page.execute_script("arguments[0].scrollLeft = 100", scroller)
    found(page, ".who input")[0].send_keys("x")  # which leaves the place that one looks at
    assert scroller.get_property("scrollLeft") == 100
    found(page, "#wave")[0].send_keys("0")
    assert wave.rect["width"] == width
    assert not found(page, "#fit")[0].is_enabled()


@pytest.mark.parametrize("theme", THEME)
def test_theme(page: Any, theme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": theme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == THEME[theme]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_phone(page: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wait(lambda: page.execute_script("return innerWidth") == 390)
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        field, lane = found(page, ".who input")[0].rect, found(page, ".lane")[0].rect
        assert field["y"] + field["height"] <= lane["y"] + 2
        assert lane["width"] > 340
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nobody_speaks(browser: Any, talk: tuple[Path, list[Segment]], tmp_path: Path) -> None:
    browser.get(report(talk[0], [], tmp_path / "empty.html").as_uri())
    browser.get_log("browser")
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.SPACE)
    wait(lambda: now(browser) > 5.1)
    assert "Nobody speaks" in browser.find_element(By.TAG_NAME, "main").text
    assert browser.get_log("browser") == []
