"""Frame rates that a recording can be shown at: every ``stride``-th frame, so that none is shown twice or skipped unevenly.

This file knows numbers; it does not know clips, windows or videos.
"""

from __future__ import annotations

import numpy as np

__all__ = ["TOLERANCE", "whole_stride", "whole_strides"]

TOLERANCE = 0.1
"""How far, relative to the rate asked for, the rate that a whole stride gives may lie."""


def whole_stride(source_fps: float, fps: float, tolerance: float = TOLERANCE) -> int | None:
    """The stride that brings ``source_fps`` nearest to ``fps``; None when the rate it gives is more than ``tolerance`` away.

    >>> whole_stride(29.97, 7.5), whole_stride(10.0, 7.5)
    (4, None)
    """
    return int(whole_strides(np.array([source_fps]), fps, tolerance)[0]) or None


def whole_strides(source_fps: np.ndarray, fps: float, tolerance: float = TOLERANCE) -> np.ndarray:
    """``whole_stride`` of many rates: float (n,) -> int64 (n,), 0 where there is none. Rates that are not positive numbers have none."""
    ratio = np.asarray(source_fps, np.float64) / fps
    usable = np.isfinite(ratio) & (ratio > 0)
    stride = np.maximum(1, np.rint(np.where(usable, ratio, 1))).astype(np.int64)
    return np.where(usable & (np.abs(ratio / stride - 1) <= tolerance), stride, 0)
