"""What is exported for YOLO is read by ``supervision``, which shares no code with us, and says the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from outgoing import HEIGHT, WIDTH, label_tracks, track_of, write_clips

from drivesim import cli
from drivesim.datasets.exports.yolo import export_yolo
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, LabelTrack

SUPERVISION = pytest.importorskip("supervision")
BOX = (0.25, 0.25, 0.5, 0.75)


def read(folder: Path, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Picture name -> (corners in pixels (n, 4), category (n,)), as supervision understands the folder."""
    found = SUPERVISION.DetectionDataset.from_yolo(
        images_directory_path=str(folder / "images" / split),
        annotations_directory_path=str(folder / "labels" / split),
        data_yaml_path=str(folder / "data.yaml"),
    )
    assert found.classes == list(CATEGORIES)
    return {Path(path).stem: (boxes.xyxy, boxes.class_id) for path, boxes in found.annotations.items()}


def agree(read_back: dict[str, tuple[np.ndarray, np.ndarray]], clip: str, track: LabelTrack, size: tuple[int, int]) -> None:
    """Every known frame of the track is there, with its boxes that count, to a millionth of the picture."""
    known = [int(frame) for frame in np.flatnonzero(track.boxes_known)]
    assert {name for name in read_back if name.startswith(clip)} == {f"{clip}_{frame:06d}" for frame in known}
    for frame in known:
        boxes = track.boxes.where((track.boxes.frame == frame) & ~track.boxes.ignore)
        corners, categories = read_back[f"{clip}_{frame:06d}"]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)) / [size[1], size[0], size[1], size[0]], boxes.xyxy, atol=2e-6)
        assert list(categories) == boxes.category.tolist()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=3, seconds=2, height=64, width=128)
    return root


def test_supervision_reads_the_same_boxes(world: Path, tmp_path: Path) -> None:
    summary = export_yolo(world, tmp_path / "yolo")
    records = read_records(world)
    splits = {split: read(tmp_path / "yolo", split) for split in ("train", "val")}
    assert {split: len(pictures) for split, pictures in splits.items()} == summary["images"] == {"train": 30, "val": 15}
    for row in records.clips.itertuples():
        agree(splits[row.split], row.clip_id, labels_of(records, row.clip_id), (64, 128))
    assert summary["boxes"] == sum(len(boxes) for split in splits.values() for boxes, _ in split.values()) > 0
    assert summary["boxes"] + summary["ignored boxes dropped"] == len(records.boxes)


@settings(max_examples=15, deadline=None)
@given(label_tracks())
def test_any_boxes_come_back(track: LabelTrack) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track])
        summary = export_yolo(clips, Path(folder) / "yolo")
        agree(read(Path(folder) / "yolo", "train"), "clip0", track, (HEIGHT, WIDTH))
    assert summary["frames without known boxes"] == int((~track.boxes_known).sum())
    assert summary["ignored boxes dropped"] == int(track.boxes.ignore.sum())


def test_data_yaml_is_what_ultralytics_asks_for(tmp_path: Path) -> None:
    track = track_of(2, [(0, 1, 0, BOX, False)])
    clips = write_clips(tmp_path / "clips", [track, track, track], splits=["val", None, "test"])
    assert export_yolo(clips, tmp_path / "yolo")["stand-ins"] == {}
    data = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert data["names"] == dict(enumerate(CATEGORIES))
    assert {split: data[split] for split in ("train", "val", "test")} == {name: f"images/{name}" for name in ("train", "val", "test")}
    assert "path" not in data, "a path would pin the folder to where it was made"
    assert all((tmp_path / "yolo" / data[split]).is_dir() for split in ("train", "val", "test"))
    assert (tmp_path / "yolo" / "labels" / "train" / "clip1_000000.txt").read_text() == "0 0.375000 0.500000 0.250000 0.500000\n"
    assert (tmp_path / "yolo" / "labels" / "train" / "clip1_000001.txt").read_text() == "", "an empty road is said, not left out"


@pytest.mark.parametrize(("there", "missing"), [("train", "val"), ("val", "train")])
def test_a_missing_split_is_stood_in_for_and_told(there: str, missing: str, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(1, [])], splits=[there])
    assert export_yolo(clips, tmp_path / "yolo")["stand-ins"] == {missing: there}
    text = (tmp_path / "yolo" / "data.yaml").read_text()
    assert yaml.safe_load(text)[missing] == f"images/{there}"
    assert f"no clip is marked {missing}" in text


def test_ignored_boxes_can_be_kept(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(1, [(0, 1, 3, BOX, True), (0, 2, 5, BOX, False)])])
    assert export_yolo(clips, tmp_path / "dropped")["ignored boxes dropped"] == 1
    assert read(tmp_path / "dropped", "train")["clip0_000000"][1].tolist() == [5]
    assert export_yolo(clips, tmp_path / "kept", ignored="keep")["boxes"] == 2
    assert read(tmp_path / "kept", "train")["clip0_000000"][1].tolist() == [3, 5]


def test_pictures_are_the_frames_they_name(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(5, [])])
    assert export_yolo(clips, tmp_path / "yolo", every=2, pictures="png")["images"] == {"train": 3}
    picture = cv2.imread(str(tmp_path / "yolo" / "images" / "train" / "clip0_000004.png"))[:, :, ::-1]
    np.testing.assert_array_equal(picture, read_frames(clips / "videos" / "0.mp4", indices=[4])[0])


def test_clip_ids_that_are_no_file_names(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(1, []), track_of(1, [])], ids=["../a/b", "..?a?b"])
    assert export_yolo(clips, tmp_path / "yolo")["images"] == {"train": 2}
    assert len(read(tmp_path / "yolo", "train")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "yolo"]


def test_an_unreadable_clip_costs_only_itself(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(4, []), track_of(4, [])])
    video = clips / "videos" / "0.mp4"
    video.write_bytes(video.read_bytes()[:900])
    summary = export_yolo(clips, tmp_path / "yolo")
    assert summary["clips that cannot be read"] == ["clip0"]
    assert summary["images"] == {"train": 4}
    assert {path.stem[:5] for path in (tmp_path / "yolo").rglob("clip*")} == {"clip1"}


def test_the_command_line_exports_it(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "export", "yolo", str(world), "--out", str(tmp_path / "yolo"), "every=5", "split=val"]) == 0
    assert "ignored boxes dropped: " in capsys.readouterr().out
    assert len(read(tmp_path / "yolo", "val")) == 3


def test_yolo_refuses(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every must be at least 1"):
        export_yolo(world, tmp_path / "x", every=0)
    with pytest.raises(UsageError, match="pictures must be one of jpg, png, not 'none'"):
        export_yolo(world, tmp_path / "x", pictures="none")
    with pytest.raises(UsageError, match="ignored must be one of drop, keep"):
        export_yolo(world, tmp_path / "x", ignored="maybe")
    odd = write_clips(tmp_path / "odd", [track_of(1, [])], splits=["holdout"])
    with pytest.raises(DrivesimError, match="'clip0' is of split 'holdout'"):
        export_yolo(odd, tmp_path / "x")
    with pytest.raises(DrivesimError, match="no frame to export: 3 frames without known boxes"):
        export_yolo(write_clips(tmp_path / "unseen", [LabelTrack.unknown(3, 7.5)]), tmp_path / "x")
    with pytest.raises(DrivesimError, match="already exists"):
        export_yolo(world, odd)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "unseen"]
