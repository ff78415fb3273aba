"""The text files of YOLO datasets: a line per box, in 0..1 of the picture. They know neither pictures nor categories' names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drivesim.io.records import DatasetError

__all__ = ["Corners", "label_lines"]

Corners = tuple[float, float, float, float]
BEYOND = 0.01
"""How far beyond 0..1 a number may lie, by rounding; more is a file in pixels."""


def label_lines(path: Path, keypoints: bool = False) -> list[tuple[int, Corners]]:
    """Class and corners x1, y1, x2, y2 of every line.

    A line is a class, then centre x, centre y, width, height; or the corners of an outline (segmentation, oriented boxes), of which the
    box around it is taken. keypoints: four numbers of a box, then those of a pose, which are passed over.

    Raises:
        DatasetError: not readable, or a line that is none of these; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable text file ({error}); copy the dataset again") from error
    return [_line(path, number, line.split(), keypoints) for number, line in enumerate(lines, 1) if line.strip()]


def _line(path: Path, number: int, words: list[str], keypoints: bool) -> tuple[int, Corners]:
    try:
        kind, *rest = (float(word) for word in words)
    except ValueError as error:
        raise DatasetError(f"{path}: line {number}: {error}; correct the line") from None
    numbers = np.array(rest[:4] if keypoints else rest)
    if not (len(numbers) == 4 or (len(numbers) >= 6 and len(numbers) % 2 == 0)):
        raise DatasetError(f"{path}: line {number}: {len(words)} numbers, where a class and 4 (a box) or 6, 8, ... (an outline) are needed")
    if not (kind >= 0 and kind.is_integer()):
        raise DatasetError(f"{path}: line {number}: {words[0]} is no class's number; correct the line")
    if not ((numbers >= -BEYOND) & (numbers <= 1 + BEYOND)).all():
        raise DatasetError(f"{path}: line {number}: {' '.join(words[1:5])}: not shares of the picture, 0..1; correct the line")
    if len(numbers) == 4:
        x, y, w, h = numbers.tolist()
        return int(kind), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    points = numbers.reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return int(kind), (left, top, right, bottom)
