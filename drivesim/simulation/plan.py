"""Which frame is made in which pass: a rollout as integers.

Levels: level 0 is the keyframes (1.875 fps), every interpolation pass makes one level four times as fast (7.5, then 30 fps). Frame i of
level p sits at i / (keyframe_fps * 4**p) seconds, so frame i of level p is frame 4 * i of level p + 1. This file knows numbers only: no
tensor, no network, no label, no file.

    K keyframes   N output frames   T frames of a keyframe window   S known frames at its start
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from drivesim.errors import UsageError

__all__ = ["FACTOR", "Chunk", "RolloutPlan", "Window", "decode_chunks", "keyframe_windows", "levels_between", "plan_rollout"]

FACTOR = 4
"""An interpolation pass makes the frame rate four times as high: windows of 5 frames, the first and the last of them known."""
MAX_LEVELS = 2


@dataclass(frozen=True)
class Window:
    """One call of the keyframe network over slots first .. first + size - 1 (absolute keyframe numbers; negative = before the rollout).

    The first ``known`` slots are context. ``kept`` of the others are wanted: the last window is cut on output only, T stays fixed.
    """

    index: int
    first: int
    size: int
    known: int
    kept: int

    @property
    def made(self) -> range:
        """Absolute keyframes that exist after this window and did not before."""
        return range(self.first + self.known, self.first + self.known + self.kept)


@dataclass(frozen=True)
class Chunk:
    """One call of the decoder: frames first .. last - 1 come out of latents first_in .. last_in - 1."""

    first: int
    last: int
    first_in: int
    last_in: int

    @property
    def kept(self) -> slice:
        """Where the wanted frames sit among the decoded ones."""
        return slice(self.first - self.first_in, self.last - self.first_in)


@dataclass(frozen=True)
class RolloutPlan:
    """All integers of one rollout. frames: N at ``fps``. levels: interpolation passes. keyframes: K, so that level ``levels`` covers N."""

    frames: int
    fps: float
    keyframe_fps: float
    levels: int
    keyframes: int
    window: int
    given: int

    def level_fps(self, level: int) -> float:
        return self.keyframe_fps * FACTOR**level

    def level_frames(self, level: int) -> int:
        """Frames of ``level`` that the output needs: the last of them lies at or after the last output frame."""
        return math.ceil((self.frames - 1) / FACTOR ** (self.levels - level)) + 1

    def windows(self) -> Iterator[Window]:
        """Keyframe windows in order."""
        return keyframe_windows(self.keyframes, self.window, self.given)

    def complete_after(self, window: Window | None) -> int:
        """Output frames 0 .. n - 1 exist once ``window`` (None = only the first keyframe) went through every interpolation pass."""
        keyframes = window.made.stop if window is not None else 1
        return min((keyframes - 1) * FACTOR**self.levels + 1, self.frames)

    def branching(self, at_s: float) -> Window:
        """The first window that makes no keyframe before ``at_s``: where another future may begin. What is made before it, the frames up to
        its last context keyframe, is not touched.

        Raises:
            UsageError: the rollout ends before there is one.
        """
        for window in self.windows():
            if (window.made.start - 1) / self.keyframe_fps >= at_s - 1e-9:
                return window
        raise UsageError(f"there is no keyframe window after {at_s:g} s to branch off with; branch earlier, or ask for a longer rollout")

    def restart(self, frame: int) -> int:
        """The last keyframe of a window (or keyframe 0) at or before output frame ``frame``. From there on interpolation works in the
        same pieces as it does from the beginning, so it makes the same bits."""
        step, reached = FACTOR**self.levels, 0
        for window in self.windows():
            if (window.made.stop - 1) * step > frame:
                break
            reached = window.made.stop - 1
        return reached


def plan_rollout(duration_s: float, fps: float, keyframe_fps: float = 1.875, window: int = 10, given: int = 1) -> RolloutPlan:
    """Lay out a rollout of round(duration_s * fps) frames.

    Args:
        duration_s: seconds. fps: keyframe_fps times 1, 4 or 16.
        window: T of the keyframe network. given: keyframes known at the start; 2 = the one before frame 0 as well.

    Raises:
        UsageError: fps is no rung of the ladder, or the duration holds no frame.
    """
    levels = levels_between(keyframe_fps, fps)
    if not (math.isfinite(duration_s) and round(duration_s * fps) >= 1):
        raise UsageError(f"{duration_s:g} s at {fps:g} fps hold no frame; ask for a longer rollout")
    if not 1 <= given < window:
        raise UsageError(f"a keyframe window of {window} frames cannot start from {given} known ones")
    frames = round(duration_s * fps)
    keyframes = math.ceil((frames - 1) / FACTOR**levels) + 1
    return RolloutPlan(frames, fps, keyframe_fps, levels, keyframes, window, given)


def levels_between(keyframe_fps: float, fps: float) -> int:
    """Interpolation passes from ``keyframe_fps`` to ``fps``.

    Raises:
        UsageError: no whole number of passes leads there.
    """
    rungs = [keyframe_fps * FACTOR**level for level in range(MAX_LEVELS + 1)]
    for level, rung in enumerate(rungs):
        if math.isclose(rung, fps, rel_tol=1e-6):
            return level
    raise UsageError(f"fps must be one of {', '.join(f'{rung:g}' for rung in rungs)}, not {fps:g}")


def keyframe_windows(keyframes: int, window: int, given: int = 1, overlap: int = 2) -> Iterator[Window]:
    """Windows that make keyframes 1 .. K - 1 from ``given`` known ones ending at keyframe 0: S = given, then S = overlap again and again.

    A window reaches back over frames that exist only: the second of them has S = 2 because the first has made at least one frame.
    """
    index, made, known = 0, 1, given
    while made < keyframes:
        fresh = min(window - known, keyframes - made)
        yield Window(index, made - known, window, known, fresh)
        index, made, known = index + 1, made + fresh, overlap


def decode_chunks(frames: int, size: int, overlap: int, first_frame: int = 0) -> Iterator[Chunk]:
    """Chunks at absolute positions, whatever the arrival of the latents: with overlap >= the decoder's receptive field on each side (or
    the end of the video there), decoding them one by one equals decoding all at once. The first one holds ``first_frame``."""
    for first in range(first_frame // size * size, frames, size):
        last = min(first + size, frames)
        yield Chunk(first, last, max(first - overlap, 0), min(last + overlap, frames))
