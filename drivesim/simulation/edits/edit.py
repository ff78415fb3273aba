"""One label of a scenario changed, the rest kept: what an edit asks for, and what that makes of a scenario.

``Changes`` says what shall be otherwise. ``edited`` applies it and tells what of it is a change at all: a label that already has the wanted
value is none. This file does not know networks, datasets or pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES, LABELS, BoxTrack, LabelTrack, Scenario, count_vehicles
from drivesim.simulation.scenes.sampling import TrackBank, recrowded
from drivesim.simulation.scenes.track_bank import BANK_FPS, Trace

__all__ = ["Changes", "Edit", "edited"]

NEAR = 0.5
"""Vehicles: crowdedness that ends up further from the wanted one is told."""


@dataclass(frozen=True)
class Changes:
    """What shall be otherwise; what is not named stays.

    labels: name of LABELS -> the user's value, None = unknown; it holds for the whole clip. Crowdedness is not among them.
    tracks: boxes that replace the clip's.   crowdedness: mean number of vehicles a frame that boxes are taken away or added to reach.
    seed: another one.

    Raises:
        LabelError: a value that cannot be.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    tracks: tuple[BoxTrack, ...] | None = None
    crowdedness: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.labels.items():
            LABELS[name].encode(value)
        LABELS["crowdedness"].encode(self.crowdedness)


@dataclass(frozen=True)
class Edit:
    """A scenario before and after. changed: name -> (old, new), as JSON takes it.   notes: what the user should know."""

    before: Scenario
    after: Scenario
    changed: dict[str, tuple[Any, Any]]
    notes: tuple[str, ...] = ()


def edited(scenario: Scenario, changes: Changes, fps: float, bank: TrackBank | None = None) -> Edit:
    """Apply ``changes``.

    Args:
        fps: of the frames that labels are compared at.   bank: where added vehicles come from; drawn from with the clip's seed.

    Raises:
        UsageError: more vehicles are wanted than there are, and there is no bank to take them from.
    """
    after, notes = _with_labels(scenario, changes.labels), list[str]()
    if changes.tracks is not None:
        after = replace(after, tracks=changes.tracks, crowdedness=None)
    if changes.crowdedness is not None:
        after, notes = _with_crowdedness(after, changes.crowdedness, fps, bank)
    if changes.seed is not None:
        after = replace(after, seed=changes.seed)
    return Edit(scenario, after, _changed(scenario, after, fps), tuple(notes))


def _with_labels(scenario: Scenario, labels: Mapping[str, Any]) -> Scenario:
    """Constants in place of the old ones and of profiles."""
    values = {name: LABELS[name].decode(LABELS[name].encode(value)) for name, value in labels.items()}
    profiles = {name: profile for name, profile in scenario.profiles.items() if name not in values}
    return replace(scenario, **values, profiles=profiles)  # type: ignore[arg-type]


# crowdedness


def _with_crowdedness(scenario: Scenario, wanted: float, fps: float, bank: TrackBank | None) -> tuple[Scenario, list[str]]:
    if scenario.tracks is None:
        note = "the clip's boxes are unknown, so the networks are told the number of vehicles alone; no box is written"
        profiles = {name: profile for name, profile in scenario.profiles.items() if name != "crowdedness"}
        return replace(scenario, crowdedness=wanted, profiles=profiles), [note]
    frames = max(round((scenario.duration_s - 1 / fps) * BANK_FPS), 0) + 1
    traces = [_trace(track, frames) for track in scenario.tracks]
    there = [index for index, trace in enumerate(traces) if trace is not None]
    random = np.random.default_rng([scenario.seed, 0xED17])  # a stream of its own, apart from the noise and from sampled traffic
    kept, added = recrowded(bank, [trace for trace in traces if trace is not None], frames, wanted, random)
    gone = set(there) - {there[index] for index in kept}
    tracks = [track for index, track in enumerate(scenario.tracks) if index not in gone]
    first = max((track.track_id for track in scenario.tracks), default=0) + 1
    tracks += [_track(first + number, trace) for number, trace in enumerate(added)]
    after = replace(scenario, crowdedness=wanted, tracks=tuple(tracks))
    return after, _shortfall(after, wanted, fps, bank)


def _shortfall(after: Scenario, wanted: float, fps: float, bank: TrackBank | None) -> list[str]:
    reached = _vehicles(_labels(after, fps))
    if bank is None and reached < wanted - NEAR:
        raise UsageError(
            f"--crowdedness {wanted:g} needs more vehicles than the clip's {reached:.1f}, and the checkpoint holds no track bank "
            "(tracks.parquet) to take them from; give --boxes instead"
        )
    if abs(reached - wanted) <= NEAR:
        return []
    return [f"{wanted:g} vehicles a frame were asked for; whole tracks taken away or added come to {reached:.1f}"]


def _trace(track: BoxTrack, frames: int) -> Trace | None:
    """A track on the bank's grid; None where it is not there at any frame of it."""
    present, xyxy = track.at(np.arange(frames) / BANK_FPS)
    rows = np.flatnonzero(present)
    if not len(rows):
        return None
    return Trace(CATEGORIES.index(track.category), int(rows[0]), np.clip(xyxy[rows], 0.0, 1.0))


def _track(track_id: int, trace: Trace) -> BoxTrack:
    return BoxTrack(track_id, CATEGORIES[trace.category], np.arange(trace.first, trace.last) / BANK_FPS, trace.xyxy)


# what changed


def _changed(before: Scenario, after: Scenario, fps: float) -> dict[str, tuple[Any, Any]]:
    """By the labels of every frame, so that one thing said in two ways is no change."""
    old, new = _labels(before, fps), _labels(after, fps)
    changed: dict[str, tuple[Any, Any]] = {}
    for name in LABELS:
        if name == "crowdedness" and after.tracks is not None:
            continue  # told with the boxes
        if not np.array_equal(old.values[name], new.values[name], equal_nan=True):
            changed[name] = (_summary(name, old.values[name]), _summary(name, new.values[name]))
    if not _same_boxes(old, new):
        changed["boxes"] = (_boxes(before, old), _boxes(after, new))
    if before.seed != after.seed:
        changed["seed"] = (before.seed, after.seed)
    return changed


def _labels(scenario: Scenario, fps: float) -> LabelTrack:
    return scenario.label_track(max(round(scenario.duration_s * fps), 1), fps)


def _vehicles(labels: LabelTrack) -> float:
    return float(count_vehicles(labels.boxes, len(labels)).mean())


def _summary(name: str, values: np.ndarray) -> Any:
    """A label over the clip: its value, or the lowest and highest of several."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    ends = [LABELS[name].decode(float(value)) for value in (known.min(), known.max())]
    rounded = [round(end, 3) if isinstance(end, float) else end for end in ends]
    return rounded[0] if rounded[0] == rounded[1] else rounded


def _boxes(scenario: Scenario, labels: LabelTrack) -> Any:
    if scenario.tracks is None:
        return None
    return {"tracks": len(np.unique(labels.boxes.track_id)), "boxes": len(labels.boxes), "vehicles": round(_vehicles(labels), 2)}


def _same_boxes(old: LabelTrack, new: LabelTrack) -> bool:
    if not np.array_equal(old.boxes_known, new.boxes_known) or len(old.boxes) != len(new.boxes):
        return False
    return all(np.array_equal(a, b) for a, b in zip(_in_order(old), _in_order(new), strict=True))


def _in_order(labels: LabelTrack) -> Sequence[np.ndarray]:
    order = np.lexsort((labels.boxes.track_id, labels.boxes.frame))
    boxes = labels.boxes.where(order)
    return boxes.frame, boxes.track_id, boxes.category, boxes.xyxy
