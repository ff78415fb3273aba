"""Label tracks <-> rows of the tables. ``labels_of`` and ``rows_of`` are inverses of each other.

This file knows what rows mean. It does not know files on disk, videos or windows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelTrack, count_vehicles

from .schemas import DatasetError
from .tables import DatasetRecords

__all__ = ["MIN_BOX_HEIGHT", "clip_row", "labels_of", "rows_of"]

MIN_BOX_HEIGHT = 6 / 128
"""Lower boxes are marked ignore where the file does not say, as are boxes more than 70% hidden."""


def labels_of(records: DatasetRecords, clip_id: str) -> LabelTrack:
    """Everything the tables say of a clip, one entry a frame at the clip's own rate.

    Frames without a row are unknown. Without frame rows at all, boxes are known where the clip has any box, crowdedness is counted
    from them, and time of day is the clip's. ``ignore`` is derived (low or hidden boxes) where the file leaves it open.

    Raises:
        DatasetError: a box or frame row beyond the clip's frames, or a category or label value that cannot be.
    """
    clip = records.clip(clip_id)
    count = int(clip["frames"])
    boxes = _boxes(records.root, records.boxes_of(clip_id), count)
    track = replace(LabelTrack.unknown(count, float(clip["fps"])), boxes=boxes)
    rows = records.frames_of(clip_id)
    track = _from_boxes(track, clip) if rows is None else _from_rows(track, rows, records.root)
    if np.isnan(track.values["time_of_day"]).all() and isinstance(clip["time_of_day"], str):
        track.values["time_of_day"][:] = LABELS["time_of_day"].encode(clip["time_of_day"])
    return track


def _from_boxes(track: LabelTrack, clip: pd.Series) -> LabelTrack:
    """Without frame rows: known everywhere if the clip has any box; else only the clip's mean crowdedness, if that."""
    if len(track.boxes):
        counted = count_vehicles(track.boxes, len(track))
        return replace(track, values={**track.values, "crowdedness": counted}, boxes_known=np.ones(len(track), bool))
    mean = np.full(len(track), clip["crowdedness"], np.float32)
    return replace(track, values={**track.values, "crowdedness": mean})


def _from_rows(track: LabelTrack, rows: pd.DataFrame, root: Path) -> LabelTrack:
    index = _inside(rows["frame"], len(track), root / "frames.parquet")
    values = {}
    for name, label in LABELS.items():
        column = rows[name].map(label.encode) if label.values else rows[name]
        values[name] = track.values[name].copy()
        values[name][index] = column.to_numpy(np.float32, na_value=np.nan)
    known = track.boxes_known.copy()
    known[index] = rows["boxes_known"].to_numpy(bool, na_value=False)
    return replace(track, values=values, boxes_known=known)


def _boxes(root: Path, rows: pd.DataFrame, count: int) -> Boxes:
    frame = _inside(rows["frame"], count, root / "boxes.parquet")
    category = pd.Index(CATEGORIES).get_indexer(pd.Index(rows["category"]))
    if (category < 0).any():
        at = int(np.argmax(category < 0))
        raise DatasetError(
            f"{root / 'boxes.parquet'}: row {rows.index[at]}: unknown category {rows['category'].iloc[at]!r}; "
            f"known are {', '.join(CATEGORIES)}"
        )
    xyxy = rows[["x1", "y1", "x2", "y2"]].to_numpy(np.float32)
    derived = (xyxy[:, 3] - xyxy[:, 1] < MIN_BOX_HEIGHT) | (rows["occlusion"].to_numpy(np.float32) > 0.7)
    ignore = np.where(rows["ignore"].isna(), derived, rows["ignore"].to_numpy(bool, na_value=False))
    order = np.argsort(frame, kind="stable")
    return Boxes(frame, rows["track_id"].to_numpy(np.int64), category.astype(np.int64), xyxy, ignore).where(order)


def _inside(frame: pd.Series, count: int, path: Path) -> np.ndarray:
    index = frame.to_numpy(np.int64, na_value=-1)
    outside = (index < 0) | (index >= count)
    if outside.any():
        row = frame.index[int(np.argmax(outside))]
        raise DatasetError(f"{path}: row {row}: frame {frame.loc[row]} lies outside the clip's 0..{count - 1}; remove the row")
    return index


def rows_of(track: LabelTrack, clip_id: str, provenance: str, first_frame: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A label track as rows of frames.parquet and boxes.parquet: the inverse of ``labels_of``.

    ``first_frame``: number of the track's first frame within the clip, when a long clip is written piece by piece.
    ``provenance``: human | detector:NAME | simulated | requested | interpolated.
    """
    frame = np.arange(first_frame, first_frame + len(track))
    values = {name: track.values[name] for name in LABELS}
    for name, label in LABELS.items():
        if label.values:
            values[name] = np.array([label.decode(code) for code in values[name]], object)
    frames = {"clip_id": clip_id, "frame": frame, "timestamp_s": frame / track.fps, "boxes_known": track.boxes_known, **values}
    boxes, at = track.boxes, first_frame + track.boxes.frame
    columns: dict[str, Any] = {"clip_id": clip_id, "frame": at, "timestamp_s": at / track.fps, "track_id": boxes.track_id}
    columns["category"] = np.array(CATEGORIES, object)[boxes.category]
    columns |= dict(zip(("x1", "y1", "x2", "y2"), boxes.xyxy.T, strict=True))
    return pd.DataFrame(frames), pd.DataFrame({**columns, "ignore": boxes.ignore, "provenance": provenance})


def clip_row(track: LabelTrack, clip_id: str, video: str, height: int, width: int, **more: Any) -> dict[str, Any]:
    """A row of clips.parquet for a labelled clip: ``time_of_day`` where all frames agree, ``crowdedness`` the mean over known frames.

    ``more``: split, source, licence, camera (JSON text), provenance (JSON text), or further columns.
    """
    codes = np.unique(track.values["time_of_day"])
    crowd = track.values["crowdedness"][np.isfinite(track.values["crowdedness"])]
    return {
        "clip_id": clip_id, "video": video, "fps": track.fps, "frames": len(track), "height": height, "width": width,
        "duration_s": len(track) / track.fps,
        "time_of_day": LABELS["time_of_day"].decode(float(codes[0])) if len(codes) == 1 else None,
        "crowdedness": float(crowd.mean()) if len(crowd) else None, **more,
    }  # fmt: skip
