"""The part ``long`` of mini_quality: rollouts of minutes by day and by night, and whether their end is still what their beginning was.

Every rollout is one that ``drivesim rollout`` would make with that seed and time of day, and has a folder of its own, which is gone on with
where a process was stopped. Drift is eval's: distances of single frames to held-out recordings and signals without weights, intervals over
rollouts. This file does not know which numbers are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from held_out_rollouts import claimed, short
from mini_quality_sets import Bench

from drivesim.errors import UsageError
from drivesim.eval.drift import DriftRules, drift_report
from drivesim.eval.features import feature_network
from drivesim.eval.footage import Footage
from drivesim.simulation.recording.recorder import Recording, finished, record
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.simulator import Simulator

__all__ = ["LIGHTS", "SHOWN", "Drive", "drives", "drift_of", "long_rollouts", "rules_for"]

LIGHTS = ("day", "night")
SHOWN = ("sharpness", "flow_magnitude", "saturation")


@dataclass(frozen=True)
class Drive:
    """One long rollout."""

    seed: int
    time_of_day: str
    folder: Path


def drives(work: Path, seeds: int) -> list[Drive]:
    """Seeds 0, 1, ...: day and night by turns.

    Raises:
        UsageError: no seeds.
    """
    if seeds < 1:
        raise UsageError(f"--seeds must be a whole number from 1, not {seeds}")
    lights = [LIGHTS[seed % 2] for seed in range(seeds)]
    return [Drive(seed, light, work / f"{seed:02d}_{light}") for seed, light in enumerate(lights)]


def rules_for(minutes: float) -> DriftRules:
    """Eval's own from two minutes on; spans and bins that fit in shorter rollouts."""
    seconds = 60 * minutes
    usual = DriftRules()
    return replace(usual, span_s=min(usual.span_s, seconds / 2), least_s=min(usual.least_s, seconds), bin_s=min(usual.bin_s, seconds / 6))


def long_rollouts(bench: Bench, seeds: int, minutes: float, quality: str | None, out: Path) -> dict[str, Any]:
    """Make what is missing and judge everything; plots lie in ``out``."""
    settings = bench.settings(quality)
    key = {"checkpoint": bench.checkpoint.hash, "minutes": minutes, "settings": asdict(settings)}
    wanted = drives(bench.work / "long" / f"{settings.quality}_{minutes:g}min_{short(key)}", seeds)
    bench.took["long"] = made = _made(bench, wanted, minutes, quality)
    rules, network = rules_for(minutes), feature_network("lite0-frames")
    found: dict[str, Any] = {}
    for light in ("all", *LIGHTS):
        some = [drive for drive in wanted if light in ("all", drive.time_of_day)]
        if some:
            side, real = Footage.open([drive.folder for drive in some], name=f"long, {light}"), _of_light(bench.recordings, light)
            report = drift_report(side, real, network, out / f"drift_{light}", rules=rules, cache=bench.cache, progress=bench.progress)
            found[light] = drift_of(report)
    return {"lights": found, "seeds": seeds, "minutes": minutes, "quality": settings.quality, "made_s": made}


def _made(bench: Bench, wanted: Sequence[Drive], minutes: float, quality: str | None) -> float:
    """Every rollout, whoever makes it; the seconds that they took."""
    waiting = [drive for drive in wanted if finished(drive.folder) is None]
    simulator = Simulator(bench.checkpoint, bench.settings(quality)) if waiting else None
    for wait in (False, True):
        waiting = [drive for drive in waiting if simulator is not None and not _one(bench, simulator, drive, minutes, wait)]
    recordings = (finished(drive.folder) for drive in wanted)
    return float(sum(recording.elapsed_s for recording in recordings if recording is not None))


def _one(bench: Bench, simulator: Simulator, drive: Drive, minutes: float, wait: bool) -> bool:
    """False where another process is at it and ``wait`` is False."""
    with claimed(drive.folder.with_name(f".{drive.folder.name}.lock"), wait) as mine:
        if mine:
            _rolled(bench, simulator, drive, minutes)
    return mine


def _rolled(bench: Bench, simulator: Simulator, drive: Drive, minutes: float) -> Recording:
    bank = TrackBank.load(bench.checkpoint.tracks)
    scenario = sample_scenario(bank, 60 * minutes, time_of_day=drive.time_of_day, seed=drive.seed)
    return record(simulator, scenario, drive.folder, resume=True)


def _of_light(recordings: Footage, light: str) -> Footage:
    """The recordings of one time of day.

    Raises:
        UsageError: there are none.
    """
    if light == "all" or recordings.records is None:
        return recordings
    rows = recordings.records.clips
    ids = set(rows[rows["time_of_day"] == light]["clip_id"])
    clips = tuple(clip for clip in recordings.clips if clip.clip_id in ids)
    if not clips:
        raise UsageError(f"{recordings.name} holds no recording by {light} to compare long rollouts with")
    return replace(recordings, name=f"{recordings.name}, {light}", clips=clips)


def drift_of(report: dict[str, Any]) -> dict[str, Any]:
    """What is wanted of a drift report: changes, ratios of signals over time and over recordings, events, and lines to be plotted."""
    signals = {}
    for name in SHOWN:
        told = report["signals"][name]
        signals[name] = {
            "last_over_first": told["last_over_first"], "over_recorded": float(np.nanmean(told["mean"])) / told["real"]["mean"],
            **{part: told[part] for part in ("times_s", "mean", "low", "high", "real")},
        }  # fmt: skip
    events = {name: len(report["events"][name]) for name in ("freezes", "cuts", "repeats")}
    return {
        "clips": report["clips"], "span_s": report["span_s"], "last_minus_first": report["last_minus_first"], "first": report["first"],
        "signals": signals, "events": events, "which": report["events"], "bins": report["bins"], "marks": report["marks"],
    }  # fmt: skip
