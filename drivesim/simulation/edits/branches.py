"""Many futures of one drive: the same labels and noise up to where a keyframe window begins, others from there on.

A future has its own noise and, where traffic is made up, its own vehicles and speed: those that are in the picture when it begins stay
until they leave. This file does not know networks, nor how futures are driven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from drivesim.io.records import labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import Branch, Scenario
from drivesim.simulation.edits.measures import Side
from drivesim.simulation.edits.picture import edit_page

__all__ = ["branch_sheet", "futures", "parted"]

BLEND_S = 2.0
"""Seconds in which a future's speed and turn rate become its own."""


def futures(stem: Scenario, count: int, at_s: float, sampled: Callable[[int], Scenario] | None) -> list[Scenario]:
    """``count`` futures of ``stem`` that are the same up to ``at_s``; the first one is the stem itself.

    sampled: seed -> another scenario of the same length and labels; None = all futures have the stem's labels.
    """
    made = [stem]
    for number in range(2, count + 1):
        seed = int(np.random.SeedSequence([stem.seed, 0xB4A, number]).generate_state(1, np.uint32)[0])
        other = stem if sampled is None else parted(stem, sampled(seed), at_s)
        made.append(replace(other, branch=Branch(at_s, seed)))
    return made


def parted(stem: Scenario, other: Scenario, at_s: float) -> Scenario:
    """``stem`` up to ``at_s``, with the vehicles of ``other`` that come after it and, over BLEND_S, its speed and turn rate."""
    if stem.tracks is None or other.tracks is None:
        return stem
    kept = [track for track in stem.tracks if track.timestamp_s[0] <= at_s]
    first = 1 + max((track.track_id for track in stem.tracks), default=0)
    new = [replace(track, track_id=first + track.track_id) for track in other.tracks if track.timestamp_s[0] > at_s]
    profiles = {name: _blended(stem, other, name, at_s) for name in stem.profiles if name in other.profiles}
    return replace(stem, tracks=(*kept, *new), profiles={**stem.profiles, **profiles})


def _blended(stem: Scenario, other: Scenario, name: str, at_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The stem's samples up to ``at_s`` are kept as they are; the value at ``at_s`` is the stem's own."""
    times, values = (np.asarray(array, np.float64) for array in stem.profiles[name])
    before = times <= at_s
    later = np.union1d(times[~before], np.linspace(at_s, at_s + BLEND_S, 9))
    share = np.clip((later - at_s) / BLEND_S, 0.0, 1.0)
    mixed = (1 - share) * np.interp(later, times, values) + share * np.interp(later, *other.profiles[name])
    joined_times, first = np.unique(np.concatenate([times[before], later]), return_index=True)
    return joined_times, np.concatenate([values[before], mixed])[first]


def branch_sheet(folders: Sequence[Path], at_s: float, page: Path, instants: int = 7) -> None:
    """Write a PNG: a row pair for each rollout folder, plain and with boxes, at instants from shortly before ``at_s`` to the end."""
    sides = []
    for folder in folders:
        records = read_records(folder)
        clip = records.clips.iloc[0]
        last_s = (int(clip["frames"]) - 1) / float(clip["fps"])
        times = np.array([max(at_s - 1.0, 0.0), *np.linspace(min(at_s, last_s), last_s, instants - 1)])
        numbers = np.unique(np.round(times * float(clip["fps"])).astype(int))
        frames = np.stack(list(read_frames(records.video_path(str(clip["clip_id"])), indices=numbers.tolist())))
        labels = labels_of(records, str(clip["clip_id"])).take(numbers, float(clip["fps"]))
        sides.append((f"{folder.name}, the same until {at_s:.1f} s", Side(frames, labels)))
    picture = edit_page(sides, numbers / float(clip["fps"]))
    cv2.imwrite(str(page), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
