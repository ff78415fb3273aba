"""What users hand in: a table of box tracks, a picture or a video to start from, each a path or an fsspec URL. Read, checked, and brought
to the rollout's size.

Every fault ends in one error that names the file, the row where there is one, and what is wrong. This file does not know networks,
plans or where the result goes.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from drivesim.errors import UsageError
from drivesim.io.places import fetched
from drivesim.io.video import probe, read_frames
from drivesim.labels import CATEGORIES, BoxTrack

__all__ = ["COLUMNS", "fit_frame", "read_boxes", "read_start"]

COLUMNS = ("track_id", "category", "x1", "y1", "x2", "y2")
"""Needed in a table of boxes, beside ``timestamp_s`` or ``frame``."""


def read_boxes(path: str | Path, duration_s: float, fps: float, clip_id: str | None = None) -> tuple[BoxTrack, ...]:
    """Box tracks from Parquet or CSV, in the columns of the clip format's boxes.parquet.

    Times come from ``timestamp_s``, or else from ``frame`` at the rollout's ``fps``. A track moves linearly between its rows, and is there
    from its first to its last one. clip_id: which clip's rows to take from a table that holds several.

    Raises:
        UsageError: unreadable, a missing column, an unknown category, a box that is inverted or leaves the picture, a time outside
            0..duration_s, a track twice at one time or of two categories; rows are counted from 0.
    """
    with fetched(str(path)) as file:
        table = _chosen(path, _read_table(file), clip_id)
    missing = [name for name in COLUMNS if name not in table]
    missing += ["timestamp_s or frame"] if "timestamp_s" not in table and "frame" not in table else []
    if missing:
        raise UsageError(f"{path}: missing column {', '.join(missing)}; needed are {', '.join(COLUMNS)} and timestamp_s or frame")
    times = _times(path, table, duration_s, fps)
    xyxy = np.stack([_numbers(path, table, name) for name in ("x1", "y1", "x2", "y2")], axis=1)
    _check(path, table, xyxy)
    ids = _numbers(path, table, "track_id")
    tracks = []
    for track_id in np.unique(ids):
        rows = np.flatnonzero(ids == track_id)
        rows = rows[np.argsort(times[rows], kind="stable")]
        category = _one_category(path, table, rows, track_id, times)
        tracks.append(BoxTrack(int(track_id), category, times[rows], xyxy[rows].astype(np.float32)))
    return tuple(tracks)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UsageError(f"{path}: no such file of boxes")
    try:
        return pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path}: not a readable table of boxes ({str(error).splitlines()[0]})") from error


def _chosen(path: str | Path, table: pd.DataFrame, clip_id: str | None) -> pd.DataFrame:
    if "clip_id" in table and clip_id is not None:
        table = table[table["clip_id"] == clip_id]
        if not len(table):
            raise UsageError(f"{path}: no rows of clip {clip_id!r}")
    if "clip_id" in table and table["clip_id"].nunique() > 1:
        names = ", ".join(str(name) for name in table["clip_id"].unique()[:3])
        raise UsageError(f"{path}: holds boxes of {table['clip_id'].nunique()} clips ({names}, ...); keep the rows of one")
    return table


def _numbers(path: str | Path, table: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise UsageError(f"{path}: row {table.index[row]}: {name} is not a number ({table[name].iloc[row]})")
    return values


def _times(path: str | Path, table: pd.DataFrame, duration_s: float, fps: float) -> np.ndarray:
    """Seconds, drawn to the rollout's frames where they are as good as there, since tables may hold rounded times."""
    name = "timestamp_s" if "timestamp_s" in table else "frame"
    values = _numbers(path, table, name)
    times = values if name == "timestamp_s" else values / fps
    last = (round(duration_s * fps) - 1) / fps
    outside = (times < -1e-3) | (times > max(last, duration_s - 1e-3) + 1e-3)
    if name == "frame":
        outside = (values < 0) | (values > round(duration_s * fps) - 1)
    if outside.any():
        row = int(np.argmax(outside))
        raise UsageError(
            f"{path}: row {table.index[row]}: {name} {values[row]:g} lies outside the rollout, whose last frame is "
            f"{round(duration_s * fps) - 1} at {last:g} s; remove the row or ask for more minutes"
        )
    near = np.round(times * fps) / fps
    return np.where(np.abs(near - times) < 1e-3, near, times)


def _check(path: str | Path, table: pd.DataFrame, xyxy: np.ndarray) -> None:
    x1, y1, x2, y2 = xyxy.T
    unknown = ~table["category"].isin(CATEGORIES).to_numpy(bool)
    inverted = (x1 >= x2) | (y1 >= y2)
    outside = ((xyxy < -1e-6) | (xyxy > 1 + 1e-6)).any(axis=1)
    for bad in (unknown, inverted, outside):
        if bad.any():
            row = int(np.argmax(bad))
            box = "x1 {:g}, y1 {:g}, x2 {:g}, y2 {:g}".format(*xyxy[row])
            reason = (
                f"unknown category {table['category'].iloc[row]!r}; known are {', '.join(CATEGORIES)}" if bad is unknown
                else f"inverted box ({box}); x1 < x2 and y1 < y2 are needed" if bad is inverted
                else f"box outside the picture ({box}); coordinates are shares of width and height, 0..1"
            )  # fmt: skip
            raise UsageError(f"{path}: row {table.index[row]}: {reason}")


def _one_category(path: str | Path, table: pd.DataFrame, rows: np.ndarray, track_id: float, times: np.ndarray) -> str:
    names = table["category"].iloc[rows]
    if names.nunique() > 1:
        other = rows[int(np.argmax((names != names.iloc[0]).to_numpy(bool)))]
        raise UsageError(f"{path}: row {table.index[other]}: track {track_id:g} is a {names.iloc[0]} and a {table['category'].iloc[other]}")
    twice = np.flatnonzero(np.diff(times[rows]) <= 0)
    if len(twice):
        row = rows[twice[0] + 1]
        raise UsageError(f"{path}: row {table.index[row]}: track {track_id:g} has a second box at {times[row]:g} s")
    return str(names.iloc[0])


def read_start(path: str | Path, height: int, width: int, keyframe_fps: float) -> np.ndarray:
    """Frames to start from: uint8 (n, height, width, 3), the last one being frame 0 of the rollout.

    A picture gives n = 1. A video gives its last frame and, where it is long enough, the one a keyframe earlier (n = 2): then the rollout
    goes on in the same motion.

    Raises:
        UsageError: missing or unreadable picture.   VideoError: unreadable, truncated or empty video.
    """
    with fetched(str(path)) as file:
        return _start_of(file, height, width, keyframe_fps)


def _start_of(path: Path, height: int, width: int, keyframe_fps: float) -> np.ndarray:
    if not path.is_file():
        raise UsageError(f"{path}: no such picture or video to start from")
    if cv2.haveImageReader(str(path)):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise UsageError(f"{path}: unreadable or truncated picture")
        return fit_frame(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), height, width)[None]
    info = probe(path)
    last_s = (info.frames - 1) / info.fps
    wanted = [last_s - 1 / keyframe_fps, last_s] if last_s >= 1 / keyframe_fps else [last_s]
    return np.stack([fit_frame(frame, height, width) for frame in read_frames(path, wanted)])


def fit_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (by area when shrinking) and crop about the centre: uint8 (h, w, 3) -> (height, width, 3), of any size and shape."""
    scale = max(height / frame.shape[0], width / frame.shape[1])
    size = max(round(frame.shape[1] * scale), width), max(round(frame.shape[0] * scale), height)
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (resized.shape[0] - height) // 2, (resized.shape[1] - width) // 2
    return np.ascontiguousarray(resized[top : top + height, left : left + width])
