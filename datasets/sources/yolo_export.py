"""Our own export for YOLO comes back, part of ``yolo``: clips, frames and rates of export.json, boxes of labels_drivesim.

labels_drivesim has all boxes with what YOLO has no word for; labels/ must say the same of them, or somebody changed it. Without the folder
labels_drivesim, labels/ is taken as it is: tracks and ignored boxes are gone then. This file does not know foreign datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.io.records import DatasetError
from drivesim.labels import CATEGORIES, LABELS

from .kitti_text import fields
from .release_files import needed
from .releases import Box
from .stills import Still, Strip, runs
from .yolo_text import label_lines

__all__ = ["exported_strips"]

EXPORT, BESIDE = "the whole export", "labels_drivesim"
ROUNDED = 2e-6
"""How far labels/ may be from labels_drivesim: it has six digits."""
Told = Mapping[int, list[Box]]


def exported_strips(root: Path, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Strip]:
    """The clips that export.json names, cut where frames did not leave.

    Raises:
        DatasetError: a file is missing or damaged, or labels/ and labels_drivesim do not belong together.
    """
    fresh = count(1)
    for name, row in rows.items():
        try:
            split, fps, frames = str(row["split"]), float(row["fps"]), [int(frame) for frame in row["frames"]]
            times = [LABELS["time_of_day"].encode(time) for time in row["time_of_day"]]
            step, parts = runs(frames)
            if len(times) != len(frames) or step < 1 or not fps > 0:
                raise ValueError("frames, time_of_day and fps do not fit")
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{root / 'export.json'}: clip {name}: {type(error).__name__}: {error}; export again") from error
        beside, clip_id = root / BESIDE / split / f"{name}.txt", str(row.get("clip_id") or name)
        told = _told(beside, set(frames)) if (root / BESIDE).is_dir() else None
        stills = []
        for frame, time in zip(frames, times, strict=True):
            stem = f"{split}/{name}_{frame:06d}"
            boxes = partial(_boxes, root / f"labels/{stem}.txt", beside, None if told is None else told.get(frame, []), fresh)
            picture = _picture(root / "images" / split, f"{name}_{frame:06d}")
            stills.append(Still(picture, f"images/{stem}", boxes, split, time_of_day=time, licence=row.get("licence")))
        for part in parts:
            origin = {"drive": clip_id, "clip_id": clip_id, "frames": [frames[place] for place in part]}
            wished = clip_id if len(parts) == 1 else f"{clip_id}_{frames[part[0]]:06d}"
            yield Strip(wished, fps / step, [stills[place] for place in part], origin)


def _picture(folder: Path, stem: str) -> Path:
    png = folder / f"{stem}.png"
    return png if png.exists() else needed(folder / f"{stem}.jpg", EXPORT)


def _told(path: Path, frames: set[int]) -> Told:
    """Frame -> its boxes, in order."""
    found: dict[int, list[Box]] = {}
    for line, words in enumerate(fields(needed(path, EXPORT)), 1):
        try:
            frame, category, *edges = words[:6]
            track, ignore, hidden, truncated = words[6:10]
            x1, y1, x2, y2 = (float(edge) for edge in edges)
            who = " ".join(words[10:])
            if int(frame) not in frames or category not in CATEGORIES or not who:
                raise ValueError("a frame that did not leave, an unknown category, or less than 11 words")
            found.setdefault(int(frame), []).append(
                Box(
                    0, int(track), category, (x1, y1, x2, y2), ignore == "1", None if hidden == "-" else float(hidden),
                    None if truncated == "-" else truncated == "1", provenance=None if who == "-" else who,
                )
            )  # fmt: skip
        except ValueError as error:
            raise DatasetError(f"{path}: line {line}: {error}; export again") from error
    return found


def _boxes(labels: Path, beside: Path, told: list[Box] | None, fresh: Iterator[int], size: tuple[int, int]) -> list[Box]:
    """A frame's boxes. told: by labels_drivesim, None = there is none."""
    lines = label_lines(needed(labels, EXPORT))
    if any(number >= len(CATEGORIES) for number, _ in lines):
        raise DatasetError(f"{labels}: a class beyond {len(CATEGORIES) - 1}, {CATEGORIES[-1]}; export again")
    if told is None:
        return [Box(0, next(fresh), CATEGORIES[number], corners, provenance=None) for number, corners in lines]
    seen = told if len(lines) == len(told) else [box for box in told if not box.ignore]
    same = len(lines) == len(seen) and all(
        CATEGORIES[number] == box.category and np.abs(np.subtract(corners, box.xyxy)).max() <= ROUNDED
        for (number, corners), box in zip(lines, seen, strict=True)
    )
    if not same:
        raise DatasetError(
            f"{labels}: not what {beside.parent.parent.name}/{beside.parent.name}/{beside.name} says, so it was changed after the export; "
            f"remove the folder {beside.parent.parent} to import labels as they are, without tracks and ignored boxes"
        )
    return told
