"""Labels of all clips of a dataset at once: what ``labels_of`` says of one clip, in arrays that are sorted but once.

Asking pandas clip by clip costs milliseconds a clip, more than copying its video does. ``labels_of`` stays the meaning: tests hold this
file to it. It does not know files or foreign formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from drivesim.io.records import DatasetRecords
from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelTrack, count_vehicles

__all__ = ["BulkLabels"]

LOWEST, HIDDEN = 6 / 128, 0.7
"""Below and above which boxes are marked ignore where the file leaves it open, as in ``labels_of``."""


class BulkLabels:
    """Labels of the sound clips of ``records``, asked for by position. Clips with faulty rows must not be asked for."""

    def __init__(self, records: DatasetRecords) -> None:
        self.records = records
        self.clips = {name: records.clips[name].to_numpy() for name in ("clip_id", "fps", "frames", "time_of_day", "crowdedness")}
        self._box, self._box_at = self._sorted(records.boxes)
        self._frame, self._frame_at = np.zeros(0, np.int64), np.zeros(len(records.clips) + 1, np.int64)
        if records.frames is not None:
            self._frame, self._frame_at = self._sorted(records.frames)
        self.columns = self._box_columns(records.boxes)
        self._values = {} if records.frames is None else self._frame_columns(records.frames)

    def _sorted(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Rows by clip and frame, in the file's order where those are equal; and where each clip's begin, (clips + 1,)."""
        found = self.records.clip_positions(rows)
        kept = np.flatnonzero(found >= 0)
        clip, frame = found[kept], rows["frame"].to_numpy(np.int64, na_value=-1)[kept]
        order = np.lexsort((frame, clip))
        return kept[order], np.searchsorted(clip[order], np.arange(len(self.records.clips) + 1))

    def _box_columns(self, rows: pd.DataFrame) -> dict[str, Any]:
        order = self._box
        columns = {name: rows[name].to_numpy(np.int64, na_value=-1)[order] for name in ("frame", "track_id")}
        columns["category"] = _codes(rows["category"], CATEGORIES)[order]
        columns["xyxy"] = np.stack([rows[name].to_numpy(np.float32) for name in ("x1", "y1", "x2", "y2")], axis=1)[order]
        columns["occlusion"] = rows["occlusion"].to_numpy(np.float64, na_value=np.nan)[order]
        columns["truncated"] = rows["truncated"].to_numpy(np.float64, na_value=np.nan)[order]
        derived = (columns["xyxy"][:, 3] - columns["xyxy"][:, 1] < LOWEST) | (columns["occlusion"].astype(np.float32) > HIDDEN)
        open_, said = rows["ignore"].isna().to_numpy()[order], rows["ignore"].to_numpy(bool, na_value=False)[order]
        columns["ignore"] = np.where(open_, derived, said)
        codes, words = pd.factorize(rows["provenance"])
        columns["provenance"] = codes[order]
        self.words = [str(word) for word in words]
        return columns

    def _frame_columns(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        order = self._frame
        columns = {"frame": rows["frame"].to_numpy(np.int64, na_value=-1)[order]}
        columns["boxes_known"] = rows["boxes_known"].to_numpy(bool, na_value=False)[order]
        for name, label in LABELS.items():
            if label.values:
                codes = _codes(rows[name], label.values).astype(np.float32)[order]
                columns[name] = np.where(codes < 0, np.nan, codes).astype(np.float32)
            else:
                columns[name] = rows[name].to_numpy(np.float32, na_value=np.nan)[order]
        return columns

    def rows(self, position: int) -> slice:
        """Where a clip's boxes lie in ``columns``."""
        return slice(int(self._box_at[position]), int(self._box_at[position + 1]))

    def track(self, position: int) -> LabelTrack:
        """As ``labels_of``."""
        box, column = self.rows(position), self.columns
        boxes = Boxes(column["frame"][box], column["track_id"][box], column["category"][box], column["xyxy"][box], column["ignore"][box])
        track = LabelTrack.unknown(int(self.clips["frames"][position]), float(self.clips["fps"][position]))
        track = replace(track, boxes=boxes)
        track = self._from_rows(track, position) if self._has_rows(position) else self._from_boxes(track, position)
        time = self.clips["time_of_day"][position]
        if isinstance(time, str) and np.isnan(track.values["time_of_day"]).all():
            track.values["time_of_day"][:] = LABELS["time_of_day"].encode(time)
        return track

    def _has_rows(self, position: int) -> bool:
        return bool(self._frame_at[position + 1] > self._frame_at[position])

    def _from_rows(self, track: LabelTrack, position: int) -> LabelTrack:
        rows = slice(int(self._frame_at[position]), int(self._frame_at[position + 1]))
        at, known = self._values["frame"][rows], track.boxes_known.copy()
        known[at] = self._values["boxes_known"][rows]
        for name, values in track.values.items():
            values[at] = self._values[name][rows]
        return replace(track, boxes_known=known)

    def _from_boxes(self, track: LabelTrack, position: int) -> LabelTrack:
        if len(track.boxes):
            track.values["crowdedness"][:] = count_vehicles(track.boxes, len(track))
            return replace(track, boxes_known=np.ones(len(track), bool))
        track.values["crowdedness"][:] = self.clips["crowdedness"][position]
        return track


def _codes(words: pd.Series, known: Sequence[str]) -> np.ndarray:
    """Places in ``known``, int64, -1 = not there; every different word is looked up once."""
    codes, found = pd.factorize(words)
    return np.array([*(known.index(word) if word in known else -1 for word in found), -1], np.int64)[codes]
