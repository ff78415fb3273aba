"""How the contents of recorded frames move: dense optical flow, which a network that moves frames can be held against.

A photometric loss alone moves too little: where a network is not sure of a long way, a short one costs less. Flow from frame to frame is
measured over short ways, where it is sure. (Flow as a teacher of frame interpolation: Huang et al. 2022, "RIFE".) This file does not know
networks, labels or how frames are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch
from torch import Tensor

from drivesim.shapes import as_bytes

__all__ = ["SIDES_AGREE", "filmed_motion"]

SIDES_AGREE = 1.0
"""Pixels. Flow is trusted where the flow back from the next frame ends within so much, and a tenth of its length, of where it began."""

LEAST = 16
"""Pixels of the smaller side: below, dense inverse search finds no room for its patches."""


def filmed_motion(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Windows (b, t, 3, H, W) in [-1, 1] -> how they move at each place, (b, 2, H, W), and where that can be trusted, (b, 1, H, W) in 0..1.

    Motion is x and y in pixels from the first frame to the last, as if what is seen at a place moved on at the speed that things have there
    on the mean: the sum of the flow of all steps, each the mean of forwards and backwards (dense inverse search, Kroeger et al. 2016).

    Raises:
        ValueError: one frame alone, or frames too small to search in.
    """
    if frames.shape[1] < 2 or min(frames.shape[-2:]) < LEAST:
        raise ValueError(f"flow needs windows of two frames or more, {LEAST} pixels high and wide or more, not {tuple(frames.shape)}")
    windows = as_bytes(frames.detach()).permute(0, 1, 3, 4, 2).cpu().numpy()
    found = [_of_window([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in window]) for window in windows]
    moved, trusted = (torch.from_numpy(np.stack(values)).to(frames.device) for values in zip(*found, strict=True))
    return moved, trusted


def _of_window(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    moved, agreed = [], []
    for before, after in pairwise(frames):
        there, back = _flow(search, before, after), _flow(search, after, before)
        returned = _taken(back, there)
        moved.append((there - back) / 2)
        agreed.append(np.hypot(*np.moveaxis(there + returned, -1, 0)) <= SIDES_AGREE + 0.1 * np.hypot(*np.moveaxis(there, -1, 0)))
    whole = np.sum(moved, axis=0).transpose(2, 0, 1)
    return whole.astype(np.float32), np.asarray(agreed, np.float32).mean(0)[None]


def _flow(search: cv2.DISOpticalFlow, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """float32 (H, W, 2), x and y in pixels."""
    return search.calc(before, after, None)  # type: ignore[call-overload,no-any-return]


def _taken(flow: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Flow (H, W, 2) where ``places`` (H, W, 2), relative to each pixel, lead; beyond the border, nothing."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    beyond = (1e3, 1e3)
    return cv2.remap(flow, x + places[..., 0], y + places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=beyond)
