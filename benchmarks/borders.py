"""Do windows and tiles show? How much a video changes where two of them meet, beside how much it changes elsewhere.

A step is the mean absolute difference of two neighbours: frames in time, columns or rows of pixels in space. Steps at borders are all that
touch a place where two windows were mixed. Their ratio to the others is 1 on average where nothing shows; since a horizon or a passing
car makes steps unequal by itself, the ratio is also given over the recorded frames' ratio at the same places. This file does not know
what enlarges frames, only where its windows lie.

Legend: T frames   H, W height and width   L length of an axis
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drivesim.eval.intervals import Interval, over_drives

AXES = {"time": 0, "rows": 1, "columns": 2}
"""Axis of frames (T, H, W, 3) along which windows or tiles follow each other."""


def steps(frames: np.ndarray, axis: int) -> np.ndarray:
    """uint8 (T, H, W, 3) -> float64 (L - 1,): mean absolute difference of neighbours along ``axis``, 0..1."""
    change = np.abs(np.diff(frames.astype(np.int16), axis=axis))
    return change.mean(axis=tuple({0, 1, 2, 3} - {axis}), dtype=np.float64) / 255


def border_steps(length: int, size: int, overlap: int) -> np.ndarray:
    """bool (length - 1,): steps that touch a frame (or pixel) in two windows of ``size`` at multiples of size - overlap.

    Without overlap it is the one step from a window into the next. 0, or a size that covers all: no borders.
    """
    at = np.zeros(length - 1, bool)
    if not 0 < size < length:
        return at
    stride = size - overlap
    for first in range(stride, length - overlap, stride):
        at[first - 1 : first + overlap] = True
    return at


@dataclass
class Border:
    """Sums over windows, a row each: steps at borders and inside, of made and of recorded frames; and how many of each."""

    at: list[tuple[float, float]] = field(default_factory=list)
    inside: list[tuple[float, float]] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    drives: list[str] = field(default_factory=list)

    def see(self, made: np.ndarray, true: np.ndarray, axis: int, at: np.ndarray, drive: str) -> None:
        """One window of frames, uint8 (T, H, W, 3) twice; ``at``: which steps along ``axis`` are borders."""
        both = [steps(frames, axis) for frames in (made, true)]
        self.at.append((float(both[0][at].sum()), float(both[1][at].sum())))
        self.inside.append((float(both[0][~at].sum()), float(both[1][~at].sum())))
        self.counts.append((int(at.sum()), int((~at).sum())))
        self.drives.append(drive)

    def ratio(self, beside_recorded: bool, resamples: int = 1000) -> Interval:
        """Mean step at borders over mean step inside, with its interval over drives."""
        at, inside, counts = np.array(self.at), np.array(self.inside), np.array(self.counts, np.float64)

        def of(rows: np.ndarray, _: np.ndarray) -> float:
            here, there, (some, others) = at[rows].sum(0), inside[rows].sum(0), counts[rows].sum(0)
            if not (some and others and there.all() and here[1]):
                return float("nan")
            ratios = (here / some) / (there / others)
            return float(ratios[0] / ratios[1] if beside_recorded else ratios[0])

        return over_drives(of, self.drives, self.drives, resamples=resamples, paired=True)
