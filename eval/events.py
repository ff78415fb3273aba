"""Three things that go wrong in long videos and can be said without a network: freezes, cuts and repeats.

All three look at a fingerprint: luma averaged over 16 x 32 cells, which averages noise away and keeps where things are. Frames come as an
iterable and are looked at once; what is kept is a few numbers a frame, and of the last ``history`` frames the fingerprints (2 kB each).
This file finds what happened, not why: a car that waits at an empty crossing is a freeze, too. It does not know labels or networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from drivesim.errors import UsageError

__all__ = ["Cut", "EventFinder", "EventRules", "Events", "Freeze", "Repeat", "find_events", "fingerprint"]

CELLS = (16, 32)
"""Rows and columns of a fingerprint."""
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Rec. 709 weights of red, green and blue."""
QUIET = 0.25
"""A cut changes even the quarter of the picture that changes least: a lorry that fills half of it is no cut."""


@dataclass(frozen=True)
class EventRules:
    """What counts. Levels are grey levels (0..255) of a cell.

    The worst cell of a still picture that went through H.264 wanders by at most 1.6 (CRF 18), 1.8 (CRF 23), 3.6 (CRF 28), the root mean
    square over its cells by 0.5 (CRF 23); in the stillest second of 40 sound drives, recorded and simulated, some cell moves by 28. With
    these rules those drives hold no event, and of 200 splices of two drives 193 are found.

    Raises:
        UsageError: a value that is not positive.
    """

    freeze_s: float = 1.0
    still: float = 5.0
    cut_factor: float = 5.0
    cut_level: float = 3.0
    cut_window_s: float = 1.0
    repeat_s: float = 2.0
    same: float = 1.5
    contrast: float = 1 / 3
    history: int = 9000

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} of the event rules must be a positive number, not {value}")


@dataclass(frozen=True)
class Freeze:
    """From the first still frame to the end of the last."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Cut:
    """When the new picture begins, and the change in local medians (infinite after a standstill)."""

    time_s: float
    times_median: float


@dataclass(frozen=True)
class Repeat:
    """The later stretch, and where the earlier one that it equals begins."""

    start_s: float
    end_s: float
    of_s: float


@dataclass(frozen=True)
class Events:
    """What happened in one video of ``duration_s`` seconds."""

    freezes: tuple[Freeze, ...]
    cuts: tuple[Cut, ...]
    repeats: tuple[Repeat, ...]
    duration_s: float

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """For JSON: {"freezes": [...], "cuts": [...], "repeats": [...]}, times in seconds to a millisecond; unbounded numbers are None."""
        named: dict[str, Sequence[Freeze | Cut | Repeat]] = {"freezes": self.freezes, "cuts": self.cuts, "repeats": self.repeats}
        return {name: [{key: _plain(value) for key, value in asdict(event).items()} for event in found] for name, found in named.items()}


def find_events(frames: Iterable[np.ndarray], fps: float, rules: EventRules | None = None) -> Events:
    """The events of one video: an iterable of uint8 (h, w, 3) RGB frames at ``fps``.

    Raises:
        UsageError: ``fps`` is not a positive number, or a frame is no such picture.
    """
    finder = EventFinder(fps, rules)
    for frame in frames:
        finder.see(frame)
    return finder.events()


def fingerprint(frame: np.ndarray) -> np.ndarray:
    """Luma of a uint8 (h, w, 3) RGB frame in 0..255, averaged over cells: float32 (512,).

    Raises:
        UsageError: another type or shape.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise UsageError(f"a frame must be uint8 (h, w, 3) RGB, not {frame.dtype} {frame.shape}")
    luma = frame.astype(np.float32) @ LUMA
    return cv2.resize(luma, CELLS[::-1], interpolation=cv2.INTER_AREA).reshape(-1)


class EventFinder:
    """Sees one video frame by frame (``see``) and says at any time what happened so far (``events``).

    Freeze: a longest run of at least ``freeze_s`` seconds in which no cell leaves the run's first frame by more than ``still``. Compared
    with the first frame and not the one before, a slow fade is no freeze.
    Cut: between two frames even the quietest quarter of the cells changes by ``cut_level``, and ``cut_factor`` times as much as the median
    of the changes within ``cut_window_s`` before and after. A flash of one frame is two cuts.
    Repeat: for at least ``repeat_s`` seconds every frame equals the frame a fixed lag earlier, the lag being at least ``repeat_s``. Equal:
    the root mean square of the cells' differences is below ``same`` and below ``contrast`` times the most that the picture changed within
    the last ``repeat_s`` (so a still road does not equal itself). A later stretch is told once, however many earlier ones it equals.

    Raises:
        UsageError: ``fps`` is not a positive number.
    """

    def __init__(self, fps: float, rules: EventRules | None = None) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise UsageError(f"fps must be a positive number, not {fps}")
        self.fps, self.rules, self.frames = fps, rules or EventRules(), 0
        self._anchor, self._anchor_at = np.full(math.prod(CELLS), np.inf, np.float32), 0
        self._still: list[tuple[int, int]] = []
        self._before: np.ndarray | None = None
        self._changes: list[float] = []
        self._past = _Past(self._count(self.rules.repeat_s), self.rules)

    def see(self, frame: np.ndarray) -> None:
        """The next uint8 (h, w, 3) RGB frame."""
        self.see_cells(fingerprint(frame))

    def see_cells(self, cells: np.ndarray) -> None:
        """The next frame's ``fingerprint``, float32 (512,)."""
        if not np.abs(cells - self._anchor).max() <= self.rules.still:
            self._still = self._with_run()
            self._anchor, self._anchor_at = cells, self.frames
        if self._before is not None:
            self._changes.append(float(np.quantile(np.abs(cells - self._before), QUIET)))
        self._before = cells
        self._past.see(cells)
        self.frames += 1

    def events(self) -> Events:
        """What happened up to the frame seen last."""
        freezes = tuple(Freeze(start / self.fps, end / self.fps) for start, end in self._with_run())
        repeats = tuple(Repeat(start / self.fps, end / self.fps, (start - lag) / self.fps) for start, end, lag in self._past.stretches)
        return Events(freezes, tuple(self._cuts()), repeats, self.frames / self.fps)

    def _count(self, seconds: float) -> int:
        """Frames that last at least ``seconds``, two or more."""
        return max(2, math.ceil(seconds * self.fps - 1e-6))

    def _with_run(self) -> list[tuple[int, int]]:
        """The still stretches, (first frame, end), with the run that ends now if it is long enough."""
        if self.frames - self._anchor_at < self._count(self.rules.freeze_s):
            return self._still
        return [*self._still, (self._anchor_at, self.frames)]

    def _cuts(self) -> Iterable[Cut]:
        change = np.array(self._changes)
        median = _local_medians(change, max(2, round(self.rules.cut_window_s * self.fps)))
        for at in np.flatnonzero((change >= self.rules.cut_level) & (change >= self.rules.cut_factor * median)):
            yield Cut((int(at) + 1) / self.fps, float(change[at] / median[at]) if median[at] > 0 else math.inf)


class _Past:
    """The last fingerprints, and for each of them how many frames in a row the newest stretch has equalled the one that ends with it."""

    def __init__(self, shortest: int, rules: EventRules) -> None:
        self.shortest, self.rules, self.seen = shortest, rules, 0
        size = max(rules.history, 2 * shortest)
        # grown with what was seen, up to the ring of ``size``
        self._size, self._cells = size, np.zeros((0, math.prod(CELLS)), np.float32)
        self._squares, self._runs = np.zeros(0, np.float32), np.zeros(0, np.int64)
        self.stretches: list[tuple[int, int, int]] = []
        """(first frame, end, lag) of the later stretches, disjoint and in order."""

    def see(self, cells: np.ndarray) -> None:
        centred = cells - 128  # small numbers, so that float32 sums lose little
        square = float(centred @ centred)
        known = min(self.seen, self._size)
        if known:
            self._compare(centred, square, known)
        self._remember(centred, square)
        self.seen += 1

    def _compare(self, cells: np.ndarray, square: float, known: int) -> None:
        squares = self._squares[:known] + square - 2 * (self._cells[:known] @ cells)
        distance = np.sqrt(np.maximum(squares, 0) / len(cells))
        lag = (self.seen - 1 - np.arange(known)) % self._size + 1
        recent = distance[lag < self.shortest]
        limit = min(self.rules.same, self.rules.contrast * float(recent.max(initial=0)))
        equal = (distance < limit) & (lag >= self.shortest)
        self._runs[:known] = np.where(equal, np.roll(self._runs[:known], 1) + 1, 0)
        longest = int(self._runs[:known].max())
        if longest >= self.shortest:
            self._tell(self.seen + 1 - longest, int(lag[self._runs[:known] == longest].min()))

    def _tell(self, start: int, lag: int) -> None:
        """The stretch that ends with the newest frame: a new one, or the last one grown."""
        if self.stretches and start <= self.stretches[-1][1]:
            first, _, known_lag = self.stretches.pop()
            start, lag = first, known_lag
        self.stretches.append((start, self.seen + 1, lag))

    def _remember(self, cells: np.ndarray, square: float) -> None:
        slot = self.seen % self._size
        if slot >= len(self._cells):
            more = min(self._size, max(256, 2 * len(self._cells))) - len(self._cells)
            self._cells = np.concatenate([self._cells, np.zeros((more, cells.size), np.float32)])
            self._squares = np.concatenate([self._squares, np.zeros(more, np.float32)])
            self._runs = np.concatenate([self._runs, np.zeros(more, np.int64)])
        self._cells[slot], self._squares[slot], self._runs[slot] = cells, square, 0


def _local_medians(values: np.ndarray, reach: int) -> np.ndarray:
    """Median of the values at most ``reach`` places away, without the value itself: float64 (n,), NaN where there is none."""
    if len(values) < 2:
        return np.full(len(values), np.nan)
    padded = np.pad(values.astype(np.float64), reach, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return np.nanmedian(np.delete(around, reach, axis=1), axis=1)


def _plain(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
