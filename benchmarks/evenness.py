"""How evenly a video moves from one known frame to the next: optical flow of the steps between beside that of the whole way.

A window is n + 1 frames, the first and the last of them known (n = 4: an interpolation pass). Its motion is n + 1 numbers, mean lengths of
flow in frame widths: of the n steps, then of the whole way from the first frame to the last. Ratios are of sums over windows, so standing
cars count little.

Two traps, both measured. The whole way is far: what was near the camera has left the picture after four steps, and no flow finds it again,
so the whole way comes out too short, and the ``pace`` of recordings is 1.6 to 2.8 and not 1. And a video that stands still and then jumps
has a pace of exactly 1, because its one step is the whole way. So pace means something beside a recording's only, and ``outer_to_inner``
beside it. This file does not know where frames come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from drivesim.eval.intervals import Interval, over_drives
from drivesim.eval.signals import flow_magnitude


@dataclass
class Motion:
    """Motion of windows as they come. rows: each (n + 1,).   drives: of the windows."""

    rows: list[np.ndarray] = field(default_factory=list)
    drives: list[str] = field(default_factory=list)

    def see(self, frames: np.ndarray, drive: str) -> None:
        """One window, uint8 (n + 1, h, w, 3)."""
        self.rows.append(motion(frames))
        self.drives.append(drive)

    def array(self) -> np.ndarray:
        """float64 (windows, n + 1)."""
        return np.array(self.rows, np.float64)


def motion(frames: np.ndarray) -> np.ndarray:
    """uint8 (n + 1, h, w, 3) -> float64 (n + 1,): flow of every step, and of the whole way."""
    steps = [flow_magnitude(before, after) for before, after in pairwise(frames)]
    return np.array([*steps, flow_magnitude(frames[0], frames[-1])])


def pace(rows: np.ndarray) -> float:
    """Mean step over an n-th of the whole way, of rows (windows, n + 1): 1 where all happens in one step; NaN where nothing moves."""
    steps, whole = rows[:, :-1], rows[:, -1]
    return _ratio(float(steps.mean()), float(whole.mean()) / steps.shape[1])


def outer_to_inner(rows: np.ndarray) -> float:
    """Steps that touch a known frame over those that do not: above 1 = a jump at known frames, below 1 = the jump is in the middle."""
    return _ratio(float(rows[:, [0, -2]].mean()), float(rows[:, 1:-2].mean()))


def step_ratios(made: np.ndarray, recorded: np.ndarray, least: float) -> np.ndarray:
    """Mean step of each made window over that of the recorded one, rows (windows, n + 1); recorded ones below ``least`` are left out."""
    steps, true = made[:, :-1].mean(1), recorded[:, :-1].mean(1)
    return steps[true >= least] / true[true >= least]


def pace_interval(of: Motion, **how: int) -> Interval:
    """``pace`` with its interval over drives."""
    rows = of.array()
    return over_drives(lambda first, _: pace(rows[first]), of.drives, of.drives, paired=True, **how)


def outer_interval(of: Motion, **how: int) -> Interval:
    """``outer_to_inner`` with its interval over drives."""
    rows = of.array()
    return over_drives(lambda first, _: outer_to_inner(rows[first]), of.drives, of.drives, paired=True, **how)


def relative_pace(made: Motion, recorded: Motion, **how: int) -> Interval:
    """Pace of one side over the other's. Sides of the same windows are drawn together, others apart."""
    one, other = made.array(), recorded.array()
    paired = made.drives == recorded.drives
    return over_drives(
        lambda first, second: _ratio(pace(one[first]), pace(other[second])), made.drives, recorded.drives, paired=paired, **how
    )


def within(values: Sequence[float] | np.ndarray, low: float, high: float) -> float:
    """Share of the values from low to high; NaN of none."""
    found = np.asarray(values, np.float64)
    return float(((found >= low) & (found <= high)).mean()) if len(found) else float("nan")


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
