"""What can be said about a drive: one registry of labels, and labels laid out over time.

Columns of the clip format, command-line flags and embedders all derive from ``LABELS``. Inside the program every scalar label is a
float32 with NaN as its null ("nobody knows"), so no code below needs a second way to say "unknown". Boxes are kept beside them with a
``boxes_known`` flag per frame: no boxes in a known frame means an empty road, no boxes in an unknown frame means nothing.

This file knows numbers and their meaning. It does not know files, networks or pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from drivesim.boxes import CATEGORIES, MIN_VEHICLE_HEIGHT, VEHICLES, Boxes, count_vehicles

__all__ = [
    "CATEGORIES", "LABELS", "MIN_VEHICLE_HEIGHT", "VEHICLES", "BoxTrack", "Boxes", "Branch", "Label", "LabelError", "LabelTrack",
    "Scenario", "boxes_of", "count_vehicles",
]  # fmt: skip


class LabelError(ValueError):
    """A label value that cannot be: the message names the label, the value and what is allowed."""


@dataclass(frozen=True)
class Label:
    """One scalar label. ``values`` names the classes of a categorical label; a number has ``low``..``high`` in ``unit`` instead."""

    name: str
    unit: str
    low: float
    high: float
    help: str
    values: tuple[str, ...] = ()
    temporal: bool = False
    """True: told to the temporal layers (motion); False: told to the spatial layers (appearance)."""

    def encode(self, value: str | float | None) -> float:
        """A user's value -> float; None, "null" and NaN -> NaN.

        Raises:
            LabelError: not one of ``values``, not a number, or outside ``low``..``high``.
        """
        if value is None or value in ("null", "") or (isinstance(value, float) and math.isnan(value)):
            return math.nan
        if self.values:
            if value not in self.values:
                raise LabelError(f"{self.name} must be one of {', '.join(self.values)} or null, not {value!r}")
            return float(self.values.index(str(value)))
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise LabelError(f"{self.name} must be a number ({self.unit}), not {value!r}") from None
        if not self.low <= number <= self.high:
            raise LabelError(f"{self.name} must lie in {self.low:g}..{self.high:g} {self.unit}, not {value}")
        return number

    def decode(self, code: float) -> str | float | None:
        """Float -> the user's value; NaN -> None."""
        if math.isnan(code):
            return None
        return self.values[round(code)] if self.values else float(code)


LABELS: dict[str, Label] = {
    label.name: label
    for label in (
        Label("time_of_day", "", 0, 1, "day or night", values=("day", "night")),
        Label("crowdedness", "vehicles", 0, 100, "vehicles in the frame that are at least 3% of its height"),
        Label("ego_speed_mps", "m/s", 0, 60, "speed of the recording car", temporal=True),
        Label("ego_yaw_rate_radps", "rad/s", -2, 2, "turn rate of the recording car, left positive", temporal=True),
    )
}


@dataclass(frozen=True)
class LabelTrack:
    """Labels of consecutive frames at ``fps``.

    values: label name -> float32 (T,), NaN = unknown; every name of LABELS is present.
    boxes: rows with ``frame`` in 0..T-1.   boxes_known: bool (T,).
    """

    fps: float
    values: dict[str, np.ndarray]
    boxes: Boxes
    boxes_known: np.ndarray

    @classmethod
    def unknown(cls, frames: int, fps: float) -> LabelTrack:
        """Nothing is known of any frame."""
        nulls = {name: np.full(frames, np.nan, np.float32) for name in LABELS}
        return cls(fps, nulls, Boxes.empty(), np.zeros(frames, bool))

    def __len__(self) -> int:
        return len(self.boxes_known)

    @property
    def timestamp_s(self) -> np.ndarray:
        return np.arange(len(self)) / self.fps

    def take(self, frames: Sequence[int] | np.ndarray, fps: float) -> LabelTrack:
        """The labels of the given frames, in that order, as a track at ``fps``: windows, strides and resampling are all this."""
        frames = np.asarray(frames, np.int64)
        rows, position = [], []
        for new, old in enumerate(frames):
            found = np.flatnonzero(self.boxes.frame == old)
            rows.append(found)
            position.append(np.full(len(found), new, np.int64))
        picked = self.boxes.where(np.concatenate(rows) if rows else np.zeros(0, np.int64))
        boxes = replace(picked, frame=np.concatenate(position) if position else np.zeros(0, np.int64))
        return LabelTrack(fps, {name: value[frames] for name, value in self.values.items()}, boxes, self.boxes_known[frames])

    def mirrored(self) -> LabelTrack:
        """Left-right flipped: boxes and yaw rate change sign with the picture."""
        values = {**self.values, "ego_yaw_rate_radps": -self.values["ego_yaw_rate_radps"]}
        return replace(self, values=values, boxes=self.boxes.mirrored())

    def arrays(self, max_boxes: int = 32) -> dict[str, np.ndarray]:
        """What networks are told: every scalar label and ``fps`` float32 (T,), ``boxes`` (T, max_boxes, 6), ``boxes_known`` (T,)."""
        boxes = self.boxes.padded(len(self), max_boxes)
        return {**self.values, "fps": np.full(len(self), self.fps, np.float32), "boxes": boxes, "boxes_known": self.boxes_known}


@dataclass(frozen=True)
class BoxTrack:
    """One object seen over time: timestamp_s float64 (n,) rising, xyxy float32 (n, 4). Between samples it moves linearly."""

    track_id: int
    category: str
    timestamp_s: np.ndarray
    xyxy: np.ndarray

    def at(self, timestamp_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions at the given times: (present bool (m,), xyxy float32 (m, 4)). Absent before the first and after the last sample."""
        times = np.asarray(timestamp_s, np.float64)
        slack = 1e-6
        present = (times >= self.timestamp_s[0] - slack) & (times <= self.timestamp_s[-1] + slack)
        xyxy = np.stack([np.interp(times, self.timestamp_s, self.xyxy[:, k]) for k in range(4)], axis=1)
        return present, xyxy.astype(np.float32)


@dataclass(frozen=True)
class Branch:
    """From ``at_s`` seconds on (rounded up to where a keyframe window begins) the noise is that of another ``seed``."""

    at_s: float
    seed: int


@dataclass(frozen=True)
class Scenario:
    """What should happen: labels for ``duration_s`` seconds. ``tracks`` None = boxes unknown; () = an empty road. None labels are unknown.

    profiles: a number label that changes over time, name -> (timestamp_s rising (n,), values (n,)); it stands in for the label's constant,
    moves linearly between samples and holds its first and last value outside them.
    """

    duration_s: float
    time_of_day: str | None = None
    crowdedness: float | None = None
    ego_speed_mps: float | None = None
    ego_yaw_rate_radps: float | None = None
    tracks: tuple[BoxTrack, ...] | None = None
    seed: int = 0
    name: str = field(default="scenario")
    profiles: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    branch: Branch | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise LabelError(f"duration must be a positive number of seconds, not {self.duration_s}")
        for label in LABELS.values():
            label.encode(getattr(self, label.name))
        for name, (timestamp_s, values) in self.profiles.items():
            _check_profile(name, np.asarray(timestamp_s), np.asarray(values))

    def label_track(self, frames: int, fps: float) -> LabelTrack:
        """The scenario as ``frames`` labelled frames at ``fps``. With tracks, crowdedness is what the boxes say, frame by frame."""
        return self.labels_at(np.arange(frames) / fps, fps)

    def labels_at(self, timestamp_s: np.ndarray, fps: float) -> LabelTrack:
        """The same at the given times only, as a track at ``fps``: a long drive never has to be laid out as a whole."""
        frames = len(timestamp_s)
        values = {name: np.full(frames, label.encode(getattr(self, name)), np.float32) for name, label in LABELS.items()}
        for name, (times, profile) in self.profiles.items():
            values[name] = np.interp(timestamp_s, times, profile).astype(np.float32)
        if self.tracks is None:
            return replace(LabelTrack.unknown(frames, fps), values=values)
        boxes = boxes_of(self.tracks, timestamp_s)
        values["crowdedness"] = count_vehicles(boxes, frames)
        return LabelTrack(fps, values, boxes, np.ones(frames, bool))


def _check_profile(name: str, timestamp_s: np.ndarray, values: np.ndarray) -> None:
    label = LABELS.get(name)
    if label is None or label.values:
        numbers = ", ".join(known.name for known in LABELS.values() if not known.values)
        raise LabelError(f"a profile must be of one of {numbers}, not {name!r}")
    if timestamp_s.ndim != 1 or timestamp_s.shape != values.shape or len(timestamp_s) == 0 or np.any(np.diff(timestamp_s) <= 0):
        raise LabelError(f"the profile of {name} needs as many rising times as values")
    for value in values[~np.isnan(values)]:
        label.encode(float(value))


def boxes_of(tracks: Iterable[BoxTrack], timestamp_s: np.ndarray, min_height: float = 6 / 128) -> Boxes:
    """Where every track is at the given times, clipped to the picture; boxes lower than ``min_height`` are marked ignore."""
    parts = [_rows(track, timestamp_s, min_height) for track in tracks]
    parts = [part for part in parts if len(part)]
    if not parts:
        return Boxes.empty()
    merged = [np.concatenate([getattr(part, name) for part in parts]) for name in ("frame", "track_id", "category", "xyxy", "ignore")]
    order = np.argsort(merged[0], kind="stable")
    return Boxes(*merged).where(order)


def _rows(track: BoxTrack, timestamp_s: np.ndarray, min_height: float) -> Boxes:
    present, xyxy = track.at(timestamp_s)
    clipped = np.clip(xyxy, 0.0, 1.0)
    visible = present & (clipped[:, 2] - clipped[:, 0] > 1e-3) & (clipped[:, 3] - clipped[:, 1] > 1e-3)
    frame = np.flatnonzero(visible)
    clipped = clipped[frame]
    count = len(frame)
    low = clipped[:, 3] - clipped[:, 1] < min_height
    category = np.full(count, CATEGORIES.index(track.category), np.int64)
    return Boxes(frame, np.full(count, track.track_id, np.int64), category, clipped, low)
