"""What is wrong with a clip dataset: every fault by file, row, reason and mend; and setting bad clips aside.

This file knows the format's rules. It does not know training: whoever reads clips decides what to skip, by the faults found here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from drivesim.labels import CATEGORIES, LABELS, LabelError

from .schemas import REQUIRED, DatasetError, read_table
from .tables import DatasetRecords, read_header, read_records, write_records
from .video import VideoError, count_frames, probe

__all__ = ["Fault", "check_records", "quarantine", "row_faults", "video_faults"]


@dataclass(frozen=True)
class Fault:
    """One thing wrong. ``row`` counts from 0 in the named table, None = the file as a whole; ``clip_id`` None = the whole dataset."""

    file: str
    row: int | None
    reason: str
    clip_id: str | None = None

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}: row {self.row}"
        clip = "" if self.clip_id is None else f" (clip {self.clip_id})"
        return f"{where}{clip}: {self.reason}"


def check_records(root: str | Path, deep: bool = False) -> list[Fault]:
    """Every fault of a dataset, tables first, then videos. ``deep`` decodes every frame of every video; else they are only demuxed."""
    root = Path(root)
    faults = _file_faults(root)
    if faults:
        return faults
    records = read_records(root)
    faults = row_faults(records)
    for clip_id in dict.fromkeys(records.clips["clip_id"].dropna()):
        if not records.leaves(records.clip(clip_id)["video"]):
            faults += video_faults(records, clip_id, deep)
    return faults


def _file_faults(root: Path) -> list[Fault]:
    """What keeps the dataset from being read at all; every file is looked at."""
    faults = []
    try:
        read_header(root)
    except DatasetError as error:
        faults.append(Fault("dataset.json", None, _reason(error, root / "dataset.json")))
        if not (root / "clips.parquet").exists():
            return faults
    for kind in REQUIRED:
        path = root / f"{kind}.parquet"
        if kind == "frames" and not path.exists():
            continue
        try:
            read_table(path, kind)
        except DatasetError as error:
            faults.append(Fault(path.name, None, _reason(error, path)))
    return faults


def row_faults(records: DatasetRecords) -> list[Fault]:
    """Every fault the tables show by themselves; no video is opened."""
    found = [*_clip_faults(records), *_box_faults(records)]
    if records.frames is not None:
        found += _frame_faults(records, records.frames)
    return found


def video_faults(records: DatasetRecords, clip_id: str, deep: bool = False) -> list[Fault]:
    """What is wrong with one clip's video: missing, unreadable, truncated, or other than its row says."""
    clip = records.clip(clip_id)
    file = str(clip["video"])
    try:
        path = records.video_path(clip_id)
        info = probe(path)
        held = count_frames(path, decode=deep)
    except (VideoError, DatasetError) as error:
        return [Fault(file, None, _reason(error, records.root / file), clip_id)]
    reasons = []
    if held != clip["frames"]:
        reasons.append(f"holds {held} frames but clips.parquet says {clip['frames']}; it is truncated, or correct the row")
    if (info.height, info.width) != (clip["height"], clip["width"]):
        reasons.append(f"is {info.height}x{info.width} but clips.parquet says {clip['height']}x{clip['width']}; correct the row")
    if abs(info.fps - clip["fps"]) > 0.01 * clip["fps"]:
        reasons.append(f"runs at {info.fps:g} fps but clips.parquet says {clip['fps']:g}; correct the row")
    return [Fault(file, None, reason, clip_id) for reason in reasons]


def quarantine(root: str | Path, faults: Iterable[Fault]) -> list[str]:
    """Move clips with faults to ``<root>/quarantine`` (itself in clip format) and rewrite the tables without them.

    Rows of clips that are not in clips.parquet go as well. Faults of the whole dataset are left for a person.

    Returns:
        The clip ids set aside.

    Raises:
        DatasetError: the tables cannot be read or the folder cannot be written.
    """
    records = read_records(root)
    bad = {fault.clip_id for fault in faults if fault.clip_id is not None}
    if not bad:
        return []
    aside = records.root / "quarantine"
    videos = _own_videos(records, bad)
    try:
        _set_aside(records, bad, aside)
        write_records(records.root, _part_of_records(records, bad, inside=False))
        for path in videos:
            target = aside / path.relative_to(records.root.resolve())
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    except OSError as error:
        raise DatasetError(f"cannot write {aside}: {error.strerror or error}; free space or make the dataset writable") from error
    return sorted(bad)


def _own_videos(records: DatasetRecords, bad: set[str]) -> list[Path]:
    """Existing files inside the dataset that only bad clips use."""
    root = records.root.resolve()
    names = records.clips["video"].astype(object)
    mine = {(root / str(name)).resolve() for name in names[records.clips["clip_id"].isin(bad)]}
    others = {(root / str(name)).resolve() for name in names[~records.clips["clip_id"].isin(bad)]}
    return sorted(path for path in mine - others if path.is_relative_to(root) and path.is_file())


def _set_aside(records: DatasetRecords, bad: set[str], aside: Path) -> None:
    """Add the bad clips' rows to the quarantine's tables."""
    moved = _part_of_records(records, bad, inside=True)
    if (aside / "dataset.json").exists():
        before = read_records(aside)
        clips, boxes = pd.concat([before.clips, moved.clips]), pd.concat([before.boxes, moved.boxes])
        tables = [table for table in (before.frames, moved.frames) if table is not None]
        moved = replace(moved, clips=clips, boxes=boxes, frames=pd.concat(tables) if tables else None)
    write_records(aside, moved)


def _part_of_records(records: DatasetRecords, bad: set[str], inside: bool) -> DatasetRecords:
    """The rows of the bad clips (``inside``) or all others, renumbered."""

    def keep(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["clip_id"].isin(bad) == inside].reset_index(drop=True)

    frames = None if records.frames is None else keep(records.frames)
    return replace(records, clips=keep(records.clips), boxes=keep(records.boxes), frames=frames)


def _clip_faults(records: DatasetRecords) -> Iterator[Fault]:
    clips, file = records.clips, "clips.parquet"
    ids = clips["clip_id"]
    yield from _marked(file, clips, ids.isna(), "clip_id is empty; give every clip one")
    yield from _marked(file, clips, ids.duplicated(keep=False) & ids.notna(), "clip_id is used more than once; rename one")
    stopped = ~(np.isfinite(clips["fps"]) & (clips["fps"] > 0))
    yield from _marked(file, clips, stopped, "fps must be a number above 0; correct the row", "fps")
    for name in ("frames", "height", "width"):
        yield from _marked(file, clips, ~(clips[name] > 0), f"{name} must be above 0; correct the row", name)
    wrong = ~((clips["duration_s"] - clips["frames"] / clips["fps"]).abs() <= 1.5 / clips["fps"]) & (clips["fps"] > 0)
    yield from _marked(file, clips, wrong, "duration_s must be frames / fps; correct the row", "duration_s")
    leaving = pd.Series([records.leaves(name) for name in clips["video"]], clips.index, bool)
    yield from _marked(file, clips, leaving, "the video path leaves the dataset's folder; copy the video into videos/", "video")
    yield from _label_faults(file, clips, ("time_of_day", "crowdedness"))


def _frame_faults(records: DatasetRecords, frames: pd.DataFrame) -> Iterator[Fault]:
    file = "frames.parquet"
    yield from _place_faults(file, frames, records)
    twice = frames.duplicated(["clip_id", "frame"], keep="first")
    yield from _marked(file, frames, twice, "the frame has two rows; remove one", "frame")
    yield from _marked(file, frames, frames["boxes_known"].isna(), "boxes_known is null; say true or false")
    yield from _label_faults(file, frames, tuple(LABELS))


def _box_faults(records: DatasetRecords) -> Iterator[Fault]:
    boxes, file = records.boxes, "boxes.parquet"
    yield from _place_faults(file, boxes, records)
    sides = boxes[["x1", "y1", "x2", "y2"]]
    finite = pd.Series(np.isfinite(sides.to_numpy()).all(axis=1), boxes.index)
    inverted = finite & ~((boxes["x1"] < boxes["x2"]) & (boxes["y1"] < boxes["y2"]))
    outside = finite & ~inverted & ~((sides >= -1e-6) & (sides <= 1 + 1e-6)).all(axis=1)
    wrong = ~finite | inverted | outside
    shown = boxes[wrong]  # a copy, and text of every box, would take longer than all the checks
    shown = shown.assign(corners=[f"{a:g}, {b:g}, {c:g}, {d:g}" for a, b, c, d in sides[wrong].to_numpy()])
    yield from _marked(file, shown, ~finite[wrong], "x1, y1, x2, y2 must be numbers; remove the row", "corners")
    turned = "the box is inverted or empty (x1 < x2 and y1 < y2 are needed); swap its sides"
    yield from _marked(file, shown, inverted[wrong], turned, "corners")
    yield from _marked(file, shown, outside[wrong], "the box leaves the picture (sides are 0..1 of the frame); clip it", "corners")
    unknown = ~boxes["category"].isin(CATEGORIES)
    yield from _marked(file, boxes, unknown, f"unknown category; known are {', '.join(CATEGORIES)}", "category")
    for name in ("score", "occlusion"):
        yield from _marked(file, boxes, (boxes[name] < 0) | (boxes[name] > 1), f"{name} must lie in 0..1 or be null", name)


def _place_faults(file: str, rows: pd.DataFrame, records: DatasetRecords) -> Iterator[Fault]:
    """Rows that point at no clip, at no frame of it, or at another time than their frame's."""
    at = records.clip_positions(rows)
    yield from _marked(file, rows, at < 0, "names a clip that clips.parquet lacks; remove the row")
    count, fps = (np.append(_numbers(records.clips[name]), np.nan)[at] for name in ("frames", "fps"))
    frame, time, known = _numbers(rows["frame"]), _numbers(rows["timestamp_s"]), at >= 0
    beyond = known & ~((frame >= 0) & (frame < count))
    yield from _marked(file, rows, beyond, "frame lies outside the clip; remove the row", "frame")
    with np.errstate(divide="ignore", invalid="ignore"):  # a rate of 0 is another fault
        late = known & (fps > 0) & ~beyond & ~(np.abs(time - frame / fps) <= 0.5 / fps)
    yield from _marked(file, rows, late, "timestamp_s is not within half a frame of frame / fps; correct it", "timestamp_s")


def _numbers(values: pd.Series) -> np.ndarray:
    return values.to_numpy(np.float64, na_value=np.nan)


def _label_faults(file: str, rows: pd.DataFrame, names: Iterable[str]) -> Iterator[Fault]:
    for name in names:
        label = LABELS[name]
        there = rows[name].dropna()
        bad = there[~there.isin(label.values)] if label.values else there[~there.between(label.low, label.high)]
        for row, value in zip(bad.index.tolist(), bad.tolist(), strict=True):
            try:
                label.encode(value)
            except LabelError as error:
                yield Fault(file, row, str(error), _clip_of(rows, row))


def _marked(file: str, rows: pd.DataFrame, bad: pd.Series | np.ndarray, reason: str, shown: str | None = None) -> Iterator[Fault]:
    """One fault for each row where ``bad``; ``shown`` names the column whose value is worth printing."""
    where = bad if isinstance(bad, np.ndarray) else bad.to_numpy(bool, na_value=True)
    for row in rows.index[where].tolist():
        value = "" if shown is None else f"{shown} = {rows[shown].loc[row]!s}: "
        yield Fault(file, row, value + reason, _clip_of(rows, row))


def _clip_of(rows: pd.DataFrame, row: int) -> str | None:
    clip_id = rows["clip_id"].loc[row]
    return clip_id if isinstance(clip_id, str) else None


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
