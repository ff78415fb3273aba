"""A toy road world as a clip dataset: seconds to make, nothing to download, labels exact. For tests and first tries, not for results.

Half the clips are night; traffic runs from none to dense. This file joins ``road`` (what happens), ``drawing`` (how it looks) and the
format; it knows no network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drivesim.errors import UsageError
from drivesim.io.records import DatasetRecords, clip_row, header, rows_of, write_records
from drivesim.io.video import write_video
from drivesim.labels import LABELS, LabelTrack, count_vehicles

from ..folders import new_folder
from .drawing import Painter
from .road import Camera, World, boxes_of_world, draw_world

__all__ = ["labels_of_world", "make_road_world"]

TRAFFIC = (4, 6, 9, 0, 2, 12)
"""Road users of clip 0, 2, 4, ... (days) and of clip 1, 3, 5, ... (nights)."""
VAL_SHARE = 0.125


def make_road_world(
    out: str | Path, clips: int = 4, seconds: float = 16.0, fps: float = 7.5, height: int = 64, width: int = 128, seed: int = 0
) -> dict[str, Any]:
    """Write ``clips`` clips of ``seconds`` seconds under ``out``, which must not exist yet. The same arguments give the same dataset.

    The last eighth of the clips (at least one, if there are two) is split "val", the rest "train".

    Returns:
        {"clips", "frames", "boxes", "out"}.

    Raises:
        UsageError: an argument out of range.
        DrivesimError: ``out`` exists or cannot be written.
    """
    _check(clips, seconds, fps, height, width)
    frames = max(1, round(seconds * fps))
    held_out = max(1, int(clips * VAL_SHARE)) if clips > 1 else 0
    rows: list[dict[str, Any]] = []
    tables: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    with new_folder(out) as root:
        for index in range(clips):
            rng = np.random.default_rng([seed, index])
            world = draw_world(rng, frames, fps, night=index % 2 == 1, vehicles=TRAFFIC[index // 2 % len(TRAFFIC)])
            clip_id, split = f"road{seed:03d}_{index:04d}", "val" if index >= clips - held_out else "train"
            rows.append(_write_clip(root, world, clip_id, height, width, split))
            tables.append(_label_rows(world, clip_id, height, width))
        frame_rows, box_rows = (pd.concat(part, ignore_index=True) for part in zip(*tables, strict=True))
        records = DatasetRecords(root, pd.DataFrame(rows), box_rows, frame_rows, header("drivesim road world"))
        top = write_records(root, records).header
    return {"clips": top["clips"], "frames": top["frames"], "boxes": top["boxes"], "out": str(out)}


def labels_of_world(world: World, height: int, width: int) -> LabelTrack:
    """What is true of every frame."""
    frames = len(world.speed)
    boxes, _, _ = boxes_of_world(world, Camera(height, width))
    values = {
        "time_of_day": np.full(frames, LABELS["time_of_day"].encode("night" if world.night else "day"), np.float32),
        "crowdedness": count_vehicles(boxes, frames),
        "ego_speed_mps": world.speed.astype(np.float32),
        "ego_yaw_rate_radps": world.yaw_rate.astype(np.float32),
    }
    return LabelTrack(world.fps, values, boxes, np.ones(frames, bool))


def _write_clip(root: Path, world: World, clip_id: str, height: int, width: int, split: str) -> dict[str, Any]:
    painter = Painter(world, height, width)
    video = f"videos/{clip_id}.mp4"
    write_video(root / video, (painter.frame(index) for index in range(len(world.speed))), world.fps)
    about = json.dumps({"kind": "simulated", "generator": "drivesim road world", "seed": world.seed})
    more = {"split": split, "source": "synthetic", "licence": "Apache-2.0", "provenance": about, "camera": _camera(height, width)}
    return clip_row(labels_of_world(world, height, width), clip_id, video, height, width, **more)


def _label_rows(world: World, clip_id: str, height: int, width: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    _, occlusion, depth = boxes_of_world(world, Camera(height, width))
    frames, boxes = rows_of(labels_of_world(world, height, width), clip_id, "simulated")
    touches = (boxes[["x1", "y1"]] <= 0).any(axis=1) | (boxes[["x2", "y2"]] >= 1).any(axis=1)
    return frames.assign(weather="clear"), boxes.assign(occlusion=occlusion, depth_m=depth, truncated=touches)


def _camera(height: int, width: int) -> str:
    camera = Camera(height, width)
    pinhole = {"fx": camera.focal, "fy": camera.focal, "cx": camera.centre, "cy": camera.horizon, "height_m": camera.eye}
    return json.dumps({"model": "pinhole", **pinhole})


def _check(clips: int, seconds: float, fps: float, height: int, width: int) -> None:
    if clips < 1:
        raise UsageError(f"clips must be at least 1, not {clips}")
    if not (np.isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds must be a positive number, not {seconds}")
    if not (np.isfinite(fps) and 0 < fps <= 120):
        raise UsageError(f"fps must lie in 0..120, not {fps}")
    if min(height, width) < 16 or height % 2 or width % 2:
        raise UsageError(f"height and width must be even and at least 16, not {height}x{width}")
