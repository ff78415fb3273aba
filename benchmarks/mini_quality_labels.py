"""The parts ``labels`` and ``guidance`` of mini_quality, and what ``fast`` says of labels: is what was asked for in the picture?

The judging detector looks at made frames and at the recorded frames of the same moments, and both are held against the recording's boxes:
vehicles that were hidden in the recording are asked of neither side. Everything is a figure over rows of frames, so that differences and
ratios of two sides are drawn with the drives of both. This file does not know how clips are made, nor which numbers are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from mini_quality_sets import FRAMES, Bench, Pair

from drivesim.errors import DrivesimError
from drivesim.eval.boxes import JudgedFrame, average_precision, match
from drivesim.eval.intervals import Interval, frechet_over_drives, kernel_over_drives, over_drives
from drivesim.eval.label_fidelity import Judge, look, other_boxes, reconstruction, table_rows, tall

__all__ = [
    "MEASURES", "Seen", "differences", "empty_roads", "fidelity", "look_at", "look_at_all", "ratio", "seen_beside", "sweep",
]  # fmt: skip

MEASURES = ("ap50", "time_of_day", "crowdedness")
FEW = 200
"""Resamples of figures that take average precision: a fifth of a second each."""


class Seen:
    """Judged frames of one side, and its figures over any rows of them. Frames of one clip stand or fall together (drives are drawn).

    frames: all with known boxes.   threshold: the score from which detections count.
    """

    def __init__(self, frames: Sequence[JudgedFrame], threshold: float) -> None:
        self.frames, self.threshold = list(frames), threshold
        self.matches = match(self.frames)["all"]
        self.drives = [frame.drive for frame in self.frames]
        self._clip_right = self._right_by_clip()
        self._counts = np.array([(frame.crowdedness, (frame.score >= threshold).sum()) for frame in self.frames], np.float64)

    def _right_by_clip(self) -> np.ndarray:
        """(frames, 2): whether most frames of the frame's clip have the time of day that was asked for, and the frame's share of the clip
        (0 where none was asked for)."""
        clips = np.unique([frame.clip_id for frame in self.frames], return_inverse=True)[1]
        right = np.array([(frame.night_found > 0.5) == (frame.night == 1) for frame in self.frames], np.float64)
        asked = np.array([np.isfinite(frame.night) for frame in self.frames])
        sizes = np.bincount(clips)
        return np.stack([np.bincount(clips, right)[clips] / sizes[clips] > 0.5, asked / sizes[clips]], axis=1)

    def ap50(self, rows: np.ndarray) -> float:
        """Average precision at an IoU of 0.5, boxes of at least 12 px."""
        return average_precision(self.matches.of(rows))

    def time_of_day(self, rows: np.ndarray) -> float:
        """Share of clips with the time of day that was asked for."""
        right, share = self._clip_right[rows].T
        return float((right * share).sum() / share.sum()) if share.any() else float("nan")

    def crowdedness(self, rows: np.ndarray) -> float:
        """Pearson's correlation of the vehicles asked for and found, NaN where either never changes."""
        counts = self._counts[rows]
        return float(np.corrcoef(counts.T)[0, 1]) if len(rows) > 2 and (np.ptp(counts, axis=0) > 0).all() else float("nan")

    def figure(self, name: str) -> Callable[[np.ndarray], float]:
        found: Callable[[np.ndarray], float] = getattr(self, name)
        return found

    def interval(self, name: str) -> Interval:
        return over_drives(lambda rows, _: self.figure(name)(rows), self.drives, self.drives, resamples=FEW, paired=True)


def seen_beside(made: Sequence[JudgedFrame], recorded: Sequence[JudgedFrame], threshold: float) -> tuple[Seen, Seen]:
    """Both sides over the frames of known boxes, the made ones held against the recording's boxes.

    Raises:
        DrivesimError: the frames do not show the same moments, or nobody knows the boxes of any.
    """
    if [frame.drive for frame in made] != [frame.drive for frame in recorded]:
        raise DrivesimError(f"{len(made)} made and {len(recorded)} recorded frames do not belong together; a clip could not be read")
    pairs = [(ours, theirs) for ours, theirs in zip(made, recorded, strict=True) if ours.known and theirs.known]
    if not pairs:
        raise DrivesimError("nobody knows the boxes of any recorded frame, so labels cannot be judged; give datasets with known boxes")
    asked = [replace(ours, asked=theirs.asked, ignore=theirs.ignore) for ours, theirs in pairs]
    return Seen(asked, threshold), Seen([theirs for _, theirs in pairs], threshold)


def look_at(pair: Pair, judge: Judge, limit: int) -> tuple[Seen, Seen]:
    """At most ``limit`` made frames and the recorded ones of the same moments, judged."""
    made, recorded = (look(side, judge, limit).frames for side in (pair.made, pair.recorded))
    return seen_beside(made, recorded, judge.threshold)


def look_at_all(pairs: Sequence[Pair], judge: Judge, limit: int) -> list[Seen]:
    """Made frames of several kinds of clips of the same moments, judged; the recorded frames are looked at once."""
    recorded = look(pairs[0].recorded, judge, limit).frames
    return [seen_beside(look(pair.made, judge, limit).frames, recorded, judge.threshold)[0] for pair in pairs]


def fidelity(bench: Bench, pair: Pair, judge: Judge, limit: int) -> dict[str, Any]:
    """Everything of ``labels`` that clips with boxes say: figures of made frames beside those of recordings, reconstructions and chance."""
    made, recorded = look_at(pair, judge, limit)
    back = Seen(look(pair.recorded, judge, limit, change=reconstruction(bench.checkpoint)).frames, judge.threshold)
    chance = Seen(other_boxes(made.frames)[0], judge.threshold)
    sides = {"made": made, "recorded": recorded, "reconstruction": back, "chance": chance}
    figures = {who: {name: asdict(side.interval(name)) for name in MEASURES} for who, side in sides.items()}
    rows = [row for who, side in sides.items() for row in table_rows(who, side.frames, judge.threshold)]
    return {
        "figures": figures, "ap50_over_recorded": asdict(ratio(made, recorded)), "rows": rows, "frames": len(made.frames),
        "clips": len(pair.made.clips), "drives": len(pair.made.drives), "quality": pair.settings.quality, "made_s": pair.seconds,
        "detector": judge.hash, "threshold": judge.threshold, "empty_recorded": _found(recorded.frames, judge.threshold),
    }  # fmt: skip


def ratio(made: Seen, recorded: Seen) -> Interval:
    """AP50 of made frames over that of the recorded ones."""

    def statistic(rows: np.ndarray, _same: np.ndarray) -> float:
        ceiling = recorded.ap50(rows)
        return made.ap50(rows) / ceiling if ceiling > 0 else float("nan")

    return over_drives(statistic, made.drives, recorded.drives, resamples=FEW, paired=True)


def differences(one: Seen, other: Seen) -> dict[str, dict[str, Any]]:
    """``one`` less ``other`` in points (hundredths), for each of MEASURES, drives drawn for both together."""
    if one.drives != other.drives:
        raise DrivesimError("two kinds of clips are compared only where both were made for the same moments of the same recordings")
    found = {}
    for name in MEASURES:
        first, second = one.figure(name), other.figure(name)
        difference = over_drives(
            lambda rows, _, a=first, b=second: 100 * (a(rows) - b(rows)), one.drives, other.drives, resamples=FEW, paired=True
        )  # fmt: skip
        everything = np.arange(len(one.frames))
        found[name] = {"points": asdict(difference), "one": first(everything), "other": second(everything)}
    return found


def empty_roads(pair: Pair, judge: Judge, limit: int) -> dict[str, Any]:
    """Vehicles of at least 12 px found per frame where an empty road was asked for."""
    return {**_found(look(pair.made, judge, limit).frames, judge.threshold), "clips": len(pair.made.clips), "made_s": pair.seconds}


def _found(frames: Sequence[JudgedFrame], threshold: float) -> dict[str, Any]:
    empty = [frame for frame in frames if frame.known and not len(frame.asked)]
    if not empty:
        return {"frames": 0, "detections": None}
    counts, drives = np.array([tall(frame, threshold) for frame in empty], np.float64), [frame.drive for frame in empty]
    mean = over_drives(lambda rows, _: float(counts[rows].mean()), drives, drives, paired=True)
    return {"frames": len(empty), "detections": asdict(mean)}


def sweep(bench: Bench, pairs: Sequence[Pair], judge: Judge, limit: int) -> list[dict[str, Any]]:
    """For each guidance: figures of its labels, and how far its frames are from the recordings of the same moments."""
    rows = []
    for pair, made in zip(pairs, look_at_all(pairs, judge, limit), strict=True):
        sides = bench.aligned(pair, FRAMES)
        both = (sides.made.values, sides.made.drives, sides.recorded.values, sides.recorded.drives)
        rows.append({
            "label_guidance": pair.settings.label_guidance, "guided_labels": pair.settings.guided_labels,
            "figures": {name: asdict(made.interval(name)) for name in MEASURES},
            "frechet": asdict(frechet_over_drives(*both, resamples=bench.resamples, paired=True)),
            "kernel": asdict(kernel_over_drives(*both, resamples=bench.resamples, paired=True)),
            "n": len(sides.made), "frames": len(made.frames), "made_s": pair.seconds,
        })  # fmt: skip
    return rows
