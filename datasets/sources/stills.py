"""Pictures that come one by one -> recordings: which of them are a clip, and at which rate; part of ``coco`` and ``yolo``.

Nothing in such a dataset says that two pictures are neighbours in time, so each is a clip of one frame unless the caller knows better:

    images      every picture is a clip of one frame
    folders     the pictures of one folder, in order of file name (numbers in it count as numbers), are a clip
    numbered    those of one folder whose names are equal but for their last number, in its order, are a clip; cut where numbers jump

This file does not know where pictures and boxes are told of, or how clips are written (``releases``).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.labels import VEHICLES

from .releases import Box, Recording, Release, held_out, labelled

__all__ = ["GROUPINGS", "Still", "Strip", "check_rate", "natural", "recordings", "runs", "split_of", "strips"]

GROUPINGS = ("images", "folders", "numbered")
SMALLEST, SAME_SHAPE = 16, 0.02
"""Pixels a picture must have; how far (of itself) a picture's aspect may be from the one that boxes are told in."""
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Still:
    """One picture and what is said of it.

    name: its path within the dataset, without suffix.   boxes: (height, width) of the file -> its boxes, whatever frame they name.
    known: somebody looked for boxes.   size: (height, width) that it is told to have, None = not told.   time_of_day: the label's code.
    """

    path: Path
    name: str
    boxes: Callable[[tuple[int, int]], Iterable[Box]]
    split: str | None = None
    known: bool = True
    size: tuple[int, int] | None = None
    time_of_day: float = math.nan
    licence: str | None = None


@dataclass(frozen=True)
class Strip:
    """The pictures of one clip in order. name: the clip's id, once it can be one and is unique.   origin: what its provenance says."""

    name: str
    fps: float
    stills: Sequence[Still]
    origin: Mapping[str, Any]

    @property
    def drive(self) -> str:
        """What it was cut from."""
        return str(self.origin.get("drive", self.name))


def check_rate(fps: float) -> None:
    """Refuse a rate that cannot be.

    Raises:
        UsageError: not a finite number above 0.
    """
    if not (np.isfinite(fps) and fps > 0):
        raise UsageError(f"fps must be a number above 0, not {fps}")


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts img2 before img10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", text)]


def split_of(text: str) -> str | None:
    """The split that a name tells, such as instances_val2017 or valid/_annotations.coco.json."""
    found = re.findall(r"(?<![a-z])(training|train|validation|valid|val|testing|test)(?![a-z])", text.lower())
    return SPLITS[found[-1]] if found else None


def runs(numbers: Sequence[int]) -> tuple[int, list[list[int]]]:
    """The step of rising numbers (the smallest there is), and their places, cut where it is larger."""
    gaps = np.diff(numbers)
    step = int(gaps.min()) if len(gaps) else 1
    return step, [part.tolist() for part in np.split(np.arange(len(numbers)), np.flatnonzero(gaps > step) + 1)]


def strips(stills: Iterable[Still], clips: str, fps: float, prefix: str) -> Iterator[Strip]:
    """Pictures as clips, in one of the ``GROUPINGS``; ``prefix`` begins the clips' ids.

    Raises:
        DatasetError: two pictures of one clip have the same number.
    """
    if clips == "images":
        yield from (Strip(f"{prefix}_{still.name}", fps, (still,), {"picture": still.name}) for still in stills)
        return
    groups: dict[tuple[str, ...], list[tuple[int, Still]]] = {}
    for still in sorted(stills, key=lambda still: natural(still.name)):
        head, number, tail = _numbered(still.name) if clips == "numbered" else (str(PurePosixPath(still.name).parent), 0, "")
        groups.setdefault((still.split or "", head, tail), []).append((number, still))
    for (_, head, tail), found in groups.items():
        drive = f"{prefix}_{head.rstrip('_-./')}{tail}".rstrip("_")
        step, parts = runs([number for number, _ in found]) if clips == "numbered" else (1, [list(range(len(found)))])
        if step < 1:
            raise DatasetError(f"two pictures of one clip have the same number, near {found[0][1].path}; import with clips=images")
        for part in parts:
            chosen = [found[place][1] for place in part]
            name = drive if len(parts) == 1 else f"{drive}_{found[part[0]][0]:06d}"
            yield Strip(name, fps, chosen, {"drive": drive, "pictures": [still.name for still in chosen]})


def _numbered(name: str) -> tuple[str, int, str]:
    """What stands before the last number of a file's name, that number, and what stands behind it."""
    folder, _, file = name.rpartition("/")
    found = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", file)
    return (f"{folder}/{found[1]}", int(found[2]), found[3]) if found else (name, 0, "")


def recordings(found: Sequence[Strip], release: Release, val_share: float) -> Iterator[Recording]:
    """Recordings of strips. Of those whose split is not told, ``val_share`` (of whole drives) is held out."""
    val = held_out((strip.drive for strip in found if strip.stills[0].split is None), val_share)
    taken: set[str] = set()
    for strip in found:
        split = strip.stills[0].split or ("val" if strip.drive in val else "train")
        recording = _recording(strip, _clip_id(strip.name, taken), split, release)
        if recording is not None:
            yield recording


def _clip_id(name: str, taken: set[str]) -> str:
    """A name that can be a file's, with a checksum where it was not, or is taken."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._") or "clip"
    changed = plain.replace("_", "/") != name.replace("_", "/")
    if changed or plain in taken:
        plain = f"{plain}_{zlib.crc32(name.encode()):08x}"
    unique, count = plain, 1
    while unique in taken:
        unique, count = f"{plain}_{count}", count + 1
    taken.add(unique)
    return unique


def _recording(strip: Strip, clip_id: str, split: str, release: Release) -> Recording | None:
    paths, source = [still.path for still in strip.stills], strip.stills[0].name
    first = next(_read(paths[:1]))
    size = (first.shape[0], first.shape[1])
    reason = _unfit(size, strip.stills)
    if reason:
        release.left_out[source] = reason
        return None
    boxes = [
        replace(box, frame=place) for place, still in enumerate(strip.stills) for box in still.boxes(size) if _inside(box, release)
    ]  # fmt: skip
    values: dict[str, Any] = {"time_of_day": np.array([still.time_of_day for still in strip.stills])}
    if not any(kind.category in VEHICLES for kind in release.mapping.values() if kind):
        values["crowdedness"] = np.full(len(paths), np.nan)
    track, columns = labelled(len(paths), strip.fps, boxes, np.array([still.known for still in strip.stills]), values)
    read = partial(iter, [first]) if len(paths) == 1 else partial(_read, paths)
    return Recording(clip_id, source, size, read, track, split, columns, {}, None, strip.origin, strip.stills[0].licence)


def _unfit(size: tuple[int, int], stills: Sequence[Still]) -> str | None:
    """Why boxes do not belong to a picture of this (height, width), or no clip can be made of it."""
    if min(size) < SMALLEST:
        return f"is {size[1]}x{size[0]}; at least {SMALLEST} pixels are needed either way"
    for told in {still.size for still in stills} - {None}:
        if told is not None and abs(size[1] * told[0] / (size[0] * told[1]) - 1) > SAME_SHAPE:
            return f"is {size[1]}x{size[0]}, not of the {told[1]}x{told[0]} that boxes are told in"
    return None


def _inside(box: Box, release: Release) -> bool:
    """Whether something of a box lies in the picture; counted where not."""
    x1, y1, x2, y2 = np.clip(np.array(box.xyxy, np.float32), 0, 1)
    inside = bool(x2 > x1 and y2 > y1)
    if not inside:
        release.dropped[f"{box.category}, empty or outside the picture"] += 1
    return inside


def _read(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Picture files in order, uint8 RGB (h, w, 3); one is held at a time.

    Raises:
        DatasetError: a damaged one, or one of another size than the first.
    """
    shape: tuple[int, ...] | None = None
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{path}: not a readable picture; copy it again, or take it out of the dataset")
        if shape not in (None, picture.shape):
            (high, wide), (there, across) = picture.shape[:2], (shape or picture.shape)[:2]
            raise DatasetError(f"{path}: is {wide}x{high} within a clip of {across}x{there}; import with clips=images")
        shape = picture.shape
        yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
