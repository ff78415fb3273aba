"""Labels as a page's script reads them: plain numbers, one entry a frame, boxes as whole numbers in one flat list.

This file knows the page's JSON; it does not know files or HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelTrack

__all__ = ["BOX_FIELDS", "COLOURS", "SCALE", "as_script", "categories", "clip_labels"]

COLOURS = ("#50c8ff", "#ffa03c", "#ff5a5a", "#c878ff", "#78ff78", "#fff050")
"""Of boxes, in the order of CATEGORIES: those of a rollout's preview."""
SCALE = 10_000
"""Coordinates are sent as whole numbers: 1 / SCALE of the frame."""
BOX_FIELDS = 8
"""frame, track, category, x1, y1, x2, y2, ignore."""
DIGITS = {"crowdedness": 2, "ego_speed_mps": 2, "ego_yaw_rate_radps": 4}


def categories() -> list[dict[str, str]]:
    """Name and colour of each category."""
    return [{"name": name, "colour": colour} for name, colour in zip(CATEGORIES, COLOURS, strict=True)]


def clip_labels(track: LabelTrack) -> dict[str, Any]:
    """{"values": label -> numbers or None a frame, or None where nothing is known, "boxes": flat list, "unknown": stretches of frames
    [start, end) whose boxes nobody knows}."""
    return {
        "values": {name: _values(track.values[name], DIGITS.get(name, 0)) for name in LABELS},
        "boxes": _flat(track.boxes),
        "unknown": _stretches(~track.boxes_known),
    }


def as_script(content: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element: nothing in it can close the element or open a comment; NaN is refused by ValueError."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _values(values: np.ndarray, digits: int) -> list[float | int | None] | None:
    known = np.isfinite(values)
    if not known.any():
        return None
    rounded = [round(float(value), digits) if there else None for value, there in zip(values, known, strict=True)]
    return [int(value) if value is not None and value == int(value) else value for value in rounded]


def _flat(boxes: Boxes) -> list[int]:
    order = np.lexsort((boxes.xyxy[:, 3], boxes.frame))  # nearest last, so that it is drawn on top
    boxes = boxes.where(order)
    corners = np.rint(boxes.xyxy * SCALE).astype(np.int64)
    rows = np.column_stack([boxes.frame, boxes.track_id, boxes.category, corners, boxes.ignore.astype(np.int64)])
    return rows.reshape(-1).tolist()


def _stretches(flags: np.ndarray) -> list[list[int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return edges.reshape(-1, 2).tolist()
