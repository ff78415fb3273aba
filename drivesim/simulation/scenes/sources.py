"""Tables of scenarios that nobody wrote: sampled from recorded tracks, or made by the traffic generator.

Every scenario has a seed of its own, counted up from the command's, so that scenario 17 of a hundred is the one it would be of twenty.
This file does not know how traffic is sampled or made, nor how a table lies on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.fetching import local_folder
from drivesim.io.records import read_records
from drivesim.labels import LABELS, BoxTrack, Scenario
from drivesim.simulation.scenes.sampling import TrackBank, build_bank, sample_scenario
from drivesim.simulation.scenes.table import COUNT_FPS, Request, mean_vehicles, write_scenarios
from drivesim.simulation.scenes.traffic import MANOEUVRES, make_traffic

__all__ = ["make", "open_bank", "sample", "shown_parts"]

CROWDS = (0.5, 8.0)
"""Vehicles a frame that made scenarios without a wish have, even odds between."""
THIN = 1e-3
"""Boxes narrower or lower than this share of the picture are not drawn (labels.boxes_of), and not written."""


def sample(
    bank: str, out: str, count: int, seconds: float, time_of_day: str | None = None, crowdedness: float | None = None,
    ego_speed_mps: float | None = None, ego_yaw_rate_radps: float | None = None, fps: float | None = None, seed: int = 0,
    split: str | None = None, prefix: str = "sampled",
) -> dict[str, Any]:  # fmt: skip
    """``drivesim scenario sample``: write ``count`` scenarios whose tracks are pieces of recorded drives, mirrored, shifted and chained.

    Args:
        bank: what ``open_bank`` takes.   split: of a clip dataset; None = train, or all where no clip is of it.
        labels: None = as in the piece of a drive that is drawn.

    Returns:
        What was written, for the screen.

    Raises:
        UsageError: no such bank, or a value that cannot be.   DrivesimError: a bank without tracks.
    """
    _check(count, seed)
    tracks = open_bank(bank, split)
    labels = dict(time_of_day=time_of_day, crowdedness=crowdedness, ego_speed_mps=ego_speed_mps, ego_yaw_rate_radps=ego_yaw_rate_radps)

    def one(number: int, name: str) -> Scenario:
        return sample_scenario(tracks, seconds, **labels, seed=seed + number, name=name)  # type: ignore[arg-type]

    return {"bank": f"{len(tracks.drives)} drives of {bank}"} | _written(out, count, prefix, one, fps, crowdedness)


def make(
    out: str, count: int, seconds: float, time_of_day: str | None = None, crowdedness: float | None = None,
    ego_speed_mps: float | None = None, manoeuvres: str | Sequence[str] | None = None, fps: float | None = None, seed: int = 0,
    prefix: str = "made",
) -> dict[str, Any]:  # fmt: skip
    """``drivesim scenario make``: write ``count`` scenarios of made traffic.

    Args:
        manoeuvres: names of traffic.MANOEUVRES, as a list or between commas; None = all.   ego_speed_mps: None = drawn, and swinging.
        time_of_day: None = drawn.   crowdedness: None = drawn from CROWDS.

    Returns:
        What was written, for the screen.

    Raises:
        UsageError: an unknown manoeuvre, or a value that cannot be.
    """
    _check(count, seed)
    asked = [word.strip() for word in manoeuvres.split(",")] if isinstance(manoeuvres, str) else list(manoeuvres or MANOEUVRES)

    def one(number: int, name: str) -> Scenario:
        random = np.random.default_rng([seed + number, 0x5CE])
        crowd, day = float(random.uniform(*CROWDS)), str(random.choice(LABELS["time_of_day"].values))
        wanted = dict(crowdedness=crowd if crowdedness is None else crowdedness, time_of_day=time_of_day or day)
        return make_traffic(seconds, **wanted, ego_speed_mps=ego_speed_mps, seed=seed + number, manoeuvres=asked, name=name)  # type: ignore[arg-type]

    return _written(out, count, prefix, one, fps, crowdedness)


def open_bank(bank: str, split: str | None = None) -> TrackBank:
    """The track bank of a clip dataset (a folder or an fsspec URL), a checkpoint (a preset's name or a folder), or tracks.parquet itself.

    Raises:
        UsageError: it is none of these.   DrivesimError: unreadable, or without tracks.
    """
    path = local_folder(bank, videos=False)
    if path.is_file():
        return TrackBank.load(path)
    if (path / "dataset.json").is_file():
        records = read_records(path)
        trained = bool((records.clips["split"] == "train").any())
        return build_bank(records, split or ("train" if trained else None))
    if (path / "tracks.parquet").is_file():
        return TrackBank.load(path / "tracks.parquet")
    if path.is_dir():
        raise UsageError(f"{bank}: neither a clip dataset (dataset.json) nor a checkpoint with a track bank (tracks.parquet)")
    checkpoint = load_checkpoint(bank, need=())
    if not checkpoint.tracks.is_file():
        raise UsageError(f"{checkpoint.folder} holds no track bank (tracks.parquet); give a clip dataset with boxes as --bank")
    return TrackBank.load(checkpoint.tracks)


def shown_parts(track: BoxTrack) -> list[BoxTrack]:
    """The stretches of a track in which its box is in the picture: sampled tracks that leave it stay as boxes without an extent."""
    low, high = np.clip(track.xyxy[:, :2], 0, 1), np.clip(track.xyxy[:, 2:], 0, 1)
    shown = np.flatnonzero(((high - low) > THIN).all(axis=1))
    parts = np.split(shown, np.flatnonzero(np.diff(shown) > 1) + 1)
    return [replace(track, timestamp_s=track.timestamp_s[part], xyxy=track.xyxy[part]) for part in parts if len(part) >= 2]


def _written(
    out: str, count: int, prefix: str, one: Callable[[int, str], Scenario], fps: float | None, crowdedness: float | None
) -> dict[str, Any]:
    """Make all, label each with the crowdedness that its boxes have, write, and tell."""
    digits = max(4, len(str(count - 1)))
    requests = [_request(one(number, f"{prefix}-{number:0{digits}d}"), fps) for number in range(count)]
    write_scenarios(out, requests)
    found = [request.scenario.crowdedness or 0.0 for request in requests]
    told = f"{np.mean(found):.2f}, from {min(found):.2f} to {max(found):.2f}"
    tracks = sum(len({track.track_id for track in request.scenario.tracks or ()}) for request in requests)
    return {
        "scenarios": count, "seconds": round(sum(request.scenario.duration_s for request in requests), 3), "tracks": tracks,
        "vehicles a frame": told if crowdedness is None else f"{told} ({crowdedness:g} asked for)", "table": out,
        "look at it": f"drivesim scenario show {out} --out {Path(out).stem}.png",
    }  # fmt: skip


def _request(scenario: Scenario, fps: float | None) -> Request:
    tracks = tuple(part for track in scenario.tracks or () for part in shown_parts(track))
    scenario = replace(scenario, tracks=tracks)
    return Request(scenario.name, replace(scenario, crowdedness=round(mean_vehicles(scenario, fps or COUNT_FPS), 4)), None, fps)


def _check(count: int, seed: int) -> None:
    if count < 1:
        raise UsageError(f"count must be a whole number from 1, not {count}")
    if seed < 0:
        raise UsageError(f"seed must be a whole number from 0, not {seed}")
