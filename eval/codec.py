"""What happens to a shot between its clip and the network, the same on both sides: one size, then one codec.

This file does not know clips, protocols or networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import cv2
import numpy as np

from drivesim.errors import UsageError
from drivesim.io.video import recode

__all__ = ["CODECS", "Preparation", "resized"]

CODECS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "lossless": lambda frames, fps: frames,
    "h264crf18": lambda frames, fps: recode(frames, fps, crf=18),
}
"""Name, as a protocol's name ends -> what it does to frames uint8 (t, h, w, 3) at so many frames a second."""


@dataclass(frozen=True)
class Preparation:
    """size: (height, width), None = as it comes.   codec: a name of CODECS.   fps: what the codec is told.

    Raises:
        UsageError: no such codec.
    """

    size: tuple[int, int] | None
    codec: str
    fps: float = 7.5

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise UsageError(f"no codec named {self.codec}; known are {', '.join(CODECS)}")

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (t, h, w, 3) -> uint8 (t, height, width, 3)."""
        frames = frames if self.size is None else resized(frames, self.size)
        return CODECS[self.codec](frames, self.fps)

    @property
    def text(self) -> str:
        """Everything that decides the pixels, the libraries' versions included."""
        size = "as it comes" if self.size is None else f"{self.size[0]}x{self.size[1]}"
        return f"{size}, {self.codec} at {self.fps:g} fps, opencv {cv2.__version__}, av {version('av')}"


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (t, h, w, 3) -> (t, height, width, 3): by area where neither side grows, else bilinear; the same array if it has that size."""
    height, width = size
    if frames.shape[1:3] == size:
        return frames
    rule = cv2.INTER_AREA if height <= frames.shape[1] and width <= frames.shape[2] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (width, height), interpolation=rule) for frame in frames])
