"""COCO detection: our own export comes back box by box; foreign datasets, written by the tests in their layouts, give what they tell."""

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
from outgoing import label_tracks, track_of, write_clips
from pycocotools import mask
from returning import pieces, same_clips, same_pieces

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.exports.coco import export_coco
from drivesim.datasets.sources.coco import import_coco
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, LabelTrack

HIGH, WIDE = 40, 80
NAMES = {1: "person", 3: "car", 8: "truck", 18: "dog", 44: "Motor-Bike"}
BOX = (0.25, 0.25, 0.5, 0.75)


def picture(path: Path, value: int = 60, size: tuple[int, int] = (HIGH, WIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), (value, 40, 200), np.uint8))  # BGR


def write(path: Path, files: list[str], rows: list[dict[str, Any]] | None, images: list[dict[str, Any]] | None = None, **more: Any) -> None:
    """An annotation file: image n (from 1) is ``files[n - 1]``; ``images`` adds to them. Annotations get ids where they have none."""
    added = images or [{}] * len(files)
    told = [{"id": n, "file_name": name, "height": HIGH, "width": WIDE, **added[n - 1]} for n, name in enumerate(files, 1)]
    document: dict[str, Any] = {"info": {"year": 2017}, "images": told, **more}
    document.setdefault("categories", [{"id": number, "name": name} for number, name in NAMES.items()])
    if rows is not None:
        document["annotations"] = [{"id": n, "iscrowd": 0, **row} for n, row in enumerate(rows, 100)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def box(image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(bbox), **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As cocodataset.org has it: annotations/instances_*.json beside a folder of pictures for each split."""
    root = tmp_path / "coco"
    for split, names in (("train2017", ("000000000009", "000000000025")), ("val2017", ("000000000139",))):
        for number, name in enumerate(names):
            picture(root / split / f"{name}.jpg", 60 * number)
    rows = [
        box(1, 3, 8, 4, 40, 20, segmentation=[[8, 4, 48, 4, 48, 24]]), box(1, 18, 0, 0, 9, 9), box(1, 44, -10, 10, 30, 40),
        box(1, 1, 0, 0, 80, 40, iscrowd=1), box(1, 8, 90, 10, 10, 10), box(1, 3, 10, 10, 20, 1),
    ]  # fmt: skip
    write(root / "annotations" / "instances_train2017.json", ["000000000009.jpg", "000000000025.jpg"], rows)
    write(root / "annotations" / "instances_val2017.json", ["000000000139.jpg"], [box(1, 1, 0, 10, 20, 20)])
    (root / "annotations" / "captions_val2017.json").write_text("{}")
    return root


# our own export


@settings(max_examples=8, deadline=None)
@given(label_tracks(frames=5))
def test_importing_our_own_export_gives_the_same_boxes(track: LabelTrack) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder) / "clips", [track], splits=["val"], occlusion=0.3, provenance="detector:the large one")
        export_coco(clips, Path(folder) / "coco")
        summary = import_coco(Path(folder) / "coco", Path(folder) / "back", progress=False)
        records = read_records(Path(folder) / "back")
        same_pieces(records, summary, track, "val", 4e-6)


def test_whole_clips_come_back_under_their_names(tmp_path: Path) -> None:
    make_road_world(tmp_path / "world", clips=3, seconds=2, height=64, width=128)
    export_coco(tmp_path / "world", tmp_path / "coco")
    import_coco(tmp_path / "coco", tmp_path / "back", progress=False)
    assert check_dataset(tmp_path / "back")["faults"] == 0
    same_clips(read_records(tmp_path / "back"), read_records(tmp_path / "world"), blur=4, corners=4e-6)


def test_frames_that_did_not_leave_cut_a_clip(tmp_path: Path) -> None:
    track = replace(track_of(9, [(4, -3, 0, BOX, True)]), boxes_known=np.array([1, 1, 1, 0, 1, 1, 0, 1, 1], bool))
    clips = write_clips(tmp_path / "clips", [track], ids=["a/b"])
    export_coco(clips, tmp_path / "all")
    import_coco(tmp_path / "all", tmp_path / "back", progress=False)
    found = pieces(read_records(tmp_path / "back"))
    assert [about["frames"] for about in found.values()] == [[0, 1, 2], [4, 5], [7, 8]]
    assert [name.endswith(end) for name, end in zip(found, ("000000", "000004", "000007"), strict=True)] == [True] * 3
    export_coco(clips, tmp_path / "second", every=2)
    import_coco(tmp_path / "second", tmp_path / "slow", progress=False)
    records = read_records(tmp_path / "slow")
    assert [about["frames"] for about in pieces(records).values()] == [[0, 2, 4], [8]]
    assert records.clips["fps"].tolist() == [3.75, 3.75]
    assert labels_of(records, records.clip_ids[0]).boxes.track_id.tolist() == [-3]


def test_an_export_of_before_our_notes_is_read_too(tmp_path: Path) -> None:
    export_coco(write_clips(tmp_path / "clips", [track_of(2, [(1, 7, 2, BOX, False)])]), tmp_path / "coco")
    path = tmp_path / "coco" / "instances.json"
    document = json.loads(path.read_text())
    for row in document["videos"]:
        del row["split"]
    for row in document["annotations"]:
        del row["provenance"]
    path.write_text(json.dumps(document))
    import_coco(tmp_path / "coco", tmp_path / "back", progress=False)
    records = read_records(tmp_path / "back")
    assert records.boxes[["track_id", "category", "frame"]].to_numpy().tolist() == [[7, "bus", 1]]
    assert records.boxes["provenance"].isna().all()
    assert records.clips["split"].tolist() == ["train"]


def test_an_export_without_pictures_cannot_come_back(tmp_path: Path) -> None:
    export_coco(write_clips(tmp_path / "clips", [track_of(2, [])]), tmp_path / "coco", pictures="none")
    with pytest.raises(DatasetError, match=r"videos/0\.mp4#0 points into a video.*pictures=jpg or png"):
        import_coco(tmp_path / "coco", tmp_path / "back", progress=False)
    assert not (tmp_path / "back").exists()


# anybody's


def test_every_picture_is_a_clip_of_its_own(folder: Path, tmp_path: Path) -> None:
    summary = import_coco(folder, tmp_path / "out", progress=False)
    assert (summary["clips"], summary["frames"], summary["left_out"]) == (3, 3, {})
    assert summary["dropped_boxes"] == {"dog": 1, "truck, empty or outside the picture": 1}
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    assert records.clips["clip_id"].tolist() == ["coco_000000000009", "coco_000000000025", "coco_000000000139"]
    assert records.clips["split"].tolist() == ["train", "train", "val"]
    assert (records.clips["fps"] == 10).all()
    rows = records.boxes_of("coco_000000000009")
    assert rows["category"].tolist() == ["car", "motorcycle", "person", "car"]
    corners = rows[["x1", "y1", "x2", "y2"]].to_numpy() * [WIDE, HIGH, WIDE, HIGH]
    np.testing.assert_allclose(corners, [[8, 4, 48, 24], [0, 10, 20, 40], [0, 0, 80, 40], [10, 10, 30, 11]], atol=1e-4)
    assert rows["ignore"].tolist() == [False, False, True, True], "crowds, and boxes of a pixel"
    assert len(set(rows["track_id"])) == 4 and rows["provenance"].isna().all()
    empty = labels_of(records, "coco_000000000025")
    assert empty.boxes_known.all() and not len(empty.boxes) and empty.values["crowdedness"].tolist() == [0], "looked at, and nothing there"
    assert np.isnan(empty.values["time_of_day"]).all()
    header = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert header["category_mapping"] == {"person": "person", "car": "car", "truck": "truck", "dog": None, "Motor-Bike": "motorcycle"}
    frame = read_frames(records.video_path("coco_000000000025"), indices=[0])[0]
    assert np.abs(frame[20, 40].astype(int) - [200, 40, 60]).max() <= 8


@pytest.mark.parametrize(
    ("annotations", "pictures", "names"),
    [
        ("train/_annotations.coco.json", "train", "a.jpg"),  # Roboflow
        ("annotations/instances_default.json", "images/default", "a.png"),  # CVAT
        ("annotations/instances_train.json", "images", "a.jpg"),
        ("labels.json", "data", "b.jpg"),  # FiftyOne
        ("result.json", ".", "images\\\\a.jpg"),  # Label Studio on Windows
    ],
)
def test_layouts_of_other_tools(annotations: str, pictures: str, names: str, tmp_path: Path) -> None:
    file = names.replace("\\\\", "/")
    picture(tmp_path / "set" / pictures / file)
    write(tmp_path / "set" / annotations, [names.replace("\\\\", "\\")], [box(1, 3, 8, 4, 40, 20)])
    assert import_coco(tmp_path / "set", tmp_path / "out", progress=False)["clips"] == 1
    assert len(read_records(tmp_path / "out").boxes) == 1


def test_the_caller_may_say_where_things_are(folder: Path, tmp_path: Path) -> None:
    (folder / "val2017").rename(folder / "elsewhere")
    only = {"annotations": "annotations/instances_val2017.json", "images": "elsewhere", "licence": "mine", "progress": False}
    assert import_coco(folder, tmp_path / "out", **only)["clips"] == 1
    clips = read_records(tmp_path / "out").clips
    assert (clips["split"].tolist(), clips["licence"].tolist()) == (["val"], ["mine"])


def test_what_supervision_writes_is_read(tmp_path: Path) -> None:
    """Another project's writer, which shares no code with ours."""
    supervision = pytest.importorskip("supervision")
    corners = {"a.jpg": [[8.0, 4.0, 48.0, 24.0], [0.0, 10.0, 20.0, 40.0]], "b.jpg": [[30.0, 6.0, 40.0, 30.0]]}
    for name in corners:
        picture(tmp_path / "made" / name)
    paths = {name: str(tmp_path / "made" / name) for name in corners}
    found = {
        paths[name]: supervision.Detections(xyxy=np.array(boxes), class_id=np.arange(len(boxes))) for name, boxes in corners.items()
    }  # fmt: skip
    dataset = supervision.DetectionDataset(classes=["truck", "pedestrian"], images=list(paths.values()), annotations=found)
    root = tmp_path / "set"
    dataset.as_coco(images_directory_path=str(root / "images"), annotations_path=str(root / "annotations" / "instances_train.json"))
    summary = import_coco(root, tmp_path / "out", progress=False)
    assert (summary["clips"], summary["dropped_boxes"], check_dataset(tmp_path / "out")["faults"]) == (2, {}, 0)
    rows = read_records(tmp_path / "out").boxes.sort_values(["clip_id", "category"], ascending=[True, False])
    assert rows["category"].tolist() == ["truck", "person", "truck"]
    expected = [edges for boxes in corners.values() for edges in boxes]
    np.testing.assert_allclose(rows[["x1", "y1", "x2", "y2"]].to_numpy() * [WIDE, HIGH, WIDE, HIGH], expected, atol=0.01)


def test_pictures_that_follow_each_other(tmp_path: Path) -> None:
    names = ["a/f_10.jpg", "a/f_9.jpg", "a/f_8.jpg", "a/f_12.jpg", "b/x.jpg", "b/f_1.jpg"]
    for value, name in enumerate(names):
        picture(tmp_path / "set" / "images" / name, 30 * value)
    write(tmp_path / "set" / "instances.json", names, [box(2, 3, 8, 4, 40, 20, track_id=6), box(1, 3, 8, 4, 40, 20, track_id=6)])
    for clips, lengths in (("images", [1] * 6), ("folders", [4, 2]), ("numbered", [3, 1, 1, 1])):
        import_coco(tmp_path / "set", tmp_path / clips, clips=clips, fps=4, val_share=0.5, progress=False)
        records = read_records(tmp_path / clips)
        assert records.clips["frames"].tolist() == lengths and (records.clips["fps"] == 4).all()
        assert check_dataset(tmp_path / clips)["faults"] == 0
        assert {"train", "val"} == set(records.clips["split"])
    folders, numbered = read_records(tmp_path / "folders"), read_records(tmp_path / "numbered")
    assert folders.clip_ids == ["coco_a", "coco_b"]
    assert pieces(folders)["coco_a"]["pictures"] == ["a/f_8", "a/f_9", "a/f_10", "a/f_12"], "9 stands before 10"
    assert numbered.clip_ids[:2] == ["coco_a_f_000008", "coco_a_f_000012"], "picture 11 is missing: a cut"
    boxes = labels_of(numbered, "coco_a_f_000008").boxes
    assert (boxes.frame.tolist(), boxes.track_id.tolist()) == ([1, 2], [6, 6])


def test_video_datasets_in_cocos_form(tmp_path: Path) -> None:
    names = [f"v/{number:03d}.jpg" for number in range(5)] + ["loose.jpg"]
    for name in names:
        picture(tmp_path / "set" / name)
    told = [{"video_id": 5, "frame_id": frame} for frame in (0, 30, 60, 150, 180)] + [{}]
    rows = [box(1, 3, 8, 4, 40, 20, instance_id=11), box(2, 3, 8, 4, 40, 20, attributes={"track_id": 11}), box(2, 3, 8, 4, 40, 20)]
    write(tmp_path / "set" / "train.json", names, rows, told, videos=[{"id": 5, "name": "drive one", "fps": 30}])
    import_coco(tmp_path / "set", tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    assert sorted(zip(records.clips["frames"], records.clips["fps"], strict=True)) == [(1, 10), (2, 1), (3, 1)]
    first = next(name for name, about in pieces(records).items() if about.get("frames") == [0, 30, 60])
    assert labels_of(records, first).boxes.track_id.tolist() == [11, 11, 12], "a box without a track is one of its own"
    assert import_coco(tmp_path / "set", tmp_path / "apart", clips="images", progress=False)["clips"] == 6


def test_outlines_without_boxes(tmp_path: Path) -> None:
    shape = np.zeros((HIGH, WIDE), np.uint8, order="F")
    shape[10:20, 30:60] = 1
    packed = mask.encode(shape)
    runs = [30 * HIGH + 10] + [10, 30] * 29 + [10, 20 + 20 * HIGH]
    outlines: list[Any] = [
        [[10, 10, 30, 10, 30, 20], [8, 12, 20, 12, 20, 30]], {"size": [HIGH, WIDE], "counts": packed["counts"].decode()},
        {"size": [HIGH, WIDE], "counts": runs}, [],
    ]  # fmt: skip
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.json", ["a.jpg"], [{"image_id": 1, "category_id": 3, "segmentation": outline} for outline in outlines])
    summary = import_coco(tmp_path / "set", tmp_path / "out", progress=False)
    assert summary["dropped_boxes"] == {"car, without a box": 1}
    corners = read_records(tmp_path / "out").boxes[["x1", "y1", "x2", "y2"]].to_numpy() * [WIDE, HIGH, WIDE, HIGH]
    np.testing.assert_allclose(corners, [[8, 10, 30, 30], [30, 10, 60, 20], [30, 10, 60, 20]], atol=1e-4)


def test_pictures_that_nobody_looked_at(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "test2017" / "a.jpg")
    write(tmp_path / "set" / "annotations" / "image_info_test2017.json", ["a.jpg"], None)
    with pytest.raises(UsageError, match=r"annotations/\*\.json"):
        import_coco(tmp_path / "set", tmp_path / "out", progress=False)
    import_coco(tmp_path / "set", tmp_path / "out", "annotations/image_info_test2017.json", "test2017", progress=False)
    records = read_records(tmp_path / "out")
    assert not labels_of(records, records.clip_ids[0]).boxes_known.any() and records.clips["split"].tolist() == ["test"]


def test_categories_can_be_said(folder: Path, tmp_path: Path) -> None:
    summary = import_coco(folder, tmp_path / "out", categories={"dog": "bicycle", "motor_bike": None}, progress=False)
    assert summary["dropped_boxes"] == {"Motor-Bike": 1, "truck, empty or outside the picture": 1}
    assert "bicycle" in set(read_records(tmp_path / "out").boxes["category"])
    wrongs: list[tuple[dict[str, str | None], str]] = [
        ({"cat": "car"}, "'cat', which .* lacks; it has person, car"), ({"dog": "wolf"}, "'dog' must become one of car"),
    ]  # fmt: skip
    for wrong, message in wrongs:
        with pytest.raises(UsageError, match=message):
            import_coco(folder, tmp_path / "x", categories=wrong, progress=False)


def test_a_dataset_of_other_things_is_not_called_empty_road(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "a.json", ["a.jpg"], [], categories=[{"id": 1, "name": "vehicle"}])
    with pytest.raises(UsageError, match=r"none of its categories \(vehicle\).*categories=\{NAME:car\}"):
        import_coco(tmp_path / "set", tmp_path / "out", progress=False)
    write(tmp_path / "set" / "a.json", ["a.jpg"], [], categories=[{"id": 1, "name": "Pedestrian"}])
    import_coco(tmp_path / "set", tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    assert np.isnan(labels_of(records, records.clip_ids[0]).values["crowdedness"]).all(), "nobody asked for vehicles"


def test_pictures_unlike_their_entries_are_left_out(folder: Path, tmp_path: Path) -> None:
    picture(folder / "train2017" / "000000000009.jpg", size=(WIDE, HIGH))
    picture(folder / "train2017" / "000000000025.jpg", size=(HIGH // 2, WIDE // 2))
    picture(folder / "val2017" / "000000000139.jpg", size=(5, 10))
    summary = import_coco(folder, tmp_path / "out", progress=False)
    assert summary["clips"] == 1, "half the size is the same picture"
    assert "is 40x80, not of the 80x40" in summary["left_out"]["000000000009"] and "16 pixels" in summary["left_out"]["000000000139"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 1, "file_name": "no.jpg"}]}, r"no\.jpg: missing, but .*val2017\.json names it \(image 1\).*images=FOLDER"),
        ({"images": [{"id": 1, "file_name": "../secret.jpg"}]}, r"'\.\./secret\.jpg' leaves the dataset's folder"),
        ({"images": [{"id": 1, "file_name": "/etc/x.jpg"}]}, "leaves the dataset's folder"),
        ({"images": [{"id": 1}]}, r"instances_val2017\.json: not as COCO detection has it \(KeyError: 'file_name'\)"),
        ({"images": [{"id": 1, "file_name": "000000000139.jpg"}] * 2}, "two images have one id"),
        ({"annotations": [box(7, 1, 0, 0, 9, 9)]}, "names image 7, which is not in the file"),
        ({"annotations": [box(1, 99, 0, 0, 9, 9, id=4)]}, "annotation 4 names category 99"),
        ({"annotations": [box(1, 1, 0, 0, 9, id=4)]}, "annotation 4: not as COCO detection has it"),
        ({"annotations": [box(1, 1, 0, 0, 9, float("nan"), id=4)]}, "annotation 4: .*not finite"),
        ({"annotations": [box(1, 1, 0, 0, 9, "wide", id=4)]}, "annotation 4: .*'wide'"),
        ({"categories": None}, r"instances_val2017\.json: not as COCO"),
    ],
)
def test_damage_is_named(change: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DatasetError, match=message):
        import_coco(folder, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["coco"], "nothing half-written stays"


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "val2017" / "000000000139.jpg").write_text("not a picture")
    with pytest.raises(DatasetError, match=r"000000000139\.jpg: not a readable picture"):
        import_coco(folder, tmp_path / "out", progress=False)
    (folder / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(DatasetError, match=r"instances_val2017\.json: not readable JSON"):
        import_coco(folder, tmp_path / "out", progress=False)
    picture(folder / "train2017" / "000000000025.jpg", size=(HIGH // 2, WIDE // 2))
    (folder / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(DatasetError, match=r"000000000025\.jpg: is 40x20 within a clip of 80x40; import with clips=images"):
        import_coco(folder, tmp_path / "out", clips="folders", progress=False)


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "import", "coco", str(folder), "--out", str(tmp_path / "out"), "progress=false"]
    assert cli.main([*words, "categories={dog:person}", "height=32", "width=64"]) == 0
    assert "clips: 3" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "out")]) == 0
    assert cli.main([*words[:-2], str(tmp_path / "again"), "clips=sometimes"]) == 2
    assert "clips must be one of auto, images, folders, numbered" in capsys.readouterr().err


def test_other_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        import_coco(tmp_path / "nowhere", tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match=r"neither annotations/\*\.json"):
        import_coco(folder / "val2017", tmp_path / "out", progress=False)
    with pytest.raises(DatasetError, match=r"other\.json: missing"):
        import_coco(folder, tmp_path / "out", annotations="other.json", progress=False)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="fps must be a number above 0"):
            import_coco(folder, tmp_path / "out", fps=wrong, progress=False)
    with pytest.raises(DrivesimError, match="already exists"):
        import_coco(folder, folder, progress=False)


def test_every_category_of_ours_is_known_by_its_name(tmp_path: Path) -> None:
    rows = [(0, number, number, BOX, False) for number in range(len(CATEGORIES))]
    export_coco(write_clips(tmp_path / "clips", [track_of(1, rows)]), tmp_path / "coco")
    path = tmp_path / "coco" / "instances.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "info": {}, "videos": []}))  # now it is anybody's
    import_coco(tmp_path / "coco", tmp_path / "back", progress=False)
    assert read_records(tmp_path / "back").boxes["category"].tolist() == list(CATEGORIES)
