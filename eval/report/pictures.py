"""A run's pictures: its contact sheet, plots of its evaluation, nearest neighbours.

A contact sheet that is not there is made: pictures over time of one clip, or one picture of each of many. This file does not know HTML.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from drivesim.errors import DrivesimError
from drivesim.io.video import read_frames

from .embed import MIB, Embedded, embed_picture
from .run import ReportClip, ReportRun

__all__ = ["LARGEST", "PLOTS", "contact_sheet", "inside", "plots"]

LARGEST = 12 * MIB
"""Larger pictures are left out."""
PLOTS = {"distances.png": "Distances", "drift.png": "Drift", "labels.png": "Label fidelity", "neighbours.png": "Nearest training clips"}
COLUMNS, CELLS, WIDTH, GAP = 4, 16, 320, 4
PAPER = 24


def contact_sheet(run: ReportRun) -> Embedded | None:
    """preview.png, or a sheet made of the run's clips; None where no clip can be read."""
    found = embed_picture(run.folder / "preview.png", LARGEST)
    if found is not None or not run.clips:
        return found
    cells = list(_cells(run.clips))
    return _jpeg(_page(cells)) if cells else None


def plots(run: ReportRun) -> list[tuple[str, Embedded]]:
    """(title, picture) of each plot that lies beside result.json."""
    if run.evaluation is None:
        return []
    found = [(title, embed_picture(run.evaluation / name, LARGEST)) for name, title in PLOTS.items()]
    return [(title, picture) for title, picture in found if picture is not None]


def inside(folder: Path | None, name: object) -> Embedded | None:
    """The picture ``name`` under ``folder``; None where it is missing, no picture, or its path leaves the folder."""
    if folder is None or not isinstance(name, str) or "\0" in name:
        return None
    path = folder / name
    return embed_picture(path, LARGEST) if path.resolve().is_relative_to(folder.resolve()) else None


def _cells(clips: tuple[ReportClip, ...]) -> Iterator[np.ndarray]:
    """Pictures uint8 (h, WIDTH, 3): of one clip at even times, of several the middle of each."""
    if len(clips) == 1:
        wanted = [(clips[0], at) for at in np.unique(np.linspace(0, clips[0].info.frames - 1, CELLS).round().astype(int)).tolist()]
    else:
        wanted = [(clip, clip.info.frames // 2) for clip in clips[:: -(-len(clips) // CELLS)]]
    for clip, at in wanted:
        height = max(2, round(clip.info.height * WIDTH / clip.info.width))
        try:
            frame = read_frames(clip.video, indices=[at])[0]
        except DrivesimError:
            continue  # the player beside the sheet says what is wrong with this clip
        yield cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA if clip.info.width > WIDTH else cv2.INTER_LINEAR)


def _page(cells: list[np.ndarray]) -> np.ndarray:
    """Cells in rows of COLUMNS; each row as high as its highest cell."""
    columns = min(COLUMNS, len(cells))
    rows = [_row(cells[start : start + columns], columns) for start in range(0, len(cells), columns)]
    return np.concatenate(rows)


def _row(cells: list[np.ndarray], columns: int) -> np.ndarray:
    height = max(len(cell) for cell in cells)
    row = np.full((height + GAP, columns * (WIDTH + GAP), 3), PAPER, np.uint8)
    for place, cell in enumerate(cells):
        left = place * (WIDTH + GAP)
        row[: len(cell), left : left + WIDTH] = cell
    return row


def _jpeg(picture: np.ndarray) -> Embedded:
    data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return Embedded("image/jpeg", data, len(data))
