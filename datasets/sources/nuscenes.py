"""nuScenes, front camera -> a clip dataset at 12 frames a second; its 3-D boxes are projected into the picture.

Layout, from the devkit's schema (docs/schema_nuscenes.md): ``v1.0-{mini,trainval,test}/TABLE.json`` beside ``samples/CAM_FRONT/*.jpg``
(keyframes, 2 a second) and ``sweeps/CAM_FRONT/*.jpg`` (the frames between). Tables are lists of rows that refer to each other by token.
Chain of a box: annotation (global axes) -> ego pose at the picture's own time -> calibrated camera -> ``camera_intrinsic``.

Quirks:
- Only keyframes are labelled: frames between have ``boxes_known`` false. A label tells of the laser's time, some 10 ms from the picture's.
- The camera is triggered by the laser, at 12 of its 20 turns a second: pictures are 50 or 100 ms apart, and are taken for a steady 12 a
  second. Where pictures are missing (a longer gap) a new clip begins; pieces under a second are left out and told of.
- Objects behind others are labelled, too. ``visibility`` is the share seen in all six cameras in four steps; their middles are taken.
  Boxes without a laser or radar return, below 40% visible or with less than 30% inside the picture are marked ignore.
- Day, night and rain stand in the scene's description, in free words: "night" anywhere is night, else it is day.
- There is no split in the release: whole logs are held out, so that no drive is on both sides. ``v1.0-test`` has no annotations.
- Ego speed and turn rate follow from neighbouring ego poses, which are localised in the plane. Pictures are rectified.
- Tables are read whole, as the devkit does: those of v1.0-trainval take some GB of memory.
- The ten parts of v1.0-trainval hold whole scenes; scenes of parts that are not there are left out and told of.

This file knows the layout. It does not know how clips are written (``releases``) or what a camera sees (``projection``).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError

from .projection import corners_of, rotation_of, see
from .release_files import needed, pictures, read_json
from .releases import Box, Kind, Recording, Release, held_out, labelled, write_release

__all__ = ["FILLS", "MAPPING", "VERSIONS", "import_nuscenes"]

FPS, CHANNEL, GAP_S, SHORTEST = 12.0, "CAM_FRONT", 0.14, 12
VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
TABLES = ("scene", "sample", "sample_data", "sample_annotation", "instance", "category", "calibrated_sensor", "ego_pose", "sensor", "log")
HIDDEN = {"1": 0.8, "2": 0.5, "3": 0.3, "4": 0.1}
LEAST_SHARE = 0.3
REFERENCES = {
    "scene": {"log_token": "log"}, "sample": {"scene_token": "scene"}, "instance": {"category_token": "category"},
    "sample_data": {"sample_token": "sample", "ego_pose_token": "ego_pose", "calibrated_sensor_token": "calibrated_sensor"},
    "sample_annotation": {"sample_token": "sample", "instance_token": "instance"}, "calibrated_sensor": {"sensor_token": "sensor"},
}  # fmt: skip
"""Table -> its column that holds tokens -> the table that those are rows of."""
MAPPING: dict[str, Kind | None] = {
    "vehicle.car": Kind("car"), "vehicle.truck": Kind("truck"), "vehicle.bus.bendy": Kind("bus"), "vehicle.bus.rigid": Kind("bus"),
    "vehicle.motorcycle": Kind("motorcycle"), "vehicle.bicycle": Kind("bicycle"), "vehicle.emergency.police": Kind("car"),
    "vehicle.emergency.ambulance": Kind("truck", ignore=True), "vehicle.construction": Kind("truck", ignore=True), "vehicle.trailer": None,
    "human.pedestrian.adult": Kind("person"), "human.pedestrian.child": Kind("person"), "human.pedestrian.police_officer": Kind("person"),
    "human.pedestrian.construction_worker": Kind("person"), "human.pedestrian.wheelchair": Kind("person", ignore=True),
    "human.pedestrian.personal_mobility": Kind("person", ignore=True), "human.pedestrian.stroller": None, "animal": None,
    "movable_object.barrier": None, "movable_object.debris": None, "movable_object.pushable_pullable": None,
    "movable_object.trafficcone": None, "static_object.bicycle_rack": None,
}  # fmt: skip
FILLS = {
    "time_of_day": "the scene's description",
    "weather": "rain, where the description says so",
    "crowdedness": "counted from the boxes of keyframes",
    "ego_speed_mps": "from ego poses",
    "ego_yaw_rate_radps": "from ego poses",
    "ego_pose": "x, y, z in the map's metres, then the orientation w, x, y, z",
    "boxes": "human 3-D labels, projected; occlusion in four steps, truncated, depth_m, box3d",
    "camera": "calibrated_sensor",
}
Row = Mapping[str, Any]


def import_nuscenes(
    source: str | Path, out: str | Path, version: str | None = None, height: int | None = None, width: int | None = None,
    val_share: float = 0.1, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Turn ``source`` (the folder that holds ``v1.0-...``, ``samples`` and ``sweeps``) into a clip dataset at ``out``.

    version: v1.0-trainval | v1.0-mini | v1.0-test; None = the first of them that is there.   height, width: centre crop and area resize.
    val_share: share of the logs whose scenes are marked "val".

    Returns:
        {"clips", "frames", "dropped_boxes": {category: count}, "left_out": {scene: reason}, "out"}.

    Raises:
        UsageError: a bad argument, or no nuScenes folder.   DatasetError: an incomplete or damaged download; names file and archive.
        DrivesimError: ``out`` exists or cannot be written.
    """
    root = Path(source)
    if version is not None and version not in VERSIONS:
        raise UsageError(f"version must be one of {', '.join(VERSIONS)}, not {version!r}")
    version = version or next((name for name in VERSIONS if (root / name).is_dir()), None)
    if version is None:
        raise UsageError(f"{root}: none of {', '.join(VERSIONS)} in it; extract v1.0-mini.tgz, or v1.0-trainval_meta.tgz and blobs, here")
    release = Release("nuscenes", MAPPING, FILLS, "CC BY-NC-SA 4.0 (nuScenes terms of use)")
    return write_release(out, release, _Tables(root, version, release).recordings(val_share), height, width, progress)


class _Tables:
    """The release's tables, joined as far as the front camera needs them."""

    def __init__(self, root: Path, version: str, release: Release) -> None:
        self.root, self.version, self.release = root, version, release
        self.meta = f"{version}.tgz" if version.endswith("mini") else f"{version}_meta.tgz"
        self.blobs = {"v1.0-mini": "v1.0-mini.tgz", "v1.0-test": "v1.0-test_blobs.tgz"}.get(version, "v1.0-trainval01_blobs.tgz to 10")
        rows = {name: read_json(root / version / f"{name}.json", self.meta) for name in TABLES}
        try:
            self._check(rows)
            self._join(rows)
        except (AttributeError, KeyError, TypeError) as error:
            raise self._damaged(f"a row lacks or misses {error}") from error

    def _damaged(self, what: str, table: str | None = None) -> DatasetError:
        where = self.root / self.version / (f"{table}.json" if table else "")
        return DatasetError(f"{where}: {what}; the tables do not belong together: extract {self.meta} again")

    def _check(self, rows: Mapping[str, Sequence[Row]]) -> None:
        """Refuse tables in which a token stands twice, or refers to a row that is not there."""
        tokens = {name: {row["token"] for row in table} for name, table in rows.items()}
        for name, table in rows.items():
            if len(tokens[name]) < len(table):
                token, times = Counter(row["token"] for row in table).most_common(1)[0]
                raise self._damaged(f"token {token!r} stands in {times} rows", name)
            for column, target in REFERENCES.get(name, {}).items():
                lost = next((row for row in table if row[column] not in tokens[target]), None)
                if lost is not None:
                    raise self._damaged(f"row {lost['token']!r}: no row of {target}.json has its {column} {lost[column]!r}", name)

    def _join(self, rows: Mapping[str, Sequence[Row]]) -> None:
        by = {name: {row["token"]: row for row in rows[name]} for name in TABLES if name not in ("sample_data", "sample_annotation")}
        self.scenes, self.poses, self.cameras = rows["scene"], by["ego_pose"], by["calibrated_sensor"]
        kinds = {token: by["category"][row["category_token"]]["name"] for token, row in by["instance"].items()}
        front = {row["token"] for row in rows["calibrated_sensor"] if by["sensor"][row["sensor_token"]]["channel"] == CHANNEL}
        self.frames: dict[str, list[Row]] = defaultdict(list)
        for row in rows["sample_data"]:
            if row["calibrated_sensor_token"] in front:
                self.frames[by["sample"][row["sample_token"]]["scene_token"]].append(row)
        self.annotations: dict[str, list[tuple[str, Row]]] = defaultdict(list)
        for row in rows["sample_annotation"]:
            self.annotations[row["sample_token"]].append((kinds[row["instance_token"]], row))

    def recordings(self, val_share: float) -> Iterator[Recording]:
        """Every scene, in the release's order; more than one clip of it where pictures are missing."""
        val = held_out([scene["log_token"] for scene in self.scenes], val_share)
        for scene in self.scenes:
            split = "test" if self.version == "v1.0-test" else "val" if scene["log_token"] in val else "train"
            frames = sorted(self.frames[scene["token"]], key=lambda row: row["timestamp"])
            if not any((self.root / row["filename"]).exists() for row in frames):
                self.release.left_out[scene["name"]] = f"its pictures are not here; they come in {self.blobs}"
                continue
            for row in frames:
                needed(self.root / row["filename"], self.blobs)
            breaks = np.flatnonzero(np.diff([row["timestamp"] for row in frames]) > GAP_S * 1e6) + 1
            for number, part in enumerate(np.split(np.arange(len(frames)), breaks)):
                if len(part) >= SHORTEST:
                    yield self._sound(scene, [frames[index] for index in part], split, number)
                else:
                    self.release.left_out[f"{scene['name']}, piece {number}"] = f"{len(part)} pictures between gaps are under a second"

    def _sound(self, scene: Row, frames: Sequence[Row], split: str, number: int) -> Recording:
        try:
            return self._recording(scene, frames, split, number)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"{scene['name']}: a row of it holds what cannot be ({type(error).__name__}: {error})") from error

    def _recording(self, scene: Row, frames: Sequence[Row], split: str, number: int) -> Recording:
        size, camera = (int(frames[0]["height"]), int(frames[0]["width"])), self.cameras[frames[0]["calibrated_sensor_token"]]
        poses = [self.poses[row["ego_pose_token"]] for row in frames]
        known = np.array([bool(row["is_key_frame"]) and bool(self.annotations) for row in frames])
        ids: dict[str, int] = {}
        boxes = [box for frame in np.flatnonzero(known).tolist() for box in self._boxes(frame, frames[frame], poses[frame], ids)]
        speed, turn = _motion(poses, np.array([row["timestamp"] for row in frames]) / 1e6)
        words = scene["description"].lower()
        values = {"time_of_day": "night" if "night" in words else "day", "ego_speed_mps": speed, "ego_yaw_rate_radps": turn}
        track, columns = labelled(len(frames), FPS, boxes, known, values)
        rain = re.search(r"\brain(y|ing)?\b", words) and "after rain" not in words
        more: dict[str, Any] = {"ego_pose": [[*pose["translation"], *pose["rotation"]] for pose in poses]}
        more |= {"weather": ["rain"] * len(frames)} if rain else {}
        k = camera["camera_intrinsic"]
        seen = {"model": "pinhole", "fx": k[0][0], "fy": k[1][1], "cx": k[0][2], "cy": k[1][2], "height_m": camera["translation"][2]}
        read = partial(pictures, [self.root / row["filename"] for row in frames], self.blobs)
        origin = {"version": self.version, "scene": scene["name"], "first_picture": frames[0]["filename"]}
        clip_id = f"nuscenes_{scene['name']}" + (f"_{number}" if number else "")
        return Recording(clip_id, scene["name"], size, read, track, split, columns, more, seen, origin)

    def _boxes(self, frame: int, picture: Row, pose: Row, ids: dict[str, int]) -> Iterator[Box]:
        camera = self.cameras[picture["calibrated_sensor_token"]]
        size = (int(picture["height"]), int(picture["width"]))
        for category, row in self.annotations[picture["sample_token"]]:
            rotation, centre = _into(camera, *_into(pose, rotation_of(row["rotation"]), np.array(row["translation"], np.float64)))
            wide, long, high = row["size"]
            seen = see(corners_of(centre, (long, wide, high), rotation), np.array(camera["camera_intrinsic"]), *size)
            kind = None if seen is None else self.release.kind(category)
            if seen is None or kind is None:
                continue
            unseen = row["num_lidar_pts"] + row["num_radar_pts"] == 0
            ignore = (kind.ignore or unseen or seen.share < LEAST_SHARE) or None
            yaw = float(np.arctan2(-rotation[2, 0], rotation[0, 0]))
            yield Box(
                frame, ids.setdefault(row["instance_token"], len(ids)), kind.category, seen.xyxy, ignore,
                HIDDEN.get(row["visibility_token"]), seen.share < 1 - 1e-6, seen.depth_m, (*centre.tolist(), long, wide, high, yaw),
            )  # fmt: skip


def _into(frame: Row, rotation: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A pose in the axes that ``frame`` (translation, rotation) is told in -> the same in the frame's own axes."""
    turned = rotation_of(frame["rotation"]).T
    return turned @ rotation, turned @ (point - np.array(frame["translation"]))


def _motion(poses: Sequence[Row], times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed (m/s) and turn rate (rad/s, left positive) from neighbouring poses."""
    places = np.array([pose["translation"][:2] for pose in poses], np.float64)
    ahead = np.array([rotation_of(pose["rotation"])[:2, 0] for pose in poses])
    speed = np.hypot(*(np.gradient(places[:, axis], times) for axis in (0, 1)))
    return speed, np.gradient(np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0])), times)
