"""Does a long video stay what it was? Distances to real frames and weight-free signals over the minutes, and what happened in between.

Clips of at least a minute are cut into bins of ten seconds. A bin pools the frames of all clips at that age; the independent thing is the
clip, not the frame, so intervals and bands are over clips, and one clip has none: frames and blocks of one drive are correlated, and an
interval over them would be far too narrow. This file puts the parts in order; it does not know networks or how clips are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import UsageError

from .cache import FeatureCache
from .drift_distances import Resampling, frechet_change, kernel_change, ratio_of_change
from .drift_plot import plot_drift
from .events import EventFinder, EventRules, Events
from .extract import Features, features_of
from .features import FeatureNetwork
from .footage import Footage, Shot
from .frame_rows import SIGNALS, FrameRows
from .frechet import frechet_distance
from .kernel import kernel_distance

__all__ = ["DriftRules", "drift_report", "long_clips"]

BAND = (0.05, 0.95)
"""Quantiles over clips (over drives of the real side) between which a signal's band lies."""
SLACK_S = 1.0
"""How much shorter than ``least_s`` a clip may be: frames given to the generator are not judged."""


@dataclass(frozen=True)
class DriftRules:
    """How drift is judged.

    bin_s, span_s: length of a bin, and of the first and the last span.   least_s: clips of at least this length are long.   fps, size,
    codec: of the frames of both sides, as in a protocol; every frame of a bin is judged.   real_windows, real_frames, real_every: so many
    windows of so many frames of the real side, of which every so many-th frame is judged.   resamples, seed: of the intervals.
    """

    bin_s: float = 10.0
    span_s: float = 60.0
    least_s: float = 60.0
    fps: float = 7.5
    size: tuple[int, int] = (128, 256)
    codec: str = "h264crf18"
    real_windows: int = 128
    real_frames: int = 16
    real_every: int = 4
    resamples: int = 1000
    seed: int = 0
    events: EventRules = field(default_factory=EventRules)


@dataclass(frozen=True)
class _Clip:
    """One long clip. features: float32 (bins, frames, d).   signals: name -> float64 (bins,), means of the bins.   start_s: of bin 0."""

    clip_id: str
    drive: str
    features: np.ndarray
    signals: dict[str, np.ndarray]
    events: Events
    start_s: float


@dataclass(frozen=True)
class _Real:
    """The real side, a list entry a drive. features: float32 (n, d).   signals: name -> float64 (drives,)."""

    drives: list[str]
    features: list[np.ndarray]
    signals: dict[str, np.ndarray]


def long_clips(footage: Footage, least_s: float = DriftRules.least_s) -> list[str]:
    """Ids of the clips that drift can be judged of."""
    return [clip.clip_id for clip in footage.clips if clip.frames / clip.fps >= least_s - SLACK_S]


def drift_report(
    generated: Footage, real: Footage, network: FeatureNetwork, out: Path,
    *, rules: DriftRules | None = None, cache: FeatureCache | None = None, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The "drift" part of a result; drift.png is written under ``out``. ``network``: of single frames.

    Returns:
        {"bins": [{"start_s", "end_s", "n" (frames), "clips", "frechet", "kernel"}], "last_minus_first": {"kernel", "frechet"} (intervals
        over clips and real drives), "first" (both distances of the first span), "span_s", "signals": {name: {"times_s", "mean", "low",
        "high", "last_over_first" (interval), "real": {"mean", "low", "high"}}}, "events": {"freezes", "cuts", "repeats", "minutes"},
        "rules", "network", "clips", "marks"}. Bounds that are unknown are NaN.

    Raises:
        UsageError: no long clip, no frames at the rules' rate, another kind of network.   DrivesimError: nothing could be read.
    """
    rules = rules or DriftRules()
    clips, marks = _generated(generated, network, rules, cache, "drift: generated" if progress else None)
    known = _real(real, network, rules, cache, "drift: real" if progress else None)
    some, span = _spans(clips, rules)
    report = {
        "bins": _bins(clips, np.concatenate(known.features), rules),
        "last_minus_first": _changes(some, known, span, rules),
        "first": _distances(np.concatenate([frames for clip in some for frames in clip.features[:span]]), np.concatenate(known.features)),
        "span_s": span * rules.bin_s,
        "signals": _signals(clips, some, known, span, rules),
        "events": _events(clips),
        "rules": asdict(rules),
        "network": {name: getattr(network, name) for name in ("name", "hash", "preprocessing")},
        "clips": len(clips),
        "marks": [*marks, *_marks(clips, some, known, span, network, rules)],
    }
    plot_drift(report, out / "drift.png")
    return report


def _generated(
    footage: Footage, network: FeatureNetwork, rules: DriftRules, cache: FeatureCache | None, title: str | None
) -> tuple[list[_Clip], list[str]]:
    """The long clips, and which of them could not be used."""
    wanted = set(long_clips(footage, rules.least_s))
    rows = FrameRows(network, round(rules.bin_s * rules.fps))
    shots = [shot for shot in footage.shots(rows.frames, rules.fps) if shot.clip_id in wanted]
    if not shots:
        raise UsageError(f"{footage.name}: no clip of at least {rules.least_s:g} s at {rules.fps:g} fps; drift needs long clips")
    found = features_of(shots, rows, size=rules.size, codec=rules.codec, fps=rules.fps, cache=cache, progress=title)
    parts = {clip_id: [row for row, shot in enumerate(found.shots) if shot.clip_id == clip_id] for clip_id in sorted(wanted)}
    whole = [part for clip_id, part in parts.items() if part and clip_id not in found.skipped]
    if not whole:
        raise UsageError(f"{footage.name}: none of its {len(wanted)} long clips can be read to its end; the first: {found.skipped}")
    unseen = {clip_id: f"no frames at {rules.fps:g} fps" for clip_id, part in parts.items() if not part}
    marks = [f"drift: {clip_id} was left out: {reason}" for clip_id, reason in {**unseen, **found.skipped}.items()]
    return [_clip([found.shots[row] for row in part], found.values[part], rows, footage, rules) for part in whole], marks


def _clip(shots: Sequence[Shot], values: np.ndarray, rows: FrameRows, footage: Footage, rules: DriftRules) -> _Clip:
    seen = [rows.seen(row) for row in values]
    finder = EventFinder(rules.fps, rules.events)
    for part in seen:
        for cells in part.cells:
            finder.see_cells(cells)
    signals = {name: np.array([part.signals[name].mean(dtype=np.float64) for part in seen]) for name in SIGNALS}
    source_fps = next(clip.fps for clip in footage.clips if clip.clip_id == shots[0].clip_id)
    features = np.stack([part.features for part in seen])
    return _Clip(shots[0].clip_id, shots[0].drive, features, signals, finder.events(), shots[0].first_frame / source_fps)


def _real(footage: Footage, network: FeatureNetwork, rules: DriftRules, cache: FeatureCache | None, title: str | None) -> _Real:
    rows = FrameRows(network, rules.real_frames, rules.real_every)
    shots = footage.shots(rules.real_frames, rules.fps, limit=rules.real_windows, seed=rules.seed)
    if not shots:
        told = "; ".join(footage.left_out(rules.real_frames, rules.fps))
        raise UsageError(f"{footage.name}: no window of {rules.real_frames} frames at {rules.fps:g} fps to compare with: {told}")
    found = features_of(shots, rows, size=rules.size, codec=rules.codec, fps=rules.fps, cache=cache, progress=title)
    return _by_drive(found, rows)


def _by_drive(found: Features, rows: FrameRows) -> _Real:
    drives = sorted(set(found.drives))
    seen = {drive: [rows.seen(row) for row, owner in zip(found.values, found.drives, strict=True) if owner == drive] for drive in drives}
    features = [np.concatenate([part.features for part in parts]) for parts in seen.values()]
    means = {name: np.array([np.mean([part.signals[name].mean() for part in parts]) for parts in seen.values()]) for name in SIGNALS}
    return _Real(drives, features, means)


def _spans(clips: Sequence[_Clip], rules: DriftRules) -> tuple[list[_Clip], int]:
    """The clips whose first and last span share no bin, and the length of a span in bins; where no clip is that long, a shorter span."""
    span = max(1, round(rules.span_s / rules.bin_s))
    enough = [clip for clip in clips if len(clip.features) >= 2 * span]
    return (enough, span) if enough else (list(clips), max(1, min(len(clip.features) for clip in clips) // 2))


def _bins(clips: Sequence[_Clip], real: np.ndarray, rules: DriftRules) -> list[dict[str, Any]]:
    bins = []
    for number in range(max(len(clip.features) for clip in clips)):
        there = [clip.features[number] for clip in clips if number < len(clip.features)]
        frames = np.concatenate(there)
        times = {"start_s": number * rules.bin_s, "end_s": (number + 1) * rules.bin_s}
        bins.append({**times, "n": len(frames), "clips": len(there), **_distances(frames, real)})
    return bins


def _distances(frames: np.ndarray, real: np.ndarray) -> dict[str, float]:
    return {"frechet": frechet_distance(frames, real), "kernel": kernel_distance(frames, real)}


def _changes(clips: Sequence[_Clip], real: _Real, span: int, rules: DriftRules) -> dict[str, Any]:
    first, last = ([np.concatenate(part) for part in side] for side in zip(*_ends(clips, span), strict=True))
    sides = (first, last, real.features, _resampling(clips, real, rules))
    return {"kernel": asdict(kernel_change(*sides)), "frechet": asdict(frechet_change(*sides))}


def _resampling(clips: Sequence[_Clip], real: _Real, rules: DriftRules) -> Resampling:
    return Resampling([clip.drive for clip in clips], real.drives, rules.resamples, rules.seed)


def _ends(clips: Sequence[_Clip], span: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(clip.features[:span], clip.features[-span:]) for clip in clips]


def _signals(clips: Sequence[_Clip], some: Sequence[_Clip], real: _Real, span: int, rules: DriftRules) -> dict[str, Any]:
    """Bins over time, the last span over the first, and the real side's level."""
    most = max(len(clip.features) for clip in clips)
    times = [(number + 0.5) * rules.bin_s for number in range(most)]
    report = {}
    for name in SIGNALS:
        bins = np.full((len(clips), most), np.nan)
        for row, clip in zip(bins, clips, strict=True):
            row[: len(clip.features)] = clip.signals[name]
        first, last = (np.array([clip.signals[name][part].mean() for clip in some]) for part in (slice(span), slice(-span, None)))
        ratio = ratio_of_change(first, last, _resampling(some, real, rules))
        level = {key: values[0] for key, values in _band(real.signals[name][:, None]).items()}
        report[name] = {"times_s": times, **_band(bins), "last_over_first": asdict(ratio), "real": level}
    return report


def _band(values: np.ndarray) -> dict[str, list[float]]:
    """Mean and quantiles of each column of (n, k), NaN left out; one value alone has no band."""
    several = np.isfinite(values).sum(axis=0) > 1
    low, high = np.where(several, np.nanquantile(values, BAND, axis=0), np.nan)
    return {"mean": np.nanmean(values, axis=0).tolist(), "low": low.tolist(), "high": high.tolist()}


def _events(clips: Sequence[_Clip]) -> dict[str, Any]:
    """All clips' events, in seconds from the beginning of their clip."""
    found: dict[str, Any] = {"freezes": [], "cuts": [], "repeats": []}
    for clip in clips:
        for kind, rows in clip.events.rows().items():
            shifted = [{key: _later(key, value, clip.start_s) for key, value in row.items()} for row in rows]
            found[kind] += [{"clip_id": clip.clip_id, **row} for row in shifted]
    return {**found, "minutes": sum(clip.events.duration_s for clip in clips) / 60}


def _later(key: str, value: float | None, start_s: float) -> float | None:
    return round(value + start_s, 3) if value is not None and key.endswith("_s") else value


def _marks(clips: Sequence[_Clip], some: Sequence[_Clip], real: _Real, span: int, network: FeatureNetwork, rules: DriftRules) -> list[str]:
    marks = []
    if len({clip.drive for clip in some}) < 2:
        marks.append("drift: one clip only, so intervals and bands are unknown; roll out more seeds")
    if len(real.drives) < 2:
        marks.append("drift: one real drive only, so intervals are unknown")
    if span * rules.bin_s < rules.span_s:
        marks.append(f"drift: no clip holds two spans of {rules.span_s:g} s, so last minus first is of {span * rules.bin_s:g} s each")
    elif len(some) < len(clips):
        marks.append(f"drift: last minus first is of the {len(some)} of {len(clips)} clips that are at least {2 * rules.span_s:g} s long")
    if len({len(clip.features) for clip in clips}) > 1:
        marks.append("drift: the clips differ in length, so later bins hold fewer of them; the Frechet distance grows with that alone")
    if min(len(clip.features[0]) for clip in clips) * len(clips) < 2 * network.num_features:
        marks.append("drift: few frames in a bin, so its Frechet distance lies too high; compare bins with each other only")
    return marks
