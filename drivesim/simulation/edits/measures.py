"""What an edit kept and what it changed, measured on frames before and after.

A detector looks for the boxes that were asked for; boxes that both sides share, that only the old one has and that only the new one has are
counted apart. Layout is where edges lie, whatever the light: correlation of edge maps, beside that of other seeds of the same scenario,
which is what chance gives. Light is brightness, saturation and the detector's belief that it is night. This file does not know how frames
were made, nor files.

Legend: n frames looked at   h, w size of a frame
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from drivesim.labels import VEHICLES, Boxes, LabelTrack
from drivesim.models.detector import BoxDetector, Detections
from drivesim.models.looking import look_at
from drivesim.simulation.agreement import LOWEST_SCORE, Tally, held_against

__all__ = ["Side", "agreement", "box_measures", "edge_map", "layout", "layout_measures", "light_measures", "watched"]

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
ROWS = 32
"""Edges are looked for in frames made this high: what is finer (texture, noise, lamps) is no layout."""
SURROUND = 4.0
"""Of luma its local mean is taken away and its local deviation divided out, both over a Gaussian of this many pixels of such a frame."""
FLOOR = 0.1
"""The local deviation is taken for no less than this share of the whole frame's, or the noise of an empty sky would be edges."""
SAME_BOX = 1e-3


@dataclass(frozen=True)
class Side:
    """One of the two. frames: uint8 (n, h, w, 3).   labels: of those n frames.   found: what a detector saw in them (``watched``)."""

    frames: np.ndarray
    labels: LabelTrack
    found: tuple[Detections, ...] = ()


def watched(detector: BoxDetector, side: Side) -> Side:
    """The same with what ``detector`` sees in it."""
    return replace(side, found=tuple(look_at(detector, side.frames, LOWEST_SCORE)))


# boxes


def box_measures(before: Side, after: Side, threshold: float) -> dict[str, Any]:
    """Each side against its own boxes, and how many of the ``kept``, ``removed`` and ``added`` boxes are found in either video.

    A box is kept where both sides have it under one number in one place. A removed box that is still found was drawn again, or was drawn
    by something else; before the edit the same share says how many could be found at all. None: boxes of a side are unknown.

    Args:
        before, after: of the same instants, watched.   threshold: the score from which a detection counts.
    """
    sides = {"before": before, "after": after}
    told: dict[str, Any] = {name: agreement(side, threshold) for name, side in sides.items()}
    if told["before"] is None or told["after"] is None:
        return {**told, "kept": None, "removed": None, "added": None}
    old, new = before.labels.boxes, after.labels.boxes
    shared = _shared(old, new)
    for group, boxes in {"kept": old.where(shared), "removed": old.where(~shared), "added": new.where(~_shared(new, old))}.items():
        tallies = {name: _tally(boxes, side.found, threshold) for name, side in sides.items()}
        asked = tallies["before"].right + tallies["before"].missed
        told[group] = {"boxes": asked, **{f"recall_{name}": _rounded(tally.recall) for name, tally in tallies.items()}}
    return told


def agreement(side: Side, threshold: float) -> dict[str, Any] | None:
    """A side's own boxes against what was found: how many were asked for and how many found, precision, recall, F1."""
    if not side.labels.boxes_known.all():
        return None
    tally = _tally(side.labels.boxes, side.found, threshold)
    measures = {"precision": tally.precision, "recall": tally.recall, "f1": tally.f1}
    return {"boxes": tally.right + tally.missed, "found": tally.right + tally.wrong, **{name: _rounded(x) for name, x in measures.items()}}


def _tally(boxes: Boxes, found: Sequence[Detections], threshold: float) -> Tally:
    """Counts over all frames, of vehicles that are tall enough to be asked for."""
    total = Tally()
    for frame, detections in enumerate(found):
        here, vehicles = boxes.where((boxes.frame == frame) & (boxes.category < len(VEHICLES))), detections.vehicles
        total += held_against(here.xyxy, here.ignore, vehicles.xyxy.numpy(), vehicles.score.numpy(), threshold)[2]
    return total


def _shared(boxes: Boxes, others: Boxes) -> np.ndarray:
    """bool (rows,): which of ``boxes`` are among ``others``: same frame, number, category and place."""
    keys = zip(others.frame, others.track_id, others.category, strict=True)
    there = {(int(frame), int(track), int(category)): xyxy for (frame, track, category), xyxy in zip(keys, others.xyxy, strict=True)}
    shared = np.zeros(len(boxes), bool)
    for row in range(len(boxes)):
        xyxy = there.get((int(boxes.frame[row]), int(boxes.track_id[row]), int(boxes.category[row])))
        shared[row] = xyxy is not None and bool(np.abs(xyxy - boxes.xyxy[row]).max() <= SAME_BOX)
    return shared


# layout


def layout_measures(before: np.ndarray, after: np.ndarray, others: Sequence[np.ndarray]) -> dict[str, Any]:
    """Layout that two videos (n, h, w, 3) share, ``between``, beside what ``before`` shares with each of ``others``, ``chance``: made for
    the labels of ``after`` from other noise. ``kept`` is 1 where they share all and 0 where they share no more than by chance.
    """
    between, by_chance = layout(before, after), [layout(before, video) for video in others]
    told: dict[str, Any] = {"between": _rounded(between), "chance": [_rounded(value) for value in by_chance]}
    if not by_chance:
        return {**told, "kept": None}
    level = float(np.mean(by_chance))
    return {**told, "kept": _rounded((between - level) / max(1 - level, 1e-6))}


def layout(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of the edge maps of two videos uint8 (n, h, w, 3), -1..1, the mean over their frames; 0 where one has no edges."""
    return float(np.mean([_correlation(edge_map(a), edge_map(b)) for a, b in zip(first, second, strict=True)]))


def edge_map(frame: np.ndarray) -> np.ndarray:
    """Where the edges of a uint8 frame (h, w, 3) lie, float32 (ROWS, wide): the same for a frame with other brightness or contrast."""
    wide = max(1, round(frame.shape[1] * ROWS / frame.shape[0]))
    luma = cv2.resize(frame.astype(np.float32) @ LUMA / 255, (wide, ROWS), interpolation=cv2.INTER_AREA)
    mean = cv2.GaussianBlur(luma, (0, 0), SURROUND)
    spread = np.sqrt(np.maximum(cv2.GaussianBlur((luma - mean) ** 2, (0, 0), SURROUND), 0.0))
    level = (luma - mean) / np.maximum(spread, FLOOR * luma.std() + 1e-6)
    return np.hypot(cv2.Sobel(level, cv2.CV_32F, 1, 0), cv2.Sobel(level, cv2.CV_32F, 0, 1)).astype(np.float32)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first.astype(np.float64) - first.mean(), second.astype(np.float64) - second.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 1e-9 else 0.0


# light


def light_measures(side: Side) -> dict[str, float]:
    """Means over its frames. brightness: luma, 0..1.   saturation: S of HSV, 0..1.   night: the detector's probability of it."""
    high, low = side.frames.max(-1), side.frames.min(-1)
    measures = {
        "brightness": (side.frames.reshape(-1, 3).mean(0) @ LUMA) / 255,
        "saturation": ((high - low) / np.maximum(high, 1)).mean(),
        "night": np.mean([found.night for found in side.found]),
    }
    return {name: _rounded(float(value)) for name, value in measures.items()}


def _rounded(value: float | None) -> Any:
    return None if value is None else round(float(value), 4)
