"""Where scenarios come from: traffic sampled from a track bank so that its mean number of vehicles is the wanted one.

Pieces of recorded drives are chained; each chained run is mirrored and shifted as a whole, thinned where it holds too many vehicles and
filled up with tracks of other drives where it holds too few. ``ScenarioLabels`` then reads a scenario at any frames without laying the
whole of it out. This file does not know networks, pictures or the files of users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from drivesim.errors import DrivesimError
from drivesim.labels import CATEGORIES, LABELS, BoxTrack, LabelTrack, Scenario
from drivesim.simulation.scenes.track_bank import BANK_FPS, Piece, Trace, TrackBank, build_bank, counted

__all__ = ["ScenarioLabels", "TrackBank", "build_bank", "recrowded", "sample_scenario", "sample_tracks"]

STAY = 0.8
"""Chance to drive on within the same recording when its next piece fits: fewer joins, and motion that really happened."""
TRIES = 120
CLOSE = 0.1
"""Vehicles: a run this close to the wanted mean is left as it is."""
IOU_LIMITS = (0.2, 0.4, 0.8)
"""A vehicle added to a run may overlap those already there by no more than this; relaxed when no more vehicles fit."""


class ScenarioLabels:
    """Labels of any frames of a scenario. Frames before 0 (a given start) have its first labels but unknown boxes; frames after the last
    one hold its labels, so that the last window, cut only on output, is not told of an empty road."""

    def __init__(self, scenario: Scenario, last_s: float) -> None:
        self.scenario, self.last_s = scenario, last_s
        self._begin = np.array([track.timestamp_s[0] for track in scenario.tracks or ()])
        self._end = np.array([track.timestamp_s[-1] for track in scenario.tracks or ()])

    def at(self, frames: Sequence[int] | range, fps: float) -> LabelTrack:
        """The labels of absolute ``frames`` at ``fps``."""
        wanted = np.asarray(frames, np.int64)
        times = np.clip(wanted / fps, 0.0, self.last_s)
        labels = self._near(times.min(), times.max()).labels_at(times, fps)
        return replace(labels, boxes_known=labels.boxes_known & (wanted >= 0), boxes=labels.boxes.where(wanted[labels.boxes.frame] >= 0))

    def _near(self, begin: float, end: float) -> Scenario:
        """The scenario with only the tracks that touch begin..end, so that the work per window does not grow with the drive."""
        if not self.scenario.tracks:
            return self.scenario
        near = np.flatnonzero((self._begin <= end + 1e-3) & (self._end >= begin - 1e-3))
        return replace(self.scenario, tracks=tuple(self.scenario.tracks[index] for index in near))


def sample_tracks(
    bank: TrackBank, duration_s: float, crowdedness: float | None = None, seed: int = 0, time_of_day: str | None = None
) -> tuple[BoxTrack, ...]:
    """Box tracks for ``duration_s`` seconds whose mean number of vehicles (labels.count_vehicles) is about ``crowdedness``.

    Ids are unique. crowdedness None = that of a piece drawn from the bank. time_of_day: drives recorded then are preferred.
    """
    tracks = sample_scenario(bank, duration_s, crowdedness=crowdedness, seed=seed, time_of_day=time_of_day).tracks
    assert tracks is not None
    return tracks


def sample_scenario(
    bank: TrackBank, duration_s: float, *, time_of_day: str | None = None, crowdedness: float | None = None,
    ego_speed_mps: float | None = None, ego_yaw_rate_radps: float | None = None, seed: int = 0, name: str = "scenario",
) -> Scenario:  # fmt: skip
    """A scenario whose tracks come from the bank, and with them, where they are not given, the recorded speed and turn rate.

    A time of day or crowdedness that is not given is that of a piece drawn from the bank: what is made is always labelled.

    Raises:
        LabelError: a label out of range.   DrivesimError: an empty bank.
    """
    if not bank.pieces:
        raise DrivesimError("the track bank is empty; train with clips that have boxes, or give --boxes")
    random = np.random.default_rng([seed, 0x7AC])  # a stream of its own, apart from the noise of the samplers
    drawn = _any_piece(bank.pieces, random)  # always, so that a given label does not shift what else is drawn
    time_of_day = time_of_day or bank.drives[drawn.drive].time_of_day
    given = Scenario(duration_s, time_of_day, crowdedness, ego_speed_mps, ego_yaw_rate_radps, (), seed, name)
    wanted = math.ceil(duration_s * BANK_FPS) + 1
    target = _crowdedness(bank, random, time_of_day) if crowdedness is None else crowdedness
    runs = _chain(bank, wanted, target, ego_speed_mps, time_of_day, random)
    traces, filled, vehicles = [], 0, 0.0
    for run in runs:
        due = (target * (filled + len(run)) - vehicles) / len(run)  # what earlier runs had too little or too much of
        placed = _matched(bank, run, float(np.clip(due, 0.0, 1.5 * target + 1)) if target else 0.0, random)
        traces += [replace(trace, first=trace.first + filled) for trace in placed]
        vehicles, filled = vehicles + sum(float(counted(trace).sum()) for trace in placed), filled + len(run)
    tracks = tuple(_track(number, trace) for number, trace in enumerate(traces, start=1))
    profiles = _profiles(bank, runs, {"ego_speed_mps": ego_speed_mps, "ego_yaw_rate_radps": ego_yaw_rate_radps})
    return replace(given, crowdedness=float(target), tracks=tracks, profiles=profiles)


@dataclass(frozen=True)
class _Run:
    """Grid frames first .. last - 1 of one drive, seen mirrored or not, scaled about the middle of the picture and shifted."""

    drive: int
    first: int
    last: int
    mirrored: bool
    scale: float
    shift: tuple[float, float]

    def __len__(self) -> int:
        return self.last - self.first

    def seen(self, trace: Trace) -> Trace:
        """The trace as this run shows it. What touches the left, right or lower border goes on touching it."""
        x1, y1, x2, y2 = trace.xyxy.T
        if self.mirrored:
            x1, x2 = 1 - x2, 1 - x1
        dx, dy = self.shift
        moved = [_moved(values, self.scale, shift) for values, shift in ((x1, dx), (y1, dy), (x2, dx), (y2, dy))]
        return replace(trace, xyxy=np.stack(moved, axis=1).astype(np.float32))


def _moved(x: np.ndarray, scale: float, shift: float) -> np.ndarray:
    touching = (x <= 1e-3) | (x >= 1 - 1e-3)
    return np.where(touching, x, np.clip(0.5 + (x - 0.5) * scale + shift, 0.0, 1.0))


def _crowdedness(bank: TrackBank, random: np.random.Generator, time_of_day: str | None) -> float:
    pieces = [piece for piece in bank.pieces if bank.drives[piece.drive].time_of_day == time_of_day] or bank.pieces
    return _any_piece(pieces, random).crowdedness


def _any_piece(pieces: Sequence[Piece], random: np.random.Generator) -> Piece:
    """Every recorded second is equally likely."""
    length = np.array([piece.last - piece.first for piece in pieces], float)
    return pieces[random.choice(len(pieces), p=length / length.sum())]


def _chain(
    bank: TrackBank, frames: int, target: float, speed: float | None, time_of_day: str | None, random: np.random.Generator
) -> list[_Run]:
    """Runs that cover ``frames`` grid frames, the last one cut."""
    fit = _fitness(bank, target, speed, time_of_day)
    runs: list[_Run] = []
    left, here = frames, int(_draw(fit, random))
    while left > 0:
        pieces, begin = bank.pieces, bank.pieces[here].first
        while _goes_on(pieces, here, fit) and pieces[here].last - begin < left and random.random() < STAY:
            here += 1
        piece = pieces[here]
        last = min(piece.last, begin + left)
        shift = (float(random.uniform(-0.02, 0.02)), float(random.uniform(-0.01, 0.01)))
        runs.append(_Run(piece.drive, begin, last, bool(random.random() < 0.5), float(random.uniform(0.97, 1.03)), shift))
        left -= last - begin
        here = int(_draw(fit + _join(pieces, piece) + _again(pieces, piece.drive), random))
    return runs


def _fitness(bank: TrackBank, target: float, speed: float | None, time_of_day: str | None) -> np.ndarray:
    """Log-weight of every piece: near the wanted crowdedness and speed, at the wanted time of day, little in the picture at its start."""
    pieces = bank.pieces
    crowd = np.array([piece.crowdedness for piece in pieces])
    fit = -(((crowd - target) / max(1.5, 0.25 * target)) ** 2)
    fit += np.array([-2.0 * (bank.drives[piece.drive].time_of_day != time_of_day) for piece in pieces]) * (time_of_day is not None)
    fit -= 8.0 * np.array([piece.bulk_in + piece.bulk_out for piece in pieces])
    if speed is not None:
        fit -= np.nan_to_num((np.array([piece.speed_in for piece in pieces]) - speed) / 4.0, nan=1.0) ** 2
    return fit


def _join(pieces: Sequence[Piece], before: Piece) -> np.ndarray:
    jump = np.abs(np.array([piece.speed_in for piece in pieces]) - before.speed_out)
    return -np.nan_to_num(jump, nan=4.0) / 3.0


def _again(pieces: Sequence[Piece], drive: int) -> np.ndarray:
    return np.array([-4.0 * (piece.drive == drive) for piece in pieces])


def _goes_on(pieces: Sequence[Piece], here: int, fit: np.ndarray) -> bool:
    following = here + 1
    return following < len(pieces) and pieces[following].drive == pieces[here].drive and bool(fit[following] > fit[here] - 1.5)


def _draw(log_weight: np.ndarray, random: np.random.Generator) -> int:
    weight = np.exp(log_weight - log_weight.max())
    return int(random.choice(len(weight), p=weight / weight.sum()))


def recrowded(
    bank: TrackBank | None, traces: Sequence[Trace], frames: int, target: float, random: np.random.Generator
) -> tuple[list[int], list[Trace]]:  # fmt: skip
    """Vehicles taken away or added at random until one more change would not come closer to ``target`` of them a frame.

    Args:
        bank: where added ones come from; None = none are added. frames: grid frames of the drive that ``traces`` are of.

    Returns:
        The indices of the traces that stay, and the new traces.
    """
    whole = _Run(0, 0, frames, mirrored=False, scale=1.0, shift=(0.0, 0.0))
    return _changed(traces, frames, target, lambda: None if bank is None else _donated(bank, whole, random), random)


def _matched(bank: TrackBank, run: _Run, target: float, random: np.random.Generator) -> list[Trace]:
    """The traces of a run, changed as in ``recrowded``."""
    traces = [run.seen(trace) for trace in bank.drives[run.drive].cut(run.first, run.last)]
    kept, added = _changed(traces, len(run), target, lambda: _donated(bank, run, random), random)
    return [traces[index] for index in kept] + added


def _changed(
    traces: Sequence[Trace], frames: int, target: float, donated: Callable[[], Trace | None], random: np.random.Generator
) -> tuple[list[int], list[Trace]]:  # fmt: skip
    share = [float(counted(trace).sum()) / frames for trace in traces]
    mean, stay = sum(share), set(range(len(traces)))
    for index in random.permutation(len(traces)):
        if share[index] and abs(mean - share[index] - target) < abs(mean - target):
            mean -= share[index]
            stay.remove(int(index))
    kept = sorted(stay)
    there, added = [traces[index] for index in kept], list[Trace]()
    for limit in IOU_LIMITS:
        for _ in range(TRIES):
            if target - mean < CLOSE:
                break
            extra = donated()
            gain = 0.0 if extra is None else float(counted(extra).sum()) / frames
            if extra is not None and gain and abs(mean + gain - target) < abs(mean - target) and _overlap(extra, there + added) <= limit:
                added.append(extra)
                mean += gain
    return kept, added


def _donated(bank: TrackBank, run: _Run, random: np.random.Generator) -> Trace | None:
    """A vehicle of another drive, at a random time of the run."""
    donors = bank.drives[int(random.integers(len(bank.drives)))].donors
    if not donors:
        return None
    trace = donors[int(random.integers(len(donors)))]
    first = int(random.integers(1 - len(trace.xyxy), len(run)))
    return run.seen(moved) if (moved := replace(trace, first=first).cut(0, len(run))) is not None else None


def _overlap(trace: Trace, others: Sequence[Trace]) -> float:
    """The largest IoU of ``trace`` with any of ``others`` at any time."""
    worst = 0.0
    for other in others:
        first, last = max(trace.first, other.first), min(trace.last, other.last)
        if first < last:
            a, b = trace.xyxy[first - trace.first : last - trace.first], other.xyxy[first - other.first : last - other.first]
            shared = np.prod(np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None), axis=1)
            union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - shared
            worst = max(worst, float((shared / np.maximum(union, 1e-9)).max()))
    return worst


def _track(number: int, trace: Trace) -> BoxTrack:
    return BoxTrack(number, CATEGORIES[trace.category], np.arange(trace.first, trace.last) / BANK_FPS, trace.xyxy)


def _profiles(bank: TrackBank, runs: Sequence[_Run], given: dict[str, float | None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Recorded speed and turn rate along the runs, for those labels that were not given."""
    times = np.arange(sum(len(run) for run in runs)) / BANK_FPS
    speed = np.concatenate([bank.drives[run.drive].speed[run.first : run.last] for run in runs])
    signs = np.concatenate([np.full(len(run), -1.0 if run.mirrored else 1.0, np.float32) for run in runs])
    yaw_rate = signs * np.concatenate([bank.drives[run.drive].yaw_rate[run.first : run.last] for run in runs])
    recorded = {"ego_speed_mps": speed, "ego_yaw_rate_radps": yaw_rate}
    inside = {name: np.clip(values, LABELS[name].low, LABELS[name].high) for name, values in recorded.items()}
    return {name: (times, values) for name, values in inside.items() if given[name] is None}
