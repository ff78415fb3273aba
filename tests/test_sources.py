"""The toy road world is what its labels say, and any folder of videos becomes a dataset: cut, labelled, whole or not at all."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources.drawing import Painter
from drivesim.datasets.sources.road import Camera, box_of, boxes_of_world, draw_world
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.sources.videos import import_videos, scene_distance
from drivesim.datasets.stats import heat_map, stats
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import iterate_frames, probe, write_video


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=4, seconds=4, height=32, width=64, seed=3)
    return root


@pytest.fixture(scope="module")
def drives(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user may have it: one film of a day and a night drive, one short drive below a subfolder, one file that is no video."""
    folder = tmp_path_factory.mktemp("films")
    videos = sorted((world / "videos").glob("*.mp4"))
    day, night = (list(iterate_frames(path)) for path in videos[:2])
    write_video(folder / "my film.mp4", day + night, 7.5)
    (folder / "more").mkdir()
    write_video(folder / "more" / "short.mp4", day[:8], 7.5)
    (folder / "more" / "broken.mp4").write_bytes(b"not a video at all")
    return folder


def test_road_world_is_sound_and_repeatable(world: Path, tmp_path: Path) -> None:
    assert check_dataset(world)["faults"] == 0
    make_road_world(tmp_path / "again", clips=4, seconds=4, height=32, width=64, seed=3)
    for path in sorted(world.rglob("*.mp4")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(world)).read_bytes()
    clips = read_records(world).clips
    assert list(clips["time_of_day"]) == ["day", "night", "day", "night"]
    assert list(clips["split"]) == ["train", "train", "train", "val"]
    assert list(clips["frames"]) == [30] * 4


def test_night_is_darker_than_day(world: Path) -> None:
    means = [np.mean([frame.mean() for frame in iterate_frames(path)]) for path in sorted((world / "videos").glob("*.mp4"))]
    assert max(means[1], means[3]) < 0.5 * min(means[0], means[2])


def test_labels_follow_from_the_motion(world: Path) -> None:
    records = read_records(world)
    track = labels_of(records, records.clip_ids[0])
    assert track.boxes_known.all()
    assert np.isfinite(track.values["ego_speed_mps"]).all()
    assert (track.values["ego_speed_mps"] > 0).all()
    assert records.frames is not None
    assert len(track.boxes)


def test_boxes_are_the_projected_hulls() -> None:
    scene = draw_world(np.random.default_rng(1), 20, 7.5, night=False, vehicles=5)
    camera = Camera(64, 128)
    boxes, occlusion, depth = boxes_of_world(scene, camera)
    assert ((boxes.xyxy >= 0) & (boxes.xyxy <= 1)).all()
    assert ((occlusion >= 0) & (occlusion <= 1)).all()
    nearest = scene.actors[int(np.argmin([actor.z[0] if actor.z[0] > 2 else 1e9 for actor in scene.actors]))]
    box = box_of(scene, camera, nearest, 0)
    assert box is not None
    row = int(np.flatnonzero((boxes.frame == 0) & (boxes.track_id == nearest.number[0]))[0])
    np.testing.assert_allclose(boxes.xyxy[row], np.clip(np.array(box) / [128, 64, 128, 64], 0, 1), atol=1e-6)
    assert depth[row] == pytest.approx(nearest.z[0], abs=1e-4)


def test_a_drawn_vehicle_lies_inside_its_box() -> None:
    """The same world with and without one vehicle differs inside its box (and next to nothing outside, by day)."""

    scene = draw_world(np.random.default_rng(5), 3, 7.5, night=False, vehicles=4)
    actor = max((actor for actor in scene.actors if 4 < actor.z[0] < 40), key=lambda actor: -actor.z[0])
    alone, empty = replace(scene, actors=(actor,)), replace(scene, actors=())
    changed = np.abs(Painter(alone, 64, 128).frame(0).astype(int) - Painter(empty, 64, 128).frame(0)).max(axis=2) > 8
    x1, y1, x2, y2 = np.array(box_of(scene, Camera(64, 128), actor, 0))
    rows, columns = np.nonzero(changed)
    assert len(rows)
    assert abs(columns.min() - max(x1, 0)) <= 1.5
    assert abs(columns.max() + 1 - min(x2, 128)) <= 1.5
    assert abs(rows.min() - max(y1, 0)) <= 1.5
    assert abs(rows.max() + 1 - min(y2, 64)) <= 1.5


@pytest.mark.parametrize("bad", [{"clips": 0}, {"seconds": float("nan")}, {"fps": 0}, {"height": 33}, {"width": 8}])
def test_road_world_refuses(bad: dict, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        make_road_world(tmp_path / "x", **bad)
    assert not any(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("42")
    with pytest.raises(DrivesimError, match="already exists"):
        make_road_world(tmp_path / "mine", clips=1, seconds=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_import_cuts_at_scenes_and_into_clips(drives: Path, tmp_path: Path) -> None:
    summary = import_videos(drives, tmp_path / "out", clip_seconds=3, min_seconds=1, progress=False)
    assert summary["videos"] == 3
    assert list(summary["left_out"]) == ["more/broken.mp4"]
    records = read_records(tmp_path / "out")
    origin = [json.loads(text) for text in records.clips["provenance"]]
    pieces = zip(origin, records.clips["frames"], strict=True)
    film = [(piece["first_frame"], int(frames)) for piece, frames in pieces if "film" in piece["video"]]
    assert film[0] == (0, 22)
    assert (30, 22) in film, "the night drive begins with its own clip"
    assert summary["dropped_pieces"] == 0
    assert summary["clips"] == len(records.clips) == 5
    assert sum(frames for _, frames in film) == 60
    assert check_dataset(tmp_path / "out")["faults"] == 0
    assert not labels_of(records, records.clip_ids[0]).boxes_known.any(), "nobody looked for boxes"
    assert set(records.clips["split"]) == {"train", "val"}
    split = {name: set(group["split"]) for name, group in records.clips.groupby("source")}
    assert all(len(kinds) == 1 for kinds in split.values()), "no film is on both sides"


def test_import_resizes_and_takes_labels_by_file_name(drives: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("video,timestamp_s,time_of_day,ego_speed_mps\nmy film.mp4,0,day,10\nmy film.mp4,4,night,20\nshort,0,,\n")
    boxes = tmp_path / "boxes.parquet"
    row = {"video": "my film", "timestamp_s": 4.4, "category": "car", "x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4}
    pd.DataFrame([row]).to_parquet(boxes)
    import_videos(drives, tmp_path / "out", table, boxes, height=16, width=48, licence="CC0", progress=False)
    records = read_records(tmp_path / "out")
    night = next(clip_id for clip_id in records.clip_ids if "film" in clip_id and clip_id.endswith("000030"))
    track = labels_of(records, night)
    assert (track.values["time_of_day"] == 1).all()
    assert (track.values["ego_speed_mps"] == 20).all()
    assert track.boxes.frame.tolist() == [3]
    assert track.boxes_known.all()
    assert track.values["crowdedness"].tolist()[2:5] == [0, 1, 0]
    info = probe(records.video_path(night))
    assert (info.height, info.width) == (16, 48)
    assert set(records.clips["licence"]) == {"CC0"}
    short = next(clip_id for clip_id in records.clip_ids if "short" in clip_id)
    assert np.isnan(labels_of(records, short).values["time_of_day"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,time_of_day\nmy film.mp4,day\n", "missing column video"),
        ("video,time_of_day\nmy fim.mp4,day\n", "row 0.*did you mean 'my film.mp4'"),
        ("video,time_of_day\nmy film.mp4,dusk\n", "row 0.*time_of_day"),
        ("video,time_of_dya\nmy film.mp4,day\n", "did you mean 'time_of_day'"),
        ("video,ego_speed_mps\nmy film.mp4,900\n", "row 0.*ego_speed_mps"),
    ],
)
def test_import_refuses_bad_labels(text: str, message: str, drives: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        import_videos(drives, tmp_path / "out", tmp_path / "labels.csv", progress=False)
    assert not (tmp_path / "out").exists()


def test_import_leaves_nothing_half_written(drives: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no clip could be made"):
        import_videos(drives / "more" / "broken.mp4", tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match="no such video or folder"):
        import_videos(tmp_path / "absent", tmp_path / "out", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no videos"):
        import_videos(tmp_path / "empty", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_truncated_film_gives_what_can_be_read(drives: Path, tmp_path: Path) -> None:
    whole = tmp_path / "films" / "cut.ts"
    whole.parent.mkdir()
    good = (drives / "my film.mp4").read_bytes()
    whole.with_suffix(".mp4").write_bytes(good[: int(len(good) * 0.6)])
    summary = import_videos(whole.parent, tmp_path / "out", clip_seconds=1, min_seconds=0.5, progress=False)
    assert "cut.mp4" in summary["left_out"]
    assert 0 < summary["frames"] < 60
    assert check_dataset(tmp_path / "out")["faults"] == 0


def test_scene_distance(drives: Path) -> None:
    frames = list(iterate_frames(drives / "my film.mp4"))
    assert scene_distance(frames[0], frames[0]) == pytest.approx(0, abs=1e-6)
    assert scene_distance(frames[29], frames[30]) > 0.5
    assert max(scene_distance(before, after) for before, after in itertools.pairwise(frames[:30])) < 0.3


def test_heat_map_counts_covering_boxes() -> None:
    boxes = pd.DataFrame({"x1": [0.0, 0.5], "y1": [0.0, 0.0], "x2": [1.0, 1.0], "y2": [0.5, 1.0]})
    assert heat_map(boxes, 2, 2).tolist() == [[1, 2], [0, 1]]


def test_stats_tell_which_stage_is_served(world: Path, tmp_path: Path) -> None:
    found = stats(world, tmp_path / "s.png")
    assert found["clips"] == 4
    assert found["frames"] == 120
    assert found["times of day"] == {"day": 2, "night": 2}
    served = {name.split(" (")[0] if "30" not in name else "to 30": stage["clips"] for name, stage in found["stages"].items()}
    assert served == {"autoencoder and image": 4, "decoder": 4, "prediction": 0, "interpolation": 4, "to 30": 0}
    assert "left out: shorter than the 37 frames a window at 7.5 fps needs" in found["stages"]["prediction (10 frames, 1.875 fps)"]
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert found["hours"] == pytest.approx(16 / 3600)


def test_check_sets_broken_clips_aside(world: Path, tmp_path: Path) -> None:
    make_road_world(tmp_path / "c", clips=2, seconds=1, height=32, width=64)
    video = next((tmp_path / "c" / "videos").glob("*0000.mp4"))
    video.write_bytes(video.read_bytes()[:100])
    assert check_dataset(tmp_path / "c")["left"] == 1
    assert check_dataset(tmp_path / "c", set_aside=True)["set_aside"] == ["road000_0000"]
    assert check_dataset(tmp_path / "c")["faults"] == 0
