"""A page that shows an edit: before and after at the same instants, plain and with the boxes that were asked for.

This file does not know files or where frames come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from drivesim.simulation.edits.measures import Side
from drivesim.simulation.preview import FONT, annotate

__all__ = ["edit_page"]

BAND = 18
"""Height of the band above a row that says what it is, in pixels."""


def edit_page(sides: Sequence[tuple[str, Side]], timestamps_s: np.ndarray, width: int = 320) -> np.ndarray:
    """Two rows for each side, plain and with boxes and labels.

    Args:
        sides: name, frames and labels of the instants.   width: of one picture.

    Returns:
        uint8 RGB (rows, instants * width, 3).
    """
    return np.vstack([row for name, side in sides for row in _rows(name, side, timestamps_s, width)])


def _rows(name: str, side: Side, timestamps_s: np.ndarray, width: int) -> list[np.ndarray]:
    plain = np.hstack([_sized(frame, width) for frame in side.frames])
    drawn = [annotate(frame, side.labels, index, float(timestamps_s[index])) for index, frame in enumerate(side.frames)]
    band = np.full((BAND, plain.shape[1], 3), 40, np.uint8)
    cv2.putText(band, name, (4, BAND - 5), FONT, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return [band, plain, np.hstack([_sized(picture, width) for picture in drawn])]


def _sized(picture: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if picture.shape[1] > width else cv2.INTER_LINEAR)
