"""Boxes and profiles of a scenario table, from rows to tracks over time: every value looked at, all rows at once.

Faults name the file, the scenario and the row, and how to mend it. This file does not know files or what becomes of a scenario.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES, BoxTrack
from drivesim.simulation.scenes.files import Tables, is_csv, sidecar

__all__ = ["Profiles", "place_of", "profiles_of", "tracks_of", "whole"]

Profiles = dict[str, tuple[np.ndarray, np.ndarray]]
EDGES = ("x1", "y1", "x2", "y2")


def place_of(tables: Tables, number: int, kind: str = "", line: int = 0) -> str:
    """How errors name scenario ``number``, or the ``line``-th row among the table's boxes or profiles (``kind``)."""
    name = tables.rows[number]["scenario_id"]
    if not kind:
        return f"{tables.path}: row {number} ({name})"
    inside = (tables.boxes if kind == "boxes" else tables.profiles).index[line]
    if is_csv(tables.path):
        return f"{sidecar(tables.path, kind)}: row {inside} ({name})"
    return f"{tables.path}: row {number} ({name}), {'box' if kind == 'boxes' else 'profile sample'} {inside}"


def tracks_of(tables: Tables) -> list[tuple[BoxTrack, ...] | None]:
    """The tracks of every scenario, in order of appearance; None where boxes are to be sampled, () for an empty road.

    Raises:
        UsageError: not a number, an unknown category, a box that is inverted or leaves the picture, a track of two categories or twice at
            one time.
    """
    boxes = _checked_boxes(tables)
    found: list[list[BoxTrack]] = [[] for _ in tables.rows]
    group = boxes.groupby(["row", "track_id", "stretch"], sort=False).ngroup().to_numpy() if len(boxes) else np.zeros(0, np.int64)
    times, xyxy = boxes["timestamp_s"].to_numpy(np.float64), boxes[list(EDGES)].to_numpy(np.float32)
    order = np.lexsort((times, group))
    rows, ids, names = (boxes[name].to_numpy()[order] for name in ("row", "track_id", "category"))
    times, xyxy, group = times[order], xyxy[order], group[order]
    twice = np.flatnonzero((np.diff(group) == 0) & (np.diff(times) <= 0))
    if len(twice):
        line = int(order[twice[0] + 1])
        raise UsageError(
            f"{place_of(tables, int(rows[twice[0]]), 'boxes', line)}: track {ids[twice[0]]} has a second box at {times[twice[0]]:g} s; "
            "keep one, or number the tracks apart"
        )
    for part in np.split(np.arange(len(order)), np.flatnonzero(np.diff(group)) + 1) if len(order) else ():
        first = part[0]
        found[int(rows[first])].append(BoxTrack(int(ids[first]), str(names[first]), times[part], xyxy[part]))
    for number, tracks in enumerate(found):
        _check_stretches(tables, number, tracks)
    return [tuple(tracks) if given else None for tracks, given in zip(found, tables.given, strict=True)]


def profiles_of(tables: Tables) -> list[Profiles]:
    """label -> (times, values) of every scenario, by time; a value that is not there is NaN. Which labels may be is not looked at here.

    Raises:
        UsageError: a time or value that is not a number, no label.
    """
    found: list[Profiles] = [{} for _ in tables.rows]
    if not len(tables.profiles):
        return found
    times, values = _numbers(tables, "profiles", "timestamp_s"), _numbers(tables, "profiles", "value", nulls=True)
    table = tables.profiles.assign(timestamp_s=times, value=values, row=tables.profiles["row"].astype(np.int64))
    missing = table["label"].isna().to_numpy(bool)
    if missing.any():
        line = int(np.argmax(missing))
        raise UsageError(f"{place_of(tables, int(table['row'].iloc[line]), 'profiles', line)}: no label; name one, such as ego_speed_mps")
    for _, rows in table.groupby(["row", "label"], sort=False):
        rows = rows.sort_values("timestamp_s", kind="stable")
        samples = rows["timestamp_s"].to_numpy(np.float64), rows["value"].to_numpy(np.float64)
        found[int(rows["row"].iloc[0])][str(rows["label"].iloc[0])] = samples
    return found


def _checked_boxes(tables: Tables) -> pd.DataFrame:
    """The table of boxes with its types, a stretch for each row, every value possible."""
    boxes, kind = tables.boxes, "boxes"
    if not len(boxes):
        return pd.DataFrame(columns=["row", "track_id", "stretch", "category", "timestamp_s", *EDGES])
    stretch = boxes["stretch"].fillna(0) if "stretch" in boxes else pd.Series(0, boxes.index)
    boxes = boxes.assign(
        track_id=_whole(tables, "track_id", boxes["track_id"]), stretch=_whole(tables, "stretch", stretch),
        **{name: _numbers(tables, kind, name) for name in ("timestamp_s", *EDGES)},
    )  # fmt: skip
    exact = boxes[list(EDGES)].to_numpy(np.float64)
    xyxy = exact.astype(np.float32)
    first = boxes.groupby(["row", "track_id"])["category"].transform("first")
    faults = (
        (~boxes["category"].isin(CATEGORIES), lambda row: f"unknown category {row.category!r}; known are {', '.join(CATEGORIES)}"),
        (((exact < -1e-6) | (exact > 1 + 1e-6)).any(axis=1),
         lambda row: f"box outside the picture ({_box(row)}); coordinates are shares of width and height, 0..1"),
        ((xyxy[:, :2] >= xyxy[:, 2:]).any(axis=1), lambda row: f"inverted box ({_box(row)}); x1 < x2 and y1 < y2 are needed"),
        (boxes["category"] != first, lambda row: f"track {row.track_id} has two categories, one of them {row.category}; number them apart"),
    )  # fmt: skip
    for bad, reason in faults:
        if np.any(bad):
            line = int(np.argmax(bad))
            row = next(boxes.iloc[[line]].itertuples())
            raise UsageError(f"{place_of(tables, int(boxes['row'].iloc[line]), kind, line)}: {reason(row)}")
    return boxes


def _check_stretches(tables: Tables, number: int, tracks: Sequence[BoxTrack]) -> None:
    """One vehicle is not at two places: its stretches follow each other."""
    last: dict[int, float] = {}
    for track in sorted(tracks, key=lambda track: float(track.timestamp_s[0])):
        begin = float(track.timestamp_s[0])
        if begin <= last.get(track.track_id, -np.inf):
            raise UsageError(f"{place_of(tables, number)}: track {track.track_id} is there twice at {begin:g} s; number the tracks apart")
        last[track.track_id] = float(track.timestamp_s[-1])


def _box(row: object) -> str:
    return ", ".join(f"{name} {getattr(row, name):g}" for name in EDGES)


def _numbers(tables: Tables, kind: str, name: str, nulls: bool = False) -> np.ndarray:
    """Column ``name`` as float64 (n,), text read to the last bit; NaN only where ``nulls`` are allowed."""
    table = tables.boxes if kind == "boxes" else tables.profiles
    column = table[name]
    try:
        values = column.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        values = np.array([_float(value) for value in column])
    bad = ~np.isfinite(values) & ~(nulls & column.isna().to_numpy(bool))
    if bad.any():
        line = int(np.argmax(bad))
        place = place_of(tables, int(table["row"].iloc[line]), kind, line)
        raise UsageError(f"{place}: {name} is not a number ({column.iloc[line]})")
    return values


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return np.nan


def whole(value: object) -> int | None:
    """A whole number of any size that int64 holds, from a number or text; None when it is none."""
    text = str(value).strip()
    if text.lstrip("-").isdecimal():
        number = int(text)
    elif _float(value).is_integer():
        number = int(_float(value))
    else:
        return None
    return number if abs(number) < 2**63 and not isinstance(value, bool) else None


def _whole(tables: Tables, name: str, column: pd.Series) -> np.ndarray:
    """A column of ids as int64 (n,), none of them rounded."""
    if pd.api.types.is_integer_dtype(column) and not column.isna().any():
        return column.to_numpy(np.int64)
    values = [whole(value) for value in column]
    if None in values:
        line = values.index(None)
        place = place_of(tables, int(tables.boxes["row"].iloc[line]), "boxes", line)
        raise UsageError(f"{place}: {name} must be a whole number, not {column.iloc[line]}")
    return np.array(values, np.int64)
