"""nuScenes in its true layout, written by the tests: a box at a known place is seen at known pixels, through every pose of the chain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources.nuscenes import import_nuscenes
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, DatasetRecords, labels_of, read_records

HIGH, WIDE, FOCAL, SPEED = 36, 64, 50, 6.0
TICKS = [0, 2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20, 22]  # twentieths of a second: 12 pictures a second of a laser's 20 turns
NORTH = [np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)]  # a quarter turn to the left: facing the map's y
FORWARD = [0.5, -0.5, 0.5, -0.5]  # camera axes (right, down, ahead) in the car's (ahead, left, up)


def annotation(number: int, sample: str, instance: str, place: list[float], size: list[float], **more: Any) -> dict[str, Any]:
    row = {"token": f"a{number}", "sample_token": sample, "instance_token": instance, "translation": place, "size": size}
    told = {"rotation": NORTH, "visibility_token": "4", "attribute_tokens": [], "num_lidar_pts": 9, "num_radar_pts": 0}
    return {**row, **told, "prev": "", "next": "", **more}


def tables() -> dict[str, list[dict[str, Any]]]:
    """Two scenes of two logs; the car drives north from (100, 50). Pictures of the second scene are not on the disk."""
    found: dict[str, list[dict[str, Any]]] = {"sample": [], "sample_data": [], "ego_pose": []}
    words = ["Night, heavy rain, parked cars", "Wait at intersection after rain, train"]
    logs = [{"token": f"log{n}", "logfile": f"n{n}", "vehicle": "n015", "date_captured": "2018-07-24", "location": "x"} for n in (0, 1)]
    scenes = [{"token": f"s{n}", "name": f"scene-000{n}", "description": words[n], "log_token": f"log{n}"} for n in (0, 1)]
    for scene in (0, 1):
        for number in range(3):
            found["sample"].append({"token": f"k{scene}{number}", "timestamp": number * 500_000, "scene_token": f"s{scene}"})
        for index, tick in enumerate(TICKS):
            key, name, time = index % 6 == 0, f"{scene}_{index}", tick * 50_000
            place = [100.0, 50 + SPEED * time / 1e6, 0.0]
            found["ego_pose"].append({"token": f"e{name}", "timestamp": time, "rotation": NORTH, "translation": place})
            sample = f"k{scene}{min(2, -(-index // 6))}"
            row = {"token": f"d{name}", "sample_token": sample, "ego_pose_token": f"e{name}", "is_key_frame": key}
            row |= {"timestamp": time, "fileformat": "jpg", "width": WIDE, "height": HIGH, "calibrated_sensor_token": "front"}
            folder = "samples" if key else "sweeps"
            found["sample_data"].append({**row, "filename": f"{folder}/CAM_FRONT/n{scene}__CAM_FRONT__{time:010d}.jpg"})
            found["sample_data"].append({**row, "token": f"b{name}", "calibrated_sensor_token": "back", "filename": "x/y.jpg"})
    intrinsic = [[FOCAL, 0, WIDE / 2], [0, FOCAL, HIGH / 2], [0, 0, 1]]
    sensors = [{"token": name, "channel": channel, "modality": "camera"} for name, channel in (("f", "CAM_FRONT"), ("b", "CAM_BACK"))]
    calibrated = {"translation": [1.5, 0, 1.5], "rotation": FORWARD, "camera_intrinsic": intrinsic}
    cameras = [{"token": "front", "sensor_token": "f", **calibrated}, {"token": "back", "sensor_token": "b", **calibrated}]
    kinds = ["vehicle.car", "human.pedestrian.adult", "movable_object.trafficcone", "vehicle.construction"]
    categories = [{"token": f"c{n}", "name": name, "description": ""} for n, name in enumerate(kinds)]
    instances = [{"token": f"i{n}", "category_token": f"c{n}"} for n in range(4)]
    boxes = [
        annotation(0, "k00", "i0", [100, 71.5, 1.5], [2, 4, 2]),  # 20 m before the camera, on its axis
        annotation(1, "k00", "i1", [97, 61.5, 1.5], [1, 1, 2], visibility_token="1"),  # west is left
        annotation(2, "k00", "i2", [100, 71.5, 1.5], [2, 4, 2]),
        annotation(3, "k00", "i3", [100, 21.5, 1.5], [2, 4, 2]),  # behind
        annotation(4, "k01", "i0", [100, 74.5, 1.5], [2, 4, 2], num_lidar_pts=0),  # the car has driven 3 m
        annotation(5, "k01", "i3", [100, 84.5, 1.5], [2, 4, 2], rotation=[1, 0, 0, 0], visibility_token=""),
    ]
    known = {"scene": scenes, "log": logs, "sensor": sensors, "calibrated_sensor": cameras, "category": categories, "instance": instances}
    return {**found, **known, "sample_annotation": boxes}


def write(root: Path, version: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    (root / version).mkdir(parents=True)
    for name, table in rows.items():
        (root / version / f"{name}.json").write_text(json.dumps(table))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nuscenes")
    rows = tables()
    write(root, "v1.0-mini", rows)
    for row in rows["sample_data"]:
        if row["token"].startswith("d0"):
            (root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / row["filename"]), np.full((HIGH, WIDE, 3), 80, np.uint8))
    return root


@pytest.fixture(scope="module")
def records(release: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetRecords:
    out = tmp_path_factory.mktemp("clips") / "out"
    summary = import_nuscenes(release, out, progress=False)
    assert summary["clips"] == 1 and summary["frames"] == len(TICKS)
    assert summary["dropped_boxes"] == {"movable_object.trafficcone": 1}
    assert "v1.0-mini.tgz" in summary["left_out"]["scene-0001"], "none of its pictures is there"
    return read_records(out)


def test_boxes_are_seen_at_known_pixels(records: DatasetRecords) -> None:
    rows = records.boxes_of("nuscenes_scene-0000").reset_index(drop=True)
    assert rows["frame"].tolist() == [0, 0, 6, 6], "keyframes only, and nothing of what is behind"
    assert rows["category"].tolist() == ["car", "person", "car", "truck"]
    half = FOCAL / 18  # a metre to each side at the near face, 18 m ahead
    middle, size = np.array([WIDE / 2, HIGH / 2] * 2), np.array([WIDE, HIGH] * 2)
    for row in (0, 2):
        seen = rows.loc[row, ["x1", "y1", "x2", "y2"]].to_numpy(float)
        assert seen == pytest.approx((middle + np.array([-half, -half, half, half])) / size, abs=1e-6), "it keeps its distance"
    # 10 m ahead and 3 m to the left, a metre deep and wide: from 3.5 m at 9.5 m to 2.5 m at 10.5 m, cut at nothing
    assert rows.loc[1, ["x1", "x2"]].tolist() == pytest.approx([0.5 - FOCAL * 3.5 / 9.5 / WIDE, 0.5 - FOCAL * 2.5 / 10.5 / WIDE], abs=1e-6)
    assert rows["track_id"][0] == rows["track_id"][2] and rows["track_id"].nunique() == 3


def test_further_columns_of_boxes(records: DatasetRecords) -> None:
    rows = records.boxes_of("nuscenes_scene-0000").reset_index(drop=True)
    assert rows["depth_m"].tolist() == pytest.approx([18, 9.5, 18, 29]), "the last one stands across: a metre from its middle to its side"
    assert rows["box3d"][0].tolist() == pytest.approx([0, 0, 20, 4, 2, 2, -np.pi / 2], abs=1e-9), "facing ahead"
    assert rows["box3d"][3].tolist() == pytest.approx([0, 0, 30, 4, 2, 2, 0], abs=1e-9), "facing east, our right"
    assert rows["occlusion"].tolist()[:2] == pytest.approx([0.1, 0.8]) and np.isnan(rows["occlusion"][3])
    assert rows["ignore"].tolist() == [False, True, True, True], "hidden, without a laser point, and unlike a truck"
    assert not rows["truncated"].any()


def test_what_is_said_of_frames_and_clip(records: DatasetRecords) -> None:
    assert check_dataset(records.root)["faults"] == 0
    track = labels_of(records, "nuscenes_scene-0000")
    assert track.fps == 12 and np.flatnonzero(track.boxes_known).tolist() == [0, 6, 12]
    assert track.values["crowdedness"][[0, 6, 12]].tolist() == [1, 2, 0] and np.isnan(track.values["crowdedness"][1])
    assert track.values["ego_speed_mps"] == pytest.approx(np.full(len(TICKS), SPEED), rel=1e-5)
    assert track.values["ego_yaw_rate_radps"] == pytest.approx(np.zeros(len(TICKS)), abs=1e-6)
    clip = records.clip("nuscenes_scene-0000")
    assert clip["time_of_day"] == "night" and clip["source"] == "scene-0000"
    camera = json.loads(clip["camera"])
    assert camera == {"model": "pinhole", "fx": FOCAL, "fy": FOCAL, "cx": WIDE / 2, "cy": HIGH / 2, "height_m": 1.5}
    frames = records.frames_of("nuscenes_scene-0000")
    assert frames["weather"].tolist() == ["rain"] * len(TICKS)
    assert frames["ego_pose"].iloc[6].tolist() == pytest.approx([100, 53, 0, *NORTH])


def changed(release: Path, root: Path, **rows: Any) -> Path:
    """A copy of the release with other tables."""
    shutil.copytree(release, root)
    for name, table in rows.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table))
    return root


def test_turning_gaps_and_a_release_without_annotations(release: Path, tmp_path: Path) -> None:
    rows = tables()
    for index, pose in enumerate(rows["ego_pose"][: len(TICKS)]):
        angle = 0.2 * TICKS[index] * 0.05 + np.pi - 0.05  # to the left, across the jump from pi to -pi
        pose["rotation"] = [np.cos(angle / 2), 0, 0, np.sin(angle / 2)]
    for row in rows["sample_data"]:
        row["timestamp"] += 10_000_000 if row["timestamp"] > 20 * 50_000 else 0  # the last picture comes late
    scenes = [{**rows["scene"][0], "description": "Parked cars after rain"}, rows["scene"][1]]
    root = changed(release, tmp_path / "x", ego_pose=rows["ego_pose"], sample_data=rows["sample_data"], sample_annotation=[], scene=scenes)
    summary = import_nuscenes(root, tmp_path / "out", progress=False)
    assert summary["frames"] == len(TICKS) - 1 and "scene-0000, piece 1" in summary["left_out"]
    records = read_records(tmp_path / "out")
    track = labels_of(records, "nuscenes_scene-0000")
    assert track.values["ego_yaw_rate_radps"] == pytest.approx(np.full(len(TICKS) - 1, 0.2), rel=1e-4)
    assert not track.boxes_known.any() and (track.values["time_of_day"] == 0).all()
    assert records.frames_of("nuscenes_scene-0000")["weather"].isna().all()


def test_what_is_missing_is_named(release: Path, tmp_path: Path) -> None:
    root = changed(release, tmp_path / "x")
    next((root / "sweeps" / "CAM_FRONT").glob("*.jpg")).unlink()
    with pytest.raises(DatasetError, match=r"sweeps/CAM_FRONT/n0__.*jpg: missing.*v1\.0-mini\.tgz"):
        import_nuscenes(root, tmp_path / "out", progress=False)
    (root / "v1.0-mini" / "ego_pose.json").unlink()
    with pytest.raises(DatasetError, match=r"ego_pose\.json: missing.*v1\.0-mini\.tgz"):
        import_nuscenes(root, tmp_path / "out", progress=False)
    (root / "v1.0-mini" / "ego_pose.json").write_text("[{")
    with pytest.raises(DatasetError, match=r"ego_pose\.json: not readable JSON"):
        import_nuscenes(root, tmp_path / "out", progress=False)
    (root / "v1.0-mini" / "ego_pose.json").write_text('[{"timestamp": 0}]')
    with pytest.raises(DatasetError, match=r"v1\.0-mini: a row lacks or misses 'token'"):
        import_nuscenes(root, tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match=r"v1\.0-mini\.tgz"):
        import_nuscenes(tmp_path, tmp_path / "out", progress=False)
    with pytest.raises(UsageError, match="version must be one of"):
        import_nuscenes(root, tmp_path / "out", "mini", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("table", "column", "target"),
    [
        ("scene", "log_token", "log"), ("sample", "scene_token", "scene"), ("sample_data", "sample_token", "sample"),
        ("sample_data", "ego_pose_token", "ego_pose"), ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
        ("calibrated_sensor", "sensor_token", "sensor"), ("instance", "category_token", "category"),
        ("sample_annotation", "sample_token", "sample"), ("sample_annotation", "instance_token", "instance"),
    ],
)  # fmt: skip
def test_tables_of_different_downloads_are_told_apart(table: str, column: str, target: str, release: Path, tmp_path: Path) -> None:
    rows = tables()[table]
    root = changed(release, tmp_path / "x", **{table: [*rows[:-1], {**rows[-1], column: "of another world"}]})
    message = rf"{table}\.json: row '{rows[-1]['token']}': no row of {target}\.json has its {column} 'of another world'.*v1\.0-mini\.tgz"
    with pytest.raises(DatasetError, match=message):
        import_nuscenes(root, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_rows_that_cannot_be_are_named(release: Path, tmp_path: Path) -> None:
    twice = changed(release, tmp_path / "x", log=[*tables()["log"], tables()["log"][0]])
    with pytest.raises(DatasetError, match=r"log\.json: token 'log0' stands in 2 rows"):
        import_nuscenes(twice, tmp_path / "out", progress=False)
    cameras = [{**row, "camera_intrinsic": []} for row in tables()["calibrated_sensor"]]
    with pytest.raises(DatasetError, match=r"v1\.0-mini: scene-0000: a row of it holds what cannot be"):
        import_nuscenes(changed(release, tmp_path / "y", calibrated_sensor=cameras), tmp_path / "out", progress=False)


def test_command(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["height=32", "width=64", "progress=false"]
    assert cli.main(["data", "import", "nuscenes", str(release), "--out", str(tmp_path / "out"), *words]) == 0
    assert "clips: 1" in capsys.readouterr().out
    assert check_dataset(tmp_path / "out")["faults"] == 0
