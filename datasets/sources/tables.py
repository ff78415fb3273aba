"""A user's tables of labels and boxes for videos, CSV or Parquet: read, checked, and turned into the labels of any stretch of a video.

Labels: a row per video, or a row per video and ``timestamp_s`` (valid until the next). Columns ``video`` (file name), any of the scalar
labels, ``split``, ``source``, ``licence``. Boxes: ``video``, ``timestamp_s``, ``category``, ``x1 y1 x2 y2`` (0..1), perhaps ``track_id``; a
video that is named there has boxes known throughout. This file does not open videos.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelError, LabelTrack, count_vehicles

__all__ = ["VideoTables", "read_tables"]

ABOUT = ("split", "source", "licence")
CORNERS = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True)
class VideoTables:
    """Checked tables: ``labels`` with ``video``, ``timestamp_s`` and encoded labels; ``boxes`` with ``track_id``. Either may be empty."""

    labels: pd.DataFrame
    boxes: pd.DataFrame

    def about(self, video: str) -> dict[str, str]:
        """split, source and licence of a video, where given."""
        rows = self.labels[self.labels["video"] == video]
        return {name: str(rows[name].dropna().iloc[0]) for name in ABOUT if name in rows and rows[name].notna().any()}

    def track(self, video: str, start: int, frames: int, fps: float) -> LabelTrack:
        """Labels of ``frames`` frames of a video from frame ``start`` on."""
        track = LabelTrack.unknown(frames, fps)
        rows = self.labels[self.labels["video"] == video].sort_values("timestamp_s", kind="stable")
        at = np.searchsorted(rows["timestamp_s"].to_numpy(), (start + np.arange(frames)) / fps + 1e-6, side="right") - 1
        for name in LABELS:
            if name in rows and len(rows):
                known = rows[name].to_numpy(np.float32)
                track.values[name][:] = np.where(at >= 0, known[np.maximum(at, 0)], np.nan)
        return self._with_boxes(track, self.boxes[self.boxes["video"] == video], start)

    @staticmethod
    def _with_boxes(track: LabelTrack, rows: pd.DataFrame, start: int) -> LabelTrack:
        if rows.empty:
            return track
        frame = np.rint(rows["timestamp_s"] * track.fps).astype(np.int64).to_numpy() - start
        inside = (frame >= 0) & (frame < len(track))
        rows, frame = rows[inside], frame[inside]
        xyxy = rows[CORNERS].to_numpy(np.float32)
        category = pd.Index(CATEGORIES).get_indexer(pd.Index(rows["category"])).astype(np.int64)
        low = xyxy[:, 3] - xyxy[:, 1] < 6 / 128
        boxes = Boxes(frame, rows["track_id"].to_numpy(np.int64), category, xyxy, low).where(np.argsort(frame, kind="stable"))
        crowd = track.values["crowdedness"]
        values = {**track.values, "crowdedness": np.where(np.isnan(crowd), count_vehicles(boxes, len(track)), crowd)}
        return replace(track, boxes=boxes, values=values, boxes_known=np.ones(len(track), bool))


def read_tables(labels: str | Path | None, boxes: str | Path | None, videos: Iterable[str]) -> VideoTables:
    """Read and check both tables against the names of the videos that there are.

    Raises:
        UsageError: unreadable, a missing column, a value that cannot be, or a row for a video that is not there.
    """
    names = list(videos)
    label_rows = pd.DataFrame({"video": [], "timestamp_s": []}) if labels is None else _labels(_read(Path(labels)), Path(labels), names)
    box_rows = pd.DataFrame({"video": [], "timestamp_s": []}) if boxes is None else _boxes(_read(Path(boxes)), Path(boxes), names)
    return VideoTables(label_rows, box_rows)


def _read(path: Path) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas() if path.suffix.lower() == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such table") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"{path}: not a readable CSV or Parquet table ({str(error).splitlines()[0]})") from error


def _labels(rows: pd.DataFrame, path: Path, names: list[str]) -> pd.DataFrame:
    rows = _named(rows, path, names)
    unknown = [str(name) for name in rows if name not in ("video", "timestamp_s", *LABELS, *ABOUT)]
    if unknown:
        allowed = ("video", "timestamp_s", *LABELS, *ABOUT)
        raise UsageError(f"{path}: unknown column {unknown[0]!r}{_nearest(unknown[0], allowed)}; allowed are {', '.join(allowed)}")
    rows["timestamp_s"] = _finite(rows, "timestamp_s", path) if "timestamp_s" in rows else 0.0
    for name, label in LABELS.items():
        if name in rows:
            rows[name] = [_encoded(label, value, path, row) for row, value in enumerate(rows[name])]
    return rows


def _encoded(label: object, value: object, path: Path, row: int) -> float:
    try:
        return label.encode(None if pd.isna(value) else value)  # type: ignore[attr-defined, call-overload]
    except LabelError as error:
        raise UsageError(f"{path}: row {row}: {error}") from error


def _boxes(rows: pd.DataFrame, path: Path, names: list[str]) -> pd.DataFrame:
    rows = _named(rows, path, names, ("timestamp_s", "category", *CORNERS))
    rows["timestamp_s"] = _finite(rows, "timestamp_s", path)
    for name in CORNERS:
        rows[name] = _finite(rows, name, path)
    _refuse(~rows["category"].isin(CATEGORIES), path, f"category must be one of {', '.join(CATEGORIES)}")
    outside = (rows[CORNERS] < 0).any(axis=1) | (rows[CORNERS] > 1).any(axis=1)
    _refuse(outside, path, "x1, y1, x2, y2 must lie in 0..1 of the frame")
    _refuse((rows["x1"] >= rows["x2"]) | (rows["y1"] >= rows["y2"]), path, "the box is inverted: x1 < x2 and y1 < y2 must hold")
    if "track_id" not in rows:
        rows["track_id"] = np.arange(1, len(rows) + 1)
    rows["track_id"] = _finite(rows, "track_id", path).astype(np.int64)
    return rows


def _named(rows: pd.DataFrame, path: Path, names: list[str], needed: tuple[str, ...] = ()) -> pd.DataFrame:
    """Rows whose ``video`` is the name of a video that there is; the file's stem or path will do."""
    missing = [name for name in ("video", *needed) if name not in rows]
    if missing:
        raise UsageError(f"{path}: missing column {', '.join(missing)}")
    known = {Path(name).stem: name for name in names} | {Path(name).name: name for name in names} | {name: name for name in names}
    rows = rows.copy().reset_index(drop=True)
    for row, name in enumerate(rows["video"].astype(str)):
        if name not in known:
            raise UsageError(f"{path}: row {row}: no video {name!r}{_nearest(name, known)}")
    rows["video"] = rows["video"].astype(str).map(known)
    return rows


def _nearest(name: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(allowed), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _finite(rows: pd.DataFrame, name: str, path: Path) -> pd.Series:
    numbers = pd.to_numeric(rows[name], errors="coerce")
    _refuse(~np.isfinite(numbers), path, f"{name} must be a number")
    return numbers


def _refuse(bad: pd.Series, path: Path, reason: str) -> None:
    if bad.any():
        raise UsageError(f"{path}: row {int(np.argmax(bad.to_numpy()))}: {reason}")
