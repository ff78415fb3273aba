"""The clip that an edit begins with: what it shows, what was asked for, and how it was made, as far as its files say so.

A generated clip says which checkpoint, seed and settings made it (rollout.json in a rollout's folder, else ``provenance`` in
clips.parquet), and its tables hold every label that the networks were told of, so it can be asked for again exactly. A recording has
labels and pictures. This file does not know networks or what is going to be changed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, DatasetRecords, labels_of, read_records, row_faults, video_faults
from drivesim.io.video import probe, read_frames
from drivesim.labels import CATEGORIES, LABELS, BoxTrack, LabelTrack, Scenario
from drivesim.simulation.inputs import fit_frame
from drivesim.simulation.recording.folder import described
from drivesim.simulation.scenes.replay import replay

__all__ = ["Made", "Original", "exactly", "read_original"]


@dataclass(frozen=True)
class Made:
    """How a generated clip came about. preset, hash: of the checkpoint. settings: of the rollout, None = nobody wrote them down.

    start_frames: pictures that it was given to start from. start: their file, as far as that was written down.
    branch: where its noise changes (at_s, seed). upsampling: how it was enlarged. threads: that worked on it.
    whole: false where the rollout was stopped before its end.
    """

    preset: str | None
    hash: str | None
    seed: int
    settings: Mapping[str, Any] | None = None
    start_frames: int = 0
    start: str | None = None
    branch: Mapping[str, Any] | None = None
    upsampling: Mapping[str, Any] | None = None
    threads: int | None = None
    whole: bool = True


@dataclass(frozen=True)
class Original:
    """A clip of a dataset. made: None = a recording.   labels: as its tables have them, one entry a frame."""

    root: Path
    clip_id: str
    video: Path
    labels: LabelTrack
    made: Made | None

    @property
    def fps(self) -> float:
        return self.labels.fps

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) of its pictures."""
        info = probe(self.video)
        return info.height, info.width

    def frames(self, timestamps_s: np.ndarray, height: int, width: int) -> np.ndarray:
        """What it shows at those times (the last frame after its end), uint8 (n, height, width, 3), fitted as a start is."""
        numbers = np.minimum(np.round(np.asarray(timestamps_s) * self.fps), len(self.labels) - 1).astype(np.int64)
        shown, place = np.unique(numbers, return_inverse=True)
        fitted = [fit_frame(frame, height, width) for frame in read_frames(self.video, indices=shown)]
        return np.stack([fitted[at] for at in place])

    def scenario(self, seed: int, fps: float, height: int, width: int) -> Scenario:
        """What it shows, to be driven again at ``fps`` in frames of that size; a generated clip at its own rate comes back exactly."""
        if self.made is not None and np.isclose(self.fps, fps):
            return exactly(self.labels, seed, self.clip_id)
        return replay(self._seen(height, width), seed, self.clip_id)

    def _seen(self, height: int, width: int) -> LabelTrack:
        """The labels of its pictures once these have been cut to another shape (``fit_frame``)."""
        high, wide = self.size
        scale = max(height / high, width / wide)
        x, y = (max(0.0, 1 - shown / (old * scale)) / 2 for shown, old in ((width, wide), (height, high)))
        if max(x * width, y * height) < 1:
            return self.labels
        return replace(self.labels, boxes=self.labels.boxes.cropped(x, y, 1 - x, 1 - y))


def read_original(root: str | Path, clip_id: str | None = None) -> Original:
    """Open a clip. clip_id: None = the only one that there is.

    Raises:
        UsageError: no such clip (the nearest name is told), or several of which none was named.
        DatasetError: not a clip dataset, a fault in the clip's rows, or a video that is missing, unreadable or shorter than they say.
    """
    records = read_records(root)
    chosen = _chosen(records, clip_id)
    faults = [fault for fault in row_faults(records) if fault.clip_id == chosen] or video_faults(records, chosen)
    if faults:
        raise DatasetError(f"{records.root}: clip {chosen}: {faults[0].file}: {faults[0].reason}")
    return Original(records.root, chosen, records.video_path(chosen), labels_of(records, chosen), _made(records, chosen))


def _chosen(records: DatasetRecords, clip_id: str | None) -> str:
    known = records.clip_ids
    if clip_id is None and len(known) == 1:
        return known[0]
    if clip_id is None:
        raise UsageError(f"{records.root} holds {len(known)} clips: say which one with --clip ({_some(known)})")
    if clip_id not in known:
        near = difflib.get_close_matches(clip_id, known, n=1, cutoff=0.5)
        raise UsageError(f"{records.root} has no clip {clip_id!r}; {f'did you mean {near[0]}?' if near else f'it has {_some(known)}'}")
    return clip_id


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... {names[-1]}" if len(names) > 4 else "")


def _made(records: DatasetRecords, clip_id: str) -> Made | None:
    told = described(records.root)
    if told.get("clip_id") != clip_id or "seed" not in told:
        told = _provenance(records, clip_id)
        if told.get("kind") != "generated":
            return None
    if not isinstance(told.get("seed"), int):
        raise DatasetError(f"{records.root}: clip {clip_id} was generated, but nothing says with which seed; it cannot be made again")
    by, settings = told.get("checkpoint") or {}, told.get("settings")
    upsampling = told.get("upsampling")
    scenario = told.get("scenario")
    branch = scenario.get("branch") if isinstance(scenario, dict) else None  # a provenance tells the scenario's hash there
    start = told.get("start")
    return Made(
        by.get("preset"), by.get("hash"), told["seed"], settings, int(told.get("start_frames", bool(start))), start, branch, upsampling,
        told.get("threads"), told.get("state", "finished") == "finished",
    )  # fmt: skip


def _provenance(records: DatasetRecords, clip_id: str) -> dict[str, Any]:
    text = records.clip(clip_id).get("provenance")
    try:
        told = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}  # a recording may say in words where it came from
    return told if isinstance(told, dict) else {}


def exactly(labels: LabelTrack, seed: int = 0, name: str = "scenario") -> Scenario:
    """The scenario that has ``labels`` at their frames, to the bit: boxes keep their numbers, and nothing is filled in between rows.

    Networks are told of no other frames: keyframes are some of these, and frames beyond the last one hold its labels. (``replay`` makes
    whole tracks of recorded boxes at any rate, which changes their numbers.) A time of day that changes takes the value of most frames.
    """
    constants: dict[str, Any] = {}
    profiles = {}
    boxes_known = bool(labels.boxes_known.all())
    for label in LABELS.values():
        values = labels.values[label.name]
        if not np.isfinite(values).any():
            continue
        if label.name == "crowdedness" and boxes_known:  # counted; the constant is for people
            constants[label.name] = float(values.mean())
        elif label.values:
            constants[label.name] = label.decode(float(np.bincount(values[np.isfinite(values)].astype(np.int64)).argmax()))
        elif (values == values[0]).all():
            constants[label.name] = float(values[0])
        else:
            profiles[label.name] = (labels.timestamp_s, values)
    tracks = _stretches(labels) if boxes_known else None
    return Scenario(len(labels) / labels.fps, **constants, tracks=tracks, seed=seed, name=name, profiles=profiles)


def _stretches(labels: LabelTrack) -> tuple[BoxTrack, ...]:
    """Tracks of boxes in frames that follow each other (a number may come back in a later one), in an order that gives the boxes of every
    frame in theirs: where two boxes are equally near, the later one is painted over the other."""
    parts = list(labels.boxes.unbroken(1))
    stretch_of = {(int(rows.track_id[0]), int(frame)): number for number, rows in enumerate(parts) for frame in rows.frame}
    order: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(range(len(parts)), ()))
    for frame in np.split(np.arange(len(labels.boxes)), np.flatnonzero(np.diff(labels.boxes.frame)) + 1):
        here = [stretch_of[int(labels.boxes.track_id[row]), int(labels.boxes.frame[row])] for row in frame]
        for before, after in pairwise(here):
            order.add(after, before)
    sorted_parts = [parts[number] for number in order.static_order()]
    return tuple(
        BoxTrack(int(rows.track_id[0]), CATEGORIES[int(rows.category[0])], rows.frame / labels.fps, rows.xyxy) for rows in sorted_parts
    )
