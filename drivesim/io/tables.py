"""A clip dataset's tables: read and written whole.

``read_records`` refuses a dataset as a whole only for faults of the whole (no dataset.json, unknown major version, missing table or
column). Faults of single rows are found by ``drivesim.io.check`` and cost only their clip. This file does not know what is inside a
video, nor what a window is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drivesim.labels import CATEGORIES

from .atomic import write_json
from .fetching import local_folder, on_this_disk
from .places import Place
from .schemas import DatasetError, as_arrow, empty_table, read_table, write_table

__all__ = ["FORMAT", "VERSION", "DatasetRecords", "header", "read_header", "read_records", "rewrite_records", "write_records"]

FORMAT = "drivesim-clips"
VERSION = 1


@dataclass(frozen=True)
class DatasetRecords:
    """The tables of a clip dataset. ``frames`` is None when the dataset has no frames.parquet.

    header: dataset.json.   clips, frames, boxes: pandas, columns as in ``schemas.SCHEMAS`` plus the file's own.
    """

    root: Path
    clips: pd.DataFrame
    boxes: pd.DataFrame = field(default_factory=lambda: empty_table("boxes"))
    frames: pd.DataFrame | None = None
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def clip_ids(self) -> list[str]:
        return [str(clip_id) for clip_id in self.clips["clip_id"]]

    def clip(self, clip_id: str) -> pd.Series:
        """The clip's row of clips.parquet."""
        rows = self._clip_rows.get(clip_id)
        if rows is None:
            raise DatasetError(f"{self.root / 'clips.parquet'}: no clip {clip_id!r}; it has {len(self.clips)} others")
        return self.clips.iloc[rows[0]]

    def video_path(self, clip_id: str) -> Path:
        """Where the clip's video lies.

        Raises:
            DatasetError: the path leaves the dataset's folder.
        """
        video = self._videos[clip_id] if clip_id in self._videos else self.clip(clip_id)["video"]
        if self.leaves(video):
            raise DatasetError(
                f"{self.root / 'clips.parquet'}: clip {clip_id!r}: the video path {video!r} leaves the dataset's folder; copy the video "
                "into videos/"
            )
        return self.root / str(video)

    def leaves(self, video: object) -> bool:
        """Whether a path as clips.parquet has it lies outside the dataset's folder, links followed. Folders are looked at once."""
        path = os.path.join(self.root, str(video))  # text, since pathlib takes longer than the disk
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):
            return not Path(path).resolve().is_relative_to(self.root.resolve())
        if folder not in self._outside:
            self._outside[folder] = not Path(folder).resolve().is_relative_to(self.root.resolve())
        return self._outside[folder]

    def clip_positions(self, rows: pd.DataFrame) -> np.ndarray:
        """Of rows of any table the position of their clip (of the first with its id) in ``clips``, int64 (rows,); -1 = there is none.

        Every different id is looked up once: comparing text row by row takes longer than all the rest of reading a large dataset.
        """
        codes, ids = pd.factorize(rows["clip_id"])
        first = {clip_id: position for position, clip_id in reversed(list(enumerate(self.clips["clip_id"])))}
        return np.array([*(first.get(clip_id, -1) for clip_id in ids), -1], np.int64)[codes]

    def boxes_of(self, clip_id: str) -> pd.DataFrame:
        """The clip's rows of boxes.parquet."""
        return self.boxes.iloc[self._box_rows.get(clip_id, [])]

    def frames_of(self, clip_id: str) -> pd.DataFrame | None:
        """The clip's rows of frames.parquet, by frame; None when there are none."""
        rows = self._frame_rows.get(clip_id)
        return None if self.frames is None or rows is None else self.frames.iloc[rows].sort_values("frame")

    @cached_property
    def _videos(self) -> dict[Any, Any]:
        """Of every clip id, of the first clip that has it."""
        return dict(zip(reversed(self.clips["clip_id"].tolist()), reversed(self.clips["video"].tolist()), strict=True))

    @cached_property
    def _outside(self) -> dict[str, bool]:
        """Folder that was looked at -> whether it lies outside."""
        return {}

    @cached_property
    def _clip_rows(self) -> Mapping[Any, np.ndarray]:
        return _rows_by_clip(self.clips)

    @cached_property
    def _box_rows(self) -> Mapping[Any, np.ndarray]:
        return _rows_by_clip(self.boxes)

    @cached_property
    def _frame_rows(self) -> Mapping[Any, np.ndarray]:
        return {} if self.frames is None else _rows_by_clip(self.frames)


def _rows_by_clip(table: pd.DataFrame) -> Mapping[Any, np.ndarray]:
    groups = table.groupby("clip_id", sort=False).indices
    return {clip_id: np.asarray(rows) for clip_id, rows in groups.items()}


def read_records(root: str | Path) -> DatasetRecords:
    """Read a dataset's tables; one at an fsspec URL is fetched first (``fetching``), and its root is the copy.

    Raises:
        DatasetError: not a clip dataset, unknown major version, a table or a required column missing or unreadable.
    """
    root = local_folder(root)
    top = read_header(root)
    clips, boxes = (read_table(root / f"{kind}.parquet", kind) for kind in ("clips", "boxes"))
    frames = read_table(root / "frames.parquet", "frames") if (root / "frames.parquet").exists() else None
    return DatasetRecords(root, clips, boxes, frames, top)


def read_header(root: Path) -> dict[str, Any]:
    """dataset.json, after looking at format and major version ("1", 1 and 1.4 are version 1).

    Raises:
        DatasetError: missing, not JSON, another format, or another major version.
    """
    path = root / "dataset.json"
    try:
        top = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing file; {root} is not a clip dataset (make one with: drivesim data import)") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable JSON file ({error}); copy the dataset again") from error
    if not isinstance(top, dict) or top.get("format") != FORMAT:
        raise DatasetError(f'{path}: "format" must be "{FORMAT}"; this is not a clip dataset')
    if str(top.get("version", "")).split(".")[0] != str(VERSION):
        raise DatasetError(f"{path}: version {top.get('version')!r} is unknown, this drivesim reads {VERSION}; update drivesim")
    return top


def write_records(root: str | Path, records: DatasetRecords) -> DatasetRecords:
    """Write the tables and dataset.json under ``root``, each atomically, dataset.json last; counts are renewed. Videos are not touched.

    Returns:
        The records as they now stand at ``root``.

    Raises:
        DatasetError: a required column is missing, or a value does not fit its column.
    """
    root = Path(root)
    rows = {"clips": records.clips, "boxes": records.boxes, "frames": records.frames}
    paths = {kind: root / f"{kind}.parquet" for kind in rows}
    tables = {paths[kind]: as_arrow(table, kind, paths[kind]) for kind, table in rows.items() if table is not None}
    for path, table in tables.items():  # all were converted before the first is written: a value that does not fit changes nothing
        write_table(path, table)
    if records.frames is None:
        paths["frames"].unlink(missing_ok=True)
    frames = int(records.clips["frames"].sum())
    top = {**header(""), **records.header, "clips": len(records.clips), "frames": frames, "boxes": len(records.boxes)}
    write_json(root / "dataset.json", top)
    return replace(records, root=root, header=top)


def rewrite_records(root: str | Path, records: DatasetRecords) -> DatasetRecords:
    """``write_records`` of changed records of the dataset at ``root``, a folder or an fsspec URL, where the other files stay as they are.

    Raises: as ``write_records``; DrivesimError: the place cannot be written.
    """
    if (here := on_this_disk(root)) is not None:
        return write_records(here, records)
    place = Place(root)
    with place.scratch() as folder:
        written = write_records(folder, records)
        for name in ("boxes.parquet", "frames.parquet", "clips.parquet", "dataset.json"):
            if (folder / name).exists():
                place.put(folder / name, name)
    return replace(written, root=records.root)


def header(creator: str, **more: Any) -> dict[str, Any]:
    """A fresh dataset.json without counts."""
    return {"format": FORMAT, "version": VERSION, "creator": creator or "drivesim", "categories": list(CATEGORIES), **more}
