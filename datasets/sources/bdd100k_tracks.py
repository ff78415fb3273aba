"""Label files of BDD100K, which are in Scalabel's format: lists of frames with boxes, read whole (tracks) or piece by piece (pictures).

``box2d`` names the first and the last pixel of a box: the release's own toolkit counts its width as x2 - x1 + 1 (``box2d_to_bbox`` of
scalabel.label.transforms), so the box ends one pixel behind x2. This file does not know where pictures come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.io.records import DatasetError

from .release_files import read_json
from .releases import Box, Kind, Release

__all__ = ["PICTURES", "TRACKS", "Tracks", "listed", "read_tracks"]

TRACKS, PICTURES = "MOT 2020 Labels", "Detection 2020 Labels"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Tracks:
    """The box tracks of one video. entries: place among the labelled frames -> what is said of that frame.

    exact: it is our own export, in which ``ignored`` says all and who said it is told.
    """

    path: Path
    entries: Mapping[int, Mapping[str, Any]]
    exact: bool

    def boxes(self, frame: Callable[[int], int], known: np.ndarray, size: tuple[int, int], release: Release) -> Iterator[Box]:
        """Boxes of a recording. frame: place -> frame; ``known`` (frames,) is marked there.   size: (height, width) boxes are told in."""
        with _readable(self.path):
            numbers = _track_numbers(self.entries)
            for place, entry in self.entries.items():
                at = frame(place)
                if not 0 <= at < len(known):
                    continue
                known[at] = True
                for label in entry.get("labels") or ():
                    kind = release.kind(label["category"]) if label.get("box2d") else None
                    if kind is not None:
                        yield _box(kind, at, numbers[str(label["id"])], label, size, self.exact)

    def said(self, name: str) -> dict[int, str]:
        """Place -> an attribute of the frame, where one is told."""
        return {place: entry["attributes"][name] for place, entry in self.entries.items() if name in (entry.get("attributes") or {})}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes of the code inside becomes one error that names it."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: not box tracks in Scalabel's format ({reason}); extract {TRACKS} again") from error


def read_tracks(path: Path, exact: bool = False) -> Tracks:
    """A file of the release, or of our export (``exact``).

    Raises:
        DatasetError: damaged; names it and its archive.
    """
    document = read_json(path, TRACKS)
    with _readable(path):
        frames = document["frames"] if isinstance(document, dict) else document
        return Tracks(path, {int(told.get("frameIndex", told.get("index", place))): told for place, told in enumerate(frames)}, exact)


def _track_numbers(entries: Mapping[int, Mapping[str, Any]]) -> dict[str, int]:
    """Tracks are called by digits, which then are their numbers; else they are counted."""
    names = dict.fromkeys(str(label["id"]) for entry in entries.values() for label in entry.get("labels") or ())
    digits = all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() and len(name) < 19 for name in names)
    return {name: int(name) if digits else count for count, name in enumerate(names)}


def _box(kind: Kind, frame: int, track: int, label: Mapping[str, Any], size: tuple[int, int], exact: bool) -> Box:
    told = {name.lower(): value for name, value in (label.get("attributes") or {}).items()}
    x1, y1, x2, y2 = (float(label["box2d"][name]) for name in ("x1", "y1", "x2", "y2"))
    high, wide = size
    hidden = told.get("occlusion", 0.0 if told.get("occluded") is False else None)
    left_alone = kind.ignore or bool(told.get("crowd")) or bool(told.get("ignored"))
    ignore = left_alone if exact else left_alone or None
    edges = (x1 / wide, y1 / high, (x2 + 1) / wide, (y2 + 1) / high)
    provenance = told.get("provenance") if exact else "human"
    return Box(frame, track, kind.category, edges, ignore, hidden, told.get("truncated"), provenance=provenance)


def listed(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list one by one: these files are larger than memory should be.

    Raises:
        DatasetError: damaged or cut short.
    """
    decoder, waiting, begun = json.JSONDecoder(), "", False
    with path.open(encoding="utf-8") as file:
        while chunk := file.read(CHUNK):
            waiting += chunk
            if not begun:
                begun, waiting = "[" in waiting, waiting.partition("[")[2]
            while (start := waiting.find("{")) >= 0:
                try:
                    item, end = decoder.raw_decode(waiting, start)
                except json.JSONDecodeError:
                    break  # the object goes on in the next chunk
                yield item
                waiting = waiting[end:]
    if waiting.strip(" ,\r\n\t") != "]":
        raise DatasetError(f"{path}: not a whole JSON list; extract {PICTURES} again")
