"""What is exported for KITTI is read by a reader written from the devkit's readme, which shares no code with the writer."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from outgoing import HEIGHT, WIDTH, label_tracks, track_of, write_clips

from drivesim import cli
from drivesim.datasets.exports.kitti import MAPPING, export_kitti
from drivesim.datasets.sources.kitti import import_kitti
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, LabelTrack

BOX = (0.25, 0.25, 0.5, 0.75)
TYPES = {"Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare"}
COLUMNS = (
    ("frame", int), ("track", int), ("type", str), ("truncated", int), ("occluded", int), ("alpha", float),
    *((edge, float) for edge in ("left", "top", "right", "bottom", "height", "width", "length", "x", "y", "z", "rotation_y")),
)  # fmt: skip


def read(path: Path) -> list[dict]:
    """The rows of a label file, by the table in the readme of the tracking devkit."""
    rows = []
    for line in path.read_text().splitlines():
        words = line.split(" ")
        assert len(words) == len(COLUMNS) == 17
        row = {name: kind(word) for (name, kind), word in zip(COLUMNS, words, strict=True)}
        assert row["type"] in TYPES and row["truncated"] in (-1, 0, 1, 2) and row["occluded"] in (-1, 0, 1, 2, 3)
        assert (row["track"] == -1) == (row["type"] == "DontCare")
        rows.append(row)
    return rows


def corners(rows: list[dict]) -> np.ndarray:
    return np.array([[row[edge] for edge in ("left", "top", "right", "bottom")] for row in rows]).reshape(-1, 4)


def agree(folder: Path, sequence: dict, track: LabelTrack, size: tuple[int, int]) -> None:
    """The sequence's boxes are those of the track at its frames, to a ten-thousandth of a pixel."""
    rows = read(folder / "training" / "label_02" / f"{sequence['name']}.txt")
    for place, frame in enumerate(sequence["frames"]):
        mine, boxes = [row for row in rows if row["frame"] == place], track.boxes.where(track.boxes.frame == frame)
        np.testing.assert_allclose(corners(mine), boxes.xyxy * np.array([size[1], size[0]] * 2), atol=1e-4)
        types = [MAPPING[CATEGORIES[category]] for category in boxes.category]
        assert [row["type"] for row in mine] == ["DontCare" if ignore else kind for kind, ignore in zip(types, boxes.ignore, strict=True)]
        tracks = np.where(boxes.ignore, -1, boxes.track_id)
        assert [row["track"] for row in mine] == tracks.tolist()
    assert {row["frame"] for row in rows} <= set(range(len(sequence["frames"])))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=3, seconds=2, height=64, width=128)
    return root


def test_the_devkits_columns_say_the_same(world: Path, tmp_path: Path) -> None:
    summary = export_kitti(world, tmp_path / "kitti")
    records, about = read_records(world), json.loads((tmp_path / "kitti" / "export.json").read_text())
    assert [sequence["clip_id"] for sequence in about["sequences"]] == records.clip_ids
    for sequence in about["sequences"]:
        agree(tmp_path / "kitti", sequence, labels_of(records, sequence["clip_id"]), (64, 128))
    assert summary["frames"] == 45 and summary["boxes"] + summary["DontCare"] == len(records.boxes) > 0


@settings(max_examples=12, deadline=None)
@given(label_tracks(frames=4))
def test_any_boxes_come_back_and_sequences_have_no_gaps(track: LabelTrack) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track])
        summary = export_kitti(clips, Path(folder) / "kitti", pictures="none")
        sequences = json.loads((Path(folder) / "kitti" / "export.json").read_text())["sequences"]
        for sequence in sequences:
            agree(Path(folder) / "kitti", sequence, track, (HEIGHT, WIDTH))
            assert np.all(np.diff(sequence["frames"]) == 1)
    assert [frame for sequence in sequences for frame in sequence["frames"]] == np.flatnonzero(track.boxes_known).tolist()
    assert summary["frames without known boxes"] == int((~track.boxes_known).sum())


def test_nothing_three_dimensional_is_made_up(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(1, [(0, 1, 0, BOX, False), (0, 2, 0, BOX, True)])], depth_m=12.0)
    export_kitti(clips, tmp_path / "kitti")
    for row in read(tmp_path / "kitti" / "training" / "label_02" / "0000.txt"):
        assert (row["alpha"], row["rotation_y"]) == (-10, -10)
        assert (row["height"], row["width"], row["length"]) == (-1, -1, -1)
        assert (row["x"], row["y"], row["z"]) == (-1000, -1000, -1000)
        assert (row["truncated"], row["occluded"]) == (-1, -1), "nobody knows"
    assert not (tmp_path / "kitti" / "training" / "calib").exists()


@pytest.mark.parametrize(
    ("occlusion", "truncated", "said"), [(0.0, False, (0, 0)), (0.3, True, (1, 1)), (0.6, None, (-1, 2)), (None, True, (1, -1))]
)
def test_what_is_known_of_a_box_is_said(occlusion: float | None, truncated: bool | None, said: tuple[int, int], tmp_path: Path) -> None:
    track = track_of(1, [(0, 7, 5, BOX, False)])
    export_kitti(write_clips(tmp_path / "clips", [track], occlusion=occlusion, truncated=truncated), tmp_path / "kitti")
    (row,) = read(tmp_path / "kitti" / "training" / "label_02" / "0000.txt")
    assert (row["truncated"], row["occluded"]) == said
    assert (row["type"], row["track"]) == ("Pedestrian", 7)
    assert corners([row]).tolist() == [[16, 8, 32, 24]]


def test_a_clip_is_cut_where_nobody_looked(tmp_path: Path) -> None:
    track = track_of(6, [(5, 1, 1, BOX, False)])
    track = replace(track, boxes_known=np.array([True, True, False, False, True, True]))
    assert export_kitti(write_clips(tmp_path / "clips", [track]), tmp_path / "kitti")["sequences"] == 2
    training = tmp_path / "kitti" / "training"
    assert read(training / "label_02" / "0000.txt") == []
    assert [(row["frame"], row["type"]) for row in read(training / "label_02" / "0001.txt")] == [(1, "Truck")]
    assert [path.name for path in sorted((training / "image_02" / "0001").iterdir())] == ["000000.png", "000001.png"]
    picture = cv2.imread(str(training / "image_02" / "0001" / "000001.png"))[:, :, ::-1]
    np.testing.assert_array_equal(picture, read_frames(tmp_path / "clips" / "videos" / "0.mp4", indices=[5])[0])


def test_every_second_frame_is_a_sequence_at_half_the_rate(tmp_path: Path) -> None:
    assert export_kitti(write_clips(tmp_path / "clips", [track_of(5, [])]), tmp_path / "kitti", every=2)["frames"] == 3
    (sequence,) = json.loads((tmp_path / "kitti" / "export.json").read_text())["sequences"]
    assert (sequence["frames"], sequence["fps"]) == ([0, 2, 4], 3.75)


def test_sequence_maps_are_those_of_trackeval(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(3, []), track_of(2, [])], splits=["train", "val"])
    export_kitti(clips, tmp_path / "kitti", pictures="none")
    found = {}
    for part in ("training", "val", "training_minus_val"):
        with (tmp_path / "kitti" / "training" / f"evaluate_tracking.seqmap.{part}").open() as file:
            found[part] = [(row[0], int(row[3])) for row in csv.reader(file, delimiter=" ")]
    assert found == {"training": [("0000", 3), ("0001", 2)], "val": [("0001", 2)], "training_minus_val": [("0000", 3)]}


def test_tracks_with_negative_numbers_are_counted_anew(tmp_path: Path) -> None:
    track = track_of(2, [(0, -5, 0, BOX, False), (0, 9, 0, BOX, False), (1, 9, 0, BOX, False)])
    export_kitti(write_clips(tmp_path / "clips", [track]), tmp_path / "kitti", pictures="none")
    assert [row["track"] for row in read(tmp_path / "kitti" / "training" / "label_02" / "0000.txt")] == [0, 1, 1]


def test_an_unreadable_clip_costs_only_itself(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", [track_of(4, []), track_of(3, [])])
    video = clips / "videos" / "0.mp4"
    video.write_bytes(video.read_bytes()[:900])
    summary = export_kitti(clips, tmp_path / "kitti")
    assert (summary["clips that cannot be read"], summary["sequences"], summary["frames"]) == (["clip0"], 1, 3)
    assert [path.name for path in (tmp_path / "kitti" / "training" / "image_02").iterdir()] == ["0000"]


@settings(max_examples=8, deadline=None)
@given(label_tracks(frames=4))
def test_importing_our_own_export_gives_the_same_boxes(track: LabelTrack) -> None:
    """Of every category, ignored ones too, though KITTI calls some Misc or DontCare."""
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track], occlusion=0.3, provenance="detector:the large one")
        export_kitti(clips, Path(folder) / "kitti")
        import_kitti(Path(folder) / "kitti", Path(folder) / "back", progress=False)
        records = read_records(Path(folder) / "back")
        for row in records.clips.itertuples():
            about = json.loads(row.provenance)
            back, there = labels_of(records, row.clip_id), track.take(about["frames"], track.fps)
            assert (back.fps, back.boxes_known.all(), about["clip_id"]) == (7.5, True, "clip0")
            for name in ("frame", "track_id", "category", "ignore"):
                np.testing.assert_array_equal(getattr(back.boxes, name), getattr(there.boxes, name))
            np.testing.assert_allclose(back.boxes.xyxy, there.boxes.xyxy, atol=1e-6)
        assert (records.boxes["provenance"] == "detector:the large one").all() and np.allclose(records.boxes["occlusion"], 0.3)


def test_splits_times_and_rates_come_back(world: Path, tmp_path: Path) -> None:
    export_kitti(world, tmp_path / "kitti", every=3)
    import_kitti(tmp_path / "kitti", tmp_path / "back", progress=False)
    made, back = (read_records(root).clips for root in (world, tmp_path / "back"))
    for name in ("split", "time_of_day", "licence"):
        assert back[name].tolist() == made[name].tolist()
    assert (back["fps"] == 2.5).all()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("training/label_02_drivesim/0000.txt", "", r"0 rows for \d+ of label_02/0000\.txt"),
        ("training/label_02_drivesim/0000.txt", "tram 1 0 - - human\n", "line 1: unknown category 'tram'"),
        ("training/label_02_drivesim/0000.txt", "car 1 0 - -\n", "line 1: 6 words"),
        ("training/label_02_drivesim/0000.txt", "car x 0 - - human\n", "line 1: invalid literal"),
        ("training/label_02/0000.txt", "1 2 3\n", "line 1: 3 columns where 17"),
        ("export.json", '{"creator": "drivesim data export kitti"}', "not what drivesim data export kitti writes"),
    ],
)
def test_a_changed_export_is_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    export_kitti(write_clips(tmp_path / "clips", [track_of(2, [(0, 1, 0, BOX, False)])]), tmp_path / "kitti")
    (tmp_path / "kitti" / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        import_kitti(tmp_path / "kitti", tmp_path / "back", progress=False)
    assert not (tmp_path / "back").exists()


def test_an_export_without_pictures_cannot_come_back(tmp_path: Path) -> None:
    export_kitti(write_clips(tmp_path / "clips", [track_of(2, [])]), tmp_path / "kitti", pictures="none")
    with pytest.raises(DatasetError, match=r"image_02/0000: missing.*pictures=png or jpg"):
        import_kitti(tmp_path / "kitti", tmp_path / "back", progress=False)


def test_other_readers_see_the_same_boxes(tmp_path: Path) -> None:
    """Without our notes it is KITTI: what it calls Misc or DontCare is dropped."""
    rows = [(0, 1, 0, BOX, False), (0, 2, 2, BOX, False), (1, 3, 5, (0.5, 0.0, 0.75, 0.5), False), (1, 4, 1, BOX, True)]
    export_kitti(write_clips(tmp_path / "clips", [track_of(2, rows)]), tmp_path / "kitti")
    (tmp_path / "kitti" / "export.json").unlink()
    import_kitti(tmp_path / "kitti", tmp_path / "back", progress=False)
    records = read_records(tmp_path / "back")
    boxes = labels_of(records, records.clip_ids[0]).boxes
    assert [(at, CATEGORIES[kind]) for at, kind in zip(boxes.frame, boxes.category, strict=True)] == [(0, "car"), (1, "person")]
    np.testing.assert_allclose(boxes.xyxy, [BOX, (0.5, 0.0, 0.75, 0.5)], atol=1e-6)


def test_the_command_line_exports_it(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "export", "kitti", str(world), "--out", str(tmp_path / "kitti"), "every=5", "pictures=none"]) == 0
    assert "bus: Misc" in capsys.readouterr().out, "the mapping is published"


def test_kitti_refuses(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every must be at least 1"):
        export_kitti(world, tmp_path / "x", every=-1)
    with pytest.raises(UsageError, match="pictures must be one of png, jpg, none, not 'gif'"):
        export_kitti(world, tmp_path / "x", pictures="gif")
    with pytest.raises(DrivesimError, match="no frame to export"):
        export_kitti(write_clips(tmp_path / "unseen", [LabelTrack.unknown(3, 7.5)]), tmp_path / "x")
    with pytest.raises(DrivesimError, match="already exists"):
        export_kitti(world, tmp_path / "unseen")
    assert [path.name for path in tmp_path.iterdir()] == ["unseen"]
