"""Label fidelity in closed form: perfect, shifted, ignored, empty; COCO's own figures; and a report on clips whose answer is known."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from drivesim.errors import UsageError
from drivesim.eval.boxes import (
    SIZES,
    JudgedFrame,
    Matches,
    average_precision,
    counted,
    drive_interval,
    match,
    precise_threshold,
    precision,
    recall,
)
from drivesim.eval.footage import Footage
from drivesim.eval.label_fidelity import Judge, fitted, label_report, look, other_boxes, summary, table_rows
from drivesim.io.checkpoints import save_network
from drivesim.io.records import DatasetRecords, clip_row, header, rows_of, write_records
from drivesim.io.video import write_video
from drivesim.labels import LABELS, Boxes, LabelTrack, count_vehicles
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.detector import Detections

EMPTY = np.zeros((0, 4), np.float32)


def box(x: float, y: float, wide: float = 0.2, high: float = 0.3) -> list[float]:
    return [x, y, x + wide, y + high]


def frame(
    asked: list[list[float]], found: list[list[float]], drive: str = "a", score: list[float] | None = None, **more: Any
) -> JudgedFrame:  # fmt: skip
    ignore = np.array(more.pop("ignore", [False] * len(asked)), bool)
    scores = np.array([0.9] * len(found) if score is None else score, np.float32)
    boxes = [np.array(rows, np.float32).reshape(-1, 4) for rows in (asked, found)]
    return JudgedFrame(drive, boxes[0], ignore, boxes[1], scores, **more)


def crowd(frames: int = 40, seed: int = 0, noise: float = 0.02) -> list[JudgedFrame]:
    """Random boxes, some found a little off, some not, some found where nothing is."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(frames):
        asked = [box(*rng.uniform(0, 0.6, 2), *rng.uniform(0.05, 0.4, 2)) for _ in range(rng.integers(0, 6))]
        near = [(np.array(one) + rng.normal(0, noise, 4)).tolist() for one in asked if rng.random() < 0.8]
        found = near + [box(*rng.uniform(0, 0.6, 2)) for _ in range(rng.integers(0, 3))]
        ignore = (rng.random(len(asked)) < 0.2).tolist()
        made.append(frame(asked, found, f"drive{number % 5}", rng.random(len(found)).tolist(), ignore=ignore))
    return made


# closed forms


def test_perfect_detections_are_perfect() -> None:
    matches = match([frame([box(0.1, 0.5), box(0.6, 0.4)], [box(0.1, 0.5), box(0.6, 0.4)])])["all"]
    assert average_precision(matches) == pytest.approx(1) and recall(matches, 0.5) == 1 and precision(matches, 0.5) == 1


def test_shifted_detections_are_worth_nothing() -> None:
    matches = match([frame([box(0.1, 0.5)], [box(0.25, 0.5)])])["all"]
    assert average_precision(matches) == 0 and recall(matches, 0.5) == 0 and precision(matches, 0.5) == 0


def test_half_of_the_boxes_found_is_half() -> None:
    matches = match([frame([box(0.1, 0.5), box(0.6, 0.4)], [box(0.1, 0.5)])])["all"]
    assert recall(matches, 0.5) == 0.5 and average_precision(matches) == pytest.approx(51 / 101)


def test_a_second_detection_of_one_box_is_wrong() -> None:
    matches = match([frame([box(0.1, 0.5)], [box(0.1, 0.5), box(0.1, 0.5)], score=[0.9, 0.8])])["all"]
    assert recall(matches, 0.5) == 1 and precision(matches, 0.5) == 0.5 and average_precision(matches) == pytest.approx(1)


def test_a_detection_below_the_threshold_is_not_recalled() -> None:
    matches = match([frame([box(0.1, 0.5)], [box(0.1, 0.5)], score=[0.4])])["all"]
    assert recall(matches, 0.5) == 0 and recall(matches, 0.4) == pytest.approx(1, abs=1e-6) and np.isnan(precision(matches, 0.5))


@pytest.mark.parametrize("found", [[], [box(0.1, 0.5)], [box(0.1, 0.5), box(0.12, 0.55, 0.1, 0.15)]])
def test_ignored_boxes_count_neither_way(found: list[list[float]]) -> None:
    matches = match([frame([box(0.1, 0.5)], found, ignore=[True])])["all"]
    assert len(matches.score) == 0 and matches.asked.sum() == 0 and np.isnan(average_precision(matches))


def test_boxes_lower_than_twelve_pixels_are_ignored_and_twelve_is_not() -> None:
    low, high = box(0.1, 0.5, high=11 / 128), box(0.5, 0.5, high=12 / 128)
    judged = frame([low, high], [low, high])
    assert counted(judged).tolist() == [False, True]
    matches = match([judged])["all"]
    assert matches.asked.tolist() == [1] and matches.right.tolist() == [True]


def test_sizes_are_heights() -> None:
    asked = [box(0.05, 0.1, high=13 / 128), box(0.35, 0.1, high=30 / 128), box(0.65, 0.1, high=60 / 128)]
    matches = match([frame(asked, asked)])
    assert {name: int(found.asked.sum()) for name, found in matches.items()} == {"all": 3, "small": 1, "medium": 1, "large": 1}
    assert all(average_precision(found) == pytest.approx(1) for found in matches.values())


def test_a_wide_low_box_is_small_whatever_its_area() -> None:
    asked = [box(0.0, 0.5, wide=1.0, high=13 / 128)]
    assert int(match([frame(asked, asked)])["small"].asked.sum()) == 1


def test_empty_requests_ask_for_nothing_but_see_what_is_wrong() -> None:
    matches = match([frame([], [box(0.1, 0.5)]), frame([], [])])["all"]
    assert matches.asked.tolist() == [0, 0] and matches.right.tolist() == [False] and np.isnan(average_precision(matches))


def test_frames_nobody_labelled_are_not_matched() -> None:
    matches = match([frame([], [box(0.1, 0.5)], known=False)])
    assert set(matches) == set(SIZES) and all(len(found.asked) == 0 for found in matches.values())


# COCO's own figures, and the curve


def coco_ap(frames: list[JudgedFrame]) -> float:
    """AP50 as COCOeval sums it up itself, areas in the place of heights."""
    asked, found = [], []
    for image, one in enumerate(frames):
        for rows, out in ((one.asked, asked), (one.found, found)):
            for number, (x1, y1, x2, y2) in enumerate(rows.tolist()):
                bbox, area = [x1 * 256, y1 * 128, (x2 - x1) * 256, (y2 - y1) * 128], (y2 - y1) * 128 + 1e-3
                out.append({"id": len(out) + 1, "image_id": image, "category_id": 1, "bbox": bbox, "area": area})
                out[-1] |= {"iscrowd": int(not counted(one)[number])} if out is asked else {"score": float(one.score[number])}
    sides = []
    for rows in (asked, found):
        coco = COCO()
        coco.dataset = {"images": [{"id": k} for k in range(len(frames))], "annotations": rows, "categories": [{"id": 1}]}
        sides.append(coco)
    with contextlib.redirect_stdout(io.StringIO()):
        for coco in sides:
            coco.createIndex()
        judge = COCOeval(*sides, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[12.0, 1e5]], ["all"]
        judge.params.iouThrs, judge.params.maxDets = np.array([0.5]), [1000]
        judge.evaluate()
        judge.accumulate()
    return float(judge.eval["precision"].mean())


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_cocos(seed: int) -> None:
    frames = crowd(seed=seed)
    assert average_precision(match(frames)["all"]) == pytest.approx(coco_ap(frames), abs=1e-9)


def test_matching_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    match(crowd(3))
    assert capsys.readouterr().out == ""


def curve(right: list[bool], asked: int) -> Matches:
    """Detections of one frame by falling score 1, 0.99, ..."""
    count = len(right)
    return Matches(1 - np.arange(count) / 100, np.array(right, bool), np.zeros(count, int), np.array([asked]), np.array(["a"]))


@pytest.mark.parametrize(
    ("right", "wanted", "expected"),
    [([True] * 9 + [False], 0.9, 0.91), ([True, False, True], 0.9, 1.0), ([False, False], 0.9, 1.0), ([True, True], 0.9, 0.99)],
)
def test_threshold_is_the_lowest_that_is_precise_enough(right: list[bool], wanted: float, expected: float) -> None:
    matches = curve(right, 10)
    threshold = precise_threshold(matches, wanted)
    assert threshold == pytest.approx(expected)
    found = precision(matches, threshold)
    assert found >= wanted or expected == 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_finding_one_more_never_hurts(right: list[bool]) -> None:
    before, after = curve(right, 40), curve([True, *right], 40)
    assert average_precision(after) >= average_precision(before) - 1e-12


def test_matches_of_frames_are_those_of_the_frames_alone() -> None:
    frames, chosen = crowd(), np.array([3, 3, 17, 5])
    picked, alone = match(frames)["all"].of(chosen), match([frames[k] for k in chosen])["all"]
    assert picked.asked.tolist() == alone.asked.tolist() and average_precision(picked) == pytest.approx(average_precision(alone))


def test_interval_holds_the_value_and_needs_three_drives() -> None:
    matches = match(crowd(60))["all"]
    low, high = drive_interval(matches, average_precision)
    assert low is not None and high is not None and low <= average_precision(matches) <= high
    assert drive_interval(match(crowd(2))["all"], average_precision) == (None, None)


# rows and summaries


def test_rows_name_every_subset_and_split_day_from_night() -> None:
    day, night = frame([box(0.1, 0.5)], [box(0.1, 0.5)], night=0.0), frame([box(0.1, 0.5)], [], night=1.0)
    rows = {row["subset"]: row for row in table_rows("generated", [day, night], 0.5, resamples=5)}
    assert list(rows) == ["all", "day", "night", "small", "medium", "large"]
    assert (rows["day"]["recall"], rows["night"]["recall"], rows["all"]["recall"]) == (1, 0, 0.5)
    assert rows["large"]["ap50"] is None and rows["large"]["boxes"] == 0 and rows["all"]["ap50_low"] is None


def test_summary_in_closed_form() -> None:
    frames = [
        frame([], [box(0.1, 0.5), box(0.6, 0.2)], night=0.0, night_found=0.1, crowdedness=0.0),
        frame([], [box(0.1, 0.5, high=0.05)], night=1.0, night_found=0.2, crowdedness=0.0),
        frame([], [box(0.1, 0.5)], known=False),
        frame([box(0.1, 0.5)], [box(0.1, 0.5)] * 3, night=1.0, night_found=0.9, crowdedness=5.0),
    ]
    found = summary(frames, 0.5)
    assert found["false_per_empty_frame"] == 1.0  # two in the first, one too low in the second
    assert found["time_of_day_agreement"] == pytest.approx(2 / 3)
    assert found["crowdedness_correlation"] == pytest.approx(np.corrcoef([0, 0, 5], [2, 1, 3])[0, 1])


def test_nothing_to_say_is_none() -> None:
    assert set(summary([frame([box(0.1, 0.5)], [])], 0.5).values()) == {None}


def test_chance_takes_the_boxes_of_another_drive() -> None:
    frames = [frame([box(0.1 * k, 0.5)], [], drive=f"d{k % 2}") for k in range(6)]
    swapped, origin = other_boxes(frames)
    assert origin == "another drive"
    for before, after in zip(frames, swapped, strict=True):
        donors = [one.drive for one in frames if np.array_equal(one.asked, after.asked)]
        assert donors and before.drive not in donors and after.drive == before.drive


def test_chance_within_one_drive_is_half_of_it_away() -> None:
    frames = [frame([box(0.1 * k, 0.5)], []) for k in range(6)]
    swapped, origin = other_boxes(frames)
    assert origin == "another time of the same drive" and np.array_equal(swapped[0].asked, frames[3].asked)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((128, 256), (128, 256)), ((512, 1024), (128, 256)), ((64, 100), (128, 192)), ((720, 1280), (128, 224))],
)
def test_frames_are_brought_to_128_rows(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(np.zeros((2, *size, 3), np.uint8), 32).shape == (2, *expected, 3)


# a report on white boxes


@dataclass
class SeesWhite:
    """Finds the one white box of a frame exactly; at night the frame is blue."""

    threshold: float = 0.5
    downsample: int = 32

    def detect(self, frames: Tensor, threshold: float, limit: int) -> list[Detections]:
        assert frames.dtype == torch.uint8 and frames.shape[1] == 3 and frames.shape[2] == 128
        return [self._one(frame) for frame in frames]

    @staticmethod
    def _one(frame: Tensor) -> Detections:
        night = float(frame[2].float().median() > 60)
        rows, columns = torch.nonzero((frame > 180).all(0), as_tuple=True)
        if not len(rows):
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), night)
        edges = torch.stack([columns.min() / 256, rows.min() / 128, (columns.max() + 1) / 256, (rows.max() + 1) / 128])
        return Detections(edges[None].float(), torch.tensor([0.9]), torch.tensor([0]), night)


JUDGE = Judge(SeesWhite(), "f" * 64)  # type: ignore[arg-type]


def white_boxes(root: Path, clips: int = 4, kind: str = "generated", provenance: str = "requested", shown: bool = True) -> Path:
    """Clips of 12 frames at 7.5 fps, each with a white box that moves; the last clip is empty; every second clip is at night."""
    rows, tables = [], []
    for number in range(clips):
        full, night = number < clips - 1, number % 2 == 1
        left = (16 + 32 * number + 4 * np.arange(12)) % 192
        frames = np.zeros((12, 128, 256, 3), np.uint8)
        frames[..., 2] = 100 * night
        for index, x in enumerate(left if full and shown else []):
            frames[index, 40:72, x : x + 48] = 255
        boxes = np.stack([left, np.full(12, 40), left + 48, np.full(12, 72)], 1) / (256, 128, 256, 128)
        kept = np.arange(12 if full else 0)
        ints = np.zeros(len(kept), np.int64)
        asked = Boxes(kept, ints, ints, boxes[kept].astype(np.float32), np.zeros(len(kept), bool))
        values = {name: np.full(12, np.nan, np.float32) for name in LABELS}
        values |= {"time_of_day": np.full(12, float(night), np.float32), "crowdedness": count_vehicles(asked, 12)}
        track, clip_id = LabelTrack(7.5, values, asked, np.ones(12, bool)), f"clip{number}"
        (root / "videos").mkdir(parents=True, exist_ok=True)
        write_video(root / f"videos/{clip_id}.mp4", iter(frames), 7.5)
        more = {"split": "test", "provenance": f'{{"kind": "{kind}"}}'}
        rows.append(clip_row(track, clip_id, f"videos/{clip_id}.mp4", 128, 256, **more))
        tables.append(rows_of(track, clip_id, provenance))
    frame_rows, box_rows = (pd.concat(part, ignore_index=True) for part in zip(*tables, strict=True))
    write_records(root, DatasetRecords(root, pd.DataFrame(rows), box_rows, frame_rows, header("test")))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return white_boxes(tmp_path_factory.mktemp("labels") / "made")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return white_boxes(tmp_path_factory.mktemp("labels") / "recorded", kind="simulated", provenance="simulated")


def row_of(report: dict[str, Any], who: str, subset: str = "all") -> dict[str, Any]:
    return next(row for row in report["rows"] if (row["who"], row["subset"]) == (who, subset))


def test_report_on_boxes_that_are_there(made: Path, recorded: Path, tmp_path: Path) -> None:
    report = label_report(Footage.open([made]), Footage.open([recorded], "test"), None, tmp_path, judge=JUDGE)
    assert {row["who"] for row in report["rows"]} == {"generated", "held-out", "chance"}
    for who in ("generated", "held-out"):
        assert row_of(report, who)["ap50"] == pytest.approx(1) and row_of(report, who)["recall"] == 1
    assert row_of(report, "chance")["ap50"] < 0.5
    assert row_of(report, "generated")["frames"] == 12 and row_of(report, "generated")["boxes"] == 9  # 12 frames at 7.5 fps: 0, 4 and 8
    assert report["false_per_empty_frame"] == 0 and report["time_of_day_agreement"] == 1 == report["time_of_day_agreement_held_out"]
    assert report["crowdedness_correlation"] == pytest.approx(1)
    assert (report["boxes_from"], report["boxes_from_held_out"]) == ("requested", "simulated")
    assert report["detector"] == "f" * 64 and report["chance"] == "boxes of another drive"
    assert (tmp_path / "labels.png").stat().st_size > 5000


def test_report_on_boxes_that_were_never_drawn(recorded: Path, tmp_path: Path) -> None:
    blank = white_boxes(tmp_path / "blank", shown=False)
    report = label_report(Footage.open([blank]), Footage.open([recorded]), None, tmp_path, limit=8, judge=JUDGE)
    assert row_of(report, "generated")["ap50"] == 0 and row_of(report, "generated")["recall"] == 0
    assert report["crowdedness_correlation"] is None and row_of(report, "generated")["frames"] == 8


def test_reconstructions_are_judged_at_the_autoencoders_size(made: Path, recorded: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = SimpleNamespace(
        settings={"height": 32, "width": 64}, network={"autoencoder": Autoencoder(4, (8,), blocks=1)}.__getitem__
    )  # fmt: skip
    report = label_report(Footage.open([made]), Footage.open([recorded]), checkpoint, tmp_path, judge=JUDGE)  # type: ignore[arg-type]
    assert row_of(report, "reconstruction")["ap50"] < 1 and row_of(report, "reconstruction")["boxes"] == 9


def test_what_the_report_cannot_know_is_marked(made: Path, tmp_path: Path) -> None:
    guessed = white_boxes(tmp_path / "guessed", clips=2, kind="real", provenance="detector:yolox-nano")
    marks = " ".join(label_report(Footage.open([made]), Footage.open([guessed]), None, tmp_path, judge=JUDGE)["marks"])
    assert "trained on simulated clips only" in marks and "detector:yolox-nano" in marks and "no intervals for held-out" in marks
    bare = Footage.open([guessed / "videos"])
    report = label_report(Footage.open([made]), bare, None, tmp_path, judge=JUDGE)
    assert not any(row["who"] == "held-out" for row in report["rows"]) and "has no labels" in " ".join(report["marks"])


def test_footage_without_labels_is_refused(made: Path, tmp_path: Path) -> None:
    bare = Footage.open([made / "videos"])
    with pytest.raises(UsageError, match="has no labels"):
        label_report(bare, Footage.open([made]), None, tmp_path, judge=JUDGE)


def test_an_unreadable_clip_is_named_and_passed_over(tmp_path: Path) -> None:
    root = white_boxes(tmp_path / "broken", clips=3)
    footage = Footage.open([root])
    (root / "videos" / "clip1.mp4").write_bytes(b"no video")
    seen = look(footage, JUDGE)
    assert list(seen.skipped) == ["clip1"] and {one.drive for one in seen.frames} == {"clip0", "clip2"}


def test_another_network_is_no_judge(tmp_path: Path) -> None:
    network: nn.Module = Autoencoder(4, (8,), blocks=1)
    save_network(tmp_path / "detector", network, {})
    with pytest.raises(UsageError, match="holds a Autoencoder, not a BoxDetector"):
        Judge.load(tmp_path / "detector")


def test_frames_of_unknown_night_belong_to_neither() -> None:
    rows = table_rows("real", [replace(frame([box(0.1, 0.5)], []), night=float("nan"))], 0.5)
    assert [row["frames"] for row in rows[:3]] == [1, 0, 0]
