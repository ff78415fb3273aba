"""Graded damage to clips: what a metric has to notice before its numbers on generated video mean anything.

Some corruptions change pictures, the others only which frame is shown when. The latter are index arrays, so they can be applied to frames
and to anything computed from each frame alone. Three grades of each where grading makes sense, from hardly visible to plain. Every draw
takes a generator. This file does not know metrics or datasets.

Legend: T frames   H height   W width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from drivesim.errors import UsageError

__all__ = ["CORRUPTIONS", "Corruption", "OrderCorruption", "PictureCorruption", "corrupt"]

REFERENCE_HEIGHT = 128
"""Lengths in pixels are meant for pictures of this height and grow with them."""


@dataclass(frozen=True)
class Corruption:
    """name and what it does.   grades: its parameter at each grade, growing damage.   parameter: what the numbers mean."""

    name: str
    what: str
    parameter: str
    grades: tuple[Any, ...]

    def at(self, grade: int) -> Any:
        """The parameter of a grade, counted from 1.

        Raises:
            UsageError: no such grade.
        """
        if not 1 <= grade <= len(self.grades):
            raise UsageError(f"{self.name} has grades 1 to {len(self.grades)}, not {grade}")
        return self.grades[grade - 1]


@dataclass(frozen=True)
class PictureCorruption(Corruption):
    """``change``: (uint8 frames (t, h, w, 3), parameter, generator) -> frames of the same shape."""

    change: Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class OrderCorruption(Corruption):
    """``order``: (t, parameter, generator) -> int64 (t,), numbers of the source frames shown one after the other.

    clips: 2 where the source is the clip and, behind it, t frames of another.
    """

    order: Callable[[int, Any, np.random.Generator], np.ndarray]
    clips: int = 1

    def indices(self, frames: int, grade: int, rng: np.random.Generator) -> np.ndarray:
        """Which source frames make ``frames`` frames: int64 (frames,)."""
        return np.asarray(self.order(frames, self.at(grade), rng), np.int64)

    def source_frames(self, frames: int, grade: int) -> int:
        """How many frames of the clip itself are needed for ``frames`` frames: more than that only for a time-lapse."""
        return (frames - 1) * self.at(grade) + 1 if self.order is _lapsed else frames


def corrupt(name: str, frames: np.ndarray, grade: int, rng: np.random.Generator, other: np.ndarray | None = None) -> np.ndarray:
    """Corrupt a clip, uint8 (t, h, w, 3) RGB, by a name of CORRUPTIONS -> a new array of the same shape.

    A time-lapse by k has no more to show than every k-th frame, so it returns (t - 1) // k + 1 frames.

    other: a clip of the same shape from another drive; "splice" alone needs it.

    Raises:
        UsageError: no such corruption or grade, frames of another type or shape, or no second clip where one is needed.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"no corruption named {name}; known are {', '.join(CORRUPTIONS)}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise UsageError(f"frames must be uint8 (t, h, w, 3), not {frames.dtype} {frames.shape}")
    corruption = CORRUPTIONS[name]
    if isinstance(corruption, PictureCorruption):
        return corruption.change(frames, corruption.at(grade), rng)
    assert isinstance(corruption, OrderCorruption)
    source = _joined(name, frames, other) if corruption.clips == 2 else frames
    shown = (len(frames) - 1) // corruption.at(grade) + 1 if corruption.order is _lapsed else len(frames)
    return source[corruption.indices(shown, grade, rng)]


def _joined(name: str, frames: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    if other is None or other.shape != frames.shape or other.dtype != frames.dtype:
        found = "none" if other is None else f"{other.dtype} {other.shape}"
        raise UsageError(f"{name} needs a second clip of type and shape {frames.dtype} {frames.shape}, got {found}")
    return np.concatenate([frames, other])


# pictures


def _bytes(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _blurred(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    wide = sigma * frames.shape[1] / REFERENCE_HEIGHT
    return np.stack([cv2.GaussianBlur(frame, (0, 0), wide, borderType=cv2.BORDER_REFLECT) for frame in frames])


def _noisy(frames: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return _bytes(frames + deviation * rng.standard_normal(frames.shape, np.float32))


def _jpeg(frames: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    coded = [cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for frame in frames]
    return np.stack([np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1] for code in coded])


def _tinted(frames: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _bytes(frames * np.array([1 + strength, 1, 1 - strength], np.float32))


def _jittered(frames: np.ndarray, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Each frame moved on its own, up to ``pixels`` each way; what comes in at the edge is mirrored.

    By whole pixels: interpolated ones would be blurred, which a metric of single frames sees.
    """
    height, width = frames.shape[1:3]
    most = max(1, round(pixels * height / REFERENCE_HEIGHT))
    wide = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="symmetric")
    corners = rng.integers(0, 2 * most + 1, (len(frames), 2))
    return np.stack([frame[y : y + height, x : x + width] for frame, (y, x) in zip(wide, corners, strict=True)])


# order


def _shuffled(frames: int, group: int, rng: np.random.Generator) -> np.ndarray:
    """Frames permuted within neighbouring groups of ``group`` (0 = within the clip)."""
    starts = range(0, frames, group or frames)
    return np.concatenate([start + rng.permutation(min(group or frames, frames - start)) for start in starts])


def _frozen(frames: int, moving: float, rng: np.random.Generator) -> np.ndarray:
    """The first ``moving`` of the clip moves, then the picture stands; at least one frame is shown."""
    return np.minimum(np.arange(frames), max(1, round(moving * frames)) - 1)


def _held(frames: int, times: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(frames) // times * times


def _lapsed(frames: int, speed: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(frames) * speed


def _spliced(frames: int, cuts: int, rng: np.random.Generator) -> np.ndarray:
    """``cuts`` cuts between the clip and the other one (numbers from ``frames`` on), at places drawn at random."""
    cuts = min(cuts, frames - 1)
    places = rng.choice(np.arange(1, frames), cuts, replace=False)
    other = np.searchsorted(np.sort(places), np.arange(frames), side="right") % 2
    return np.arange(frames) + frames * other


def _reversed(frames: int, parameter: None, rng: np.random.Generator) -> np.ndarray:
    return np.arange(frames)[::-1]


_ALL: tuple[Corruption, ...] = (
    PictureCorruption("blur", "every frame blurred", "sigma of a Gaussian, pixels at height 128", (0.5, 1.0, 2.0), _blurred),
    PictureCorruption("noise", "fresh Gaussian noise in every frame", "standard deviation, grey levels", (4.0, 8.0, 16.0), _noisy),
    PictureCorruption("jpeg", "every frame through JPEG", "quality", (50, 20, 8), _jpeg),
    PictureCorruption("colour", "red stronger and blue weaker", "relative change", (0.05, 0.1, 0.2), _tinted),
    PictureCorruption("jitter", "every frame moved on its own", "largest move each way, pixels at height 128", (1, 2, 4), _jittered),
    OrderCorruption("shuffle", "frames permuted within groups", "frames in a group, 0 = the clip", (2, 4, 0), _shuffled),
    OrderCorruption("freeze", "the picture stands for the rest of the clip", "share that moves", (0.75, 0.5, 0.0), _frozen),
    OrderCorruption("hold", "each frame shown several times, the ones between left out", "times", (2, 3, 4), _held),
    OrderCorruption("timelapse", "played too fast", "speed", (2, 3, 4), _lapsed),
    OrderCorruption("splice", "cuts to another drive and back", "cuts", (1, 2, 4), _spliced, clips=2),
    OrderCorruption("reversal", "played backwards", "none", (None,), _reversed),
)  # fmt: skip
CORRUPTIONS: dict[str, Corruption] = {corruption.name: corruption for corruption in _ALL}
"""All of them by name. "hold" at grade 1 is every second frame; "timelapse" at grade 1 is twice as fast."""
