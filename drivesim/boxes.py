"""2-D boxes, columnar, and which of them are vehicles that count.

This file knows numbers and their meaning. It does not know time beyond frame numbers, files, networks or pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["CATEGORIES", "MIN_VEHICLE_HEIGHT", "VEHICLES", "Boxes", "count_vehicles"]

CATEGORIES = ("car", "truck", "bus", "motorcycle", "bicycle", "person")
VEHICLES = CATEGORIES[:4]
MIN_VEHICLE_HEIGHT = 0.03
"""A vehicle counts towards crowdedness when its visible height is at least this share of the frame's."""


@dataclass(frozen=True)
class Boxes:
    """Rows of 2-D boxes, columnar. All arrays have length N.

    frame: int64, index into the owning track's frames.   track_id: int64, the same object keeps its number.
    category: int64 index into CATEGORIES.   xyxy: float32 (N, 4) x1, y1, x2, y2 in 0..1 of the frame, x1 < x2, y1 < y2.
    ignore: bool, too small or too hidden to be asked of a detector.
    """

    frame: np.ndarray
    track_id: np.ndarray
    category: np.ndarray
    xyxy: np.ndarray
    ignore: np.ndarray

    @classmethod
    def empty(cls) -> Boxes:
        ints = np.zeros(0, np.int64)
        return cls(ints, ints, ints, np.zeros((0, 4), np.float32), np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, keep: np.ndarray) -> Boxes:
        """The rows chosen by a boolean mask or an index array."""
        return Boxes(self.frame[keep], self.track_id[keep], self.category[keep], self.xyxy[keep], self.ignore[keep])

    def unbroken(self, gap: float) -> Iterator[Boxes]:
        """Track by track its rows in time, one a frame, apart where two of them lie more than ``gap`` frames from each other."""
        for track_id in np.unique(self.track_id):
            rows = self.where(self.track_id == track_id)
            rows = rows.where(np.unique(rows.frame, return_index=True)[1])
            for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows.frame) > gap) + 1):
                yield rows.where(part)

    def mirrored(self) -> Boxes:
        """Left-right flipped."""
        x1, y1, x2, y2 = self.xyxy.T
        return replace(self, xyxy=np.stack([1 - x2, y1, 1 - x1, y2], axis=1).astype(np.float32))

    def cropped(self, x1: float, y1: float, x2: float, y2: float) -> Boxes:
        """Seen through a crop window (0..1 of the old frame): rescaled, clipped, and dropped when less than 30% of the area is left."""
        low, high, size = np.array([x1, y1, x1, y1]), np.array([1.0, 1.0, 1.0, 1.0]), np.array([x2 - x1, y2 - y1] * 2)
        moved = (self.xyxy - low) / size
        clipped = np.clip(moved, 0.0, high).astype(np.float32)
        kept = _area(clipped) >= 0.3 * np.maximum(_area(moved), 1e-12)
        return replace(self, xyxy=clipped).where(kept)

    def padded(self, frames: int, limit: int) -> np.ndarray:
        """float32 (frames, limit, 6): category, x1, y1, x2, y2, track_id; category -1 marks empty rows.

        The ``limit`` largest boxes of each frame are kept, nearest (lowest bottom edge) last, so later rows may paint over earlier ones.
        """
        table = np.zeros((frames, limit, 6), np.float32)
        table[..., 0] = -1
        area = _area(self.xyxy)
        for index in range(frames):
            rows = np.flatnonzero(self.frame == index)
            rows = rows[np.argsort(-area[rows], kind="stable")][:limit]
            rows = rows[np.argsort(self.xyxy[rows, 3], kind="stable")]
            table[index, : len(rows)] = np.column_stack([self.category[rows], self.xyxy[rows], self.track_id[rows] % 4096])
        return table


def _area(xyxy: np.ndarray) -> np.ndarray:
    return np.maximum(xyxy[:, 2] - xyxy[:, 0], 0) * np.maximum(xyxy[:, 3] - xyxy[:, 1], 0)


def count_vehicles(boxes: Boxes, frames: int) -> np.ndarray:
    """Crowdedness: float32 (frames,), vehicles at least MIN_VEHICLE_HEIGHT of the frame high. Hidden ones count if tall."""
    counted = (boxes.category < len(VEHICLES)) & (boxes.xyxy[:, 3] - boxes.xyxy[:, 1] >= MIN_VEHICLE_HEIGHT)
    return np.bincount(boxes.frame[counted], minlength=frames)[:frames].astype(np.float32)
