"""comma2k19 (a commute on California's highway 280) -> a clip dataset of its road camera, a clip per minute, 20 frames a second.

Layout, from the release's readme, notebooks and example segment: ``Chunk_N/DONGLE|DATE--TIME/SEGMENT/`` with ``video.hevc``,
``global_pose/{frame_times,frame_gps_times,frame_positions,frame_velocities,frame_orientations}`` and
``processed_log/CAN/speed/{t,value}``; the arrays are NumPy's files without a suffix. Chunks come as ``Chunk_1.zip`` to ``Chunk_10.zip``.

Quirks:
- The readme's tree says ``global_pos`` and ``car_speed``; on the disk they are ``global_pose`` and ``CAN/speed``, whose values are (n, 1).
- ``video.hevc`` is a raw stream without times: players guess 25 frames a second. It has 20, and frame k belongs to ``frame_times[k]``.
- Orientations are called "from ECEF to camera"; the release's own code reads the quaternion (w, x, y, z) as turning camera axes (forward,
  right, down) into ECEF (earth-centred, earth-fixed), and so does this file.
- Times are the device's since it was started. The date in a route's name is no local time (it agrees with UTC), so light is computed:
  GPS time and position give the sun's height. Above the horizon is day, more than 6 degrees below it night, between unknown. Tunnels and
  fog do not show.
- Microsoft's file systems know no "|" in names: the release's ``unzip_msft_fs.py`` writes "_" there. Both are read.
- Nobody labelled boxes: ``boxes_known`` is false everywhere. The camera (910 pixels of focal length at 1164x874) is the release's own
  figure, without distortion; how high it hangs is not told.

This file knows the layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError, count_frames, iterate_frames, probe

from .earth import east_north_up, sun_elevation, utc_of_gps
from .projection import rotation_of
from .release_files import needed, read_array
from .releases import Kind, Recording, Release, held_out, labelled, write_release

__all__ = ["FILLS", "MAPPING", "import_comma2k19"]

FPS, SIZE, FOCAL = 20.0, (874, 1164), 910.0
ROUTE = re.compile(r"[0-9a-f]{16}[|_]\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d")
SLACK = 20
"""Frames by which a video may differ from its poses: a second. Beyond that one of them was cut short."""
DAY, NIGHT = 0.0, np.deg2rad(-6)
MAPPING: dict[str, Kind | None] = {}
FILLS = {
    "time_of_day": "the sun's height, from GPS time and position; unknown at dusk and dawn",
    "ego_speed_mps": "CAN",
    "ego_yaw_rate_radps": "from camera poses",
    "ego_pose": "x, y, z of the camera in ECEF metres, then the orientation w, x, y, z of its axes forward, right, down",
    "camera": "the release's intrinsics",
}


def import_comma2k19(
    source: str | Path, out: str | Path, height: int | None = None, width: int | None = None, val_share: float = 0.1, progress: bool = True
) -> dict[str, Any]:
    """Turn ``source`` (the folder of extracted chunks, a chunk, or a route) into a clip dataset at ``out``.

    height, width: centre crop and area resize to it (None = as recorded).   val_share: share of the routes marked "val".

    Returns:
        {"clips", "frames", "dropped_boxes" (none), "left_out": {segment or archive: reason}, "out"}.

    Raises:
        UsageError: a bad argument, or no such folder.   DatasetError: an incomplete or damaged download; names the file and its archive.
        DrivesimError: ``out`` exists or cannot be written.
    """
    root = Path(source)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder that Chunk_1.zip to Chunk_10.zip were extracted to")
    release = Release("comma2k19", MAPPING, FILLS, "MIT")
    return write_release(out, release, _segments(root, release, val_share), height, width, progress)


def _segments(root: Path, release: Release, val_share: float) -> Iterator[Recording]:
    routes = [root] if ROUTE.fullmatch(root.name) else sorted(path for path in [*root.glob("*"), *root.glob("*/*")] if _is_route(path))
    zipped = [path.name for path in sorted(root.glob("*.zip")) if not path.with_suffix("").is_dir()]
    if not routes:
        what = f"{', '.join(zipped)} not extracted: unzip" if zipped else "no route (DONGLE|DATE--TIME) in it; extract Chunk_1.zip"
        raise DatasetError(f"{root}: {what} here")
    release.left_out |= dict.fromkeys(zipped, "not extracted; unzip it here")
    val = held_out([route.name.replace("|", "_") for route in routes], val_share)
    for route in routes:
        name, archive = route.name.replace("|", "_"), f"{route.parent.name}.zip"
        folders = [path for path in route.iterdir() if path.is_dir() and path.name.isdigit()]
        for segment in sorted(folders, key=lambda path: int(path.name)):
            recording = _segment(segment, f"{name}/{segment.name}", archive, "val" if name in val else "train", release)
            if recording is not None:
                yield recording


def _is_route(path: Path) -> bool:
    return bool(ROUTE.fullmatch(path.name)) and path.is_dir()


def _segment(folder: Path, source: str, archive: str, split: str, release: Release) -> Recording | None:
    video, poses = needed(folder / "video.hevc", archive), folder / "global_pose"
    times = read_array(poses / "frame_times", archive)
    places, turns = (read_array(poses / name, archive, width) for name, width in (("frame_positions", 3), ("frame_orientations", 4)))
    clock = read_array(poses / "frame_gps_times", archive, 2)
    speed = _speed(folder / "processed_log" / "CAN" / "speed", archive, times)
    lengths = {len(part) for part in (times, places, turns, clock)}
    if len(lengths) > 1:
        raise DatasetError(f"{poses}: arrays of {', '.join(map(str, sorted(lengths)))} rows for one video; extract {archive} again")
    try:
        info, frames = probe(video), count_frames(video)
    except VideoError as error:
        release.left_out[source] = str(error)
        return None
    if abs(frames - len(times)) > SLACK or len(times) < 2 or not (np.diff(times) > 0).all():
        rising = "" if (np.diff(times) > 0).all() else ", whose times do not rise"
        release.left_out[source] = f"{frames} frames and {len(times)} poses{rising}: cut short or damaged; extract {archive} again"
        return None
    size = (info.height, info.width)
    light = _light(clock, places)
    values = {"time_of_day": light, "ego_speed_mps": speed, "ego_yaw_rate_radps": _turn_rate(times, places, turns)}
    track, columns = labelled(frames, FPS, [], False, {name: _fitted(value, frames) for name, value in values.items()})
    known = np.isfinite(places).all(axis=1) & np.isfinite(turns).all(axis=1)
    poses_of = [[*place, *turn] if fine else None for place, turn, fine in zip(places.tolist(), turns.tolist(), known, strict=True)]
    more = {"ego_pose": [*poses_of, *[None] * SLACK][:frames]}
    camera = {"model": "pinhole", "fx": FOCAL, "fy": FOCAL, "cx": SIZE[1] / 2, "cy": SIZE[0] / 2} if size == SIZE else None
    route, _, number = source.partition("/")
    origin = {"route": route, "segment": int(number), "boot_time_s": float(times[0])}
    clip_id, read = f"comma2k19_{route}_{number}", partial(iterate_frames, video)
    return Recording(clip_id, source, size, read, track, split, columns, more, camera, origin, video=video)


def _fitted(values: np.ndarray, frames: int) -> np.ndarray:
    """Cut to the video, or with unknowns behind."""
    return np.append(values, np.full(SLACK, np.nan))[:frames]


def _speed(folder: Path, archive: str, times: np.ndarray) -> np.ndarray:
    """m/s at ``times``, between the car's own messages; unknown outside them."""
    sent, speed = (read_array(folder / name, archive) for name in ("t", "value"))
    if len(sent) != len(speed):
        raise DatasetError(f"{folder}: {len(sent)} times for {len(speed)} speeds; extract {archive} again")
    order = np.argsort(sent, kind="stable")
    return np.interp(times, sent[order], speed[order], np.nan, np.nan) if len(sent) else np.full(len(times), np.nan)


def _turn_rate(times: np.ndarray, places: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """rad/s, left positive: how the heading over the ground changes."""
    forward = np.array([rotation_of(turn)[:, 0] if np.isfinite(turn).all() and turn.any() else [np.nan] * 3 for turn in turns])
    east, north, _ = east_north_up(places)
    heading = np.arctan2((forward * north).sum(axis=1), (forward * east).sum(axis=1))
    steps = np.remainder(np.diff(heading) + np.pi, 2 * np.pi) - np.pi  # unwrapped one by one: an unknown spoils its neighbours only
    rates = steps / np.diff(times)
    return np.concatenate([rates[:1], (rates[1:] + rates[:-1]) / 2, rates[-1:]])


def _light(clock: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Code of the time of day of every frame, NaN = unknown."""
    height = sun_elevation(utc_of_gps(clock[:, 0], clock[:, 1]), places)
    return np.where(height >= DAY, 0.0, np.where(height <= NIGHT, 1.0, np.nan))
