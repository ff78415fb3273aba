"""YOLO in the layout of Ultralytics: our own export comes back box by box; foreign datasets, written by the tests, give what they tell."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from outgoing import label_tracks, track_of, write_clips
from returning import same_clips, same_pieces

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.exports.yolo import export_yolo
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.sources.yolo import import_yolo
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, LabelTrack

HIGH, WIDE = 40, 80
BOX, OTHER = (0.25, 0.25, 0.5, 0.75), (0.5, 0.125, 0.75, 0.5)
DATA = "path: ../datasets/mine # on the author's machine\ntrain: images/train\nval: images/val\nnames:\n  0: person\n  1: Car\n  2: dog\n"
CAR = "1 0.375 0.5 0.25 0.5\n"


def picture(path: Path, value: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HIGH, WIDE, 3), (value, 40, 200), np.uint8))  # BGR


def label(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As Ultralytics documents it."""
    root = tmp_path / "yolo"
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        picture(root / "images" / f"{name}.jpg", 60 * number)
    label(root / "labels" / "train" / "a.txt", CAR + "0 0.0 0.5 0.5 1.0\n2 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.25 0.025\n1 0.5 0.5 0 0.5\n")
    label(root / "labels" / "val" / "c.txt", "")
    (root / "data.yaml").write_text(DATA)
    return root


# our own export


@pytest.mark.parametrize("ignored", ["drop", "keep"])
def test_importing_our_own_export_gives_the_same_boxes(ignored: str) -> None:
    @settings(max_examples=6, deadline=None)
    @given(label_tracks(frames=4))
    def comes_back(track: LabelTrack) -> None:
        with tempfile.TemporaryDirectory() as folder:
            clips = write_clips(Path(folder) / "clips", [track], splits=["test"], occlusion=0.3, provenance="detector:the large one")
            export_yolo(clips, Path(folder) / "yolo", ignored=ignored)
            summary = import_yolo(Path(folder) / "yolo", Path(folder) / "back", progress=False)
            records = read_records(Path(folder) / "back")
            same_pieces(records, summary, track, "test")

    comes_back()


def test_whole_clips_come_back_under_their_names(tmp_path: Path) -> None:
    make_road_world(tmp_path / "world", clips=3, seconds=2, height=64, width=128)
    export_yolo(tmp_path / "world", tmp_path / "yolo", pictures="png")
    import_yolo(tmp_path / "yolo", tmp_path / "back", progress=False)
    assert check_dataset(tmp_path / "back")["faults"] == 0
    same_clips(read_records(tmp_path / "back"), read_records(tmp_path / "world"), blur=3)


def test_frames_that_did_not_leave_cut_a_clip(tmp_path: Path) -> None:
    track = replace(track_of(9, [(4, -3, 0, BOX, True)]), boxes_known=np.array([1, 1, 1, 0, 1, 1, 0, 1, 1], bool))
    export_yolo(write_clips(tmp_path / "clips", [track], ids=["a/b"]), tmp_path / "yolo", every=2)
    import_yolo(tmp_path / "yolo", tmp_path / "back", progress=False)
    records = read_records(tmp_path / "back")
    assert [json.loads(text)["frames"] for text in records.clips["provenance"]] == [[0, 2, 4], [8]]
    assert records.clips["fps"].tolist() == [3.75, 3.75]
    assert labels_of(records, records.clip_ids[0]).boxes.track_id.tolist() == [-3]


@pytest.mark.parametrize("change", ["0 0.4 0.5 0.25 0.5\n", "1 0.375 0.5 0.25 0.5\n", "", "0 0.375 0.5 0.25 0.5\n" * 3])
def test_labels_that_were_changed_are_not_passed_over(change: str, tmp_path: Path) -> None:
    rows = [(0, 1, 0, BOX, False), (0, 2, 0, OTHER, True)]
    export_yolo(write_clips(tmp_path / "clips", [track_of(2, rows)]), tmp_path / "yolo")
    (tmp_path / "yolo" / "labels" / "train" / "clip0_000000.txt").write_text(change)
    with pytest.raises(DatasetError, match=r"clip0_000000\.txt: not what labels_drivesim/train/clip0\.txt says.*remove the folder"):
        import_yolo(tmp_path / "yolo", tmp_path / "back", progress=False)
    shutil.rmtree(tmp_path / "yolo" / "labels_drivesim")
    import_yolo(tmp_path / "yolo", tmp_path / "back", progress=False)
    records = read_records(tmp_path / "back")
    assert (records.clip_ids, records.clips["frames"].tolist()) == (["clip0"], [2])
    assert len(set(records.boxes["track_id"])) == len(records.boxes) == len(change.splitlines())


def test_without_our_notes_it_is_anybodys(tmp_path: Path) -> None:
    rows = [(frame, number, number, BOX, False) for frame in range(3) for number in range(len(CATEGORIES))]
    export_yolo(write_clips(tmp_path / "clips", [track_of(3, rows)]), tmp_path / "yolo")
    (tmp_path / "yolo" / "export.json").unlink()
    import_yolo(tmp_path / "yolo", tmp_path / "back", clips="numbered", fps=7.5, progress=False)
    records = read_records(tmp_path / "back")
    assert records.clip_ids == ["yolo_train_clip0"] and records.clips["fps"].tolist() == [7.5]
    boxes = labels_of(records, "yolo_train_clip0").boxes
    assert boxes.frame.tolist() == [row[0] for row in rows] and boxes.category.tolist() == [row[2] for row in rows]
    np.testing.assert_allclose(boxes.xyxy, [BOX] * len(rows), atol=1e-6)
    assert len(set(boxes.track_id)) == len(rows), "no tracks: every box is one of its own"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels_drivesim/train/clip0.txt", "0 tram 0 0 1 1 1 0 - - human\n", r"clip0\.txt: line 1: .*unknown category"),
        ("labels_drivesim/train/clip0.txt", "0 car 0 0 1 1 1 0 - -\n", r"clip0\.txt: line 1: .*less than 11 words"),
        ("labels_drivesim/train/clip0.txt", "9 car 0 0 1 1 1 0 - - human\n", "line 1: a frame that did not leave"),
        ("labels_drivesim/train/clip0.txt", "0 car 0 0\n", "line 1: "),
        ("labels/train/clip0_000000.txt", "7 0.5 0.5 0.1 0.1\n", r"clip0_000000\.txt: a class beyond 5"),
        ("export.json", '{"creator": "drivesim data export yolo"}', "not what drivesim data export yolo writes"),
        ("export.json", '{"creator": "drivesim data export yolo", "clips": [{"name": "clip0"}]}', "clip clip0: KeyError: 'split'"),
    ],
)
def test_a_damaged_export_is_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    export_yolo(write_clips(tmp_path / "clips", [track_of(2, [(0, 1, 0, BOX, False)])]), tmp_path / "yolo")
    (tmp_path / "yolo" / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        import_yolo(tmp_path / "yolo", tmp_path / "back", progress=False)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("gone", ["images/train/clip0_000001.jpg", "labels/train/clip0_000001.txt", "labels_drivesim/train/clip0.txt"])
def test_what_an_export_lacks_is_named(gone: str, tmp_path: Path) -> None:
    export_yolo(write_clips(tmp_path / "clips", [track_of(2, [])]), tmp_path / "yolo")
    (tmp_path / "yolo" / gone).unlink()
    with pytest.raises(DatasetError, match=rf"{Path(gone).name}: missing.*the whole export"):
        import_yolo(tmp_path / "yolo", tmp_path / "back", progress=False)


# anybody's


def test_every_picture_is_a_clip_of_its_own(folder: Path, tmp_path: Path) -> None:
    summary = import_yolo(folder, tmp_path / "out", progress=False)
    assert (summary["clips"], summary["frames"], summary["left_out"]) == (3, 3, {})
    assert summary["dropped_boxes"] == {"dog": 1, "car, empty or outside the picture": 1}
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    assert records.clip_ids == ["yolo_train_a", "yolo_train_b", "yolo_val_c"]
    assert records.clips["split"].tolist() == ["train", "train", "val"] and (records.clips["fps"] == 10).all()
    rows = records.boxes_of("yolo_train_a")
    assert rows["category"].tolist() == ["car", "person", "car"]
    expected = [[0.25, 0.25, 0.5, 0.75], [0, 0, 0.25, 1], [0.375, 0.4875, 0.625, 0.5125]]
    np.testing.assert_allclose(rows[["x1", "y1", "x2", "y2"]].to_numpy(), expected, atol=1e-6)
    assert rows["ignore"].tolist() == [False, False, True] and rows["provenance"].isna().all()
    for clip_id in ("yolo_train_b", "yolo_val_c"):
        empty = labels_of(records, clip_id)
        assert empty.boxes_known.all() and not len(empty.boxes), "no file, or an empty one: nothing there"
    header = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert header["category_mapping"] == {"person": "person", "Car": "car", "dog": None}
    frame = read_frames(records.video_path("yolo_train_b"), indices=[0])[0]
    assert np.abs(frame[20, 40].astype(int) - [200, 40, 60]).max() <= 8


@pytest.mark.parametrize(
    ("data", "pictures", "labels"),
    [
        ("train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [person, car]", "{}/images/x.jpg", "{}/labels/x.txt"),
        ("path: /content/set\ntrain: [train/images]\nval: valid/images\nnames: [person, car]", "{}/images/x.JPG", "{}/labels/x.txt"),
        ("train: C:\\me\\set\\train\nvalidation: /home/me/set/valid\nnames: {'0': person, '1': car}", "{}/x.png", "{}/x.txt"),
        ("train: train.txt\nval: valid.txt\nnames: [person, car]", "images/{}/deep/x.jpg", "labels/{}/deep/x.txt"),
    ],
)
def test_layouts_of_other_tools(data: str, pictures: str, labels: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split in ("train", "valid"):
        picture(root / pictures.format(split))
        label(root / labels.format(split), CAR)
        (root / f"{split}.txt").write_text(f"./{pictures.format(split)}\n\n")
    (root / "mine.yml").write_text(data)
    summary = import_yolo(root, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    assert records.clips["split"].tolist() == ["train", "val"] and len(records.boxes) == 2
    assert summary["left_out"].keys() == ({"test"} if "test" in data else set()), "a test split that was never made"


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
    places = {"images_directory_path": str(root / "train" / "images"), "annotations_directory_path": str(root / "train" / "labels")}
    dataset.as_yolo(**places, data_yaml_path=str(root / "data.yaml"))
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + "train: train/images\nval: train/images\n")
    summary = import_yolo(root, tmp_path / "out", progress=False)
    assert (summary["clips"], summary["dropped_boxes"], check_dataset(tmp_path / "out")["faults"]) == (2, {}, 0)
    rows = read_records(tmp_path / "out").boxes.sort_values(["clip_id", "category"], ascending=[True, False])
    assert rows["category"].tolist() == ["truck", "person", "truck"]
    expected = [box for boxes in corners.values() for box in boxes]
    np.testing.assert_allclose(rows[["x1", "y1", "x2", "y2"]].to_numpy() * [WIDE, HIGH, WIDE, HIGH], expected, atol=0.01)


def test_pictures_that_follow_each_other(tmp_path: Path) -> None:
    root, names = tmp_path / "set", ("f10", "f9", "f8", "f12", "g-1")
    for number, name in enumerate(names):
        picture(root / "images" / "train" / f"{name}.jpg", 30 * number)
    label(root / "labels" / "train" / "f9.txt", CAR)
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [person, car]")
    for clips, lengths in (("images", [1] * 5), ("folders", [5]), ("numbered", [3, 1, 1])):
        import_yolo(root, tmp_path / clips, clips=clips, fps=4, val_share=0.5, progress=False)
        records = read_records(tmp_path / clips)
        assert records.clips["frames"].tolist() == lengths and (records.clips["fps"] == 4).all()
        assert ("val" in set(records.clips["split"])) == (len(lengths) > 1), "val stood for train: some are held out here"
    numbered = read_records(tmp_path / "numbered")
    assert numbered.clip_ids == ["yolo_train_f_000008", "yolo_train_f_000012", "yolo_train_g"]
    assert labels_of(numbered, "yolo_train_f_000008").boxes.frame.tolist() == [1], "9 stands before 10"


def test_outlines_and_poses(folder: Path, tmp_path: Path) -> None:
    label(folder / "labels" / "train" / "a.txt", "1 0.1 0.2 0.5 0.3 0.3 0.9\n1 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n")
    import_yolo(folder, tmp_path / "outlines", progress=False)
    found = read_records(tmp_path / "outlines").boxes[["x1", "y1", "x2", "y2"]].to_numpy()
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.5, 0.9], [0.1, 0.1, 0.4, 0.4]], atol=1e-6)
    label(folder / "labels" / "train" / "a.txt", "0 0.375 0.5 0.25 0.5 0.3 0.3 2 0.4 0.4 1\n")
    (folder / "data.yaml").write_text(DATA + "kpt_shape: [2, 3]\n")
    import_yolo(folder, tmp_path / "poses", progress=False)
    np.testing.assert_allclose(read_records(tmp_path / "poses").boxes[["x1", "y1", "x2", "y2"]].to_numpy(), [BOX], atol=1e-6)


def test_pictures_that_nobody_looked_at(folder: Path, tmp_path: Path) -> None:
    picture(folder / "images" / "test" / "d.jpg")
    (folder / "data.yaml").write_text(DATA + "test: images/test\n")
    import_yolo(folder, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    assert not labels_of(records, "yolo_test_d").boxes_known.any() and records.clip("yolo_test_d")["split"] == "test"
    shutil.rmtree(folder / "labels" / "train")
    with pytest.raises(DatasetError, match=r"labels/train/a\.txt: missing, and so are all labels of train \(2 pictures"):
        import_yolo(folder, tmp_path / "x", progress=False)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels/train/a.txt", "1 0.5 0.5 0.1\n", r"a\.txt: line 1: 4 numbers"),
        ("labels/train/a.txt", CAR + "1 0.5 0.5 0.1 0.1 0.9\n", r"a\.txt: line 2: 6 numbers"),
        ("labels/train/a.txt", "car 0.5 0.5 0.1 0.1\n", r"a\.txt: line 1: .*'car'"),
        ("labels/train/a.txt", "1.5 0.5 0.5 0.1 0.1\n", r"a\.txt: line 1: 1\.5 is no class's number"),
        ("labels/train/a.txt", "1 0.5 nan 0.1 0.1\n", r"a\.txt: line 1: .*not shares of the picture"),
        ("labels/train/a.txt", "1 320 240 64 64\n", r"a\.txt: line 1: .*not shares of the picture, 0\.\.1"),
        ("labels/train/a.txt", "9 0.5 0.5 0.1 0.1\n", r"a\.txt: box 1: class 9, which data\.yaml has no name for"),
        ("images/train/a.jpg", "not a picture", r"a\.jpg: not a readable picture"),
        ("data.yaml", "train: [", r"data\.yaml: not readable YAML"),
        ("data.yaml", "a list", r"data\.yaml: does not name train"),
        ("data.yaml", "train: images/train\nval: images/val\n", r"data\.yaml: names must be a list"),
        ("data.yaml", "train: images/tren\nnames: [car]\n", r"images/tren: missing; .*data\.yaml names it as train"),
        ("data.yaml", "train: 3\nnames: [car]\n", r"data\.yaml: train must be a folder"),
        ("data.yaml", "train: lost.txt\nnames: [car]\n", r"images/train/z\.jpg: missing; .*lost\.txt names it in line 1"),
        ("data.yaml", "names: [car]\n", r"data\.yaml: no pictures in what it names"),
        ("data.yaml", "train: images/train/a.jpg\nnames: [car]\n", "neither a folder of pictures nor a list"),
    ],
)
def test_damage_is_named(file: str, text: str, message: str, folder: Path, tmp_path: Path) -> None:
    (folder / "lost.txt").write_text("./images/train/z.jpg\n")
    (folder / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        import_yolo(folder, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["yolo"], "nothing half-written stays"


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "import", "yolo", str(folder), "--out", str(tmp_path / "out"), "progress=false"]
    assert cli.main([*words, "categories={dog:bicycle}", "height=32", "width=64", "fps=5"]) == 0
    assert "clips: 3" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "out")]) == 0
    assert set(read_records(tmp_path / "out").boxes["category"]) == {"car", "person", "bicycle"}
    assert cli.main([*words[:-2], str(tmp_path / "again"), "fps=0"]) == 2
    assert "fps must be a number above 0" in capsys.readouterr().err


def test_other_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        import_yolo(tmp_path / "nowhere", tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match=r"no data\.yaml"):
        import_yolo(folder / "images", tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match="clips must be one of images, folders, numbered"):
        import_yolo(folder, tmp_path / "out", clips="auto", progress=False)
    with pytest.raises(UsageError, match="val_share"):
        import_yolo(folder, tmp_path / "out", val_share=2, progress=False)
    with pytest.raises(DrivesimError, match="already exists"):
        import_yolo(folder, folder, progress=False)
    picture(folder / "images" / "train" / "a_1.jpg")
    picture(folder / "images" / "train" / "a_01.jpg")
    with pytest.raises(DatasetError, match="two pictures of one clip have the same number"):
        import_yolo(folder, tmp_path / "out", clips="numbered", progress=False)
    export_yolo(write_clips(tmp_path / "clips", [track_of(1, [])]), tmp_path / "ours")
    with pytest.raises(UsageError, match="whose categories are ours already"):
        import_yolo(tmp_path / "ours", tmp_path / "out", categories={"bus": "car"}, progress=False)
