"""KITTI's raw drives, synchronised and rectified, part of ``kitti``: labels are 3-D tracklets that are projected into the picture.

Layout, from the raw data devkit: ``2011_09_26/calib_cam_to_cam.txt`` and ``calib_velo_to_cam.txt``, and below the day each drive
``2011_09_26_drive_0001_sync`` with ``image_02/data/0000000000.png``, ``oxts/data/0000000000.txt`` and, for some, ``tracklet_labels.xml``:
objectType, h, w, l, first_frame and poses tx, ty, tz (middle of the bottom face in the laser's axes: ahead, left, up), rz, occlusion,
truncation.

Quirks:
- Each drive, its tracklets and the day's calibration are archives of their own. Drives without tracklets are imported with boxes unknown.
- Unsynchronised drives (``..._extract``) are not rectified and are passed over.
- Laser -> picture is P_rect_02 * R_rect_00 * (R | T); P_rect_02's last column moves the origin to the colour camera, by some centimetres.
- Tracklets go on outside the picture: those marked so (truncation 2) or not before the camera have no box. Boxes are hulls of 3-D boxes,
  looser than those of the tracking benchmark, and objects far from the laser have none.
- A sitting person is "Person (sitting)" here and "Person_sitting" in the tracking benchmark.

This file knows the raw layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from drivesim.io.records import DatasetError

from .kitti_text import fields, motion, numbers
from .projection import corners_of, see
from .release_files import needed, numbered, pictures
from .releases import Box, Kind, Recording, Release, held_out, labelled

__all__ = ["raw_drives"]

FPS = 10.0
HIDDEN = {0: 0.0, 1: 0.3, 2: 1.0}
"""Visible, partly, fully hidden; other codes mean unset. The share of "partly" is ours."""
OUT_OF_PICTURE = 2
LEAST_SHARE = 0.3
"""Boxes of which less lies inside the picture are marked ignore, as those that are hidden as far."""


@dataclass(frozen=True)
class _Camera:
    """Laser -> camera axes: rotation (3, 3) @ point + shift (3,); then intrinsics (3, 3)."""

    rotation: np.ndarray
    shift: np.ndarray
    intrinsics: np.ndarray


def raw_drives(root: Path, release: Release, val_share: float) -> Iterator[Recording]:
    """Every synchronised drive below ``root``, in order."""
    drives = sorted(path for path in root.glob("20[0-9][0-9]_[0-9][0-9]_[0-9][0-9]/*_sync") if path.is_dir())
    if not drives:
        raise DatasetError(f"{root}: no drive in it; extract a synchronised and rectified one, such as 2011_09_26_drive_0001_sync.zip")
    val = held_out([drive.name for drive in drives], val_share)
    for drive in drives:
        yield _drive(drive, "val" if drive.name in val else "train", release)


def _drive(drive: Path, split: str, release: Release) -> Recording:
    archive = f"{drive.name}.zip"
    paths = numbered(drive / "image_02" / "data", "{:010d}", archive)
    first = next(pictures(paths[:1], archive))
    size, camera = (first.shape[0], first.shape[1]), _calibration(drive.parent)
    tracklets = drive / "tracklet_labels.xml"
    known = tracklets.exists()
    boxes = list(_boxes(tracklets, camera, size, len(paths), release)) if known else []
    speed, turn = _motion(drive / "oxts" / "data", len(paths), archive)
    values = {"time_of_day": "day", "ego_speed_mps": speed, "ego_yaw_rate_radps": turn}
    track, columns = labelled(len(paths), FPS, boxes, known, values)
    k = camera.intrinsics
    seen = {"model": "pinhole", "fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
    read = partial(pictures, paths, archive)
    return Recording(f"kitti_{drive.name}", drive.name, size, read, track, split, columns, {}, seen, {"raw": drive.name})


def _motion(folder: Path, frames: int, archive: str) -> tuple[np.ndarray, np.ndarray]:
    if not folder.is_dir():
        return np.full(frames, np.nan), np.full(frames, np.nan)
    packets = [row for number in range(frames) for row in fields(needed(folder / f"{number:010d}.txt", archive))[:1]]
    if len(packets) != frames:
        raise DatasetError(f"{folder}: an empty packet; extract {archive} again")
    return motion(folder, packets)


def _calibration(day: Path) -> _Camera:
    archive = f"{day.name}_calib.zip"
    rows: dict[str, tuple[Path, list[str]]] = {}
    for name in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        path = needed(day / name, archive)
        rows |= {row[0].rstrip(":"): (path, row[1:]) for row in fields(path)}
    projection = _matrix(day, rows, "P_rect_02", 3, 4, archive)
    rectify, rotation = (_matrix(day, rows, name, 3, 3, archive) for name in ("R_rect_00", "R"))
    shift = _matrix(day, rows, "T", 3, 1, archive)[:, 0]
    intrinsics = projection[:, :3]
    return _Camera(rectify @ rotation, rectify @ shift + np.linalg.solve(intrinsics, projection[:, 3]), intrinsics)


def _matrix(day: Path, rows: dict[str, tuple[Path, list[str]]], name: str, height: int, width: int, archive: str) -> np.ndarray:
    path, words = rows.get(name, (day, []))
    if len(words) != height * width:
        raise DatasetError(f"{path}: no row {name} of {height * width} numbers; extract {archive} again")
    return np.array(numbers(path, 1, words)).reshape(height, width)


def _boxes(path: Path, camera: _Camera, size: tuple[int, int], frames: int, release: Release) -> Iterator[Box]:
    archive = path.parent.name.replace("_sync", "_tracklets") + ".zip"
    try:
        items = ElementTree.parse(path).getroot().findall("tracklets/item")
        for track, item in enumerate(items):
            kind = release.kind(item.findtext("objectType", ""))
            for pose, place in enumerate(item.findall("poses/item") if kind else ()):
                frame = int(item.findtext("first_frame", "")) + pose
                box = _box(kind, frame, track, item, place, camera, size) if kind and frame < frames else None
                if box is not None:
                    yield box
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable tracklet file ({error}); extract {archive} again") from error


def _box(
    kind: Kind, frame: int, track: int, item: ElementTree.Element, place: ElementTree.Element, camera: _Camera, size: tuple[int, int]
) -> Box | None:
    if int(place.findtext("truncation", "-1")) == OUT_OF_PICTURE:
        return None
    height, width, length = (float(item.findtext(name, "")) for name in ("h", "w", "l"))
    x, y, z, turn = (float(place.findtext(name, "")) for name in ("tx", "ty", "tz", "rz"))
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = camera.rotation @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    centre = camera.rotation @ np.array([x, y, z + height / 2]) + camera.shift
    seen = see(corners_of(centre, (length, width, height), rotation), camera.intrinsics, *size)
    if seen is None:
        return None
    yaw = float(np.arctan2(-rotation[2, 0], rotation[0, 0]))
    hidden = HIDDEN.get(int(place.findtext("occlusion", "-1")))
    ignore = (kind.ignore or seen.share < LEAST_SHARE) or None
    box3d = (*centre.tolist(), length, width, height, yaw)
    return Box(frame, track, kind.category, seen.xyxy, ignore, hidden, seen.share < 1 - 1e-6, seen.depth_m, box3d)
