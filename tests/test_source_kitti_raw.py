"""KITTI's raw drives in their true layout, and the projection behind them against closed forms."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources.kitti import import_kitti
from drivesim.datasets.sources.projection import NEAR, corners_of, rotation_of, see
from drivesim.io.records import DatasetError, labels_of, read_records

DAY, DRIVE = "2011_09_26", "2011_09_26_drive_0001_sync"
K = np.array([[100.0, 0, 50], [0, 100, 20], [0, 0, 1]])
POSE = (
    "<item><tx>{x}</tx><ty>{y}</ty><tz>{z}</tz><rx>0</rx><ry>0</ry><rz>{turn}</rz><state>2</state><occlusion>{occlusion}</occlusion>"
    "<occlusion_kf>0</occlusion_kf><truncation>{truncation}</truncation><amt_occlusion>0</amt_occlusion></item>"
)


def pose(x: float, y: float = 0, z: float = -1, turn: float = 0, occlusion: int = 0, truncation: int = 0) -> str:
    return POSE.format(x=x, y=y, z=z, turn=turn, occlusion=occlusion, truncation=truncation)


def tracklet(kind: str, first: int, *poses: str) -> str:
    about = f"<objectType>{kind}</objectType><h>2</h><w>2</w><l>4</l><first_frame>{first}</first_frame>"
    listed = f"<poses><count>{len(poses)}</count><item_version>2</item_version>{''.join(poses)}</poses>"
    return f"<item>{about}{listed}<finished>1</finished></item>"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    drive = root / DAY / DRIVE
    (drive / "oxts" / "data").mkdir(parents=True)
    for name in (DRIVE, "2011_09_26_drive_0002_sync", "2011_09_26_drive_0003_extract"):
        (root / DAY / name / "image_02" / "data").mkdir(parents=True)
        for frame in range(3):
            cv2.imwrite(str(root / DAY / name / "image_02" / "data" / f"{frame:010d}.png"), np.full((40, 100, 3), 90, np.uint8))
    for frame in range(3):
        packet = [0.0] * 8 + [6.0, 8.0] + [0.0] * 12 + [-0.5] + [0.0] * 7
        (drive / "oxts" / "data" / f"{frame:010d}.txt").write_text(" ".join(map(str, packet)) + "\n")
    (root / DAY / "calib_velo_to_cam.txt").write_text("calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\ndelta_f: 0 0\n")
    # the last column moves the camera by 0.5 m: 100 pixels * 0.5 m
    cameras = "calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\nP_rect_02: 100 0 50 50 0 100 20 0 0 0 1 0\n"
    (root / DAY / "calib_cam_to_cam.txt").write_text(cameras)
    items = [
        tracklet("Car", 1, pose(20), pose(30, occlusion=2), pose(9)),
        tracklet("Pedestrian", 0, pose(-10), pose(20, truncation=2), pose(20, turn=np.pi / 2, occlusion=1)),
        tracklet("Misc", 0, pose(20)),
    ]
    head = '<?xml version="1.0" encoding="UTF-8" standalone="yes" ?>\n<!DOCTYPE boost_serialization>\n<boost_serialization><tracklets>'
    listed = f"<count>3</count><item_version>1</item_version>{''.join(items)}</tracklets></boost_serialization>\n"
    (drive / "tracklet_labels.xml").write_text(head + listed)
    return root


def test_tracklets_are_projected(raw: Path, tmp_path: Path) -> None:
    summary = import_kitti(raw, tmp_path / "out", progress=False)
    assert summary["clips"] == 2 and summary["dropped_boxes"] == {"Misc": 1}, "drives that are not rectified are passed over"
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    rows = records.boxes_of(f"kitti_{DRIVE}").reset_index(drop=True)
    assert rows["frame"].tolist() == [1, 2, 2], "behind the camera, out of the picture and after the last frame there is none"
    assert rows["category"].tolist() == ["car", "car", "person"]
    # 20 m ahead, 4 m long: the near face is at 18 m, 2 m wide and 0.5 m to the right, from -1 to +1 m high
    near = [50 + 100 * -0.5 / 18, 20 - 100 / 18, 50 + 100 * 1.5 / 18, 20 + 100 / 18]
    assert rows.loc[0, ["x1", "y1", "x2", "y2"]].tolist() == pytest.approx(np.array(near) / [100, 40, 100, 40], abs=1e-6)
    assert rows["depth_m"][0] == pytest.approx(18)
    assert rows["box3d"][0].tolist() == pytest.approx([0.5, 0, 20, 4, 2, 2, -np.pi / 2]), "it faces ahead: a quarter turn from the right"
    assert rows["ignore"].tolist() == [False, True, False], "fully hidden"
    assert rows["depth_m"][2] == pytest.approx(19), "turned by a right angle it is 2 m deep"
    assert rows["box3d"][2].tolist()[6] == pytest.approx(-np.pi, abs=1e-6) or rows["box3d"][2].tolist()[6] == pytest.approx(np.pi)


def test_what_else_a_raw_drive_tells(raw: Path, tmp_path: Path) -> None:
    import_kitti(raw, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    track = labels_of(records, f"kitti_{DRIVE}")
    assert track.boxes_known.all() and track.values["crowdedness"].tolist() == [0, 1, 1]
    assert track.values["ego_speed_mps"].tolist() == pytest.approx([10] * 3)
    assert track.values["ego_yaw_rate_radps"].tolist() == pytest.approx([-0.5] * 3)
    other = labels_of(records, "kitti_2011_09_26_drive_0002_sync")
    assert not other.boxes_known.any(), "a drive without tracklets: nobody looked"
    assert np.isnan(other.values["ego_speed_mps"]).all()


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("calib_cam_to_cam.txt", r"calib_cam_to_cam\.txt: missing.*2011_09_26_calib\.zip"),
        (f"{DRIVE}/image_02/data/0000000001.png", rf"0000000001\.png: missing.*{DRIVE}\.zip"),
        (f"{DRIVE}/oxts/data/0000000002.txt", rf"0000000002\.txt: missing.*{DRIVE}\.zip"),
    ],
)
def test_what_is_missing_is_named(gone: str, message: str, raw: Path, tmp_path: Path) -> None:
    (raw / DAY / gone).unlink()
    with pytest.raises(DatasetError, match=message):
        import_kitti(raw, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (f"{DRIVE}/tracklet_labels.xml", "<boost_serialization><tracklets>", r"tracklet_labels\.xml.*drive_0001_tracklets\.zip"),
        ("calib_velo_to_cam.txt", "R: 1 2 3\nT: 0 0 0\n", r"calib_velo_to_cam\.txt: no row R of 9 numbers"),
    ],
)
def test_damage_is_named(file: str, text: str, message: str, raw: Path, tmp_path: Path) -> None:
    (raw / DAY / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        import_kitti(raw, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def box_at(x: float, y: float, z: float, size: tuple[float, float, float] = (2, 2, 2)) -> np.ndarray:
    return corners_of(np.array([x, y, z]), size, np.eye(3))


def test_a_cube_ahead_is_its_near_face() -> None:
    seen = see(box_at(0, 0, 11), K, 40, 100)
    assert seen is not None
    assert seen.xyxy == pytest.approx((0.4, 0.25, 0.6, 0.75)) and seen.share == 1 and seen.depth_m == pytest.approx(10)


def test_half_a_face_outside_leaves_half_of_it() -> None:
    flat = see(box_at(-5, 0, 10, (2, 2, 1e-9)), K, 40, 100)
    assert flat is not None
    assert flat.xyxy == pytest.approx((0, 0.25, 0.1, 0.75), abs=1e-6) and flat.share == pytest.approx(0.5, abs=1e-5)


def test_the_hull_is_cut_and_not_its_bounding_box() -> None:
    """A long box from the middle to beyond the left border: its far end is low, and the part inside the picture is lower than the whole."""
    seen = see(box_at(-3, 0, 6, (1, 2, 10)), K, 40, 100)
    assert seen is not None and seen.xyxy[0] == 0
    # its inner side lies at x = -2.5 and meets the left border, 50 pixels from the centre, at z = 5: 100 / 5 = 20 pixels above and below
    assert seen.xyxy[1::2] == pytest.approx((0, 1), abs=1e-6)
    narrow = see(box_at(-3, 0, 6, (1, 1, 10)), K, 40, 100)
    assert narrow is not None and narrow.xyxy[1::2] == pytest.approx((0.25, 0.75), abs=1e-6), "half as high a box: 10 pixels there"


def test_what_is_behind_the_camera_is_cut_off() -> None:
    assert see(box_at(0, 0, -5), K, 40, 100) is None
    around = see(box_at(0, 0, 0), K, 40, 100)
    assert around is not None and around.xyxy == (0, 0, 1, 1) and around.depth_m == pytest.approx(NEAR) and around.share < 0.01
    assert see(box_at(100, 0, 10), K, 40, 100) is None


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.5])
def test_rotation_of_a_quaternion(angle: float) -> None:
    turned = rotation_of([3 * np.cos(angle / 2), 0, 0, 3 * np.sin(angle / 2)]) @ [1, 0, 0]
    assert turned == pytest.approx([np.cos(angle), np.sin(angle), 0])
