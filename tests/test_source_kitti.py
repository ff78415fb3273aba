"""KITTI in its true layout, written by the tests: numbers land where the readme says they do, and what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources.kitti import import_kitti
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError, labels_of, read_records
from drivesim.io.video import probe, read_frames

HIGH, WIDE = 75, 200  # odd, as some of KITTI's are
PACKET = [49.0, 8.4, 112.0, 0.0, 0.0, 1.5, 1.0, 2.0, 3.0, 4.0, 0.1] + [0.0] * 11 + [0.25] + [0.0] * 2 + [4, 9, 4, 4, 0]
P2 = "100 0 101 4.5 0 110 37 0.2 0 0 1 0.003"


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((HIGH, WIDE, 3), (value, 40, 200), np.uint8))  # BGR


def row(frame: int, track: int, kind: str, truncated: int, occluded: int, box: str, place: str = "1.5 2 4 1 1.6 20 0") -> str:
    return f"{frame} {track} {kind} {truncated} {occluded} -1.57 {box} {place}"


LABELS = "\n".join(
    [
        row(0, -1, "DontCare", -1, -1, "10 10 30 20", "-1000 -1000 -1000 -10 -1 -1 -1"),
        row(1, 0, "Car", 0, 0, "50 15 100 45"),
        row(0, 0, "Car", 1, 1, "-10 15 40 60", "1.5 2 4 -5 1.6 10 1.5707963267948966"),
        row(1, 4, "Cyclist", 0, 2, "120 20 140 60"),
        row(1, 5, "Tram", 0, 3, "0 0 60 60"),
        row(2, 6, "Van", 0, 3, "150 30 160 33"),
    ]
)


@pytest.fixture
def tracking(tmp_path: Path) -> Path:
    root = tmp_path / "kitti"
    for part, name in (("training", "0000"), ("training", "0001"), ("testing", "0000")):
        for frame in range(3):
            picture(root / part / "image_02" / name / f"{frame:06d}.png", 60 * frame)
    files = {"label_02": LABELS, "oxts": "\n".join([" ".join(map(str, PACKET))] * 3)}
    files["calib"] = f"P0: {P2}\nP2: {P2}\nR_rect 1 0 0 0 1 0 0 0 1\nTr_velo_cam 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
    for folder, text in files.items():
        (root / "training" / folder).mkdir()
        for name in ("0000", "0001"):
            (root / "training" / folder / f"{name}.txt").write_text(text)
    (root / "training" / "label_02" / "0001.txt").write_text("")
    return root


def test_boxes_are_where_the_file_says(tracking: Path, tmp_path: Path) -> None:
    summary = import_kitti(tracking, tmp_path / "out", progress=False)
    assert summary["clips"] == 3 and summary["frames"] == 9
    assert summary["dropped_boxes"] == {"DontCare": 1, "Tram": 1}
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    rows = records.boxes_of("kitti_training_0000").reset_index(drop=True)
    assert rows["frame"].tolist() == [0, 1, 1, 2]
    assert rows["category"].tolist() == ["car", "car", "bicycle", "car"]
    assert rows["track_id"].tolist() == [0, 0, 4, 6]
    high = HIGH - 1  # the odd row is gone
    assert rows.loc[1, ["x1", "y1", "x2", "y2"]].tolist() == pytest.approx([50 / WIDE, 15 / high, 100 / WIDE, 45 / high])
    assert rows.loc[0, ["x1", "x2"]].tolist() == pytest.approx([0, 40 / WIDE]), "cut at the picture's border"
    assert rows["truncated"].tolist() == [True, False, False, False]
    assert rows["occlusion"].tolist()[:3] == pytest.approx([0.3, 0, 0.7]) and np.isnan(rows["occlusion"][3])
    assert rows["ignore"].tolist() == [False, False, False, True], "3 pixels of 74 are too low"
    assert rows["box3d"][1].tolist() == pytest.approx([1, 1.6 - 0.75, 20, 4, 2, 1.5, 0])
    assert rows["depth_m"].tolist()[:2] == pytest.approx([10 - 2, 20 - 1]), "turned by a right angle the length lies along the axis"


def test_labels_of_the_drive(tracking: Path, tmp_path: Path) -> None:
    import_kitti(tracking, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    track = labels_of(records, "kitti_training_0000")
    assert track.fps == 10 and track.boxes_known.all()
    assert (track.values["time_of_day"] == 0).all()
    assert track.values["crowdedness"].tolist() == [1, 1, 1]
    assert track.values["ego_speed_mps"].tolist() == pytest.approx([5] * 3), "3 m/s ahead and 4 m/s across"
    assert track.values["ego_yaw_rate_radps"].tolist() == pytest.approx([0.25] * 3)
    empty = labels_of(records, "kitti_training_0001")
    assert empty.boxes_known.all() and not len(empty.boxes), "labelled, and nothing there"
    test = labels_of(records, "kitti_testing_0000")
    assert not test.boxes_known.any() and np.isnan(test.values["crowdedness"]).all() and np.isnan(test.values["ego_speed_mps"]).all()
    assert records.clip("kitti_testing_0000")["split"] == "test"
    assert sorted(records.clips["split"]) == ["test", "train", "val"]
    camera = json.loads(records.clip("kitti_training_0000")["camera"])
    assert camera == {"model": "pinhole", "fx": 100, "fy": 110, "cx": 101, "cy": 37}
    header = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert header["category_mapping"]["Van"] == "car" and header["category_mapping"]["DontCare"] is None
    assert set(header["fills"]) >= {"boxes", "ego_speed_mps"}


def test_what_a_label_does_not_say_stays_unknown(tracking: Path, tmp_path: Path) -> None:
    (tracking / "training" / "label_02" / "0000.txt").write_text(row(0, 1, "Car", -1, -1, "50 15 100 45", "-1 -1 -1 -1000 -1000 -1000 -10"))
    import_kitti(tracking, tmp_path / "out", progress=False)
    box = read_records(tmp_path / "out").boxes_of("kitti_training_0000").iloc[0]
    assert box[["occlusion", "truncated", "depth_m", "box3d"]].isna().all()


def test_pictures_stream_in_order_and_colour(tracking: Path, tmp_path: Path) -> None:
    import_kitti(tracking, tmp_path / "out", progress=False)
    path = read_records(tmp_path / "out").video_path("kitti_training_0000")
    info = probe(path)
    assert (info.fps, info.frames, info.height, info.width) == (10, 3, 74, 200)
    frames = read_frames(path, indices=[0, 1, 2])
    for frame, picture_rgb in enumerate(frames):
        assert np.abs(picture_rgb[30, 100].astype(int) - [200, 40, 60 * frame]).max() <= 6


def test_fitting_moves_boxes_and_camera_along(tracking: Path, tmp_path: Path) -> None:
    import_kitti(tracking, tmp_path / "out", height=32, width=48, progress=False)
    records = read_records(tmp_path / "out")
    assert check_dataset(tmp_path / "out")["faults"] == 0
    rows = records.boxes_of("kitti_training_0000")
    left, wide = 44, 111  # the centre crop of 74 x 200 with the aspect of 32 x 48
    car = rows[(rows["frame"] == 1) & (rows["category"] == "car")].iloc[0]
    assert [car["x1"], car["y1"]] == pytest.approx([(50 - left) / wide, 15 / 74])
    assert car["box3d"].tolist()[2] == 20, "further columns stay with their box"
    assert not len(rows[(rows["frame"] == 0)]), "the car at the left border is cropped away, and its columns with it"
    camera = json.loads(records.clip("kitti_training_0000")["camera"])
    assert [camera["fx"], camera["cx"]] == pytest.approx([100 * 48 / wide, (101 - left) * 48 / wide])


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("training/image_02", r"image_02: missing.*data_tracking_image_2\.zip"),
        ("training/image_02/0000/000001.png", r"000001\.png: missing.*data_tracking_image_2\.zip"),
        ("training/image_02/0000/000002.png", r"000002\.png: missing, but 0000\.txt has labels.*data_tracking_image_2\.zip"),
        ("training/label_02/0001.txt", r"label_02/0001\.txt: missing.*data_tracking_label_2\.zip"),
    ],
)
def test_what_is_missing_is_named(gone: str, message: str, tracking: Path, tmp_path: Path) -> None:
    (tracking / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=message):
        import_kitti(tracking, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("label_02/0000.txt", "0 1 Car 0 0 1 2 3\n", r"0000\.txt: line 1: 8 columns"),
        ("label_02/0000.txt", "\n" + row(0, 1, "Car", 0, 0, "1 2 nan 4"), r"0000\.txt: line 1: .*not finite"),
        ("label_02/0000.txt", row(0, 1, "Car", 0, 0, "1 2 x 4"), r"0000\.txt: line 1: .*'x'"),
        ("oxts/0000.txt", "1 2 3\n" * 3, "30"),
        ("oxts/0000.txt", " ".join(map(str, PACKET)), "1 rows for 3 pictures"),
        ("calib/0000.txt", "P2: 1 2 3\n", "no row P2"),
        ("image_02/0000/000001.png", "not a picture", r"000001\.png: not a readable picture"),
    ],
)
def test_damage_is_named(file: str, text: str, message: str, tracking: Path, tmp_path: Path) -> None:
    (tracking / "training" / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        import_kitti(tracking, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["kitti"], "nothing half-written stays"


def test_command(tracking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["data", "import", "kitti", str(tracking), "--out", out, "progress=false"]) == 0
    assert "clips: 3" in capsys.readouterr().out
    (tracking / "training" / "label_02" / "0000.txt").unlink()
    assert cli.main(["data", "import", "kitti", str(tracking), "--out", out + "2", "progress=false"]) == 1
    assert "data_tracking_label_2.zip" in capsys.readouterr().err


def test_other_bad_input(tracking: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither training/"):
        import_kitti(tmp_path, tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match="both height and width"):
        import_kitti(tracking, tmp_path / "out", height=32, progress=False)
    with pytest.raises(UsageError, match="val_share"):
        import_kitti(tracking, tmp_path / "out", val_share=2, progress=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("42")
    with pytest.raises(DrivesimError, match="already exists"):
        import_kitti(tracking, tmp_path / "out", progress=False)
