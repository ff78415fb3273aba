"""Boxes of single frames become tracks: ByteTrack's association (Zhang et al. 2022) over boxes that move on as they last did.

Sure detections are matched to tracks first and may begin new ones; doubtful ones only keep alive what is already there. A constant
velocity stands in for ByteTrack's Kalman filter. The libraries that hold the original would each take something away: ``trackers`` brings
a second OpenCV that overwrites the headless one, ``norfair`` refuses numpy 2, and supervision has dropped it with 0.31. This file does
not know pictures or files.

Legend: n detections of a frame   m tracks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from drivesim.labels import VEHICLES
from drivesim.models.detector import box_iou

__all__ = ["Found", "Tracked", "track"]

NEAR, SURELY_NEAR = 0.2, 0.5
"""Least overlap with where a track is expected: of a sure detection, of a doubtful one."""
PATIENCE_S = 1.0
"""How long a track that nobody sees is waited for."""
INERTIA = 0.5


@dataclass(frozen=True)
class Found:
    """Detections of one frame: xyxy float32 (n, 4) in 0..1, score float32 (n,), category int64 (n,), index into CATEGORIES."""

    xyxy: np.ndarray
    score: np.ndarray
    category: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class Tracked:
    """Boxes with a track, columnar and by frame: frame, track_id, category int64 (N,), xyxy float32 (N, 4), score float32 (N,)."""

    frame: np.ndarray
    track_id: np.ndarray
    category: np.ndarray
    xyxy: np.ndarray
    score: np.ndarray


@dataclass(eq=False)
class _Track:
    """An object while it is followed: rows (frame, xyxy, score, category), speed in box sides a frame."""

    group: int
    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    speed: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def at(self, frame: int) -> np.ndarray:
        """Where it is expected."""
        return self.boxes[-1] + self.speed * (frame - self.frames[-1])

    def see(self, frame: int, box: np.ndarray, score: float, category: int) -> None:
        if self.frames:
            now = (box - self.boxes[-1]) / (frame - self.frames[-1])
            self.speed = now if len(self.frames) == 1 else INERTIA * self.speed + (1 - INERTIA) * now
        self.frames.append(frame)
        self.boxes.append(box.astype(np.float64))
        self.scores.append(score)
        self.categories.append(category)

    @property
    def category(self) -> int:
        """The category with the largest sum of scores."""
        return int(np.bincount(self.categories, self.scores).argmax())


def track(frames: Sequence[int], found: Sequence[Found], fps: float, sure: float, shortest: int = 1) -> Tracked:
    """Detections of the frames that were looked at (rising numbers) -> tracks, numbered from 0 by when they begin.

    Args:
        fps: of the frame numbers.   sure: score from which a detection may begin a track.   shortest: tracks of fewer boxes are dropped.
    """
    alive, ended = list[_Track](), list[_Track]()
    for frame, here in zip(frames, found, strict=True):
        late = [one for one in alive if frame - one.frames[-1] > PATIENCE_S * fps]
        ended += late
        alive = [one for one in alive if one not in late]
        certain = here.score >= sure
        groups = _groups(here.category)
        left = _assign(alive, frame, here, groups, np.flatnonzero(certain), NEAR)
        unseen = [one for one in alive if one.frames[-1] != frame]
        _assign(unseen, frame, here, groups, np.flatnonzero(~certain), SURELY_NEAR)
        for row in left:
            alive.append(_Track(int(groups[row])))
            alive[-1].see(frame, here.xyxy[row], float(here.score[row]), int(here.category[row]))
    return _columns([one for one in ended + alive if len(one.frames) >= shortest])


def _groups(category: np.ndarray) -> np.ndarray:
    """Categories that may be taken for one another have one number: every vehicle is 0."""
    return np.maximum(category - len(VEHICLES) + 1, 0)


def _assign(tracks: Sequence[_Track], frame: int, found: Found, groups: np.ndarray, rows: np.ndarray, least: float) -> list[int]:
    """Give the rows to the tracks with the largest sum of overlaps; returns the rows nobody took."""
    if not len(tracks) or not len(rows):
        return rows.tolist()
    expected = torch.from_numpy(np.stack([one.at(frame) for one in tracks]))
    overlap = box_iou(expected, torch.from_numpy(found.xyxy[rows]).double()).numpy()
    overlap *= np.array([one.group for one in tracks])[:, None] == groups[rows][None]
    taken = set()
    for number, column in zip(*linear_sum_assignment(-overlap * (overlap >= least)), strict=True):
        if overlap[number, column] >= least:
            row = int(rows[column])
            tracks[number].see(frame, found.xyxy[row], float(found.score[row]), int(found.category[row]))
            taken.add(row)
    return [row for row in rows.tolist() if row not in taken]


def _columns(tracks: Sequence[_Track]) -> Tracked:
    """Numbered by first frame; rows by frame, then track."""
    order = sorted(tracks, key=lambda one: one.frames[0])
    rows = sorted((frame, number, k) for number, one in enumerate(order) for k, frame in enumerate(one.frames))
    boxes = np.array([order[number].boxes[k] for _, number, k in rows], np.float32).reshape(-1, 4)
    score = np.array([order[number].scores[k] for _, number, k in rows], np.float32)
    category = np.array([order[number].category for _, number, _ in rows], np.int64)
    places = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
    return Tracked(places[:, 0], places[:, 1], category, boxes, score)
