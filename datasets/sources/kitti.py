"""KITTI (tracking benchmark, and raw drives in ``kitti_raw``) -> a clip dataset of the left colour camera, 10 frames a second.

Layout, from the readme of the tracking devkit: ``training/`` and ``testing/`` with ``image_02/0000/000000.png``, ``label_02/0000.txt``
(training only), ``calib/0000.txt``, ``oxts/0000.txt``. A label row is: frame, track, type, truncated, occluded, alpha, left, top, right,
bottom (0-based pixels), height, width, length (metres), x, y, z of the middle of the bottom face (camera axes), rotation_y.

Quirks:
- Pictures differ in size by some pixels between sequences, and some sizes are odd: the last row or column goes.
- ``truncated`` is 0, 1, 2 here, not a share as in the detection benchmark; ``occluded`` 3 means unknown.
- The box of a Cyclist holds rider and bicycle: it becomes a bicycle. A Van is a car here. Trams and Misc have no name in our format.
- DontCare regions (objects too far for the laser) have no counterpart and are dropped, so far vehicles there are not labelled.
- Files written in this layout by others say -1 (sizes, truncated, occluded) for what they do not know: it stays unknown.
- All drives were recorded by day. The benchmark's own test labels are not public: ``testing`` becomes split test, boxes unknown.
- Our own export is of this layout, with ``export.json`` and ``label_02_drivesim`` beside it, of which its rates, splits, times of day
  and what KITTI has no word for come back as they were.
- GPS/IMU data are an archive of their own, and optional: without them speed and turn rate stay unknown.

This file knows the tracking layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError

from .kitti_export import exported_sequence
from .kitti_raw import raw_drives
from .kitti_text import OCCLUSION, fields, motion, numbers
from .projection import corners_of
from .release_files import exported, needed, numbered, pictures
from .releases import Box, Kind, Recording, Release, held_out, labelled, write_release

__all__ = ["FILLS", "MAPPING", "import_kitti"]

FPS = 10.0
PICTURES, LABELS_OF, CALIBRATION, MOTION = (f"data_tracking_{name}.zip" for name in ("image_2", "label_2", "calib", "oxts"))
MAPPING: dict[str, Kind | None] = {
    "Car": Kind("car"), "Van": Kind("car"), "Truck": Kind("truck"), "Pedestrian": Kind("person"), "Person_sitting": Kind("person"),
    "Person": Kind("person"), "Person (sitting)": Kind("person"), "Cyclist": Kind("bicycle"), "Tram": None, "Misc": None, "DontCare": None,
}  # fmt: skip
FILLS = {
    "time_of_day": "day: every drive is",
    "crowdedness": "counted from the boxes",
    "ego_speed_mps": "GPS/IMU, speed over ground",
    "ego_yaw_rate_radps": "GPS/IMU",
    "boxes": "human labels; occlusion in three steps, truncated, depth_m, box3d",
    "camera": "calibration of the rectified left colour camera",
}


def import_kitti(
    source: str | Path, out: str | Path, height: int | None = None, width: int | None = None, val_share: float = 0.1, progress: bool = True
) -> dict[str, Any]:
    """Turn ``source`` (the folder that holds ``training``, or one that holds raw drives by day: ``2011_09_26/...``) into clips at ``out``.

    height, width: centre crop and area resize to it (None = as recorded).   val_share: share of the labelled drives marked "val".

    Returns:
        {"clips", "frames", "dropped_boxes": {type: count}, "left_out", "out"}.

    Raises:
        UsageError: a bad argument, or no KITTI folder.   DatasetError: an incomplete or damaged download; names the file and its archive.
        DrivesimError: ``out`` exists or cannot be written.
    """
    source = Path(source)
    release = Release("kitti", MAPPING, FILLS, "CC BY-NC-SA 3.0")
    ours = exported(source, "kitti", "sequences")
    if ours is not None:
        release.licence = None
        return write_release(out, release, (exported_sequence(source, row, release) for row in ours.values()), height, width, progress)
    if (source / "training").is_dir() or (source / "testing").is_dir():
        return write_release(out, release, _sequences(source, release, val_share), height, width, progress)
    if any(path.is_dir() for path in source.glob("20[0-9][0-9]_[0-9][0-9]_[0-9][0-9]")):
        return write_release(out, release, raw_drives(source, release, val_share), height, width, progress)
    raise UsageError(f"{source}: neither training/ of the tracking benchmark nor raw drives (2011_09_26/...); extract {PICTURES} here")


def _sequences(root: Path, release: Release, val_share: float) -> Iterator[Recording]:
    found = {part: _names(root / part) for part in ("training", "testing") if (root / part).is_dir()}
    val = held_out(found.get("training", []), val_share)
    for part, names in found.items():
        for name in names:
            split = "test" if part == "testing" else "val" if name in val else "train"
            yield _sequence(root / part, name, split, release)


def _names(part: Path) -> list[str]:
    folder = needed(part / "image_02", PICTURES)
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _sequence(part: Path, name: str, split: str, release: Release) -> Recording:
    paths = numbered(part / "image_02" / name, "{:06d}", PICTURES)
    first = next(pictures(paths[:1], PICTURES))
    size = (first.shape[0], first.shape[1])
    boxes = [] if split == "test" else list(_boxes(part, name, len(paths), size, release))
    speed, turn = _motion(part / "oxts" / f"{name}.txt", len(paths))
    values = {"time_of_day": "day", "ego_speed_mps": speed, "ego_yaw_rate_radps": turn}
    track, columns = labelled(len(paths), FPS, boxes, split != "test", values)
    origin = {"benchmark": "tracking", "part": part.name, "sequence": name}
    read, camera = partial(pictures, paths, PICTURES), _camera(part / "calib" / f"{name}.txt")
    return Recording(f"kitti_{part.name}_{name}", f"{part.name}/{name}", size, read, track, split, columns, {}, camera, origin)


def _boxes(part: Path, name: str, frames: int, size: tuple[int, int], release: Release) -> Iterator[Box]:
    path = needed(part / "label_02" / f"{name}.txt", LABELS_OF)
    for line, row in enumerate(fields(path), 1):
        if len(row) not in (17, 18):
            raise DatasetError(f"{path}: line {line}: {len(row)} columns where 17 are needed; extract {LABELS_OF} again")
        kind = release.kind(row[2])
        if kind is None:
            continue
        frame, track, truncated, occluded, *rest = numbers(path, line, [*row[:2], *row[3:17]])
        if not 0 <= frame < frames:
            missing = part / "image_02" / name / f"{int(frame):06d}.png"
            raise DatasetError(f"{missing}: missing, but {path.name} has labels for it; the release has it in {PICTURES}: extract that")
        yield _box(kind, int(frame), int(track), truncated, occluded, np.array(rest), size)


def _box(kind: Kind, frame: int, track: int, truncated: float, occluded: float, rest: np.ndarray, size: tuple[int, int]) -> Box:
    """rest: alpha, left, top, right, bottom, height, width, length, x, y, z, rotation_y."""
    left, top, right, bottom = rest[1:5] / [size[1], size[0], size[1], size[0]]
    told = Box(
        frame, track, kind.category, (left, top, right, bottom), kind.ignore or None, OCCLUSION.get(int(occluded)),
        None if truncated < 0 else truncated > 0,
    )  # fmt: skip
    height, width, length, x, y, z, turn = rest[5:]
    if min(height, width, length) <= 0:
        return told
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    centre = np.array([x, y - height / 2, z])
    nearest = float(corners_of(centre, (length, height, width), rotation)[:, 2].min())
    return replace(told, depth_m=nearest, box3d=(*centre.tolist(), length, width, height, turn))


def _camera(path: Path) -> dict[str, Any] | None:
    """The rectified left colour camera, row ``P2``; some rows of these files have a colon after their name, some have none."""
    if not path.exists():
        return None
    rows = {row[0].rstrip(":"): row[1:] for row in fields(path)}
    if len(rows.get("P2", ())) != 12:
        raise DatasetError(f"{path}: no row P2 of 12 numbers; extract {CALIBRATION} again")
    matrix = numbers(path, 1, rows["P2"])
    return {"model": "pinhole", "fx": matrix[0], "fy": matrix[5], "cx": matrix[2], "cy": matrix[6]}


def _motion(path: Path, frames: int) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists():
        return np.full(frames, np.nan), np.full(frames, np.nan)
    rows = fields(path)
    if len(rows) != frames:
        raise DatasetError(f"{path}: {len(rows)} rows for {frames} pictures; extract {MOTION} and {PICTURES} again")
    return motion(path, rows)
