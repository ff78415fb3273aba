"""LeRobot v3: our own export comes back as it was; foreign datasets, written by the tests in their layout, give what their names tell."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from outgoing import label_tracks, track_of, write_clips

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.exports.lerobot import export_lerobot
from drivesim.datasets.sources.lerobot import front_camera, import_lerobot
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import read_frames, write_video
from drivesim.labels import LabelTrack

LENGTHS, FPS = (70, 12, 9), 10
FRONT, LEFT = "observation.images.front_left", "observation.images.left_forward"
STATE = ["speed", "heading", "yaw_rate_radps"]


def same(back: LabelTrack, there: LabelTrack) -> None:
    assert back.fps == there.fps
    np.testing.assert_array_equal(back.boxes_known, there.boxes_known)
    for name in ("frame", "track_id", "category", "xyxy", "ignore"):
        np.testing.assert_array_equal(getattr(back.boxes, name), getattr(there.boxes, name), err_msg=name)


@settings(max_examples=8, deadline=None)
@given(label_tracks(frames=3))
def test_importing_our_own_export_gives_the_same_boxes(track: LabelTrack) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track], provenance="simulated")
        export_lerobot(clips, Path(folder) / "lerobot")
        import_lerobot(Path(folder) / "lerobot", Path(folder) / "back", progress=False)
        records = read_records(Path(folder) / "back")
        same(labels_of(records, "clip0"), track)
        assert (records.boxes["provenance"] == "simulated").all()


def test_every_label_comes_back(tmp_path: Path) -> None:
    world = tmp_path / "world"
    make_road_world(world, clips=3, seconds=2, height=64, width=128)
    export_lerobot(world, tmp_path / "lerobot")
    summary = import_lerobot(tmp_path / "lerobot", tmp_path / "back", progress=False)
    made, back = read_records(world), read_records(tmp_path / "back")
    assert summary["left_out"] == {} and check_dataset(tmp_path / "back")["faults"] == 0
    for clip in made.clips.itertuples():
        there, here = labels_of(made, clip.clip_id), labels_of(back, clip.clip_id)
        same(here, there)
        for name, values in there.values.items():
            np.testing.assert_array_equal(here.values[name], values, err_msg=name)
        row = back.clip(clip.clip_id)
        assert (row["split"], row["time_of_day"], row["licence"]) == (clip.split, clip.time_of_day, clip.licence)
        pictures = [read_frames(records.video_path(clip.clip_id), indices=[7])[0].astype(int) for records in (made, back)]
        assert np.abs(pictures[0] - pictures[1]).mean() < 3, "encoded once more"


def test_unknown_labels_stay_unknown(tmp_path: Path) -> None:
    track = replace(track_of(3, []), boxes_known=np.array([True, False, True]))
    track.values["crowdedness"][:] = [2, 5, np.nan]
    export_lerobot(write_clips(tmp_path / "clips", [track], ids=["a/b"]), tmp_path / "lerobot")
    import_lerobot(tmp_path / "lerobot", tmp_path / "back", progress=False)
    records = read_records(tmp_path / "back")
    back = labels_of(records, records.clip_ids[0])
    np.testing.assert_array_equal(back.values["crowdedness"], [2, 5, np.nan])
    assert np.isnan(back.values["time_of_day"]).all() and np.isnan(back.values["ego_speed_mps"]).all()
    assert records.clip_ids == ["lerobot_000000"] and json.loads(records.clips["provenance"][0])["clip_id"] == "a/b"


def table(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def foreign(root: Path, names: Any = STATE, cameras: tuple[str, ...] = (FRONT, LEFT), splits: dict[str, str] | None = None) -> Path:
    """Three episodes of a car, all in one video file a camera and in one table; speed in km/h rises from 36 by 3.6 a frame."""
    total, lengths = sum(LENGTHS), np.array(LENGTHS)
    starts = np.cumsum(lengths) - lengths
    frame = np.concatenate([np.arange(length) for length in LENGTHS])
    episode = np.repeat(np.arange(3), lengths)
    for camera in cameras:
        grey = np.full(total, 20) if camera == LEFT else 20 + 60 * episode + frame
        pictures = np.broadcast_to(grey.astype(np.uint8)[:, None, None, None], (total, 32, 48, 3))
        write_video(root / "videos" / camera / "chunk-000" / "file-000.mp4", np.ascontiguousarray(pictures), FPS)
    state = np.stack([36 + 3.6 * frame, np.zeros(total), np.full(total, 0.25)], axis=1).astype(np.float32)
    table(
        root / "data" / "chunk-000" / "file-000.parquet", **{"observation.state.vehicle": list(state)}, frame_index=frame,
        episode_index=episode, index=np.arange(total), task_index=np.zeros(total, np.int64), timestamp=frame / FPS,
    )  # fmt: skip
    table(
        root / "meta" / "episodes" / "chunk-000" / "file-000.parquet", episode_index=np.arange(3), length=lengths,
        tasks=[["drive at night"]] * 3, dataset_from_index=starts, dataset_to_index=starts + lengths,
        **{"data/chunk_index": [0] * 3, "data/file_index": [0] * 3, "stats/index/mean": [[0.0]] * 3},
        **{f"videos/{camera}/{name}": [0] * 3 for camera in cameras for name in ("chunk_index", "file_index")},
        **{f"videos/{camera}/from_timestamp": starts / FPS for camera in cameras},
    )  # fmt: skip
    pd.DataFrame({"task_index": [0]}, index=pd.Index(["drive at night"], name="task")).to_parquet(root / "meta" / "tasks.parquet")
    video = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    features: dict[str, Any] = dict.fromkeys(cameras, video)
    features["observation.state.vehicle"] = {"dtype": "float32", "shape": [3], "names": names}
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features, "splits": splits or {"train": "0:3"}, "total_episodes": 3}
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta" / "info.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign(tmp_path_factory.mktemp("made") / "drives")


@pytest.fixture
def drives(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "drives")
    return tmp_path / "drives"


def test_episodes_are_cut_from_shared_files(drives: Path, tmp_path: Path) -> None:
    summary = import_lerobot(drives, tmp_path / "out", progress=False)
    assert (summary["clips"], summary["frames"]) == (3, sum(LENGTHS))
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    for episode, length in enumerate(LENGTHS):
        frames = read_frames(records.video_path(f"lerobot_{episode:06d}"), indices=np.arange(length)).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(frames, 20 + 60 * episode + np.arange(length), atol=2.5)
    track = labels_of(records, "lerobot_000001")
    assert not track.boxes_known.any() and np.isnan(track.values["time_of_day"]).all(), "another's words are not ours"
    np.testing.assert_allclose(track.values["ego_yaw_rate_radps"], 0.25)
    assert sorted(records.clips["split"]) == ["train", "train", "val"] and records.clips["licence"].isna().all()


def test_a_speed_without_its_unit_is_asked_for(drives: Path, tmp_path: Path) -> None:
    told = import_lerobot(drives, tmp_path / "out", progress=False)["left_out"]
    assert told == {"observation.state.vehicle: speed": "its unit is not told; say speed_unit=mps or kmh"}
    assert np.isnan(labels_of(read_records(tmp_path / "out"), "lerobot_000001").values["ego_speed_mps"]).all()
    assert import_lerobot(drives, tmp_path / "two", speed_unit="kmh", progress=False)["left_out"] == {}
    speed = labels_of(read_records(tmp_path / "two"), "lerobot_000001").values["ego_speed_mps"]
    np.testing.assert_allclose(speed, 10 + np.arange(12), rtol=1e-5)
    with pytest.raises(UsageError, match="speed_unit must be mps or kmh, not 'knots'"):
        import_lerobot(drives, tmp_path / "x", speed_unit="knots", progress=False)


@pytest.mark.parametrize(
    ("names", "first"),
    [({"axes": ["speed_kmh", "b", "c"]}, 10.0), (["a", "b", "ego_speed_mps"], 0.25), (["max_speed_mps", "b", "c"], None), (None, None)],
)
def test_names_say_what_numbers_are(names: Any, first: float | None, tmp_path: Path) -> None:
    import_lerobot(foreign(tmp_path / "drives", names, (FRONT,), {"train": "0:1", "test": "1:3"}), tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    speed = labels_of(records, "lerobot_000000").values["ego_speed_mps"][0]
    assert np.isnan(speed) if first is None else speed == pytest.approx(first)
    assert records.clips["split"].tolist() == ["train", "test", "test"], "ranges of the dataset"


def test_the_camera_that_looks_ahead() -> None:
    assert front_camera(["observation.images.top"]) == "observation.images.top"
    assert front_camera([LEFT, "observation.images.front_right", FRONT, "observation.images.rear"]) == FRONT
    assert front_camera([FRONT, "observation.images.front"]) == "observation.images.front"
    assert front_camera(["observation.images.a", "observation.images.b"]) is None


def test_cameras_can_be_chosen(drives: Path, tmp_path: Path) -> None:
    import_lerobot(drives, tmp_path / "out", camera=LEFT, progress=False)
    records = read_records(tmp_path / "out")
    assert read_frames(records.video_path("lerobot_000002"), indices=[3]).mean() == pytest.approx(20, abs=2.5)
    with pytest.raises(UsageError, match=r"no video 'x' in it; say camera=NAME, one of: .*front_left"):
        import_lerobot(drives, tmp_path / "x", camera="x", progress=False)


@pytest.mark.parametrize(
    "gone",
    ["meta/info.json", "meta/episodes", "data/chunk-000/file-000.parquet", f"videos/{FRONT}/chunk-000/file-000.mp4",
     "meta/episodes/chunk-000/file-000.parquet"],
)  # fmt: skip
def test_what_is_missing_is_named(gone: str, drives: Path, tmp_path: Path) -> None:
    (drives / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=f"{gone}: missing; it comes from the dataset's repository"):
        import_lerobot(drives, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def edit(root: Path, **changes: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut_rows(root: Path) -> None:
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 75), path)


def drop_column(root: Path, file: str, column: str) -> None:
    path = root / file
    pq.write_table(pq.read_table(path).drop_columns([column]), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: edit(root, codebase_version="v2.1"), r"info\.json: version v2\.1, this reads v3"),
        (lambda root: edit(root, fps=0), r"info\.json: ValueError: fps is 0"),
        (lambda root: edit(root, features=7), r"info\.json: TypeError"),
        (lambda root: (root / "meta" / "info.json").write_text("[]"), r"info\.json: version \?"),
        (lambda root: (root / "data" / "chunk-000" / "file-000.parquet").write_bytes(b"x"), "not a readable Parquet file"),
        (cut_rows, "episode 1 has 5 rows in data, not 12"),
        (lambda root: drop_column(root, "data/chunk-000/file-000.parquet", "frame_index"), "missing column frame_index"),
        (lambda root: drop_column(root, "meta/episodes/chunk-000/file-000.parquet", "length"), "episode 0: KeyError: 'length'"),
    ],
)
def test_damage_is_named(spoil: Callable[[Path], object], message: str, drives: Path, tmp_path: Path) -> None:
    spoil(drives)
    with pytest.raises(DatasetError, match=message):
        import_lerobot(drives, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_boxes_that_cannot_be_are_named(tmp_path: Path) -> None:
    export_lerobot(write_clips(tmp_path / "clips", [track_of(2, [(0, 1, 0, (0.1, 0.1, 0.5, 0.5), False)])]), tmp_path / "lerobot")
    path = tmp_path / "lerobot" / "data" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(path)
    place = rows.schema.get_field_index("boxes.category")
    pq.write_table(rows.set_column(place, "boxes.category", pa.array([[9, -1], [-1, -1]], pa.list_(pa.int64(), 2))), path)
    with pytest.raises(DatasetError, match=r"episode 0: a box outside 0\.\.1, inverted, or of an unknown category"):
        import_lerobot(tmp_path / "lerobot", tmp_path / "out", progress=False)


def test_a_video_cut_short_is_left_out_and_told(drives: Path, tmp_path: Path) -> None:
    video = drives / "videos" / FRONT / "chunk-000" / "file-000.mp4"
    pictures = np.full((75, 32, 48, 3), 90, np.uint8)
    write_video(video, pictures, FPS)
    summary = import_lerobot(drives, tmp_path / "out", progress=False)
    assert summary["clips"] == 1 and {"episode 1", "episode 2"} <= set(summary["left_out"])


def test_command(drives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "import", "lerobot", str(drives), "--out", str(tmp_path / "out"), "speed_unit=kmh", "progress=false"]
    assert cli.main(words) == 0
    assert "clips: 3" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no such folder"):
        import_lerobot(tmp_path / "absent", tmp_path / "x")
