"""Many scenarios as a table that a person, a program or ``drivesim scenario`` wrote and ``drivesim generate`` reads.

``Request`` is one row: a scenario, the frame rate it is wanted at, and where it starts. Every fault ends in one error that names the file,
the row (counted from 0), the scenario and the mend. docs/scenarios.md tells the columns. This file does not know networks, or how files
are laid out (files.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from drivesim.errors import UsageError
from drivesim.labels import LABELS, MIN_VEHICLE_HEIGHT, BoxTrack, LabelError, Scenario, boxes_of, count_vehicles
from drivesim.simulation.scenes.files import BOXES, PROFILES, Tables, check_ids, load, save
from drivesim.simulation.scenes.fingerprints import hash_of, hash_of_profiles, hash_of_tracks
from drivesim.simulation.scenes.rows import Profiles, place_of, profiles_of, tracks_of, whole

__all__ = ["COUNT_FPS", "Request", "mean_vehicles", "read_scenarios", "write_scenarios"]

LONGEST_S, FASTEST = 7200.0, 240.0
SLACK_S = 1.0
"""Boxes may lie this much before the beginning and after the end, so that a track can move on past both."""
COUNT_FPS = 7.5
"""Frames a second at which vehicles are counted where a scenario names no rate."""
CLEARLY = (0.5, 0.2)
"""A given crowdedness contradicts the boxes when it is further from their mean than this many vehicles and this share of the larger one."""


@dataclass(frozen=True)
class Request:
    """One scenario that is to become a clip.

    scenario.tracks: None = to be sampled from the checkpoint's track bank when it is made; () = an empty road.
    start: a picture or video to start from, as it was written.   fps: None = the checkpoint's.   start_hash: SHA-256 of the start's bytes;
    no part of a table, None = not looked at.
    """

    scenario_id: str
    scenario: Scenario
    start: str | None = None
    fps: float | None = None
    start_hash: str | None = None

    @property
    def content(self) -> str:
        """SHA-256 over all that fixes the scenario, its name aside; the same before it is written to a table and after.

        A start is told by its bytes where these were looked at, else by its path.
        """
        told = {name: getattr(self.scenario, name) for name in ("duration_s", "seed", *LABELS)}
        told |= {"boxes": hash_of_tracks(_as_stored(self.scenario)), "profiles": hash_of_profiles(_as_stored(self.scenario))}
        branch = self.scenario.branch
        start = self.start if self.start_hash is None else f"sha256:{self.start_hash}"
        told |= {"start": start, "fps": self.fps} | ({} if branch is None else {"branch": f"{branch.at_s} {branch.seed}"})
        return hash_of([], [f"{name}={_plain(value)}" for name, value in told.items()])


def read_scenarios(path: str) -> list[Request]:
    """The rows of a scenario table, in their order: Parquet, or CSV when the name ends in .csv. path: of a file, or an fsspec URL.

    Raises:
        UsageError: unreadable or empty, a column missing or unknown, two scenarios of one name, or a value that cannot be.
    """
    return _requests(load(str(path)))


def write_scenarios(path: str, requests: Sequence[Request]) -> None:
    """Write a scenario table, by the name's ending as ``read_scenarios`` reads it; reading it gives equal requests.

    Raises:
        UsageError: what ``read_scenarios`` would refuse; nothing is written then.   OSError: the place cannot be written to.
    """
    if not requests:
        raise UsageError(f"{path}: no scenario to write")
    for request in requests:
        if request.scenario.branch is not None:
            raise UsageError(f"{path}: {request.scenario_id}: a table holds no branches; write the scenario without one")
    rows = [_row(request) for request in requests]
    boxes = pd.concat([_boxes(number, request.scenario) for number, request in enumerate(requests)])
    profiles = pd.concat([_profiles(number, request.scenario) for number, request in enumerate(requests)])
    given = np.array([request.scenario.tracks is not None for request in requests])
    tables = Tables(str(path), rows, boxes, profiles, given)
    check_ids(str(path), rows)
    _requests(tables)
    save(tables)


def mean_vehicles(scenario: Scenario, fps: float | None = None) -> float:
    """Crowdedness that the given boxes have: vehicles that count (labels.count_vehicles), mean over the frames at ``fps``."""
    fps = fps or COUNT_FPS
    frames = max(round(scenario.duration_s * fps), 1)
    return float(count_vehicles(boxes_of(scenario.tracks or (), np.arange(frames) / fps), frames).mean())


# from requests to rows


def _row(request: Request) -> dict[str, Any]:
    scenario = request.scenario
    labels = {name: getattr(scenario, name) for name in LABELS}
    return {"scenario_id": request.scenario_id, "duration_s": float(scenario.duration_s), "fps": request.fps, **labels,
            "seed": scenario.seed, "start": request.start}  # fmt: skip


def _boxes(number: int, scenario: Scenario) -> pd.DataFrame:
    """A row per box; tracks that share an id (a vehicle lost and found again) are its stretches 0, 1, ..."""
    seen: Counter[int] = Counter()
    parts: list[dict[str, Any]] = [dict.fromkeys(BOXES, ())]
    for track in scenario.tracks or ():
        count = len(track.timestamp_s)
        told = {"track_id": [track.track_id] * count, "stretch": [seen[track.track_id]] * count, "category": [track.category] * count}
        edges = dict(zip(("x1", "y1", "x2", "y2"), np.asarray(track.xyxy).reshape(count, 4).T, strict=True))
        parts.append({**told, "timestamp_s": track.timestamp_s, **edges})
        seen[track.track_id] += 1
    return _frame(number, parts, BOXES)


def _profiles(number: int, scenario: Scenario) -> pd.DataFrame:
    parts: list[dict[str, Any]] = [dict.fromkeys(PROFILES, ())]
    for name, (times, values) in scenario.profiles.items():
        parts.append({"label": [name] * len(times), "timestamp_s": times, "value": values})
    return _frame(number, parts, PROFILES)


def _frame(number: int, parts: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType]) -> pd.DataFrame:
    """Parts under each other, of the types that a table keeps."""
    types = {name: object if pa.types.is_string(kind) else kind.to_pandas_dtype() for name, kind in columns.items()}
    joined = {name: np.concatenate([np.asarray(part[name], kind) for part in parts]) for name, kind in types.items()}
    return pd.DataFrame(joined).assign(row=number)


def _as_stored(scenario: Scenario) -> Scenario:
    """With the types that a table keeps, so that the hash does not depend on whether it went through one."""
    profiles = {name: (np.asarray(times, np.float64), np.asarray(told, np.float64)) for name, (times, told) in scenario.profiles.items()}
    if scenario.tracks is None:
        return replace(scenario, profiles=profiles)
    tracks = tuple(
        replace(track, timestamp_s=np.asarray(track.timestamp_s, np.float64), xyxy=np.asarray(track.xyxy, np.float32))
        for track in scenario.tracks
    )
    return replace(scenario, tracks=tracks, profiles=profiles)


def _plain(value: Any) -> Any:
    """A number by its value, whether it is whole, a float or numpy's."""
    return float(value) if isinstance(value, float | np.floating) or (isinstance(value, int) and abs(value) < 2**53) else value


# from rows to requests


def _requests(tables: Tables) -> list[Request]:
    tracks, profiles = tracks_of(tables), profiles_of(tables)
    return [_request(tables, number, tracks[number], profiles[number]) for number in range(len(tables.rows))]


def _request(tables: Tables, number: int, tracks: tuple[BoxTrack, ...] | None, profiles: Profiles) -> Request:
    row, place = tables.rows[number], place_of(tables, number)
    duration_s = _number(place, row, "duration_s")
    if duration_s is None or not 0 < duration_s <= LONGEST_S:
        asked = "null" if duration_s is None else f"{duration_s:g}"
        raise UsageError(f"{place}: duration_s must be seconds, above 0 and up to {LONGEST_S:g}, not {asked}; cut longer ones up")
    fps = _number(place, row, "fps")
    if fps is not None and not (0 < fps <= FASTEST and duration_s * fps >= 1):
        raise UsageError(f"{place}: fps must be above 0, up to {FASTEST:g} and give a frame or more in {duration_s:g} s, not {fps:g}")
    labels: dict[str, Any] = {name: row.get(name) if label.values else _number(place, row, name) for name, label in LABELS.items()}
    try:
        scenario = Scenario(duration_s, **labels, tracks=tracks, seed=_seed(place, row, number), name=row["scenario_id"], profiles=profiles)
    except LabelError as error:
        raise UsageError(f"{place}: {error}") from error
    _check_times(tables, number, scenario)
    _check_crowdedness(place, scenario, fps)
    start = row.get("start")
    return Request(row["scenario_id"], scenario, None if start is None else str(start), fps)


def _number(place: str, row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise UsageError(f"{place}: {name} is not a number ({value}); leave it empty where it is not known")
    return number


def _seed(place: str, row: Mapping[str, Any], number: int) -> int:
    """Where none is given, the place in the table."""
    value = row.get("seed")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return number
    seed = whole(value)
    if seed is None or seed < 0:
        raise UsageError(f"{place}: seed must be a whole number from 0, not {value}; leave it empty to have one by the row's number")
    return seed


def _check_times(tables: Tables, number: int, scenario: Scenario) -> None:
    """Boxes lie in the scenario, a second of slack aside."""
    for track in scenario.tracks or ():
        first, last = track.timestamp_s[0], track.timestamp_s[-1]
        if first < -SLACK_S or last > scenario.duration_s + SLACK_S:
            raise UsageError(
                f"{place_of(tables, number)}: track {track.track_id} has a box at {first if first < -SLACK_S else last:g} s, outside the "
                f"scenario's 0 to {scenario.duration_s:g} s; remove the box or make the scenario longer"
            )


def _check_crowdedness(place: str, scenario: Scenario, fps: float | None) -> None:
    """Where boxes and their number are both given, they agree."""
    if scenario.tracks is None or scenario.crowdedness is None:
        return
    given, found = scenario.crowdedness, mean_vehicles(scenario, fps)
    vehicles, share = CLEARLY
    if abs(given - found) > vehicles + share * max(given, found):
        raise UsageError(
            f"{place}: crowdedness {given:g} contradicts the boxes, which hold {found:.3g} vehicles a frame that are at least "
            f"{MIN_VEHICLE_HEIGHT:.0%} of its height; leave crowdedness empty or change the boxes"
        )
