"""BDD100K in its true layout, written by the tests: tracks land on the right frames, the time of day on the right clips."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources import bdd100k_tracks
from drivesim.datasets.sources.bdd100k import import_bdd100k
from drivesim.datasets.sources.bdd100k_tracks import listed
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import read_frames, write_video

NAME, OTHER, DUSK = "b1c66a42-6f7d68ca", "b1c81faa-3df17267", "cabc30fc-e7726578"


def film(path: Path, size: tuple[int, int] = (36, 64), frames: int = 36) -> None:
    """Left half red, right half blue; stored as MP4, whose boxes are those of MOV."""
    picture = np.zeros((*size, 3), np.uint8)
    picture[:, : size[1] // 2, 0] = picture[:, size[1] // 2 :, 2] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path.with_suffix(".mp4"), [picture] * frames, 30)
    path.with_suffix(".mp4").rename(path)


def turned(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix a, b, c, d into the track header, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


def label(number: int, category: str, box: tuple[float, float, float, float], **told: bool) -> dict:
    """box: edges; the file names the last pixel inside."""
    box2d = dict(zip(("x1", "y1", "x2", "y2"), (*box[:2], box[2] - 1, box[3] - 1), strict=True))
    attributes = {"occluded": False, "truncated": False, "crowd": False, **told}
    return {"id": f"{number:08d}", "category": category, "attributes": attributes, "box2d": box2d}


def frame(index: int, *labels: dict, name: str = NAME) -> dict:
    return {"name": f"{name}-{index + 1:07d}.jpg", "labels": list(labels), "videoName": name, "frameIndex": index}


@pytest.fixture
def bdd(tmp_path: Path) -> Path:
    root = tmp_path / "bdd100k"
    film(root / "videos" / "train" / f"{NAME}.mov")
    film(root / "videos" / "train" / f"{OTHER}.mov")
    film(root / "videos" / "val" / f"{DUSK}.mov")
    for split in ("train", "val"):
        (root / "labels" / "box_track_20" / split).mkdir(parents=True)
    (root / "labels" / "det_20").mkdir()
    frames = [
        frame(0, label(63, "car", (320, 360, 640, 540)), label(64, "train", (0, 0, 700, 700))),
        frame(1),
        frame(2, label(63, "car", (352, 360, 672, 540), occluded=True), label(70, "rider", (-5, 0, 64, 360), truncated=True)),
        frame(3, label(71, "pedestrian", (0, 0, 128, 360), crowd=True), label(72, "other person", (0, 0, 128, 360))),
        frame(400, label(63, "car", (0, 0, 100, 100))),
    ]
    (root / "labels" / "box_track_20" / "train" / f"{NAME}.json").write_text(json.dumps(frames))
    (root / "labels" / "box_track_20" / "train" / "0000f77c-6257be58.json").write_text("[]")
    pictures = [
        {"name": f"{name}.jpg", "attributes": {"weather": weather, "scene": "highway", "timeofday": time}, "timestamp": 10000, "labels": []}
        for name, weather, time in ((NAME, "rainy", "night"), (OTHER, "undefined", "daytime"))
    ]
    (root / "labels" / "det_20" / "det_train.json").write_text(json.dumps(pictures, indent=1))
    dusk = [{"name": f"{DUSK}.jpg", "attributes": {"weather": "clear", "timeofday": "dawn/dusk"}}]
    (root / "labels" / "bdd100k_labels_images_val.json").write_text(json.dumps(dusk))
    return root


def test_tracks_land_on_their_frames(bdd: Path, tmp_path: Path) -> None:
    summary = import_bdd100k(bdd, tmp_path / "out", progress=False)
    assert summary["clips"] == 3 and summary["dropped_boxes"] == {"train": 1}
    assert summary["left_out"]["train without a video"].startswith("1 label files")
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    track = labels_of(records, f"bdd_{NAME}")
    assert track.fps == 30 and np.flatnonzero(track.boxes_known).tolist() == [0, 6, 12, 18], "5 of 30 a second were looked at"
    assert track.values["crowdedness"][[0, 6, 12, 18]].tolist() == [1, 0, 1, 0]
    assert np.isnan(track.values["crowdedness"][1]), "nobody counted there"
    rows = records.boxes_of(f"bdd_{NAME}").reset_index(drop=True)
    assert rows["frame"].tolist() == [0, 12, 12, 18, 18]
    assert rows["category"].tolist() == ["car", "car", "person", "person", "person"]
    assert rows["track_id"].tolist() == [63, 63, 70, 71, 72]
    assert rows.loc[0, ["x1", "y1", "x2", "y2"]].tolist() == [0.25, 0.5, 0.5, 0.75], "pixels of 1280x720, whatever the video's size"
    assert rows.loc[2, ["x1", "x2"]].tolist() == pytest.approx([0, 0.05])
    assert rows["ignore"].tolist() == [False, False, False, True, True], "a crowd, and another person"
    assert rows["occlusion"][0] == 0 and np.isnan(rows["occlusion"][1])
    assert rows["truncated"].tolist() == [False, False, True, False, False]


def test_time_of_day_comes_from_the_picture_labels(bdd: Path, tmp_path: Path) -> None:
    import_bdd100k(bdd, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    clips = records.clips.set_index("clip_id")
    assert clips["time_of_day"].fillna("unknown").to_dict() == {f"bdd_{NAME}": "night", f"bdd_{OTHER}": "day", f"bdd_{DUSK}": "unknown"}
    assert clips["split"].to_dict() == {f"bdd_{NAME}": "train", f"bdd_{OTHER}": "train", f"bdd_{DUSK}": "val"}
    assert not labels_of(records, f"bdd_{OTHER}").boxes_known.any(), "a video without tracks: nobody looked"
    assert records.frames_of(f"bdd_{NAME}")["weather"].tolist() == ["rainy"] * 36
    assert records.frames_of(f"bdd_{OTHER}")["weather"].isna().all()


def test_only_labelled_and_without_picture_labels(bdd: Path, tmp_path: Path) -> None:
    (bdd / "labels" / "det_20" / "det_train.json").unlink()
    import_bdd100k(bdd, tmp_path / "out", only_labelled=True, progress=False)
    clips = read_records(tmp_path / "out").clips
    assert clips["clip_id"].tolist() == [f"bdd_{NAME}"] and clips["time_of_day"].isna().all()


@pytest.mark.parametrize(
    ("matrix", "size", "upright"),
    [((-1, 0, 0, -1), (36, 64), (36, 64)), ((0, 1, -1, 0), (64, 36), (36, 64)), ((0, -1, 1, 0), (64, 36), (36, 64))],
)
def test_turned_videos_are_set_upright(
    matrix: tuple[int, int, int, int], size: tuple[int, int], upright: tuple[int, int], bdd: Path, tmp_path: Path
) -> None:
    path = bdd / "videos" / "train" / f"{NAME}.mov"
    film(path, size)
    turned(path, matrix)
    import_bdd100k(bdd, tmp_path / "out", only_labelled=True, progress=False)
    records = read_records(tmp_path / "out")
    picture = read_frames(records.video_path(f"bdd_{NAME}"), indices=[0])[0].astype(int)
    assert picture.shape[:2] == upright
    red = picture[..., 0] > picture[..., 2]
    if matrix == (-1, 0, 0, -1):
        assert red[:, 40:].all() and not red[:, :24].any(), "upside down: what was left is right"
    elif matrix == (0, 1, -1, 0):
        assert red[:10].all() and not red[-10:].any(), "a quarter turn clockwise: what was left is up"
    else:
        assert red[-10:].all() and not red[:10].any()


def test_videos_that_cannot_be_used_are_told(bdd: Path, tmp_path: Path) -> None:
    film(bdd / "videos" / "train" / f"{OTHER}.mov", (64, 36))
    (bdd / "videos" / "val" / f"{DUSK}.mov").write_bytes(b"no video")
    summary = import_bdd100k(bdd, tmp_path / "out", progress=False)
    assert summary["clips"] == 1
    assert "36x64 upright" in summary["left_out"][f"videos/train/{OTHER}.mov"]
    assert DUSK in summary["left_out"][f"videos/val/{DUSK}.mov"]


@pytest.fixture
def labelled_pictures(bdd: Path) -> Path:
    """The tracking pictures instead of videos; the label file's last frame, of the videos' fixture, is beyond them."""
    path = bdd / "labels" / "box_track_20" / "train" / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:4]))
    (bdd / "labels" / "box_track_20" / "train" / "0000f77c-6257be58.json").unlink()
    folder = bdd / "images" / "track" / "train" / NAME
    folder.mkdir(parents=True)
    for number in range(1, 5):
        cv2.imwrite(str(folder / f"{NAME}-{number:07d}.jpg"), np.full((720, 1280, 3), 40 * number, np.uint8))
    return bdd


def test_the_labelled_pictures_will_do(labelled_pictures: Path, tmp_path: Path) -> None:
    import_bdd100k(labelled_pictures, tmp_path / "both", footage="track", progress=False)
    (labelled_pictures / "videos").rename(tmp_path / "elsewhere")
    assert import_bdd100k(labelled_pictures, tmp_path / "out", progress=False)["clips"] == 1, "without videos they are taken by themselves"
    records = read_records(tmp_path / "out")
    track = labels_of(records, f"bdd_{NAME}")
    assert (track.fps, len(track)) == (5, 4) and track.boxes_known.all() and (track.values["time_of_day"] == 1).all()
    rows = records.boxes_of(f"bdd_{NAME}")
    assert rows["frame"].tolist() == [0, 2, 2, 3, 3], "label frame k is picture k"
    assert rows[["x1", "y1", "x2", "y2"]].iloc[0].tolist() == [0.25, 0.5, 0.5, 0.75]
    assert check_dataset(tmp_path / "out")["faults"] == 0


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (f"images/track/train/{NAME}/{NAME}-0000002.jpg", r"0000002\.jpg: missing.*MOT 2020 Images"),
        (f"images/track/train/{NAME}/{NAME}-0000004.jpg", r"0000004\.jpg: missing.*MOT 2020 Images"),
        (f"labels/box_track_20/train/{NAME}.json", rf"{NAME}\.json: missing.*MOT 2020 Labels"),
        ("images/track", r"images/track: missing.*MOT 2020 Images"),
    ],
)
def test_missing_pictures_are_named(gone: str, message: str, labelled_pictures: Path, tmp_path: Path) -> None:
    (labelled_pictures / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=message):
        import_bdd100k(labelled_pictures, tmp_path / "out", footage="track", progress=False)


def test_first_release_of_the_tracks(bdd: Path, tmp_path: Path) -> None:
    told = {**label(1, "car", (0, 0, 640, 360)), "attributes": {"Occluded": False, "Truncated": True, "Crowd": True}}
    path = bdd / "labels" / "box_track_20" / "train" / f"{NAME}.json"
    path.write_text(json.dumps([{"name": f"{NAME}-0000003.jpg", "videoName": NAME, "index": 2, "labels": [told]}]))
    import_bdd100k(bdd, tmp_path / "out", only_labelled=True, progress=False)
    rows = read_records(tmp_path / "out").boxes_of(f"bdd_{NAME}")
    assert rows["frame"].tolist() == [12] and rows["truncated"].tolist() == [True] and rows["ignore"].tolist() == [True]


@pytest.mark.parametrize(("gone", "archive"), [("labels/box_track_20", "MOT 2020 Labels"), ("videos", "Video Parts")])
def test_what_is_missing_is_named(gone: str, archive: str, bdd: Path, tmp_path: Path) -> None:
    (bdd / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=f"{gone}: missing.*{archive}"):
        import_bdd100k(bdd, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[{", '[{"labels": [{"category": "car", "box2d": {"x1": 1}}]}]', "[1]", '{"a": []}'])
def test_damaged_tracks_are_named(text: str, bdd: Path, tmp_path: Path) -> None:
    (bdd / "labels" / "box_track_20" / "train" / f"{NAME}.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"{NAME}\.json: not .*MOT 2020 Labels"):
        import_bdd100k(bdd, tmp_path / "out", progress=False)


def test_long_lists_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"name": f"{number}.jpg", "labels": [{"a": "}{]["}] * number} for number in range(9)]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(items, indent=2))
    for size in (1, 7, 1 << 20):
        monkeypatch.setattr(bdd100k_tracks, "CHUNK", size)
        assert list(listed(path)) == items
    path.write_text(json.dumps(items)[:-40])
    with pytest.raises(DatasetError, match="not a whole JSON list"):
        list(listed(path))


def test_command(bdd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["data", "import", "bdd100k", str(bdd.parent), "--out", out, "only_labelled=true", "progress=false"]) == 0
    assert "clips: 1" in capsys.readouterr().out
    with pytest.raises(UsageError, match="footage must be one of auto, videos, track, not 'x'"):
        import_bdd100k(bdd, tmp_path / "x", footage="x")
    with pytest.raises(UsageError, match="no such folder"):
        import_bdd100k(tmp_path / "absent", tmp_path / "x")
