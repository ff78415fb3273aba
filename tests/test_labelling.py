"""``drivesim data label``: light, tracks and datasets in closed form; what people have said stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_agreement import A, B, SeesWhite, picture

from drivesim.commands.data import run
from drivesim.datasets import labelling
from drivesim.datasets.finders import OwnDetector, finder
from drivesim.datasets.labelling import label_dataset
from drivesim.datasets.light import DAY, NIGHT, light_above, time_of_day
from drivesim.datasets.tracking import Found, track
from drivesim.errors import UsageError
from drivesim.io.records import DatasetRecords, check_records, empty_table, header, labels_of, read_records, write_records
from drivesim.io.video import write_video
from drivesim.labels import CATEGORIES

FPS, FRAMES = 10.0, 12


def found(*boxes: tuple[float, float], score: float = 0.9, category: int = 0, size: float = 0.2) -> Found:
    rows = np.array([(x, y, x + size, y + size) for x, y in boxes], np.float32).reshape(-1, 4)
    return Found(rows, np.full(len(boxes), score, np.float32), np.full(len(boxes), category, np.int64))


# light


@pytest.mark.parametrize(("luma", "said"), [(0, "night"), (NIGHT, "night"), ((NIGHT + DAY) / 2, None), (DAY, "day"), (255, "day")])
def test_light_has_two_thresholds(luma: float, said: str | None) -> None:
    assert time_of_day([luma]) == said


def test_light_is_looked_for_above() -> None:
    frame = np.zeros((96, 64, 3), np.uint8)
    frame[:32] = 200
    assert light_above(frame) == pytest.approx(200) and light_above(frame[::-1]) == 0
    frame[:32] = (255, 0, 0)
    assert light_above(frame) == pytest.approx(0.299 * 255)


def test_a_tunnel_makes_no_night_and_no_frame_says_nothing() -> None:
    assert time_of_day([200] * 6 + [10] * 5) == "day" and time_of_day([]) is None


# tracks


def test_two_boxes_that_pass_each_other_keep_their_numbers() -> None:
    frames = list(range(10))
    here = [found((0.05 * t, 0.1), (0.45 - 0.05 * t, 0.25)) for t in frames]
    made = track(frames, here, FPS, 0.5)
    assert len(made.frame) == 20
    for number in (0, 1):
        assert np.allclose(np.diff(made.xyxy[made.track_id == number, 0]), 0.05 * (1 - 2 * number), atol=1e-5)


def test_a_gap_is_bridged_where_it_is_expected_and_not_for_ever() -> None:
    here = [found((0.04 * t, 0.1)) if t not in (3, 4, 5) else found() for t in range(12)]
    assert set(track(range(12), here, FPS, 0.5).track_id) == {0}
    assert set(track([0, 1, 2, 20], here[:3] + here[2:3], FPS, 0.5).track_id) == {0, 1}


def test_tracks_that_end_together_leave_the_others() -> None:
    here = [found((0.1, 0.1), (0.4, 0.4), (0.7, 0.7)), *[found((0.7, 0.7))] * 19]
    made = track(range(20), here, FPS, 0.5)
    assert np.bincount(made.track_id).tolist() == [1, 1, 20] and np.bincount(made.frame).tolist() == [3] + [1] * 19


def test_doubtful_detections_keep_a_track_and_begin_none() -> None:
    here = [found((0.1, 0.1)), found((0.1, 0.1), (0.6, 0.6), score=0.2), found((0.1, 0.1))]
    made = track(range(3), here, FPS, 0.5)
    assert made.frame.tolist() == [0, 1, 2] and made.score[1] == pytest.approx(0.2)


def test_a_person_never_becomes_a_car_and_a_car_may_become_a_truck() -> None:
    car, person, truck = (CATEGORIES.index(name) for name in ("car", "person", "truck"))
    assert len(set(track(range(2), [found((0.1, 0.1), category=car), found((0.1, 0.1), category=person)], FPS, 0.5).track_id)) == 2
    same = track(range(3), [found((0.1, 0.1), category=kind) for kind in (truck, car, truck)], FPS, 0.5)
    assert same.category.tolist() == [truck] * 3


def test_short_tracks_are_dropped_when_asked() -> None:
    here = [found((0.1, 0.1)), found((0.1, 0.1), (0.6, 0.6))]
    assert len(track(range(2), here, FPS, 0.5).frame) == 3
    assert track(range(2), here, FPS, 0.5, shortest=2).track_id.tolist() == [0, 0]
    assert len(track([], [], FPS, 0.5).frame) == 0


# datasets


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two clips without labels, bright and dark above; A stands still, B moves by a pixel a frame. The detector sees white to the pixel."""
    clips = []
    for clip_id, sky in (("bright", 150), ("dark", 10)):
        frames = np.stack([picture(A, (B[0] + t, *B[1:2], B[2] + t, B[3])) for t in range(FRAMES)])
        frames[:, :38, :, 2] = 255 * (sky > 99)  # blue alone is no vehicle to this detector, and red is what it looks at
        frames[:, :38, :, 1] = sky
        write_video(tmp_path / "bare" / "videos" / f"{clip_id}.mp4", frames, FPS)
        clips.append({"clip_id": clip_id, "video": f"videos/{clip_id}.mp4", "fps": FPS, "frames": FRAMES, "height": 128, "width": 256,
                      "duration_s": FRAMES / FPS, "split": "train", "provenance": '{"kind": "real"}', "mine": 7})  # fmt: skip
    root = tmp_path / "bare"
    write_records(root, DatasetRecords(root, pd.DataFrame(clips), header=header("test")))
    monkeypatch.setattr(labelling, "finder", lambda *given: OwnDetector(SeesWhite(), "white"))
    return root


def test_nothing_known_becomes_labelled(bare: Path) -> None:
    told = label_dataset(bare, progress=False)
    assert (told["clips labelled with boxes"], told["tracks"], told["boxes"], told["day"], told["night"]) == (2, 4, 4 * FRAMES, 1, 1)
    records = read_records(bare)
    assert not check_records(bare) and records.clips["time_of_day"].tolist() == ["day", "night"]
    assert records.clips["crowdedness"].tolist() == [2.0, 2.0] and records.clips["mine"].tolist() == [7, 7]
    assert set(records.boxes["provenance"]) == {"detector:white"} and np.allclose(records.boxes["score"], 0.9)
    labels = labels_of(records, "dark")
    assert labels.boxes_known.all() and (labels.values["time_of_day"] == 1).all()
    moving = labels.boxes.where(labels.boxes.track_id == labels.boxes.track_id[labels.boxes.xyxy[:, 0] > 0.4][0])
    assert np.allclose(np.diff(moving.xyxy[:, 0]) * 256, 1, atol=1.1) and len(moving) == FRAMES
    provenance = json.loads(records.clip("dark")["provenance"])
    assert provenance == {"kind": "real", "labels": {"time_of_day": "light", "boxes": "detector:white"}}


def test_frames_nobody_looked_at_stay_unknown(bare: Path) -> None:
    label_dataset(bare, every=3, progress=False)
    records = read_records(bare)
    assert records.frames is not None
    looked = (records.frames["frame"] % 3 == 0).to_numpy()
    assert (records.frames["boxes_known"].to_numpy(bool) == looked).all()
    assert (records.frames["crowdedness"].notna().to_numpy() == looked).all()
    assert set(records.boxes["frame"]) == {0, 3, 6, 9}


def test_a_night_in_which_nothing_was_found_stays_unknown(bare: Path) -> None:
    for clip_id, sky in (("bright", 150), ("dark", 0)):
        frames = np.zeros((FRAMES, 128, 256, 3), np.uint8)
        frames[:, :, :, 1:] = sky
        write_video(bare / "videos" / f"{clip_id}.mp4", frames, FPS)
    assert label_dataset(bare, progress=False)["nights where nothing was found"] == 1
    records = read_records(bare)
    assert [labels_of(records, clip_id).boxes_known.all() for clip_id in ("bright", "dark")] == [True, False]
    assert records.clips["crowdedness"].isna().tolist() == [False, True]


def test_labelling_again_gives_the_same(bare: Path) -> None:
    label_dataset(bare, progress=False)
    first = read_records(bare)
    label_dataset(bare, progress=False)
    second = read_records(bare)
    pd.testing.assert_frame_equal(first.boxes, second.boxes)
    pd.testing.assert_frame_equal(first.clips, second.clips)


def human(root: Path, **clip: object) -> None:
    """One human box in the bright clip, and more about that clip."""
    records = read_records(root)
    box = dict(zip(("x1", "y1", "x2", "y2"), (0.1, 0.1, 0.3, 0.3), strict=True))
    row = {"clip_id": "bright", "frame": 0, "timestamp_s": 0.0, "track_id": 5, "category": "car", **box, "provenance": "human"}
    clips = records.clips.astype({"time_of_day": object})
    for name, value in clip.items():
        clips.loc[0, name] = value
    write_records(root, replace(records, clips=clips, boxes=pd.DataFrame([row])))


def test_what_people_said_stays(bare: Path) -> None:
    human(bare, time_of_day="night", crowdedness=1.0)
    told = label_dataset(bare, progress=False)
    records = read_records(bare)
    assert told["clips whose boxes were kept"] == 1 and told["time of day kept"] == 1
    assert records.boxes_of("bright")["track_id"].tolist() == [5] and len(records.boxes_of("dark")) == 2 * FRAMES
    assert records.clips["time_of_day"].tolist() == ["night", "night"] and records.clips["crowdedness"].tolist() == [1.0, 2.0]
    assert not check_records(bare)


def test_boxes_of_unknown_origin_and_roads_that_are_said_to_be_empty_stay(bare: Path) -> None:
    human(bare)
    records = read_records(bare)
    empty = pd.DataFrame({"clip_id": "dark", "frame": range(FRAMES), "timestamp_s": np.arange(FRAMES) / FPS, "boxes_known": True})
    write_records(bare, replace(records, boxes=records.boxes.assign(provenance=None), frames=empty))
    assert label_dataset(bare, progress=False)["clips whose boxes were kept"] == 2


def test_a_number_of_vehicles_that_was_given_stays(bare: Path) -> None:
    records = read_records(bare)
    write_records(bare, replace(records, clips=records.clips.assign(crowdedness=[9.0, float("nan")])))
    label_dataset(bare, progress=False)
    assert read_records(bare).clips["crowdedness"].tolist() == [9.0, 2.0]


def test_overwriting_must_be_asked_for(bare: Path) -> None:
    human(bare, time_of_day="night", crowdedness=1.0)
    label_dataset(bare, overwrite_labels=True, progress=False)
    records = read_records(bare)
    assert set(records.boxes["provenance"]) == {"detector:white"} and records.clips["time_of_day"].tolist() == ["day", "night"]


def test_a_new_folder_leaves_the_old_one_alone(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("label", dict(dataset=bare, out=bare.parent / "made", every=2), ["progress=false"]) == 0
    assert "clips labelled with boxes: 2" in capsys.readouterr().out
    assert not check_records(bare.parent / "made") and len(read_records(bare.parent / "made").boxes) == 2 * FRAMES * 2 // 2
    assert len(read_records(bare).boxes) == 0 and not (bare / "frames.parquet").exists()


def test_a_bad_video_costs_its_clip_only(bare: Path) -> None:
    (bare / "videos" / "dark.mp4").write_bytes(b"no video")
    told = label_dataset(bare, progress=False)
    assert list(told["skipped"]) == ["dark"] and set(read_records(bare).boxes["clip_id"]) == {"bright"}


def test_an_empty_dataset_stays_empty(tmp_path: Path, bare: Path) -> None:
    write_records(tmp_path, DatasetRecords(tmp_path, empty_table("clips"), header=header("test")))
    assert label_dataset(tmp_path, progress=False)["boxes"] == 0


def test_bad_numbers_are_refused(bare: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        label_dataset(bare, every=0, progress=False)
    with pytest.raises(UsageError, match=r"0\.\.1"):
        finder(None, threshold=1.5)
