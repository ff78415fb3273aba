"""Scenarios: traffic as crowded as asked for, labels at any frame, and what users hand in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import read_records
from drivesim.io.video import VideoError, write_video
from drivesim.labels import Boxes, BoxTrack, LabelError, LabelTrack, Scenario, count_vehicles
from drivesim.simulation.inputs import fit_frame, read_boxes, read_start
from drivesim.simulation.scenes.sampling import ScenarioLabels, sample_scenario, sample_tracks
from drivesim.simulation.scenes.track_bank import BANK_FPS, TrackBank, build_bank, drive_of


def recorded(seed: int, fps: float = 10.0, frames: int = 200) -> LabelTrack:
    """A made-up drive: cars of random size come and go."""
    random = np.random.default_rng(seed)
    rows = []
    for track_id in range(int(random.integers(3, 14))):
        first = int(random.integers(0, frames - 40))
        x, y, size = random.uniform(0.0, 0.8), random.uniform(0.3, 0.6), random.uniform(0.05, 0.2)
        for frame in range(first, first + int(random.integers(30, 120))):
            if frame < frames:
                rows.append((frame, track_id, 0, (x, y, x + size, y + size)))
    rows.sort(key=lambda row: row[0])
    frame, track, category = (np.array([row[index] for row in rows], np.int64) for index in range(3))
    boxes = Boxes(frame, track, category, np.array([row[3] for row in rows], np.float32), np.zeros(len(rows), bool))
    unknown = LabelTrack.unknown(frames, fps)
    values = {**unknown.values, "time_of_day": np.full(frames, float(seed % 2), np.float32)}
    values["ego_speed_mps"] = np.full(frames, 5.0 + seed % 7, np.float32)
    return LabelTrack(fps, values, boxes, np.ones(frames, bool))


@pytest.fixture(scope="module")
def bank() -> TrackBank:
    return TrackBank(tuple(drive_of(f"clip{seed}", recorded(seed)) for seed in range(12)))


@pytest.mark.parametrize("crowdedness", [0.0, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_number_of_vehicles_is_the_wanted_one(bank: TrackBank, crowdedness: float, seed: int) -> None:
    scenario = sample_scenario(bank, 60, crowdedness=crowdedness, seed=seed)
    labels = scenario.label_track(450, BANK_FPS)
    assert abs(count_vehicles(labels.boxes, 450).mean() - crowdedness) <= 0.1 * max(crowdedness, 1)
    assert np.array_equal(labels.values["crowdedness"], count_vehicles(labels.boxes, 450)), "what is told is what is drawn"


def test_sampled_tracks_are_sound(bank: TrackBank) -> None:
    tracks = sample_tracks(bank, 60, crowdedness=4, seed=3, time_of_day="night")
    assert len({track.track_id for track in tracks}) == len(tracks)
    for track in tracks:
        assert len(track.timestamp_s) >= 2 and (np.diff(track.timestamp_s) > 0).all() and track.timestamp_s[-1] <= 61
        assert (track.xyxy[:, :2] < track.xyxy[:, 2:]).all() and track.xyxy.min() >= 0 and track.xyxy.max() <= 1
        assert np.abs(np.diff(track.xyxy, axis=0)).max() < 0.5, "nothing jumps"


def test_seeds_differ_and_repeat(bank: TrackBank) -> None:
    first, again, other = (sample_scenario(bank, 30, seed=seed) for seed in (1, 1, 2))
    assert first.crowdedness == again.crowdedness and len(first.tracks or ()) == len(again.tracks or ())
    assert all(np.array_equal(a.xyxy, b.xyxy) for a, b in zip(first.tracks or (), again.tracks or (), strict=True))
    assert (first.crowdedness, len(first.tracks or ())) != (other.crowdedness, len(other.tracks or ()))


def test_the_recorded_speed_comes_along_unless_one_is_given(bank: TrackBank) -> None:
    free, held = sample_scenario(bank, 20, seed=1), sample_scenario(bank, 20, seed=1, ego_speed_mps=3.0)
    assert {5, 6, 7, 8, 9, 10, 11} >= set(free.label_track(150, 7.5).values["ego_speed_mps"].tolist())
    assert (held.label_track(150, 7.5).values["ego_speed_mps"] == 3.0).all()
    with pytest.raises(LabelError, match="crowdedness"):
        sample_scenario(bank, 20, crowdedness=-1)


def test_a_bank_survives_the_disk(bank: TrackBank, tmp_path: Path) -> None:
    again = TrackBank.load(bank.save(tmp_path / "tracks.parquet"))
    assert [drive.clip_id for drive in again.drives] == sorted(drive.clip_id for drive in bank.drives)
    for drive in bank.drives:
        other = next(one for one in again.drives if one.clip_id == drive.clip_id)
        assert other.time_of_day == drive.time_of_day and np.allclose(other.speed, drive.speed, atol=1e-3)
        assert len(other.traces) == len(drive.traces)
        for a, b in zip(drive.traces, other.traces, strict=True):
            assert (a.first, a.category) == (b.first, b.category) and np.allclose(a.xyxy, b.xyxy, atol=1e-4)
    pd.DataFrame({"clip_id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DrivesimError, match="is no track bank: no column"):
        TrackBank.load(tmp_path / "other.parquet")
    with pytest.raises(DrivesimError, match="cannot read the track bank"):
        TrackBank.load(tmp_path / "missing.parquet")


def test_a_drive_keeps_its_crowdedness_on_the_grid_and_splits_at_gaps() -> None:
    labels = recorded(4)
    count, _ = drive_of("clip", labels).vehicles()
    assert abs(count.mean() - count_vehicles(labels.boxes, len(labels)).mean()) < 0.3
    frame = np.array([0, 1, 2, 3, 20, 21, 22, 23], np.int64)
    gap = Boxes(frame, frame * 0, frame * 0, np.tile(np.array([0.1, 0.1, 0.2, 0.2], np.float32), (8, 1)), frame < 0)
    drive = drive_of("gap", LabelTrack(7.5, LabelTrack.unknown(30, 7.5).values, gap, np.ones(30, bool)))
    assert [(trace.first, trace.last) for trace in drive.traces] == [(0, 4), (20, 24)]


def test_a_bank_of_simulated_clips_follows_crowdedness(shared_data: Path) -> None:
    bank = build_bank(read_records(shared_data / "sim"))
    means = [count_vehicles(sample_scenario(bank, 60, crowdedness=c).label_track(450, 7.5).boxes, 450).mean() for c in (0, 3, 12)]
    assert np.allclose(means, (0, 3, 12), atol=0.3)


def test_labels_of_any_frames_equal_those_of_the_whole(bank: TrackBank) -> None:
    scenario = sample_scenario(bank, 40, crowdedness=3, seed=2)
    whole, pieces = scenario.label_track(300, 7.5), ScenarioLabels(scenario, last_s=299 / 7.5)
    for first in range(0, 300, 37):
        numbers = range(first, min(first + 37, 300))
        got, expected = pieces.at(numbers, 7.5), whole.take(numbers, 7.5)
        assert np.array_equal(got.boxes.frame, expected.boxes.frame) and np.allclose(got.boxes.xyxy, expected.boxes.xyxy, atol=1e-6)
        assert all(np.allclose(got.values[name], expected.values[name], equal_nan=True, atol=1e-5) for name in got.values)
    outside = pieces.at([-1, 0, 299, 305], 7.5)
    assert outside.boxes_known.tolist() == [False, True, True, True]
    last, after = (outside.boxes.where(outside.boxes.frame == index).xyxy for index in (2, 3))
    assert np.array_equal(last, after), "held after the end"


def test_profiles() -> None:
    speed = (np.array([0.0, 10.0]), np.array([0.0, 20.0]))
    labels = Scenario(10, profiles={"ego_speed_mps": speed}).labels_at(np.array([0.0, 5.0, 99.0]), 1.0)
    assert labels.values["ego_speed_mps"].tolist() == [0.0, 10.0, 20.0]
    for bad in ({"ego_speed": speed}, {"time_of_day": speed}, {"ego_speed_mps": (speed[0][::-1], speed[1])},
                {"ego_speed_mps": (speed[0], speed[1] * 99)}):  # fmt: skip
        with pytest.raises(LabelError):
            Scenario(10, profiles=bad)


def rows(**columns: object) -> pd.DataFrame:
    table = {"frame": [0, 15, 30, 4], "track_id": [1, 1, 1, 2], "category": ["car", "car", "car", "person"],
             "x1": [0.1, 0.2, 0.3, 0.5], "y1": [0.4] * 4, "x2": [0.3, 0.4, 0.5, 0.6], "y2": [0.6] * 4}  # fmt: skip
    return pd.DataFrame({**table, **columns})


def test_boxes_from_a_file(tmp_path: Path) -> None:
    rows().to_parquet(tmp_path / "boxes.parquet")
    car, person = read_boxes(tmp_path / "boxes.parquet", 8.0, 7.5)
    assert isinstance(car, BoxTrack) and (car.category, person.category) == ("car", "person")
    present, xyxy = car.at(np.array([1.0, 5.0]))
    assert present.tolist() == [True, False] and np.allclose(xyxy[0], [0.15, 0.4, 0.35, 0.6], atol=1e-6)
    rows(timestamp_s=[0.0, 2.000001, 4.0, 0.5333]).drop(columns="frame").to_csv(tmp_path / "boxes.csv")
    assert np.allclose(read_boxes(tmp_path / "boxes.csv", 8.0, 7.5)[0].timestamp_s, [0, 2, 4], atol=0)
    rows().iloc[:0].to_parquet(tmp_path / "none.parquet")
    assert read_boxes(tmp_path / "none.parquet", 8.0, 7.5) == ()


@pytest.mark.parametrize(("columns", "message"), [
    ({"x1": [0.1, 0.9, 0.3, 0.5]}, r"row 1: inverted box \(x1 0.9"),
    ({"y2": [0.6, 0.6, 0.4, 0.6]}, "row 2: inverted box"),
    ({"x2": [0.3, 0.4, 0.5, 1.2]}, "row 3: box outside the picture"),
    ({"x1": [-0.1, 0.2, 0.3, 0.5]}, "row 0: box outside the picture"),
    ({"x1": [0.1, float("nan"), 0.3, 0.5]}, "row 1: x1 is not a number"),
    ({"frame": [0, 15, 60, 4]}, "row 2: frame 60 lies outside the rollout, whose last frame is 59"),
    ({"frame": [0, -1, 30, 4]}, "row 1: frame -1 lies outside"),
    ({"timestamp_s": [0, 2, 4, 9.0]}, "row 3: timestamp_s 9 lies outside"),
    ({"category": ["car", "car", "car", "tram"]}, "row 3: unknown category 'tram'; known are car"),
    ({"category": ["car", "bus", "car", "person"]}, "row 1: track 1 is a car and a bus"),
    ({"frame": [0, 15, 15, 4]}, "row 2: track 1 has a second box at 2 s"),
    ({"clip_id": ["a", "a", "b", "b"]}, "boxes of 2 clips"),
])  # fmt: skip
def test_bad_boxes(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    rows(**columns).to_parquet(tmp_path / "boxes.parquet")
    with pytest.raises(UsageError, match=message) as caught:
        read_boxes(tmp_path / "boxes.parquet", 8.0, 7.5)
    assert str(tmp_path / "boxes.parquet") in str(caught.value)


def test_bad_box_files(tmp_path: Path) -> None:
    path = tmp_path / "boxes.parquet"
    with pytest.raises(UsageError, match="no such file"):
        read_boxes(path, 8.0, 7.5)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="not a readable table"):
        read_boxes(path, 8.0, 7.5)
    for missing in ("x1", "category", "frame"):
        rows().drop(columns=missing).to_parquet(path)
        with pytest.raises(UsageError, match=f"missing column .*{missing}"):
            read_boxes(path, 8.0, 7.5)
    rows(clip_id=["a", "a", "a", "b"]).to_parquet(path)
    assert [track.track_id for track in read_boxes(path, 8.0, 7.5, clip_id="b")] == [2]
    with pytest.raises(UsageError, match="no rows of clip 'c'"):
        read_boxes(path, 8.0, 7.5, clip_id="c")


@pytest.mark.parametrize("size", [(32, 64), (97, 301), (301, 97), (7, 5), (33, 64)])
def test_a_start_picture_of_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    cv2.imwrite(str(tmp_path / "start.png"), np.full((*size, 3), (10, 20, 200), np.uint8))
    start = read_start(tmp_path / "start.png", 32, 64, 1.875)
    assert start.shape == (1, 32, 64, 3) and start.dtype == np.uint8
    assert np.abs(start.reshape(-1, 3).mean(axis=0) - (200, 20, 10)).max() < 1, "RGB"


def test_the_crop_is_about_the_centre() -> None:
    wide = np.zeros((32, 128, 3), np.uint8)
    wide[:, 32:96] = 255
    assert fit_frame(wide, 32, 64).min() == 255


def test_a_start_video_gives_its_last_keyframes(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", (np.full((32, 64, 3), 4 * number, np.uint8) for number in range(30)), 15)
    start = read_start(tmp_path / "long.mp4", 32, 64, 1.875)
    assert np.allclose(start.mean(axis=(1, 2, 3)), [4 * 21, 4 * 29], atol=4), "0.533 s apart, the last frame last"
    write_video(tmp_path / "short.mp4", (np.full((32, 64, 3), 4 * number, np.uint8) for number in range(4)), 15)
    assert len(read_start(tmp_path / "short.mp4", 32, 64, 1.875)) == 1


def test_bad_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such picture or video"):
        read_start(tmp_path / "none.png", 32, 64, 1.875)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(VideoError, match="empty"):
        read_start(tmp_path / "empty.mp4", 32, 64, 1.875)
    cv2.imwrite(str(tmp_path / "cut.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:24])
    with pytest.raises((UsageError, VideoError), match=r"cut\.png"):
        read_start(tmp_path / "cut.png", 32, 64, 1.875)
