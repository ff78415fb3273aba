"""Our own export for KITTI comes back, part of ``kitti``: boxes from label_02, and from label_02_drivesim what KITTI has no word for.

A row of label_02_drivesim belongs to the row of label_02 with its number: category, track, ignore (0, 1), hidden share, truncated (0, 1),
who says so; - where nobody knows. This file does not know KITTI's own labels beyond their edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.io.records import DatasetError
from drivesim.labels import CATEGORIES, LABELS

from .kitti_text import fields, numbers
from .release_files import needed, numbered, pictures
from .releases import Box, Recording, Release, labelled

__all__ = ["exported_sequence"]

EXPORT, WITH_PICTURES = "the whole export", "an export with pictures=png or jpg"
EDGES = slice(6, 10)


def exported_sequence(root: Path, about: Mapping[str, Any], release: Release) -> Recording:
    """One of the sequences that export.json names.

    Raises:
        DatasetError: a file is missing or damaged, or the two label files do not belong together.
    """
    name, part = str(about["name"]), root / "training"
    paths = numbered(part / "image_02" / name, "{:06d}", WITH_PICTURES)
    try:
        fps, split = float(about["fps"]), str(about["split"])
        origin = {"benchmark": "tracking", "sequence": name, "clip_id": about["clip_id"], "frames": list(about["frames"])}
        codes = np.array([LABELS["time_of_day"].encode(time) for time in about["time_of_day"]])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{root / 'export.json'}: sequence {name}: {type(error).__name__}: {error}; export again") from error
    if len(paths) != len(codes):
        raise DatasetError(f"{part / 'image_02' / name}: {len(paths)} pictures where export.json tells of {len(codes)}; export again")
    shape = next(pictures(paths[:1], WITH_PICTURES)).shape
    size = (shape[0], shape[1])
    track, columns = labelled(len(paths), fps, _boxes(part, name, size, len(paths)), True, {"time_of_day": codes})
    read = partial(pictures, paths, WITH_PICTURES)
    return Recording(f"kitti_{name}", f"training/{name}", size, read, track, split, columns, {}, None, origin, about.get("licence"))


def _boxes(part: Path, name: str, size: tuple[int, int], frames: int) -> Iterator[Box]:
    path, beside = (needed(part / folder / f"{name}.txt", EXPORT) for folder in ("label_02", "label_02_drivesim"))
    rows, more = fields(path), fields(beside)
    if len(rows) != len(more):
        raise DatasetError(f"{beside}: {len(more)} rows for {len(rows)} of {path.parent.name}/{path.name}; export again")
    for line, (row, told) in enumerate(zip(rows, more, strict=True), 1):
        if len(row) != 17:
            raise DatasetError(f"{path}: line {line}: {len(row)} columns where 17 are needed; export again")
        frame, *edges = numbers(path, line, [row[0], *row[EDGES]])
        if not 0 <= frame < frames:
            raise DatasetError(f"{path}: line {line}: frame {frame:g} of {frames}; export again")
        left, top, right, bottom = np.array(edges) / [size[1], size[0], size[1], size[0]]
        yield _box(beside, line, told, int(frame), (left, top, right, bottom))


def _box(beside: Path, line: int, told: list[str], frame: int, xyxy: tuple[float, float, float, float]) -> Box:
    try:
        category, track, ignore, hidden, truncated = told[:5]
        provenance = " ".join(told[5:])
        known = {"occlusion": None if hidden == "-" else float(hidden), "truncated": None if truncated == "-" else truncated == "1"}
        if category not in CATEGORIES or not provenance:
            raise ValueError(f"unknown category {category!r}" if provenance else "6 words are needed")
        who = None if provenance == "-" else provenance
        return Box(frame, int(track), category, xyxy, ignore == "1", provenance=who, **known)  # type: ignore[arg-type]
    except ValueError as error:
        raise DatasetError(f"{beside}: line {line}: {error}; export again") from error
