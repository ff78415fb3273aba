"""A recording's labels as a scenario: the same boxes, time of day and motion, to be driven again.

Held-out comparisons ask for exactly what a recording shows. This file does not know networks, files or pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from drivesim.labels import CATEGORIES, LABELS, BoxTrack, LabelTrack, Scenario

__all__ = ["replay"]

MAX_GAP_S = 0.3
"""An object that was out of sight for longer starts a new track: in between it was hidden, not moving in a straight line."""


def replay(labels: LabelTrack, seed: int = 0, name: str = "replay") -> Scenario:
    """The scenario whose labels are ``labels``: constant where they are constant, a profile where they change.

    Boxes that are unknown in any frame are unknown throughout. A time of day that changes takes the value of most frames.
    """
    constants: dict[str, Any] = {}
    profiles = {}
    for label in LABELS.values():
        known = np.isfinite(labels.values[label.name])
        values = labels.values[label.name][known]
        if label.name == "crowdedness" or not len(values):  # crowdedness follows from the boxes
            continue
        if label.values:
            constants[label.name] = label.decode(float(np.bincount(values.astype(np.int64)).argmax()))
        else:
            profiles[label.name] = (labels.timestamp_s[known], values)
    tracks = _tracks(labels) if labels.boxes_known.all() else None
    return Scenario(len(labels) / labels.fps, **constants, tracks=tracks, seed=seed, name=name, profiles=profiles)


def _tracks(labels: LabelTrack) -> tuple[BoxTrack, ...]:
    found: list[BoxTrack] = []
    for rows in labels.boxes.unbroken(MAX_GAP_S * labels.fps):
        category = CATEGORIES[int(np.bincount(rows.category).argmax())]
        found.append(BoxTrack(len(found), category, rows.frame / labels.fps, rows.xyxy))
    return tuple(found)
