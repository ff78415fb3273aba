"""What the columns of a LeRobot dataset say, part of ``lerobot``: labels of our own export as they are, and numbers by their names.

This file does not know files or videos.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelTrack, count_vehicles

__all__ = ["Columns"]

OURS = ("boxes.xyxy", "boxes.category", "boxes.track_id", "boxes.ignore", "boxes_known")
TASKS = {"drive by day": "day", "drive at night": "night"}
SPEED = re.compile(r"(ego_|vehicle_|car_|forward_)?speed(_mps|_kmh|_kph)?")
TURN = ("ego_yaw_rate_radps", "yaw_rate_radps")
UNITS = {"mps": 1.0, "kmh": 1 / 3.6, "kph": 1 / 3.6}


class Columns:
    """Which columns are read, and as what.

    passed_over: column -> why it is not read, though it could be.   needed: names of the columns to read.

    Raises:
        UsageError: an unknown unit.
    """

    def __init__(self, root: Path, features: Mapping[str, Any], tasks: Mapping[int, str], speed_unit: str | None) -> None:
        if speed_unit not in (None, "mps", "kmh"):
            raise UsageError(f"speed_unit must be mps or kmh, not {speed_unit!r}")
        self.root, self.tasks = root, tasks
        self.passed_over: dict[str, str] = {}
        self.ours = all(name in features for name in OURS)
        self.numbers = self._numbers(features, speed_unit)
        extra = [name for name in ("crowdedness", "task_index") if name in features and (self.ours or name == "task_index")]
        told = [feature for feature, _, _ in self.numbers.values()]
        self.needed = list(dict.fromkeys(["episode_index", "frame_index", *(OURS if self.ours else ()), *extra, *told]))

    def _numbers(self, features: Mapping[str, Any], speed_unit: str | None) -> dict[str, tuple[str, int, float]]:
        """Label -> (feature, place in it, factor). The first that fits is taken."""
        found: dict[str, tuple[str, int, float]] = {}
        for feature, place, name in _names(features):
            speed = SPEED.fullmatch(name)
            if speed:
                unit = (speed[2] or "").removeprefix("_") or speed_unit
                if unit is None:
                    self.passed_over[f"{feature}: {name}"] = "its unit is not told; say speed_unit=mps or kmh"
                else:
                    found.setdefault("ego_speed_mps", (feature, place, UNITS[unit]))
            elif name in TURN:
                found.setdefault("ego_yaw_rate_radps", (feature, place, 1.0))
        return found

    def read(self, rows: pa.Table, fps: float, episode: int, provenance: str | None) -> tuple[LabelTrack, dict[str, Any]]:
        """Labels of an episode's rows, and further columns of its boxes.

        Raises:
            DatasetError: boxes that cannot be.
        """
        track = LabelTrack.unknown(rows.num_rows, fps)
        if self.ours:
            boxes, known = self._boxes(rows, episode), rows["boxes_known"].to_numpy(zero_copy_only=False).astype(bool)
            track = replace(track, boxes=boxes, boxes_known=known)
            track.values["crowdedness"][:] = np.where(known, count_vehicles(boxes, len(track)), np.nan)
        for name, (feature, place, factor) in self.numbers.items():
            self._set(track, name, _matrix(rows, feature)[:, place] * factor)
        if "crowdedness" in self.needed:
            self._set(track, "crowdedness", _matrix(rows, "crowdedness")[:, 0])
        if self.ours and "task_index" in self.needed:
            words = [TASKS.get(self.tasks.get(int(task), "")) for task in rows["task_index"].to_pylist()]
            self._set(track, "time_of_day", np.array([LABELS["time_of_day"].encode(word) for word in words]))
        return track, {"provenance": [provenance] * len(track.boxes)}

    @staticmethod
    def _set(track: LabelTrack, name: str, values: np.ndarray) -> None:
        label = LABELS[name]
        track.values[name][:] = np.where((values >= label.low) & (values <= label.high), values, np.nan)

    def _boxes(self, rows: pa.Table, episode: int) -> Boxes:
        category = _matrix(rows, "boxes.category").astype(np.int64)
        frame, slot = np.nonzero(category >= 0)
        xyxy = _matrix(rows, "boxes.xyxy").reshape(*category.shape, 4)[frame, slot].astype(np.float32)
        track_id = _matrix(rows, "boxes.track_id").astype(np.int64)[frame, slot]
        ignore = _matrix(rows, "boxes.ignore").astype(bool)[frame, slot]
        boxes = Boxes(frame.astype(np.int64), track_id, category[frame, slot], xyxy, ignore)
        inside = ((xyxy >= 0) & (xyxy <= 1)).all(axis=1) & (xyxy[:, :2] < xyxy[:, 2:]).all(axis=1)
        if not (inside & (boxes.category < len(CATEGORIES))).all():
            raise DatasetError(f"{self.root}: episode {episode}: a box outside 0..1, inverted, or of an unknown category; export again")
        return boxes


def _names(features: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Every number of the states: its feature, its place there, its name in small letters."""
    for feature, about in features.items():
        if not feature.startswith("observation.state") or not str(about.get("dtype", "")).startswith(("float", "int")):
            continue
        names = about.get("names")
        if isinstance(names, Mapping):
            names = next((value for value in names.values() if isinstance(value, list)), None)
        names = names if isinstance(names, list) else [feature.rpartition(".")[2]] if about.get("shape") == [1] else []
        yield from ((feature, place, str(name).lower()) for place, name in enumerate(names))


def _matrix(rows: pa.Table, name: str) -> np.ndarray:
    """A column as numbers (rows, numbers), whether stored as numbers or as lists."""
    values = rows[name].combine_chunks()
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    flat = flat if flat.dtype == bool or flat.dtype.kind == "i" else np.asarray(flat, np.float64)
    return flat.reshape(rows.num_rows, -1)
