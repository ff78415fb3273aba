"""Day or night from light alone: how bright the upper third of the picture is, where the sky would be.

A rule in closed form, no network. It knows neither street lamps nor the sun: dusk, and roofs and trees over the whole picture, fall between
its two thresholds and stay unknown. This file does not know labels or videos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["DAY", "NIGHT", "light_above", "time_of_day"]

NIGHT, DAY = 84.0, 96.0
"""Luma (0..255) of the sky up to which it is night and from which it is day."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Rec. 601 weights of red, green and blue."""


def light_above(frame: np.ndarray) -> float:
    """Mean luma, 0..255, of the upper third of a uint8 frame (h, w, 3)."""
    top = frame[: max(1, frame.shape[0] // 3)]
    return float(top.reshape(-1, 3).mean(0, dtype=np.float64) @ LUMA)


def time_of_day(light: Sequence[float]) -> str | None:
    """What the median of ``light_above`` over a clip says, so that a tunnel does not make a night; None = neither, or no frame."""
    if not len(light):
        return None
    middle = float(np.median(light))
    return "night" if middle <= NIGHT else "day" if middle >= DAY else None
