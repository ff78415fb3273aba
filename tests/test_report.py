"""The report page: all it shows is inside it, nothing in it is believed, and what does not fit or cannot be read is named."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.commands.report import run as run_command
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.report.charts import Line, line_chart, ticks, whisker
from drivesim.eval.report.embed import MIB, Embedded, embed_video, encoded_size, plays_in_browsers
from drivesim.eval.report.labels import BOX_FIELDS, SCALE, as_script, clip_labels
from drivesim.eval.report.page import write_report
from drivesim.eval.report.run import open_run, run_names
from drivesim.eval.report.tables import shown
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import count_frames, probe, write_video
from drivesim.labels import LabelTrack

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\u2028"


class Page(HTMLParser):
    """Script elements by id, and every address that a browser would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self._open: tuple[str, dict[str, Any]] | None = None
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[0] == "script":
            attributes, text = self.scripts.pop()
            self.scripts.append((attributes, text + data))
        elif self._open:
            self.styles.append(data)
        else:
            self.words.append(data)

    def script(self, name: str | None) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == name)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.script("report-data"))


def interval(value: float | None) -> dict[str, Any]:
    low, high = (None, None) if value is None else (0.9 * value, 1.1 * value)
    return {"value": value, "low": low, "high": high, "resamples": 1000, "level": 0.95}


def result_of(clip_id: str, mark: str = "only 20 windows a side") -> dict[str, Any]:
    """A result.json with every part, of a clip of at least 4 s."""
    def both(value: float | None) -> dict[str, Any]:
        return {"frechet": interval(value), "kernel": interval(0.5)}

    protocol = {
        "protocol": {"frames": 16, "fps": 7.5}, "network": {"name": "lite0-clips", "hash": "ab" * 32, "preprocessing": "none"},
        "n_real": 330, "n_generated": 20, **both(4.0), "floor": {**both(1.0), "n": 20, "what": "train against test"}, "ceiling": None,
        "baselines": {"frozen": both(9.0)}, "marks": [mark],
    }  # fmt: skip
    signal = {"times_s": [5.0, 15.0], "mean": [1.0, 2.0], "low": [None, None], "high": [None, None], "last_over_first": interval(2.0),
              "real": {"mean": 1.5, "low": 1.0, "high": 2.0}}  # fmt: skip
    side = {"name": "sim", "paths": ["sim"], "kind": "simulated", "split": "test", "clips": 26, "drives": 26}
    return {
        "format": "drivesim-evaluation", "version": 1, "created": "2026-01-02T03:04:05+00:00", "drivesim": "0.1.0", "torch": "2",
        "machine": "cpu", "command": "drivesim evaluate", "seconds": 1.5, "real": side, "generated": {**side, "checkpoint": "ef" * 32},
        "marks": ["sim: 1 clips left out"],
        "protocols": {"fvd_lite0_256x16_h264crf18": protocol, "fid_10k_lossless": {**protocol, **both(None), "marks": []}},
        "drift": {
            "bins": [{"start_s": 0, "end_s": 10, "n": 75, "frechet": 3.0, "kernel": 0.1},
                     {"start_s": 10, "end_s": 20, "n": 75, "frechet": None, "kernel": 0.2}],
            "last_minus_first": both(1.25), "span_s": 60.0, "signals": {"sharpness": signal}, "marks": ["drift: one clip only"],
            "events": {"freezes": [{"clip_id": clip_id, "start_s": 1.0, "end_s": 2.0}], "repeats": [],
                       "cuts": [{"clip_id": clip_id, "time_s": 3.0, "times_median": None}]},
        },
        "label_fidelity": {
            "rows": [{"who": "generated", "subset": "night", "ap50": 0.4, "ap50_low": 0.3, "ap50_high": 0.6, "recall": interval(0.5),
                      "boxes": 7, "frames": 9}],
            "false_per_empty_frame": 0.125, "detector": "cd" * 32,
        },
        "memorisation": {"levels": [0.0, 0.5, 1.0], "generated": [1.0, 2.0, 3.0], "test": [1.5, 2.5, 3.5], "fraction_below_p5": 0.0625,
                         "closest": [{"generated": clip_id, "train": "t", "distance": 1.5, "picture": "neighbours/pair_00.png"}]},
    }  # fmt: skip


def write_evaluation(folder: Path, result: dict[str, Any]) -> Path:
    """result.json with a picture of a pair, as ``drivesim evaluate`` leaves them in a folder of clips."""
    out = folder / "evaluation"
    (out / "neighbours").mkdir(parents=True)
    cv2.imwrite(str(out / "neighbours/pair_00.png"), np.full((8, 16, 3), 99, np.uint8))
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return out


def noise_video(path: Path, seconds: float, fps: float = 10.0) -> Path:
    """A video that does not compress."""
    rng = np.random.default_rng(0)
    write_video(path, (rng.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(round(seconds * fps))), fps)
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "road"
    make_road_world(folder, clips=2, seconds=4)
    return folder


@pytest.fixture
def road(drawn: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(drawn, tmp_path / "road"))


def page_of(*folders: Path, out: Path, **more: Any) -> Page:
    return Page(Path(write_report(folders, out, **more)["out"]))


def rename(folder: Path, old: str, new: str) -> None:
    for table in ("clips", "frames", "boxes"):
        rows = pd.read_parquet(folder / f"{table}.parquet")
        rows["clip_id"] = rows["clip_id"].replace(old, new)
        rows.to_parquet(folder / f"{table}.parquet")


def test_videos_are_in_the_page_byte_for_byte(drawn: Path, tmp_path: Path) -> None:
    page = page_of(drawn, out=tmp_path / "r.html")
    clips = page.data["runs"][0]["clips"]
    assert [clip["id"] for clip in clips] == ["road000_0000", "road000_0001"]
    for clip in clips:
        assert base64.b64decode(page.script(f"video-{clip['key']}")) == (drawn / f"videos/{clip['id']}.mp4").read_bytes()
        assert clip["shown"] == clip["frames"] == 30 and clip["note"] is None


def test_nothing_is_loaded_and_only_own_code_may_run(drawn: Path, tmp_path: Path) -> None:
    page = page_of(drawn, out=tmp_path / "r.html")
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page.script(None) + "".join(page.styles))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.text)
    assert policy and "default-src &#39;none&#39;" in policy[1] and "connect" not in policy[1] and "unsafe" not in policy[1]
    for text in (page.script(None), page.styles[0]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy[1].replace("&#43;", "+")


def test_labels_in_the_page_are_those_of_the_tables(drawn: Path, tmp_path: Path) -> None:
    found = json.loads(page_of(drawn, out=tmp_path / "r.html").script("labels-0-0"))
    track = labels_of(read_records(drawn), "road000_0000")
    boxes = np.array(found["boxes"]).reshape(-1, BOX_FIELDS)
    assert len(boxes) == len(track.boxes) and (np.diff(boxes[:, 0]) >= 0).all()
    assert np.sort(boxes[:, 3]) / SCALE == pytest.approx(np.sort(track.boxes.xyxy[:, 0]), abs=1e-4)
    assert np.array(found["values"]["ego_speed_mps"]) == pytest.approx(track.values["ego_speed_mps"], abs=0.005)
    assert found["unknown"] == []


def test_unknown_labels_are_null_and_not_numbers() -> None:
    track = LabelTrack.unknown(5, 7.5)
    track.values["crowdedness"][2] = 3
    track.boxes_known[1:3] = True
    found = clip_labels(track)
    assert found["values"]["crowdedness"] == [None, None, 3, None, None]
    assert found["values"]["ego_speed_mps"] is None
    assert found["unknown"] == [[0, 1], [3, 5]]


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=8), st.text() | st.none() | st.integers() | st.sampled_from([HOSTILE, "<!--", "]]>"])))
def test_script_text_closes_nothing_and_reads_back(content: Any) -> None:
    text = as_script({"content": content})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"content": content}


def test_names_cannot_become_markup(road: Path, tmp_path: Path) -> None:
    clean = page_of(road, out=tmp_path / "clean.html")
    rename(road, "road000_0000", HOSTILE)
    (road / "rollout.json").write_text(json.dumps({"state": HOSTILE, "clip_id": HOSTILE, HOSTILE: HOSTILE}))
    result = result_of(HOSTILE, mark=HOSTILE)
    result["protocols"][HOSTILE] = result["protocols"]["fid_10k_lossless"]
    result["drift"]["signals"][HOSTILE] = result["drift"]["signals"]["sharpness"]
    result["label_fidelity"][HOSTILE] = HOSTILE
    write_evaluation(road, result)
    page = page_of(road, out=tmp_path / "r.html")
    assert len(page.scripts) == len(clean.scripts)
    assert page.script(None) == clean.script(None)
    assert "x" not in page.addresses
    assert page.data["runs"][0]["clips"][0]["id"] == HOSTILE
    assert sum("alert(1)" in word for word in page.words) >= 5  # shown as text


def test_figures_stand_with_intervals_floor_and_warnings(road: Path, tmp_path: Path) -> None:
    write_evaluation(road, result_of("road000_0000"))
    page = page_of(road, out=tmp_path / "r.html")
    words = [word.strip() for word in page.words if word.strip()]
    for text in ("4 [3.6, 4.4]", "1 [0.9, 1.1]", "refused", "330 / 20", "fvd_lite0_256x16_h264crf18: only 20 windows a side",
                 "drift: one clip only", "0.5 [0.45, 0.55]", "0.4 [0.3, 0.6]", "0.125", "0.0625", "1.25 [1.125, 1.375]"):  # fmt: skip
        assert text in words, text
    events = page.data["runs"][0]["events"]
    assert [(event["kind"], event["start_s"], event["end_s"]) for event in events] == [("freeze", 1.0, 2.0), ("cut", 3.0, 3.0)]
    assert page.text.count("data:image/png;base64,") == 1


def test_two_runs_stand_side_by_side(road: Path, drawn: Path, tmp_path: Path) -> None:
    write_evaluation(road, result_of("road000_0000"))
    page = page_of(road, drawn, out=tmp_path / "r.html")
    assert len(page.data["runs"]) == 2
    assert len({run["name"] for run in page.data["runs"]}) == 2
    assert 'id="together"' in page.text


@pytest.mark.parametrize("content", [
    "no json", "[]", "{}", '{"format": "drivesim-evaluation"}',
    '{"format": "drivesim-evaluation", "version": 7, "protocols": [1], "drift": 3}',
    '{"format": "drivesim-evaluation", "version": 1, "protocols": {"p": null, "q": {"frechet": 4, "floor": [], "baselines": [2]}},'
    ' "drift": {"bins": [4, {"start_s": "x"}], "signals": {"s": []}, "events": [], "last_minus_first": {"kernel": null}},'
    ' "label_fidelity": {"rows": [3, {"who": {}}]},'
    ' "memorisation": {"levels": 3, "closest": [{"picture": "../../x.png"}, null]}, "marks": 9}',
])  # fmt: skip
def test_a_result_of_another_shape_costs_no_page(drawn: Path, road: Path, tmp_path: Path, content: str) -> None:
    (road / "evaluation").mkdir()
    (road / "evaluation" / "result.json").write_text(content)
    assert len(page_of(road, out=tmp_path / "r.html").data["runs"][0]["clips"]) == 2


def test_pictures_outside_of_the_evaluation_stay_outside(road: Path, tmp_path: Path) -> None:
    result = result_of("road000_0000")
    result["memorisation"]["closest"][0]["picture"] = "../secret.png"
    write_evaluation(road, result)
    cv2.imwrite(str(road / "secret.png"), np.zeros((8, 8, 3), np.uint8))
    assert "data:image/png" not in page_of(road, out=tmp_path / "r.html").text


def test_a_damaged_clip_is_named_and_the_rest_is_shown(road: Path, tmp_path: Path) -> None:
    (road / "videos/road000_0000.mp4").write_bytes(b"nothing")
    made = write_report(road, tmp_path / "r.html")
    assert made["clips"] == 1
    assert any("road000_0000" in note for note in made["notes"])


def test_a_folder_of_videos_needs_no_labels(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    noise_video(folder / "one.mp4", 1.0)
    noise_video(folder / "two.mp4", 2.0)
    clips = page_of(folder, out=tmp_path / "r.html").data["runs"][0]["clips"]
    assert [(clip["id"], clip["frames"]) for clip in clips] == [("one", 10), ("two", 20)]


def test_a_result_alone_is_a_page_without_players(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, result_of("a"))
    page = page_of(folder, out=tmp_path / "r.html")
    assert page.data["runs"][0]["clips"] == [] and 'class="players' not in page.text and 'id="metrics"' in page.text


def test_long_videos_are_shortened_to_fit_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    size = noise_video(folder / "long.mp4", 40.0).stat().st_size
    assert size > 2 * MIB
    made = write_report(folder, tmp_path / "r.html", max_mb=2)
    clip = Page(tmp_path / "r.html").data["runs"][0]["clips"][0]
    assert (tmp_path / "r.html").stat().st_size <= 2 * MIB
    assert 0 < clip["shown"] < clip["frames"] == 400
    assert "clip long: the first" in clip["note"] and made["notes"] == [f"videos: {clip['note']}"]


def test_an_excerpt_is_the_beginning(tmp_path: Path) -> None:
    path = noise_video(tmp_path / "long.mp4", 10.0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = embed_video(path, probe(path), path.stat().st_size // 2, scratch, "it")
    assert made.content is not None and isinstance(made.content.source, Path)
    assert made.content.size <= path.stat().st_size // 2
    assert count_frames(made.content.source) == made.frames < 100


def test_a_video_without_room_is_left_out_by_name(tmp_path: Path) -> None:
    path = noise_video(tmp_path / "long.mp4", 10.0)
    made = embed_video(path, probe(path), 2000, tmp_path, "clip long")
    assert made.content is None and made.frames == 0 and made.note is not None and made.note.startswith("clip long: not in this page")


def test_a_video_that_browsers_cannot_play_is_encoded_again(tmp_path: Path) -> None:
    path = tmp_path / "old.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for _ in range(20):
        writer.write(np.full((64, 96, 3), 77, np.uint8))
    writer.release()
    assert not plays_in_browsers(path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = embed_video(path, probe(path), MIB, scratch, "clip old")
    assert made.frames == 20 and made.note is not None and "not H.264" in made.note
    assert made.content is not None and isinstance(made.content.source, Path) and plays_in_browsers(made.content.source)


def test_small_videos_are_whole_and_large_ones_share_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    noise_video(folder / "small.mp4", 2.0)
    for name in ("long", "longer"):
        noise_video(folder / f"{name}.mp4", 20.0)
    page = page_of(folder, out=tmp_path / "r.html", max_mb=2)
    clips = {clip["id"]: clip for clip in page.data["runs"][0]["clips"]}
    assert clips["small"]["shown"] == 20 and clips["small"]["note"] is None
    assert 0 < clips["long"]["shown"] < 200 and 0 < clips["longer"]["shown"] < 200
    assert 1.2 * MIB < (tmp_path / "r.html").stat().st_size <= 2 * MIB


def test_pieces_join_to_the_whole(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(MIB + 17)
    (tmp_path / "file").write_bytes(content)
    text = "".join(Embedded("video/mp4", tmp_path / "file", len(content)).pieces())
    assert base64.b64decode(text) == content and len(text) == encoded_size(len(content))
    with pytest.raises(DrivesimError, match="changed"):
        list(Embedded("video/mp4", tmp_path / "file", 3).pieces())


def test_a_page_too_small_for_its_labels_is_refused_by_name(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="road000_000"):
        write_report(drawn, tmp_path / "r.html", max_mb=0.01)
    assert not (tmp_path / "r.html").exists()


def test_what_cannot_be_shown_is_refused(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "rollout.json").write_text('{"state": "running"}')
    for folders, more, told in (
        ([], {}, "at least one"), ([tmp_path / "absent"], {}, "no such folder"), ([tmp_path / "empty"], {}, "nothing to show"),
        ([tmp_path / "running"], {}, "is running"), ([drawn], {"out": tmp_path}, "is a folder"), ([drawn], {"max_mb": 0}, "positive"),
        ([drawn], {"max_mb": float("nan")}, "positive"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            write_report(folders, **{"out": tmp_path / "r.html", **more})
    with pytest.raises(DrivesimError, match="cannot write"):
        write_report(drawn, drawn / "dataset.json" / "r.html")


def test_many_clips_are_thinned_out_evenly(drawn: Path) -> None:
    run = open_run(drawn, "road", most=1)
    assert len(run.clips) == 1 and run.total == 2 and "1 of 2 clips" in run.notes[0]


def test_names_of_folders_that_end_alike_are_told_apart() -> None:
    assert run_names([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert run_names([Path("/a/x"), Path("/b/x")]) == ["/a/x", "/b/x"]
    assert len(set(run_names([Path("/a/x"), Path("/a/x")]))) == 2


def test_numbers_are_shown_as_they_are_known() -> None:
    assert shown(interval(2.0)) == "2 [1.8, 2.2]"
    assert shown({"value": 2.0, "low": None, "high": None}) == "2 [interval unknown]"
    assert shown(interval(None)) == "–"
    assert [shown(value) for value in (None, float("nan"), 3, 0.123456, "a", [1, None])] == ["–", "–", "3", "0.1235", "a", "1, –"]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)


def test_charts_of_nothing_are_nothing() -> None:
    assert line_chart([Line("a", "run-0", [1.0], [None])], "x", "y") is None
    assert "curve" not in str(line_chart([Line("a", "run-0", [1.0], [2.0])], "x", "y"))
    assert "circle" not in str(whisker({"value": None}, [], 0.0, 1.0, "run-0"))


def test_the_command_says_where_the_page_lies(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command({"folders": [road], "out": None, "max_mb": None}, []) == 0
    assert (road / "report.html").is_file()
    assert str(road / "report.html") in capsys.readouterr().out
