"""Columns and statistics of LeRobot episodes, for many episodes at once, part of ``lerobot``. Numbers only: no files, no videos.

Legend: E episodes   F frames of all of them, one episode behind the other   N numbers of a feature
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from drivesim.labels import LabelTrack

__all__ = ["KEYS", "Stats", "arrow", "columns_of", "merged", "picture_stats", "stats_of"]

KEYS = ("min", "max", "mean", "std", "count")
Stats = Mapping[str, np.ndarray]
"""Name of KEYS -> float64 (E, N); count is int64 (E, 1)."""


def columns_of(tracks: Sequence[LabelTrack], state: Sequence[str], slots: int, crowdedness: bool) -> dict[str, np.ndarray]:
    """Feature -> (F,) or (F, N) of episodes' labels; boxes are padded to ``slots`` a frame."""
    lengths = np.array([len(track) for track in tracks])
    starts, count = np.cumsum(lengths) - lengths, int(lengths.sum())
    frame = np.concatenate([track.boxes.frame + start for track, start in zip(tracks, starts.tolist(), strict=True)])
    slot = np.arange(len(frame)) - np.searchsorted(frame, frame)
    padded = {
        "boxes.xyxy": np.zeros((count, slots, 4), np.float32), "boxes.category": np.full((count, slots), -1),
        "boxes.track_id": np.full((count, slots), -1), "boxes.ignore": np.zeros((count, slots), bool),
    }  # fmt: skip
    for name, values in padded.items():
        values[frame, slot] = np.concatenate([getattr(track.boxes, name.removeprefix("boxes.")) for track in tracks])
    named = [*state, "time_of_day", *(["crowdedness"] if crowdedness else [])]
    values_of = {name: np.concatenate([track.values[name] for track in tracks]) for name in named}
    columns = {"observation.state": np.stack([values_of[name] for name in state], axis=1)} if state else {}
    columns |= {**padded, "boxes.xyxy": padded["boxes.xyxy"].reshape(count, -1)}
    columns["boxes_known"] = np.concatenate([track.boxes_known for track in tracks])
    columns |= {"crowdedness": values_of["crowdedness"]} if crowdedness else {}
    columns["frame_index"] = np.arange(count) - np.repeat(starts, lengths)
    columns["task_index"] = np.nan_to_num(values_of["time_of_day"] + 1, nan=0).astype(np.int64)
    return columns


def stats_of(values: np.ndarray, lengths: np.ndarray) -> Stats:
    """Of (F,) or (F, N), episode by episode over rows without NaN; zeros where there is none.   lengths: (E,), none of them 0."""
    starts = np.cumsum(lengths) - lengths
    if not np.issubdtype(values.dtype, np.floating) or not np.isnan(values).any():
        return _stats_of_all(values.reshape(len(values), -1), starts, lengths)
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    sound = ~np.isnan(rows).any(axis=1)
    count = np.add.reduceat(sound.astype(np.int64), starts).reshape(-1, 1)
    some, known, divisor = count > 0, sound.reshape(-1, 1), np.maximum(count, 1)
    filled = np.where(known, rows, 0.0)
    mean = np.add.reduceat(filled, starts, axis=0) / divisor
    off = np.where(known, rows - np.repeat(mean, lengths, axis=0), 0.0)
    least = np.minimum.reduceat(np.where(known, rows, np.inf), starts, axis=0)
    most = np.maximum.reduceat(np.where(known, rows, -np.inf), starts, axis=0)
    std = np.sqrt(np.add.reduceat(off * off, starts, axis=0) / divisor)
    return {"min": np.where(some, least, 0), "max": np.where(some, most, 0), "mean": mean, "std": std, "count": count}


def _stats_of_all(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Stats:
    """Of (F, N) without a NaN: a third of the work."""
    divisor = lengths.reshape(-1, 1)
    least, most = (reduce.reduceat(values, starts, axis=0).astype(np.float64) for reduce in (np.minimum, np.maximum))
    mean = np.add.reduceat(values, starts, axis=0, dtype=np.float64) / divisor
    off = values - np.repeat(mean, lengths, axis=0)
    std = np.sqrt(np.add.reduceat(off * off, starts, axis=0) / divisor)
    return {"min": least, "max": most, "mean": mean, "std": std, "count": divisor.astype(np.int64)}


def merged(stats: Stats) -> Stats:
    """Statistics of all rows from those of their episodes: (1, N)."""
    there = stats["count"][:, 0] > 0
    parts = {name: value[there] if there.any() else value[:1] for name, value in stats.items()}
    weights = np.maximum(parts["count"][:, 0], 1).astype(np.float64)
    mean = np.average(parts["mean"], axis=0, weights=weights)
    square = np.average(parts["std"] ** 2 + (parts["mean"] - mean) ** 2, axis=0, weights=weights)
    found = {"min": parts["min"].min(axis=0), "max": parts["max"].max(axis=0), "mean": mean, "std": np.sqrt(square)}
    return {name: value[None] for name, value in {**found, "count": parts["count"].sum(axis=0)}.items()}


def picture_stats(looked_at: Mapping[int, np.ndarray], episodes: int) -> Stats:
    """Of pixels (n, 3) in 0..1 of some episodes; the others carry the statistics of all that were looked at. Zeros where there are none."""
    if not looked_at:
        return {key: np.zeros((episodes, 1 if key == "count" else 3), np.int64 if key == "count" else np.float64) for key in KEYS}
    numbers = sorted(looked_at)
    lengths = np.array([len(looked_at[number]) for number in numbers])
    found = stats_of(np.concatenate([looked_at[number] for number in numbers]), lengths)
    whole = {name: np.repeat(value, episodes, axis=0) for name, value in merged(found).items()}
    whole["count"][:] = round(float(found["count"].mean()))
    for name, value in whole.items():
        value[numbers] = found[name]
    return whole


def arrow(values: np.ndarray) -> pa.Array:
    """One number a frame as it is, several (or a column of one that LeRobot takes for a scalar) as a list of fixed size."""
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
