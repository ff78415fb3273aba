"""Contact sheets: a few frames of two shots, one strip above the other, with a line of text above each.

This file draws uint8 pictures; it does not know features, distances or why the two are shown together.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from drivesim.errors import DrivesimError

__all__ = ["pair_sheet", "strip", "write_png"]

GAP, TEXT = 4, 22
"""Pixels between pictures, and the height of a line of text."""
INK, PAPER = (20, 20, 20), 255


def strip(frames: np.ndarray, pictures: int = 5, height: int = 128) -> np.ndarray:
    """``pictures`` frames of uint8 (t, h, w, 3), from the first to the last at even distances, side by side: uint8 (height, width, 3)."""
    chosen = np.linspace(0, len(frames) - 1, min(pictures, len(frames))).round().astype(int)
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    shrinks = height <= frames.shape[1]
    rule = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    gap = np.full((height, GAP, 3), PAPER, np.uint8)
    parts = [part for index in chosen for part in (cv2.resize(frames[index], (width, height), interpolation=rule), gap)]
    return np.concatenate(parts[:-1], axis=1)


def pair_sheet(above: np.ndarray, below: np.ndarray, titles: tuple[str, str], pictures: int = 5, height: int = 128) -> np.ndarray:
    """Strips of two shots, uint8 (t, h, w, 3) each, under their titles: uint8 (h, w, 3)."""
    strips = [strip(frames, pictures, height) for frames in (above, below)]
    width = max(picture.shape[1] for picture in strips)
    rows = [part for title, picture in zip(titles, strips, strict=True) for part in (_line(title, width), _wide(picture, width))]
    return np.concatenate(rows, axis=0)


def write_png(path: Path, picture: np.ndarray) -> Path:
    """A uint8 RGB picture as a PNG file; folders are made.

    Raises:
        DrivesimError: the file cannot be written.
    """
    data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DrivesimError(f"{path}: the picture cannot be written ({error.strerror or error}); choose another output folder") from error
    return path


def _wide(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=PAPER)


def _line(text: str, width: int) -> np.ndarray:
    """A line of text; what does not fit is cut off. Letters outside of ASCII become question marks (the font has no others)."""
    line = np.full((TEXT, width, 3), PAPER, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(line, plain, (GAP, TEXT - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return line
