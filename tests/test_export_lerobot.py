"""What is exported for LeRobot v3 is read back with pyarrow and OpenCV, by the paths and columns that its own reader asks for."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from outgoing import label_tracks, track_of, write_clips

from drivesim import cli
from drivesim.datasets.exports.lerobot import export_lerobot
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, LabelTrack

BOX = (0.25, 0.25, 0.5, 0.75)
CAMERA = "observation.images.front"


class Reader:
    """A LeRobot dataset as its own code reads it: info, tasks, episodes in order, rows by index, frames by time in the video."""

    def __init__(self, root: Path) -> None:
        self.root, self.info = root, json.loads((root / "meta" / "info.json").read_text())
        self.tasks = pd.read_parquet(root / "meta" / "tasks.parquet")
        self.episodes = pq.ParquetDataset(root / "meta" / "episodes").read().to_pylist()
        self.stats = json.loads((root / "meta" / "stats.json").read_text())

    def rows(self, number: int) -> list[dict[str, Any]]:
        episode = self.episodes[number]
        path = self.info["data_path"].format(chunk_index=episode["data/chunk_index"], file_index=episode["data/file_index"])
        rows = pq.read_table(self.root / path).to_pylist()
        return [row for row in rows if episode["dataset_from_index"] <= row["index"] < episode["dataset_to_index"]]

    def picture(self, number: int, timestamp: float) -> np.ndarray:
        episode = self.episodes[number]
        place = {name: episode[f"videos/{CAMERA}/{name}"] for name in ("chunk_index", "file_index")}
        video = cv2.VideoCapture(str(self.root / self.info["video_path"].format(video_key=CAMERA, **place)))
        frame = round((episode[f"videos/{CAMERA}/from_timestamp"] + timestamp) * self.info["fps"])
        pictures = [video.read()[1] for _ in range(frame + 1)]
        return pictures[-1][:, :, ::-1]


def agree(reader: Reader, number: int, track: LabelTrack) -> None:
    """An episode's rows are the track's frames, and its boxes the track's, exactly."""
    rows = reader.rows(number)
    assert [row["frame_index"] for row in rows] == list(range(len(track))) and {row["episode_index"] for row in rows} == {number}
    assert [row["boxes_known"] for row in rows] == track.boxes_known.tolist()
    np.testing.assert_allclose([row["timestamp"] for row in rows], np.arange(len(track)) / reader.info["fps"], atol=1e-5)
    for frame, row in enumerate(rows):
        boxes, category = track.boxes.where(track.boxes.frame == frame), np.array(row["boxes.category"])
        there = category >= 0
        np.testing.assert_array_equal(np.reshape(np.array(row["boxes.xyxy"], np.float32), (-1, 4))[there], boxes.xyxy)
        assert category[there].tolist() == boxes.category.tolist()
        assert np.array(row["boxes.track_id"])[there].tolist() == boxes.track_id.tolist()
        assert np.array(row["boxes.ignore"])[there].tolist() == boxes.ignore.tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=3, seconds=2, height=64, width=128)
    return root


@pytest.fixture(scope="module")
def exported(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    out = tmp_path_factory.mktemp("out") / "lerobot"
    export_lerobot(world, out)
    return Reader(out)


def test_episodes_say_the_same(world: Path, exported: Reader) -> None:
    records = read_records(world)
    for number, episode in enumerate(exported.episodes):
        agree(exported, number, labels_of(records, episode["clip_id"]))
    assert sorted(episode["clip_id"] for episode in exported.episodes) == sorted(records.clip_ids)
    assert [episode["episode_index"] for episode in exported.episodes] == [0, 1, 2]
    assert [(episode["dataset_from_index"], episode["dataset_to_index"]) for episode in exported.episodes] == [(0, 15), (15, 30), (30, 45)]


def test_pictures_are_found_by_time(world: Path, exported: Reader) -> None:
    row = exported.rows(1)[9]
    source = read_records(world).video_path(exported.episodes[1]["clip_id"])
    difference = exported.picture(1, row["timestamp"]).astype(int) - read_frames(source, indices=[9])[0]
    assert np.abs(difference).mean() < 2, "two decoders' ways from YUV to RGB apart, it is the frame"


def test_features_describe_the_columns(exported: Reader) -> None:
    info, rows = exported.info, exported.rows(0)
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 7.5, {"train": "0:2", "val": "2:3"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 45, len(exported.tasks))
    assert info["features"][CAMERA]["shape"] == [64, 128, 3]
    assert info["features"]["boxes.category"]["info"]["categories"] == {str(k): name for k, name in enumerate(CATEGORIES)}
    types = {"float32": float, "int64": int, "bool": bool}
    for name, feature in info["features"].items():
        if feature["dtype"] != "video":
            values = [rows[0][name]] if feature["shape"] == [1] else rows[0][name]
            assert len(values) == feature["shape"][0] and {type(value) for value in values} == {types[feature["dtype"]]}, name
    assert set(rows[0]) == set(info["features"]) - {CAMERA}


def test_tasks_name_the_time_of_day(world: Path, exported: Reader) -> None:
    times = read_records(world).clips.set_index("clip_id")["time_of_day"]
    for number, episode in enumerate(exported.episodes):
        told = {"day": "drive by day", "night": "drive at night"}[times[episode["clip_id"]]]
        assert episode["tasks"] == [told]
        assert {row["task_index"] for row in exported.rows(number)} == {exported.tasks.loc[told, "task_index"]}


def test_statistics_are_those_of_all_rows(exported: Reader) -> None:
    rows = [row for number in range(3) for row in exported.rows(number)]
    for name in ("observation.state", "boxes.xyxy", "timestamp"):
        values = np.array([row[name] for row in rows], np.float64).reshape(len(rows), -1)
        for key, expected in {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}.items():
            np.testing.assert_allclose(exported.stats[name][key], expected, atol=1e-9, err_msg=f"{name} {key}")
        assert exported.stats[name]["count"] == [45]
    assert np.shape(exported.stats[CAMERA]["mean"]) == (3, 1, 1) and 0 < np.min(exported.stats[CAMERA]["mean"]) < 1


@settings(max_examples=10, deadline=None)
@given(label_tracks(frames=3))
def test_any_boxes_come_back(track: LabelTrack) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track])
        assert export_lerobot(clips, Path(folder) / "lerobot")["frames without known boxes"] == int((~track.boxes_known).sum())
        agree(Reader(Path(folder) / "lerobot"), 0, track)


def test_what_is_unknown_is_no_feature_or_nan(tmp_path: Path) -> None:
    silent, speaking = track_of(2, []), track_of(2, [])
    speed = np.array([5.0, np.nan], np.float32)
    speaking = replace(speaking, values={**speaking.values, "ego_speed_mps": speed})
    export_lerobot(write_clips(tmp_path / "one", [silent]), tmp_path / "silent")
    assert "observation.state" not in Reader(tmp_path / "silent").info["features"]
    export_lerobot(write_clips(tmp_path / "two", [silent, speaking]), tmp_path / "both")
    reader = Reader(tmp_path / "both")
    assert reader.info["features"]["observation.state"]["names"] == ["ego_speed_mps"]
    np.testing.assert_array_equal([row["observation.state"] for row in reader.rows(1)], speed)
    assert reader.stats["observation.state"] == {"min": [5.0], "max": [5.0], "mean": [5.0], "std": [0.0], "count": [1]}


def test_clips_of_another_rate_are_left_out_and_told(tmp_path: Path) -> None:
    tracks = [track_of(2, [], fps=10.0), track_of(2, []), track_of(2, [(0, 1, 0, BOX, False)], fps=10.0)]
    summary = export_lerobot(write_clips(tmp_path / "clips", tracks), tmp_path / "lerobot")
    assert (summary["of another rate or size"], summary["fps"], summary["episodes"]) == (["clip1"], 10.0, 2)
    assert Reader(tmp_path / "lerobot").info["fps"] == 10


def test_an_unreadable_clip_costs_only_itself(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(4, []), track_of(4, []), track_of(4, [])])
    videos = [clips / "videos" / f"{number}.mp4" for number in range(3)]
    videos[1].write_bytes(videos[1].read_bytes()[:900])
    assert export_lerobot(clips, tmp_path / "lerobot")["clips that cannot be read"] == ["clip1"]
    assert [episode["clip_id"] for episode in Reader(tmp_path / "lerobot").episodes] == ["clip0", "clip2"]
    copies = sorted((tmp_path / "lerobot").rglob("*.mp4"))
    assert [path.name for path in copies] == ["file-000.mp4", "file-001.mp4"]
    assert [path.read_bytes() for path in copies] == [videos[0].read_bytes(), videos[2].read_bytes()], "each where its episode looks for it"


def test_the_command_line_exports_it(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "export", "lerobot", str(world), "--out", str(tmp_path / "lerobot"), "split=val"]) == 0
    assert "episodes: 1" in capsys.readouterr().out


def test_lerobot_refuses(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DrivesimError, match="no frame to export"):
        export_lerobot(world, tmp_path / "x", split="nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DrivesimError, match="already exists"):
        export_lerobot(world, tmp_path / "full")
    with pytest.raises(DrivesimError, match="nowhere"):
        export_lerobot(tmp_path / "nowhere", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
