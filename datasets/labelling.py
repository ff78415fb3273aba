"""``drivesim data label``: labels for clips that have none. Time of day from light, boxes, tracks and crowdedness from a detector.

What people or a simulator have said stays: a clip with boxes of any other origin than a detector keeps them, and so do its time of day and
its crowdedness, unless all is to be overwritten. Every new box carries its score and ``detector:NAME``; frames nobody looked at stay
unknown, and so does a whole night in which nothing was found: then the detector is blind rather than the road empty. This file does not
know how boxes are found or become tracks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, DatasetRecords, empty_table, labels_of, read_records, rewrite_records, rows_of, write_records
from drivesim.io.video import VideoError, iterate_frames
from drivesim.labels import Boxes, LabelTrack, count_vehicles

from .finders import Finder, finder
from .folders import new_folder
from .light import light_above, time_of_day
from .tracking import Found, Tracked, track

__all__ = ["Seen", "label_clip", "label_dataset", "looked_over"]

LOW = 6 / 128
"""Boxes lower than this share of the picture are marked ignore, as everywhere in the format."""
OFTEN = 5.0
"""Looks a second from which a track of a single box is taken for a mistake."""


SIMULATED_ONLY = "the detector of the package knows simulated vehicles only; for recordings name an ONNX file with --detector"
CHANGEABLE = ("time_of_day", "crowdedness", "provenance")
"""Columns of clips.parquet that labelling may write."""


@dataclass(frozen=True)
class Seen:
    """What was found in a clip: the frames looked at, detections of each, light of each."""

    frames: list[int]
    found: list[Found]
    light: list[float]


def label_dataset(
    dataset: str | Path, out: str | Path | None = None, detector: str | Path | None = None, threshold: float | None = None,
    every: int = 1, overwrite_labels: bool = False, size: int = 640, classes: Sequence[str] | None = None, pixels: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Label the clips of ``dataset``, in place or as a new dataset ``out`` with copies of the videos.

    Args:
        detector, threshold, size, classes, pixels: see ``finders.finder``.   every: frames from look to look.
        overwrite_labels: boxes, time of day and crowdedness that are there go, whoever gave them.

    Returns:
        What was labelled, kept and skipped, for people.

    Raises:
        DatasetError: not a clip dataset, or it cannot be written.   UsageError: a number out of range, or no such detector.
        DrivesimError: ``out`` is not empty.
    """
    if every < 1:
        raise UsageError(f"every must be at least 1 frame, not {every}")
    records, by = read_records(dataset), finder(detector, threshold, size, classes, pixels)
    tally, labelled, skipped = _Tally(), list[_Rows](), dict[str, str]()
    for clip_id in tqdm(records.clip_ids, desc="labels", unit="clip", disable=not progress):
        try:
            labelled.append(label_clip(records, clip_id, by, every, overwrite_labels, tally))
        except (VideoError, DatasetError) as error:
            skipped[clip_id] = str(error)
            labelled.append(_as_it_was(records, clip_id))
    joined = _joined(records, labelled)
    if out is None:
        rewrite_records(dataset, joined)
    else:
        _write_beside(joined, records, Path(out))
    told = {"dataset": str(dataset if out is None else out), "detector": by.name, "threshold": by.threshold, **tally.counts}
    told |= {"note": SIMULATED_ONLY} if detector is None and tally.counts["boxes"] else {}
    return {**told, **({"skipped": skipped} if skipped else {})}


@dataclass(frozen=True)
class _Rows:
    """Of one clip: what may change of its row of clips.parquet, and its rows of frames.parquet and boxes.parquet."""

    clip: dict[str, Any]
    frames: pd.DataFrame
    boxes: pd.DataFrame


class _Tally:
    """Counts for the summary."""

    NAMES = ("clips labelled with boxes", "clips whose boxes were kept", "frames looked at", "boxes", "tracks",
             "nights where nothing was found", "day", "night", "light unsure", "time of day kept")  # fmt: skip

    def __init__(self) -> None:
        self.counts = dict.fromkeys(self.NAMES, 0)

    def add(self, **more: int) -> None:
        for name, count in more.items():
            self.counts[name.replace("_", " ")] += count


def looked_over(video: Path, by: Finder | None, every: int, limit: int) -> Seen:
    """Look at every so many of a video's first ``limit`` frames; one is held at a time. by: None = at the light only."""
    seen = Seen([], [], [])
    for number, frame in enumerate(islice(iterate_frames(video), limit)):
        if number % every == 0:
            seen.frames.append(number)
            seen.found.extend(by.find(frame[None]) if by is not None else [])
            seen.light.append(light_above(frame))
    return seen


def label_clip(records: DatasetRecords, clip_id: str, by: Finder, every: int, overwrite: bool, tally: _Tally) -> _Rows:
    """A clip's rows, with what is seen put where nothing was known.

    Raises:
        VideoError, DatasetError: the video or the clip's rows cannot be read.
    """
    labels, clip = labels_of(records, clip_id), records.clip(clip_id)
    origin = _provenance(clip["provenance"])
    said = dict(origin.get("labels", {}))
    dark = overwrite or "time_of_day" in said or bool(np.isnan(labels.values["time_of_day"]).all())
    free = overwrite or _free(records.boxes_of(clip_id), labels)
    tally.add(time_of_day_kept=not dark, clips_whose_boxes_were_kept=not free)
    if not (dark or free):
        return _as_it_was(records, clip_id)
    seen = looked_over(records.video_path(clip_id), by if free else None, every, len(labels))
    rows = _Rows(_changeable(clip), *_table_rows(records, clip_id, labels))
    if dark:
        rows, said["time_of_day"] = _with_light(rows, seen, tally), "light"
    if free:
        counted = overwrite or "boxes" in said or bool(np.isnan(labels.values["crowdedness"]).all())
        rows, said["boxes"] = _with_boxes(rows, clip_id, labels.fps, seen, by, counted, tally), f"detector:{by.name}"
    return replace(rows, clip={**rows.clip, "provenance": json.dumps({**origin, "labels": said})})


def _free(boxes: pd.DataFrame, labels: LabelTrack) -> bool:
    """Whether nobody but a detector has said anything of a clip's boxes; that a road is empty is said, too."""
    if len(boxes):
        return bool(boxes["provenance"].astype("string").str.startswith("detector:").fillna(False).all())
    return not labels.boxes_known.any()


def _tracks(seen: Seen, fps: float, by: Finder) -> Tracked:
    step = seen.frames[1] - seen.frames[0] if len(seen.frames) > 1 else 1
    return track(seen.frames, seen.found, fps, by.threshold, shortest=2 if fps / step >= OFTEN else 1)


def _with_light(rows: _Rows, seen: Seen, tally: _Tally) -> _Rows:
    """Time of day for the clip and all its frames; where light is unsure, what was there."""
    value = time_of_day(seen.light)
    tally.add(**{value or "light unsure": 1})
    if value is None:
        return rows
    return replace(rows, clip={**rows.clip, "time_of_day": value}, frames=rows.frames.assign(time_of_day=value))


def _with_boxes(rows: _Rows, clip_id: str, fps: float, seen: Seen, by: Finder, counted: bool, tally: _Tally) -> _Rows:
    """Frame rows that know where somebody looked, boxes with tracks, and (``counted``) crowdedness of the frames looked at."""
    found, frames = _tracks(seen, fps, by), rows.frames
    blind = not len(found.frame) and rows.clip["time_of_day"] == "night"
    boxes = Boxes(found.frame, found.track_id, found.category, found.xyxy, found.xyxy[:, 3] - found.xyxy[:, 1] < LOW)
    looked = frames["frame"].isin(seen.frames).to_numpy(bool) & (not blind)
    crowd = np.where(looked, count_vehicles(boxes, len(frames)), np.nan).astype(np.float32)
    told = {"boxes_known": looked, **({"crowdedness": crowd} if counted else {})}
    plain = LabelTrack(fps, LabelTrack.unknown(len(frames), fps).values, boxes, looked)
    made = rows_of(plain, clip_id, f"detector:{by.name}")[1].assign(score=found.score)
    tally.add(clips_labelled_with_boxes=1, frames_looked_at=len(seen.frames), boxes=len(boxes), tracks=len(np.unique(found.track_id)),
              nights_where_nothing_was_found=blind)  # fmt: skip
    mean = {"crowdedness": float(crowd[looked].mean()) if looked.any() else None} if counted else {}
    return _Rows({**rows.clip, **mean}, frames.assign(**told), made)


def _changeable(clip: pd.Series) -> dict[str, Any]:
    return {name: clip[name] for name in CHANGEABLE}


def _table_rows(records: DatasetRecords, clip_id: str, labels: LabelTrack) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clip's own rows, with a frame row for every frame."""
    made = rows_of(labels, clip_id, "")[0]
    own = records.frames_of(clip_id)
    if own is not None:
        extra = own.drop(columns=[name for name in made if name not in ("clip_id", "frame")]).drop(columns="clip_id")
        made = made.merge(extra, on="frame", how="left")
    return made, records.boxes_of(clip_id)


def _as_it_was(records: DatasetRecords, clip_id: str) -> _Rows:
    own = records.frames_of(clip_id)
    return _Rows(_changeable(records.clip(clip_id)), empty_table("frames") if own is None else own, records.boxes_of(clip_id))


def _joined(records: DatasetRecords, rows: Sequence[_Rows]) -> DatasetRecords:
    clips = records.clips.assign(**{name: [one.clip[name] for one in rows] for name in CHANGEABLE})
    frames = [one.frames for one in rows if len(one.frames)] or [empty_table("frames")]
    boxes = [one.boxes for one in rows if len(one.boxes)] or [empty_table("boxes")]
    return replace(records, clips=clips, frames=pd.concat(frames, ignore_index=True), boxes=pd.concat(boxes, ignore_index=True))


def _write_beside(labelled: DatasetRecords, records: DatasetRecords, out: Path) -> None:
    with new_folder(out) as folder:
        for clip_id in records.clip_ids:
            target = folder / str(records.clip(clip_id)["video"])
            target.parent.mkdir(parents=True, exist_ok=True)
            if records.video_path(clip_id).is_file():
                shutil.copyfile(records.video_path(clip_id), target)
        write_records(folder, replace(labelled, root=folder))


def _provenance(text: Any) -> dict[str, Any]:
    try:
        told = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        told = {"text": text}
    return told if isinstance(told, dict) else {"text": text}
