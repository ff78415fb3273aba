"""Where traffic comes from when nobody draws it: box tracks of recorded drives, cut into pieces and chained into new ones.

All tracks of a piece stay together (mirrored and shifted as a whole), so who hides whom stays plausible; pieces are cut and joined where
little is in the picture, follow each other at similar ego speed, and are thinned or filled up until the number of vehicles is the wanted
one. This file does not know networks, videos or the layout of a clip dataset.

    G grid frames: everything in the bank lives on one grid of BANK_FPS frames per second
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from drivesim.errors import DrivesimError
from drivesim.io.records import DatasetRecords, labels_of
from drivesim.labels import CATEGORIES, LABELS, MIN_VEHICLE_HEIGHT, VEHICLES, LabelTrack

__all__ = ["BANK_FPS", "Drive", "Piece", "Trace", "TrackBank", "build_bank", "counted"]

BANK_FPS = 7.5
MAX_GAP_S = 0.5
"""A track lost for longer is two tracks: nobody knows what it did meanwhile."""
PIECE_S = 6.0
COLUMNS = ("clip_id", "time_of_day", "frame", "ego_speed_mps", "ego_yaw_rate_radps", "track_id", "category", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Trace:
    """One object without gaps: category index, first grid frame, xyxy float32 (n, 4) of the frames from there on."""

    category: int
    first: int
    xyxy: np.ndarray

    @property
    def last(self) -> int:
        """One past its last grid frame."""
        return self.first + len(self.xyxy)

    def cut(self, first: int, last: int) -> Trace | None:
        """The part within first .. last - 1, counted from ``first``; None when fewer than two frames are left."""
        begin, end = max(self.first, first), min(self.last, last)
        if end - begin < 2:
            return None
        return Trace(self.category, begin - first, self.xyxy[begin - self.first : end - self.first])


def counted(trace: Trace) -> np.ndarray:
    """bool (n,): does it count towards crowdedness (labels.count_vehicles)?"""
    return (trace.category < len(VEHICLES)) & (trace.xyxy[:, 3] - trace.xyxy[:, 1] >= MIN_VEHICLE_HEIGHT)


@dataclass(frozen=True)
class Piece:
    """Grid frames first .. last - 1 of a drive. bulk_in, bulk_out: share of the picture that vehicles fill at its ends."""

    drive: int
    first: int
    last: int
    crowdedness: float
    bulk_in: float
    bulk_out: float
    speed_in: float
    speed_out: float


@dataclass(frozen=True)
class Drive:
    """One recorded drive on the grid. speed, yaw_rate: float32 (G,), NaN = unknown."""

    clip_id: str
    time_of_day: str | None
    speed: np.ndarray
    yaw_rate: np.ndarray
    traces: tuple[Trace, ...]

    def __len__(self) -> int:
        return len(self.speed)

    def cut(self, first: int, last: int) -> list[Trace]:
        """The traces within first .. last - 1, counted from ``first``."""
        parts = (trace.cut(first, last) for trace in self.traces)
        return [part for part in parts if part is not None]

    @cached_property
    def donors(self) -> list[Trace]:
        """Traces that count towards crowdedness at some time."""
        return [trace for trace in self.traces if counted(trace).any()]

    def vehicles(self) -> tuple[np.ndarray, np.ndarray]:
        """Per grid frame: vehicles that count, and the share of the picture that they fill; float32 (G,) each."""
        count, bulk = np.zeros(len(self), np.float32), np.zeros(len(self), np.float32)
        for trace in self.traces:
            seen, (x1, y1, x2, y2) = counted(trace), trace.xyxy.T
            count[trace.first : trace.last] += seen
            bulk[trace.first : trace.last] += seen * (x2 - x1) * (y2 - y1)
        return count, bulk


@dataclass(frozen=True)
class TrackBank:
    """Recorded traffic. ``scenarios.sample`` makes scenarios of it."""

    drives: tuple[Drive, ...]

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Every drive cut into pieces of about PIECE_S seconds, in order of drive and time."""
        return tuple(piece for number, drive in enumerate(self.drives) for piece in _pieces(number, drive))

    def save(self, path: str | Path) -> Path:
        """Write tracks.parquet: a row per grid frame (track_id -1, no category) and a row per box."""
        table = pd.concat([_table(drive) for drive in self.drives], ignore_index=True)
        table.to_parquet(path, index=False, compression="zstd")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> TrackBank:
        """Read tracks.parquet.

        Raises:
            DrivesimError: missing, unreadable, empty, or without a needed column.
        """
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise DrivesimError(f"cannot read the track bank {path}: {error}") from error
        missing = [name for name in COLUMNS if name not in table]
        if missing or not len(table):
            raise DrivesimError(f"{path} is no track bank: {'no column ' + ', '.join(missing) if missing else 'it holds no drive'}")
        return cls(tuple(_drive(str(clip_id), rows) for clip_id, rows in table.groupby("clip_id", sort=True)))


def build_bank(records: DatasetRecords | Sequence[DatasetRecords], split: str | None = "train") -> TrackBank:
    """The track bank of one or more clip datasets: clips of ``split`` (None = all) at least 2 s long whose boxes are known throughout.

    Raises:
        DrivesimError: no clip qualifies.
    """
    drives = []
    for source in [records] if isinstance(records, DatasetRecords) else records:
        clips = source.clips if split is None or "split" not in source.clips else source.clips[source.clips["split"] == split]
        tracks = ((f"{source.root.name}/{clip_id}", labels_of(source, str(clip_id))) for clip_id in clips["clip_id"])
        drives += [drive_of(clip_id, track) for clip_id, track in tracks if len(track) >= 2 * track.fps and track.boxes_known.all()]
    if not drives:
        raise DrivesimError("no clip with known boxes to build a track bank from; import clips with boxes, or choose another split")
    return TrackBank(tuple(drives))


def drive_of(clip_id: str, labels: LabelTrack) -> Drive:
    """A recorded drive brought onto the grid. Boxes move linearly between recorded frames, over gaps of up to MAX_GAP_S."""
    grid = max(round((len(labels) - 1) / labels.fps * BANK_FPS), 0) + 1
    times = np.minimum(np.arange(grid) / BANK_FPS, (len(labels) - 1) / labels.fps)
    speed, yaw_rate = (np.interp(times, labels.timestamp_s, labels.values[name]) for name in ("ego_speed_mps", "ego_yaw_rate_radps"))
    codes = labels.values["time_of_day"]
    day = LABELS["time_of_day"].decode(float(np.nanmedian(codes))) if np.isfinite(codes).any() else None
    traces = []
    for rows in labels.boxes.unbroken(MAX_GAP_S * labels.fps):
        traces += _trace(int(np.bincount(rows.category).argmax()), rows.frame / labels.fps, rows.xyxy, grid)
    return Drive(clip_id, None if day is None else str(day), speed.astype(np.float32), yaw_rate.astype(np.float32), tuple(traces))


def _trace(category: int, timestamp_s: np.ndarray, xyxy: np.ndarray, grid: int) -> list[Trace]:
    """One gapless recorded track on the grid, or nothing when it covers fewer than two grid frames."""
    slack = 1e-3
    first = int(np.ceil((timestamp_s[0] - slack) * BANK_FPS))
    last = min(int(np.floor((timestamp_s[-1] + slack) * BANK_FPS)) + 1, grid)
    if last - first < 2:
        return []
    times = np.arange(first, last) / BANK_FPS
    moved = np.stack([np.interp(times, timestamp_s, xyxy[:, k]) for k in range(4)], axis=1)
    return [Trace(category, first, moved.astype(np.float32))]


def _pieces(number: int, drive: Drive) -> Iterable[Piece]:
    """Cut where vehicles fill the least of the picture, within a quarter of PIECE_S of the even cut."""
    count, bulk = drive.vehicles()
    length, slack = round(PIECE_S * BANK_FPS), round(PIECE_S * BANK_FPS / 4)
    first = 0
    while first < len(drive):
        last = len(drive)
        if last - first > 1.5 * length:
            low = first + length - slack
            last = low + int(bulk[low : low + 2 * slack].argmin())
        ends = (float(bulk[first]), float(bulk[last - 1]), float(drive.speed[first]), float(drive.speed[last - 1]))
        yield Piece(number, first, last, float(count[first:last].mean()), *ends)
        first = last


def _table(drive: Drive) -> pd.DataFrame:
    frames = pd.DataFrame({
        "frame": np.arange(len(drive)), "track_id": -1, "category": None, "ego_speed_mps": drive.speed.round(3),
        "ego_yaw_rate_radps": drive.yaw_rate.round(4),
    })  # fmt: skip
    boxes = [
        pd.DataFrame({
            "frame": np.arange(trace.first, trace.last), "track_id": number, "category": CATEGORIES[trace.category],
            **dict(zip(("x1", "y1", "x2", "y2"), trace.xyxy.round(4).T, strict=True)),
        })
        for number, trace in enumerate(drive.traces)
    ]  # fmt: skip
    table = pd.concat([frames, *boxes], ignore_index=True)
    table["clip_id"], table["time_of_day"] = drive.clip_id, drive.time_of_day
    return table.reindex(columns=list(COLUMNS)).astype({"frame": "int32", "track_id": "int32", "category": "object"} | FLOATS)


FLOATS = dict.fromkeys(("ego_speed_mps", "ego_yaw_rate_radps", "x1", "y1", "x2", "y2"), "float32")


def _drive(clip_id: str, rows: pd.DataFrame) -> Drive:
    rows = rows.sort_values(["track_id", "frame"], kind="stable")
    is_box = rows["track_id"].to_numpy() >= 0
    frames, boxes = rows[~is_box], rows[is_box]
    xyxy, first = boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float32), boxes["frame"].to_numpy(np.int64)
    category = [CATEGORIES.index(name) for name in boxes["category"]]
    parts = np.split(np.arange(len(boxes)), np.flatnonzero(np.diff(boxes["track_id"].to_numpy())) + 1) if len(boxes) else []
    traces = tuple(Trace(category[part[0]], int(first[part[0]]), xyxy[part]) for part in parts)
    speed, yaw_rate = (frames[name].to_numpy(np.float32) for name in ("ego_speed_mps", "ego_yaw_rate_radps"))
    day = frames["time_of_day"].iloc[0]
    return Drive(clip_id, None if pd.isna(day) else str(day), speed, yaw_rate, traces)
