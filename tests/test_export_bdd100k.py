"""What is exported for BDD100K is read by a reader written from Scalabel's description of its format; no code of the writer is used."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from outgoing import HEIGHT, WIDTH, label_tracks, track_of, write_clips
from pydantic import BaseModel, ConfigDict

from drivesim import cli
from drivesim.datasets.exports.bdd100k import MAPPING, export_bdd100k
from drivesim.datasets.sources.bdd100k import import_bdd100k
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, LabelTrack

BOX = (0.25, 0.25, 0.5, 0.75)
DETECTED = {"pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "traffic light", "traffic sign"}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Box2D(Strict):
    x1: float
    y1: float
    x2: float
    y2: float

    def edges(self) -> tuple[float, float, float, float]:
        """Both corners are pixels of the box: the toolkit counts width = x2 - x1 + 1."""
        assert self.x1 <= self.x2 and self.y1 <= self.y2
        return self.x1, self.y1, self.x2 + 1, self.y2 + 1


class Label(Strict):
    """The fields of a box in Scalabel's format."""

    id: str
    category: str
    attributes: dict[str, bool | float | str]
    box2d: Box2D


class Frame(Strict):
    """The fields of a frame in Scalabel's format."""

    name: str
    attributes: dict[str, str]
    labels: list[Label]
    timestamp: int
    videoName: str | None = None
    frameIndex: int | None = None


def read(path: Path) -> list[Frame]:
    return [Frame(**frame) for frame in json.loads(path.read_text())]


def agree(frame: Frame, track: LabelTrack, at: int, size: tuple[int, int]) -> None:
    """The frame's boxes are the track's at frame ``at``, to a few ten-thousandths of a pixel."""
    boxes = track.boxes.where(track.boxes.frame == at)
    found = np.array([label.box2d.edges() for label in frame.labels]).reshape(-1, 4)
    large = np.maximum(boxes.xyxy * np.array([size[1], size[0]] * 2), 0)
    large[:, 2:] = np.maximum(large[:, 2:], large[:, :2] + 1)  # the format's smallest box is one pixel
    np.testing.assert_allclose(found, large, atol=2e-4)
    assert [label.id for label in frame.labels] == [str(number) for number in boxes.track_id]
    assert [label.category for label in frame.labels] == [MAPPING[CATEGORIES[category]] for category in boxes.category]
    assert [label.attributes["ignored"] for label in frame.labels] == boxes.ignore.tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=3, seconds=2, height=64, width=128)
    return root


def test_tracking_says_the_same(world: Path, tmp_path: Path) -> None:
    summary = export_bdd100k(world, tmp_path / "bdd")
    records = read_records(world)
    for row in records.clips.itertuples():
        frames = read(tmp_path / "bdd" / "labels" / "box_track_20" / row.split / f"{row.clip_id}.json")
        assert [frame.frameIndex for frame in frames] == list(range(15))
        for at, frame in enumerate(frames):
            assert (frame.videoName, frame.name) == (row.clip_id, f"{row.clip_id}-{at + 1:07d}.jpg")
            assert (tmp_path / "bdd" / "images" / "track" / row.split / row.clip_id / frame.name).is_file()
            assert frame.attributes["timeofday"] == {"day": "daytime", "night": "night"}[row.time_of_day]
            agree(frame, labels_of(records, row.clip_id), at, (64, 128))
    assert summary["frames"] == {"train": 30, "val": 15} and summary["boxes"] == len(records.boxes) > 0


def test_detection_says_the_same(world: Path, tmp_path: Path) -> None:
    export_bdd100k(world, tmp_path / "bdd", labels="det_20", every=4)
    records = read_records(world)
    frames = [(split, frame) for split in ("train", "val") for frame in read(tmp_path / "bdd" / "labels" / "det_20" / f"det_{split}.json")]
    videos = json.loads((tmp_path / "bdd" / "export.json").read_text())["videos"]
    sources = [(video["clip_id"], at) for video in videos for at in video["frames"]]
    assert len(frames) == len(sources) == 12
    for (split, frame), (clip_id, at) in zip(frames, sources, strict=True):
        agree(frame, labels_of(records, clip_id), at, (64, 128))
        assert frame.timestamp == round(at / 7.5 * 1000)
        assert (frame.videoName, frame.frameIndex) == (None, None)
        assert (tmp_path / "bdd" / "images" / "100k" / split / frame.name).is_file()
        assert {label.category for label in frame.labels} <= DETECTED


@settings(max_examples=12, deadline=None)
@given(label_tracks(frames=4))
def test_any_boxes_come_back_and_videos_have_no_gaps(track: LabelTrack) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track])
        summary = export_bdd100k(clips, Path(folder) / "bdd", pictures="none")
        videos = json.loads((Path(folder) / "bdd" / "export.json").read_text())["videos"]
        for video in videos:
            frames = read(Path(folder) / "bdd" / "labels" / "box_track_20" / "train" / f"{video['name']}.json")
            assert np.all(np.diff(video["frames"]) == 1)
            for frame, at in zip(frames, video["frames"], strict=True):
                agree(frame, track, at, (HEIGHT, WIDTH))
    assert [at for video in videos for at in video["frames"]] == np.flatnonzero(track.boxes_known).tolist()
    assert summary["ignored"] == int(track.boxes.ignore.sum())


@settings(max_examples=8, deadline=None)
@given(label_tracks(frames=4))
def test_importing_our_own_export_gives_the_same_boxes(track: LabelTrack) -> None:
    """Of every category, ignored ones too, track by track; a clip comes back as the pieces that it was cut into."""
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track], occlusion=0.25)
        export_bdd100k(clips, Path(folder) / "bdd")
        import_bdd100k(Path(folder) / "bdd", Path(folder) / "back", progress=False)
        records = read_records(Path(folder) / "back")
        for row in records.clips.itertuples():
            about = json.loads(row.provenance)
            back, there = labels_of(records, row.clip_id), track.take(about["frames"], track.fps)
            assert (back.fps, back.boxes_known.all(), about["clip_id"]) == (7.5, True, "clip0")
            for name in ("frame", "track_id", "category", "ignore"):
                np.testing.assert_array_equal(getattr(back.boxes, name), getattr(there.boxes, name))
            sure = (there.boxes.xyxy[:, 2:] - there.boxes.xyxy[:, :2] >= [1 / WIDTH, 1 / HEIGHT]).all(axis=1)
            np.testing.assert_allclose(back.boxes.xyxy[sure], there.boxes.xyxy[sure], atol=1e-5)
        assert records.boxes["provenance"].isin(["human"]).all() and np.allclose(records.boxes["occlusion"], 0.25)


def test_splits_times_and_rates_come_back(world: Path, tmp_path: Path) -> None:
    export_bdd100k(world, tmp_path / "bdd", every=3)
    import_bdd100k(tmp_path / "bdd", tmp_path / "back", progress=False)
    made, back = (read_records(root).clips for root in (world, tmp_path / "back"))
    assert sorted(zip(back["clip_id"], back["split"], back["time_of_day"], strict=True)) == sorted(
        (f"bdd_{row.clip_id}", row.split, row.time_of_day) for row in made.itertuples()
    )
    assert (back["fps"] == 2.5).all() and set(back["licence"]) == set(made["licence"]), "not the release's"
    provenance = read_records(tmp_path / "back").boxes["provenance"]
    assert set(provenance) == set(read_records(world).boxes["provenance"])


def test_exports_that_hold_no_clips_say_so(world: Path, tmp_path: Path) -> None:
    export_bdd100k(world, tmp_path / "det", labels="det_20", every=8, pictures="none")
    with pytest.raises(DatasetError, match=r"single pictures.*box_track_20"):
        import_bdd100k(tmp_path / "det", tmp_path / "x", progress=False)
    export_bdd100k(world, tmp_path / "bare", every=8, pictures="none")
    with pytest.raises(DatasetError, match=r"images/track: missing.*pictures=jpg or png"):
        import_bdd100k(tmp_path / "bare", tmp_path / "x", progress=False)
    (tmp_path / "bare" / "export.json").write_text('{"creator": "drivesim data export bdd100k"}')
    with pytest.raises(DatasetError, match=r"export\.json: not what drivesim data export bdd100k writes"):
        import_bdd100k(tmp_path / "bare", tmp_path / "x", progress=False)


def only_label(folder: Path, **columns: Any) -> Label:
    clips = write_clips(folder / "clips", [track_of(1, [(0, 7, 5, BOX, False)])], **columns)
    export_bdd100k(clips, folder / "bdd", pictures="none")
    return read(folder / "bdd" / "labels" / "box_track_20" / "train" / "clip0.json")[0].labels[0]


@pytest.mark.parametrize(
    ("occlusion", "truncated", "said"),
    [(0.0, False, {"occluded": False, "truncated": False}), (0.4, True, {"occluded": True, "truncated": True}), (None, None, {})],
)
def test_attributes_say_what_is_known(occlusion: float | None, truncated: bool | None, said: dict[str, bool], tmp_path: Path) -> None:
    label = only_label(tmp_path, occlusion=occlusion, truncated=truncated)
    beyond = {"provenance": "human", **({} if occlusion is None else {"occlusion": pytest.approx(occlusion)})}
    assert label.attributes == {**said, "crowd": False, "ignored": False, **beyond}


def test_corners_are_pixels(tmp_path: Path) -> None:
    """A quarter of a picture of 64x32: columns 16..31, rows 8..23."""
    label = only_label(tmp_path)
    assert (label.box2d.x1, label.box2d.y1, label.box2d.x2, label.box2d.y2) == (16, 8, 31, 23)
    assert (label.category, label.id) == ("pedestrian", "7")


def test_weather_and_time_are_told_in_the_releases_words(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(3, [])])
    records = read_records(clips)
    assert records.frames is not None
    records.frames.assign(weather=["rainy", "hail of frogs", None], time_of_day=["night", "day", None]).to_parquet(clips / "frames.parquet")
    export_bdd100k(clips, tmp_path / "bdd", pictures="none")
    frames = read(tmp_path / "bdd" / "labels" / "box_track_20" / "train" / "clip0.json")
    assert [frame.attributes["weather"] for frame in frames] == ["rainy", "undefined", "undefined"]
    assert [frame.attributes["timeofday"] for frame in frames] == ["night", "daytime", "undefined"]


def test_a_clip_is_cut_where_nobody_looked(tmp_path: Path) -> None:
    track = replace(track_of(5, [(4, 1, 2, BOX, False)]), boxes_known=np.array([True, True, False, False, True]))
    assert export_bdd100k(write_clips(tmp_path / "clips", [track]), tmp_path / "bdd", pictures="png")["videos"] == 2
    (frame,) = read(tmp_path / "bdd" / "labels" / "box_track_20" / "train" / "clip0_000004.json")
    assert (frame.frameIndex, frame.labels[0].category) == (0, "bus")
    picture = cv2.imread(str(tmp_path / "bdd" / "images" / "track" / "train" / "clip0_000004" / frame.name))[:, :, ::-1]
    np.testing.assert_array_equal(picture, read_frames(tmp_path / "clips" / "videos" / "0.mp4", indices=[4])[0])


@pytest.mark.parametrize("labels", ["box_track_20", "det_20"])
def test_an_unreadable_clip_costs_only_itself(labels: str, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(4, []), track_of(3, [])])
    video = clips / "videos" / "0.mp4"
    video.write_bytes(video.read_bytes()[:900])
    summary = export_bdd100k(clips, tmp_path / "bdd", labels=labels)
    assert (summary["clips that cannot be read"], summary["videos"], summary["frames"]) == (["clip0"], 1, {"train": 3})
    assert not list((tmp_path / "bdd").rglob("clip0*"))


def test_the_command_line_exports_it(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "export", "bdd100k", str(world), "--out", str(tmp_path / "bdd"), "every=5", "pictures=none", "labels=det_20"]
    assert cli.main(words) == 0
    assert "person: pedestrian" in capsys.readouterr().out, "the mapping is published"


def test_bdd100k_refuses(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every must be at least 1"):
        export_bdd100k(world, tmp_path / "x", every=0)
    with pytest.raises(UsageError, match="pictures must be one of jpg, png, none, not 'gif'"):
        export_bdd100k(world, tmp_path / "x", pictures="gif")
    with pytest.raises(UsageError, match="labels must be one of box_track_20, det_20, not 'det'"):
        export_bdd100k(world, tmp_path / "x", labels="det")
    with pytest.raises(DrivesimError, match="no frame to export"):
        export_bdd100k(write_clips(tmp_path / "unseen", [LabelTrack.unknown(3, 7.5)]), tmp_path / "x")
    with pytest.raises(DrivesimError, match="already exists"):
        export_bdd100k(world, tmp_path / "unseen")
    assert [path.name for path in tmp_path.iterdir()] == ["unseen"]
