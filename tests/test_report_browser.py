"""The report in a real browser: videos play and seek, boxes are drawn and go, timelines lead, nothing is loaded, nothing complains."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import result_of, write_evaluation

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.eval.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the report was not opened in a browser")

SHOWN = "() => { const video = document.querySelector('video'); return video.readyState >= 2 && !video.seeking; }"
PAINTED = """(root) => {
    const canvas = root.querySelector('canvas'), copy = document.createElement('canvas');
    Object.assign(copy, {width: canvas.width, height: canvas.height});
    const pen = copy.getContext('2d', {willReadFrequently: true});
    pen.drawImage(canvas, 0, 0);
    const data = pen.getImageData(0, 0, copy.width, copy.height).data;
    let count = 0;
    for (let at = 3; at < data.length; at += 4) count += data[at] > 0;
    return count;
}"""
PICTURE = """(root) => {
    const video = root.querySelector('video'), canvas = document.createElement('canvas');
    canvas.width = video.videoWidth; canvas.height = video.videoHeight;
    const pen = canvas.getContext('2d', {willReadFrequently: true});
    pen.drawImage(video, 0, 0);
    return Array.from(pen.getImageData(0, 0, canvas.width, canvas.height).data.filter((_, at) => at % 4 === 1));
}"""


class Watched:
    """A page, and what it complained of and asked the world for."""

    def __init__(self, page: Any) -> None:
        self.page, self.complaints, self.requests = page, list[str](), list[str]()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path) -> Any:
        self.page.goto(path.as_uri())
        self.page.wait_for_function(SHOWN)
        return self.page

    def check(self) -> None:
        assert self.complaints == []
        assert [url[:80] for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on the path: the report was not opened in a browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    watched = Watched(browser.new_page(viewport={"width": 1200, "height": 1000}))
    yield watched
    watched.check()
    watched.page.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs: the first of two clips, judged; the second of other content."""
    folder = tmp_path_factory.mktemp("browser")
    first, second = folder / "first", folder / "second"
    make_road_world(first, clips=2, seconds=6)
    make_road_world(second, clips=1, seconds=6, seed=3)
    write_evaluation(first, result_of("road000_0000"))
    return first, second


@pytest.fixture(scope="module")
def one(runs: tuple[Path, Path]) -> Path:
    return Path(write_report(runs[0], runs[0].parent / "one.html")["out"])


@pytest.fixture(scope="module")
def two(runs: tuple[Path, Path]) -> Path:
    return Path(write_report(runs, runs[0].parent / "two.html")["out"])


def time_of(page: Any, player: int = 0) -> float:
    return float(page.evaluate(f"document.querySelectorAll('video')[{player}].currentTime"))


def click_timeline(page: Any, share: float, player: int = 0) -> None:
    line = page.locator(".timeline").nth(player)
    line.scroll_into_view_if_needed()
    area = line.bounding_box()
    page.mouse.click(area["x"] + share * area["width"], area["y"] + area["height"] / 2)
    page.wait_for_function(SHOWN)


def painted(page: Any, player: int = 0) -> int:
    return int(page.locator(".player").nth(player).evaluate(PAINTED))


def test_the_video_plays_and_stops(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    assert time_of(page) == 0
    page.locator(".play").click()
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.3")
    page.wait_for_function("() => Number(document.querySelector('.player').dataset.frame) > 1")
    page.keyboard.press("Space")  # the focus is on the button
    page.wait_for_function("() => document.querySelector('video').paused")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("Space")
    page.wait_for_function("() => !document.querySelector('video').paused")


def test_a_click_on_the_timeline_seeks_picture_labels_and_boxes(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    player = page.locator(".player").first
    before = player.evaluate(PICTURE)
    click_timeline(page, 0.5)
    assert time_of(page) == pytest.approx(3.0, abs=0.2)
    assert player.get_attribute("data-frame") == str(int(time_of(page) * 7.5))
    assert f"frame {player.get_attribute('data-frame')}" in page.locator(".clock").inner_text()
    after = player.evaluate(PICTURE)
    assert sum(abs(one - other) > 8 for one, other in zip(before, after, strict=True)) > 200
    assert float(page.locator(".playhead").evaluate("line => parseFloat(line.style.left)")) == pytest.approx(50, abs=3)


def test_arrows_step_by_second_and_by_frame(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    frame = "Number(document.querySelector('.player').dataset.frame)"
    for key, expected in (("Shift+ArrowRight", 1), ("Shift+ArrowRight", 2), ("ArrowRight", 9), ("Shift+ArrowLeft", 8), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        page.wait_for_function(SHOWN)
        assert page.evaluate(frame) == expected, key


def test_boxes_are_drawn_where_they_are_and_can_be_hidden(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    click_timeline(page, 0.3)
    shown = painted(page)
    assert shown > 50
    page.keyboard.press("b")
    assert painted(page) == 0
    assert page.locator("button.boxes").get_attribute("aria-pressed") == "false"
    page.locator("button.boxes").click()
    assert painted(page) == shown
    for button in page.locator(".legend button:visible").all():
        button.click()
    assert painted(page) == 0


def test_boxes_follow_the_frame_that_is_shown(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    place = "root => root.querySelector('canvas').toDataURL()"
    pictures = set()
    for share in (0.1, 0.4, 0.7):
        click_timeline(page, share)
        pictures.add(page.locator(".player").first.evaluate(place))
    assert len(pictures) == 3


def test_another_clip_can_be_chosen(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    before = page.locator(".player").first.evaluate(PICTURE)
    assert page.locator(".track .day").count() == 1
    page.locator("select.clip").select_option("1")
    page.wait_for_function(SHOWN)
    assert page.locator(".track .night").count() == 1
    assert page.locator(".player").first.evaluate(PICTURE) != before


def test_events_and_figures_are_there(watched: Watched, one: Path) -> None:
    page = watched.open(one)
    assert page.locator(".track rect.freeze").count() == 1 and page.locator(".track rect.cut").count() == 1
    assert page.locator("#metrics .whisker").count() == 4
    assert page.locator("#warnings li").count() == 3
    assert page.locator("#memorisation img").evaluate("picture => picture.naturalWidth") == 16
    assert page.locator("#sheets img").evaluate("picture => picture.naturalWidth") > 300


def test_two_runs_play_and_seek_together_or_apart(watched: Watched, two: Path) -> None:
    page = watched.open(two)
    assert page.locator(".player").count() == 2
    boxes = [player.bounding_box() for player in page.locator(".player").all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    click_timeline(page, 0.5, player=1)
    assert time_of(page, 0) == time_of(page, 1) == pytest.approx(3.0, abs=0.2)
    page.locator(".play").first.click()
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(video => !video.paused && video.currentTime > 3.4)")
    assert abs(time_of(page, 0) - time_of(page, 1)) < 0.3
    page.locator(".play").nth(1).click()
    page.wait_for_function("() => [...document.querySelectorAll('video')].every(video => video.paused)")
    page.locator("#together").uncheck()
    still = time_of(page, 0)
    click_timeline(page, 0.1, player=1)
    assert time_of(page, 0) == still and time_of(page, 1) < 1


def test_hostile_names_run_nothing(watched: Watched, runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=console.log(1)>"
    shutil.copytree(runs[1], folder)
    name = "<script>console.log(1)<!script>"
    (folder / "videos/road003_0000.mp4").rename(folder / f"{name}.mp4")
    for path in [*folder.glob("*.parquet"), folder / "dataset.json"]:
        path.unlink()
    page = watched.open(Path(write_report(folder, tmp_path / "r.html")["out"]))
    assert page.locator(".clip-name").inner_text() == name


def test_the_page_is_readable_narrow_and_dark(watched: Watched, one: Path) -> None:
    watched.page.set_viewport_size({"width": 480, "height": 900})
    watched.page.emulate_media(color_scheme="dark")
    page = watched.open(one)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    red = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert red < 60
