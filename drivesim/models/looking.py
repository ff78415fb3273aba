"""Frames of any size before a box detector: fitted to the rows it was made for, and looked at one by one.

One by one, so that what is found does not depend on which frames came together. This file does not know labels over time or files.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from drivesim.models.detector import BoxDetector, Detections

__all__ = ["ROWS", "fitted", "look_at"]

ROWS = 128
"""Height of the frames that the detectors were trained on; heights of boxes "in pixels" are told at it."""


def fitted(frames: np.ndarray, divisor: int) -> np.ndarray:
    """uint8 (n, h, w, 3) -> (n, ROWS, as wide as the aspect says and ``divisor`` divides, 3), by area where it shrinks."""
    height, width = frames.shape[1:3]
    wide = max(divisor, round(width * ROWS / height / divisor) * divisor)
    if (height, width) == (ROWS, wide):
        return np.ascontiguousarray(frames)
    way = cv2.INTER_AREA if height >= ROWS else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (wide, ROWS), interpolation=way) for frame in frames])


def look_at(detector: BoxDetector, frames: np.ndarray, lowest: float, limit: int = 100) -> list[Detections]:
    """What is in each of the uint8 frames (n, h, w, 3): at most ``limit`` boxes with a score of at least ``lowest``."""
    found: list[Detections] = []
    for frame in frames:
        shown = torch.from_numpy(fitted(frame[None], detector.downsample)).permute(0, 3, 1, 2)
        found += detector.detect(shown, lowest, limit)
    return found
