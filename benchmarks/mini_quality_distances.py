"""The parts ``good`` and ``fast`` of mini_quality, as far as they are distances: made clips against the recordings of the same labels.

Good: the distance of made clips to test clips over that of train clips to the same test clips. The train side is matched: for each test
shot another train shot of the same time of day and of about as many vehicles, so that a difference in what is shown is not taken for one
in how well. Made clips share their labels with the very test clips, which no train clip does; that favours them, and a small N the more.
Fast: the distance of one kind of made clips over that of another, made from the same labels and seeds. Drives are drawn for all sides that
show them together. This file does not know how clips are made, nor which numbers are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from mini_quality_sets import CLIPS, FRAMES, JUDGES, Aligned, Bench, Pair
from scipy.optimize import linear_sum_assignment

from drivesim.errors import UsageError
from drivesim.eval.extract import Features
from drivesim.eval.footage import Footage, Shot
from drivesim.eval.frechet import frechet_distance
from drivesim.eval.intervals import Interval, frechet_over_drives, kernel_over_drives, over_drives
from drivesim.eval.memorisation import memorisation_report
from drivesim.eval.protocols import Protocol
from drivesim.io.records import labels_of

__all__ = ["against_floor", "copies", "good", "matched", "real_frames", "relative", "to_floor", "to_other"]

MOST = 4096
"""Training windows that are looked at for copies."""
OTHER_LIGHT = 1000.0
"""Vehicles that another time of day weighs as much as: never, while there is a choice."""


def good(bench: Bench, pair: Pair, out: Path, real: Path | None) -> dict[str, Any]:
    """Everything of ``good`` that one set of clips says. real: recordings of the real world, never pooled with the others."""
    found = {"first 10 s": against_floor(bench, pair.first(10.0))}
    if pair.length_s > 10:
        found["whole"] = against_floor(bench, pair)
    return {"spans": found, "memorisation": copies(bench, pair, out), "real": None if real is None else real_frames(bench, pair, real)}


def against_floor(bench: Bench, pair: Pair) -> dict[str, Any]:
    """Both judges of one pair: distance to test, floor, and the ratio of the two."""
    train = _train(bench, pair.recorded)
    judges = {name: _judged(bench, pair, train, protocol) for name, protocol in JUDGES.items()}
    return {
        "length_s": round(pair.length_s, 2), "clips": len(pair.made.clips), "drives": len(pair.made.drives), "made_s": pair.seconds,
        "quality": pair.settings.quality, "judges": judges,
    }  # fmt: skip


def _judged(bench: Bench, pair: Pair, train: Footage, protocol: Protocol) -> dict[str, Any]:
    sides = bench.aligned(pair, protocol)
    shots, alike = matched(pair.recorded, sides.recorded.shots, train, train.shots(protocol.frames, protocol.rate, protocol.every_s))
    floor = bench.features(shots, protocol, "train")
    made, test, resamples = sides.made, sides.recorded, bench.resamples
    distance = frechet_over_drives(made.values, made.drives, test.values, test.drives, resamples=resamples, paired=True)
    lowest = frechet_over_drives(floor.values, floor.drives, test.values, test.drives, resamples=resamples)
    kernel = kernel_over_drives(made.values, made.drives, test.values, test.drives, resamples=resamples, paired=True)
    kernel_floor = kernel_over_drives(floor.values, floor.drives, test.values, test.drives, resamples=resamples)
    return {
        "n": len(made), "frechet": asdict(distance), "floor": asdict(lowest), "ratio": asdict(to_floor(sides, floor, resamples)),
        "kernel": asdict(kernel), "kernel_floor": asdict(kernel_floor), "train": alike, "marks": _few(protocol, len(made)),
    }  # fmt: skip


def to_floor(sides: Aligned, train: Features, resamples: int) -> Interval:
    """Distance of made to test rows over that of train to test rows. Made and test are drawn together, train on its own."""
    made, test, seen = sides.made.values, sides.recorded.values, train.values

    def ratio(rows: np.ndarray, others: np.ndarray) -> float:
        return _over(frechet_distance(made[rows], test[rows]), frechet_distance(seen[others], test[rows]))

    return over_drives(ratio, sides.recorded.drives, train.drives, resamples=resamples)


def to_other(one: Aligned, other: Aligned, resamples: int) -> Interval:
    """Distance to test of ``one`` kind of made rows over that of the ``other``, whose drives are drawn together.

    Raises:
        UsageError: they were not made for the same moments.
    """
    if one.recorded.keys != other.recorded.keys:
        raise UsageError("two kinds of clips are compared only where both were made for the same moments of the same recordings")
    a, b, test, drives = one.made.values, other.made.values, one.recorded.values, one.recorded.drives

    def ratio(rows: np.ndarray, _same: np.ndarray) -> float:
        return _over(frechet_distance(a[rows], test[rows]), frechet_distance(b[rows], test[rows]))

    return over_drives(ratio, drives, drives, resamples=resamples, paired=True)


def relative(bench: Bench, one: Pair, other: Pair) -> dict[str, Any]:
    """Both judges: ``one`` over ``other``, and the two themselves."""
    found = {}
    for name, protocol in JUDGES.items():
        sides = [bench.aligned(pair, protocol) for pair in (one, other)]
        values = [_frechet(side, bench.resamples) for side in sides]
        found[name] = {
            "n": len(sides[0].made), "ratio": asdict(to_other(*sides, bench.resamples)), "one": asdict(values[0]),
            "other": asdict(values[1]), "marks": _few(protocol, len(sides[0].made)),
        }  # fmt: skip
    return found


def _frechet(sides: Aligned, resamples: int) -> Interval:
    made, test = sides.made, sides.recorded
    return frechet_over_drives(made.values, made.drives, test.values, test.drives, resamples=resamples, paired=True)


def matched(test: Footage, shots: Sequence[Shot], train: Footage, choice: Sequence[Shot]) -> tuple[list[Shot], dict[str, float]]:
    """For each test shot a train shot of its own, as like it in time of day and number of vehicles as the whole choice allows.

    Returns:
        The shots, and how like they are: share of the same time of day, mean difference in vehicles.

    Raises:
        UsageError: fewer train shots than test shots, or a side without labels.
    """
    if len(choice) < len(shots):
        raise UsageError(f"{train.name} gives {len(choice)} shots for {len(shots)} of the test side; take fewer windows or more clips")
    ours, theirs = _told(test, shots), _told(train, choice)
    light, crowd = (np.abs(ours[:, None, column] - theirs[None, :, column]) for column in (0, 1))
    rows, columns = linear_sum_assignment(OTHER_LIGHT * light + crowd)
    alike = {"same_time_of_day": float((light[rows, columns] == 0).mean()), "vehicles_apart": float(crowd[rows, columns].mean())}
    return [choice[column] for column in columns], alike


def _told(footage: Footage, shots: Sequence[Shot]) -> np.ndarray:
    """Night and mean crowdedness of each shot, float64 (n, 2); -1 where unknown."""
    if footage.records is None:
        raise UsageError(f"{footage.name} has no labels, so nothing can be matched with it; give clip datasets")
    rates = {clip.clip_id: clip.fps for clip in footage.clips}
    tracks = {clip_id: labels_of(footage.records, clip_id) for clip_id in {shot.clip_id for shot in shots}}
    rows = []
    for shot in shots:
        values, frames = tracks[shot.clip_id].values, shot.first_frame + round(rates[shot.clip_id] / shot.fps) * np.arange(shot.frames)
        rows.append([values["time_of_day"][frames[0]], values["crowdedness"][frames].mean()])
    return np.nan_to_num(np.array(rows, np.float64), nan=-1.0)


def _train(bench: Bench, test: Footage) -> Footage:
    """Training clips that share no drive with the test side.

    Raises:
        UsageError: none are left.
    """
    train = Footage.open(bench.train, "train", "train")
    apart = tuple(clip for clip in train.clips if clip.drive not in set(test.drives))
    if not apart:
        raise UsageError(f"every train clip of {', '.join(map(str, bench.train))} shares its drive with the test side")
    return replace(train, clips=apart)


def copies(bench: Bench, pair: Pair, out: Path) -> dict[str, Any]:
    """The memorisation report of a pair: made clips beside the recordings that were never trained on."""
    sides = bench.aligned(pair, CLIPS)
    train = _train(bench, pair.recorded)
    seen = bench.features(train.shots(CLIPS.frames, CLIPS.fps, limit=MOST), CLIPS, "train")
    return memorisation_report(sides.made, seen, sides.recorded, sides.made.shots, seen.shots, out, resamples=bench.resamples)


def real_frames(bench: Bench, pair: Pair, root: Path) -> dict[str, Any]:
    """Made frames against all real ones there are, and test recordings against them: kernel distance alone, real frames are few."""
    real = Footage.open([root])
    there = bench.features(FRAMES.shots(real), FRAMES, "real")
    sides = bench.aligned(pair, FRAMES)

    def distance(side: Features) -> dict[str, Any]:
        return asdict(kernel_over_drives(side.values, side.drives, there.values, there.drives, resamples=bench.resamples))

    return {"n_real": len(there), "drives": len(real.drives), "made": distance(sides.made), "recorded": distance(sides.recorded)}


def _few(protocol: Protocol, number: int) -> list[str]:
    if number < protocol.minimum:
        return [f"{number} {protocol.unit}; the protocol refuses fewer than {protocol.minimum}: an order at best"]
    return [f"{number} {protocol.unit} of {protocol.enough} asked for: distances lie too high"] if number < protocol.enough else []


def _over(value: float, other: float) -> float:
    return value / other if other > 0 else float("nan")
