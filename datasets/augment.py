"""What a clip may look like besides as it is: mirrored, cropped, recoloured, faster or slower. Labels change with the picture.

A ``View`` is one fixed way of looking at a clip, the same for all its frames; an ``Augment`` says how views are drawn. Speed is not part
of a view: it is the integer stride at which a window takes frames (``windows``). This file does not know files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from drivesim.errors import UsageError
from drivesim.labels import LabelTrack, count_vehicles

__all__ = ["PLAIN", "Augment", "Rect", "View", "centre_crop"]

Rect = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""


def centre_crop(height: int, width: int, to_height: int, to_width: int) -> Rect:
    """The largest centred part of a ``height`` x ``width`` picture that has the aspect of ``to_height`` x ``to_width``."""
    wide = min(width, round(height * to_width / to_height))
    high = min(height, round(width * to_height / to_width))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


@dataclass(frozen=True)
class View:
    """One way to look at a clip.

    crop: x1, y1, x2, y2 in 0..1 of the centre crop.   gain, lift: colour' = gain * colour + lift, (r, g, b) each, in grey levels 0..255.
    """

    mirrored: bool = False
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lift: float = 0.0

    def rect(self, height: int, width: int, to_height: int, to_width: int) -> Rect:
        """The part of a source picture that is seen, in whole pixels (so that boxes follow exactly)."""
        left, top, right, bottom = centre_crop(height, width, to_height, to_width)
        x1, y1, x2, y2 = self.crop
        wide, high = right - left, bottom - top
        return left + round(x1 * wide), top + round(y1 * high), left + round(x2 * wide), top + round(y2 * high)

    def picture(self, frames: np.ndarray, to_height: int, to_width: int) -> np.ndarray:
        """uint8 (n, h, w, 3) -> uint8 (n, to_height, to_width, 3): cropped, resized (by area when it shrinks), recoloured, mirrored."""
        left, top, right, bottom = self.rect(frames.shape[1], frames.shape[2], to_height, to_width)
        frames = frames[:, top:bottom, left:right]
        if frames.shape[1:3] != (to_height, to_width):
            shrinks = frames.shape[1] >= to_height
            way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            frames = np.stack([cv2.resize(frame, (to_width, to_height), interpolation=way) for frame in frames])
        if self.gain != (1.0, 1.0, 1.0) or self.lift:
            frames = self._recoloured(frames)
        return frames[:, :, ::-1] if self.mirrored else frames

    def labels(self, track: LabelTrack, height: int, width: int, to_height: int, to_width: int) -> LabelTrack:
        """What is true of the seen part: boxes move with it, and crowdedness loses the vehicles that fall outside."""
        left, top, right, bottom = self.rect(height, width, to_height, to_width)
        if (left, top, right, bottom) != (0, 0, width, height):
            boxes = track.boxes.cropped(left / width, top / height, right / width, bottom / height)
            lost = count_vehicles(track.boxes, len(track)) - count_vehicles(boxes, len(track))
            values = {**track.values, "crowdedness": np.maximum(track.values["crowdedness"] - lost, 0).astype(np.float32)}
            track = replace(track, boxes=boxes, values=values)
        return track.mirrored() if self.mirrored else track

    def _recoloured(self, frames: np.ndarray) -> np.ndarray:
        levels = np.arange(256)[:, None] * np.array(self.gain) + self.lift
        table = np.clip(np.round(levels), 0, 255).astype(np.uint8)[None]
        flat = np.ascontiguousarray(frames).reshape(-1, frames.shape[2], 3)
        return np.asarray(cv2.LUT(flat, table)).reshape(frames.shape)


PLAIN = View()


@dataclass(frozen=True)
class Augment:
    """How views are drawn in training. All zero = every view is plain.

    mirror: probability.   crop: largest share of each side that is cut away, at a random place.   colour: brightness gain within
    1 +- colour, each channel's within 1 +- colour / 3, lift within +- 40 colour grey levels (small next to the step from day to night).
    speed: windows are played at 1 +- speed as far as integer strides allow.

    Raises:
        UsageError: a value out of range.
    """

    mirror: float = 0.0
    crop: float = 0.0
    colour: float = 0.0
    speed: float = 0.0

    def __post_init__(self) -> None:
        for name, high in (("mirror", 1.0), ("crop", 0.5), ("colour", 0.9), ("speed", 0.5)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise UsageError(f"augmentation {name} must lie in 0..{high:g}, not {value}")

    def draw(self, rng: np.random.Generator) -> View:
        """A random view; every call takes the same number of draws, so that one setting does not shift another's randomness."""
        draws = rng.uniform(0, 1, 9)
        size = 1 - self.crop * draws[1]
        x1, y1 = draws[2] * (1 - size), draws[3] * (1 - size)
        base = 1 + self.colour * (2 * draws[4] - 1)
        red, green, blue = base * (1 + self.colour / 3 * (2 * draws[5:8] - 1))
        lift = 40 * self.colour * (2 * draws[8] - 1)
        crop = (float(x1), float(y1), float(x1 + size), float(y1 + size))
        return View(bool(draws[0] < self.mirror), crop, (float(red), float(green), float(blue)), float(lift))
