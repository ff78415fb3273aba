"""Writing a clip dataset as it comes: label rows stream to Parquet in row groups, so that memory does not grow with minutes.

Everything lands in hidden part files that take their places together at ``close``, dataset.json last: a dataset without dataset.json
was never finished. The same rows give the same tables, whatever pieces they come in. This file does not know where labels come from.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.labels import LABELS, LabelTrack

from .atomic import part_of, publish, write_json
from .label_rows import rows_of
from .schemas import SCHEMAS, DatasetError, as_arrow, write_table
from .tables import DatasetRecords, header, read_records

__all__ = ["RecordsWriter"]

ROW_GROUP = 4096


class _TableStream:
    """One growing Parquet file: rows wait until they fill a row group."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind, self.rows = path, kind, 0
        self.part = part_of(path)
        self.writer = pq.ParquetWriter(self.part, SCHEMAS[kind], compression="zstd")
        self.waiting = SCHEMAS[kind].empty_table()

    def append(self, rows: pd.DataFrame) -> None:
        more = as_arrow(rows, self.kind, self.path).select(SCHEMAS[self.kind].names)
        # one table of Arrow's own memory: many small pieces of pandas' would keep the memory of encoders that come and go in between
        self.waiting = pa.concat_tables([self.waiting, more]).combine_chunks()
        self.rows += len(rows)
        while self.waiting.num_rows >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write one row group, a whole one where there are enough rows."""
        if self.waiting.num_rows:
            self.writer.write_table(self.waiting.slice(0, ROW_GROUP))
            self.waiting = self.waiting.slice(ROW_GROUP)

    def close(self) -> None:
        self.flush()
        self.writer.close()


class _Clip:
    """Running figures of one clip: what its row will say."""

    def __init__(self) -> None:
        self.frames, self.crowd, self.counted, self.codes = 0, 0.0, 0, set[float | None]()

    def add(self, track: LabelTrack) -> None:
        crowd = track.values["crowdedness"][np.isfinite(track.values["crowdedness"])]
        self.frames += len(track)
        self.crowd = float(np.add.accumulate([self.crowd, *crowd.astype(np.float64)])[-1])  # frame by frame, however many come at a time
        self.counted += len(crowd)
        self.codes |= {None if np.isnan(code) else float(code) for code in np.unique(track.values["time_of_day"])}

    def row(self, fps: float) -> dict[str, Any]:
        code = next(iter(self.codes)) if len(self.codes) == 1 else None
        time_of_day = None if code is None else LABELS["time_of_day"].decode(code)
        crowdedness = self.crowd / self.counted if self.counted else None
        return {"fps": fps, "frames": self.frames, "duration_s": self.frames / fps, "time_of_day": time_of_day, "crowdedness": crowdedness}


class RecordsWriter:
    """Stream a dataset's tables to ``root``: ``append`` label tracks piece by piece, ``add_clip`` when a clip ends, ``close`` at the end.

    As a context manager it closes after success and discards its parts after an error; videos are never touched.

    Raises:
        DatasetError: the folder cannot be written, or already holds a dataset.
    """

    def __init__(self, root: str | Path, creator: str = "drivesim", **more: Any) -> None:
        self.root, self.top = Path(root), header(creator, **more)
        if (self.root / "dataset.json").exists():
            raise DatasetError(f"{self.root} already holds a clip dataset; choose another folder")
        self._clips: list[dict[str, Any]] = []
        self._open: dict[str, _Clip] = {}
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._tables = {kind: _TableStream(self.root / f"{kind}.parquet", kind) for kind in ("frames", "boxes")}
        except OSError as error:
            raise DatasetError(f"cannot write {self.root}: {error.strerror or error}; choose another folder") from error

    def append(self, track: LabelTrack, clip_id: str, provenance: str) -> None:
        """Append a clip's next frames; the first call starts the clip at frame 0."""
        clip = self._open.setdefault(clip_id, _Clip())
        frames, boxes = rows_of(track, clip_id, provenance, clip.frames)
        clip.add(track)
        self.append_rows(frames, boxes)

    def append_rows(self, frames: pd.DataFrame, boxes: pd.DataFrame) -> None:
        """Append rows made elsewhere, with columns of the schemas (further columns are not streamed)."""
        try:
            self._tables["frames"].append(frames)
            self._tables["boxes"].append(boxes)
        except OSError as error:
            raise DatasetError(f"cannot write {self.root}: {error.strerror or error}; free space or choose another folder") from error

    def add_clip(self, clip_id: str, video: str, fps: float, height: int, width: int, **more: Any) -> None:
        """End a clip: its row follows from the appended tracks. ``more`` (split, source, camera, provenance, ...) overrides and adds."""
        clip = self._open.pop(clip_id, _Clip())
        self._clips.append({"clip_id": clip_id, "video": video, "height": height, "width": width, **clip.row(fps), **more})

    def close(self) -> DatasetRecords:
        """Put the tables in place and return them as read back."""
        self.put()
        return read_records(self.root)

    def put(self) -> None:
        """Put the tables in place; nothing is read back, so memory does not grow with them."""
        if self._open:
            raise DatasetError(f"{self.root}: clip {next(iter(self._open))!r} was begun but never added")
        try:
            for table in self._tables.values():
                table.close()
            clips = self.root / "clips.parquet"
            write_table(clips, as_arrow(pd.DataFrame(self._clips, columns=self._clip_columns()), "clips", clips))
            for table in self._tables.values():
                publish(table.part, table.path)
            frames = sum(int(row["frames"]) for row in self._clips)
            counts = {"clips": len(self._clips), "frames": frames, "boxes": self._tables["boxes"].rows}
            write_json(self.root / "dataset.json", {**self.top, **counts})
        except OSError as error:
            raise DatasetError(f"cannot write {self.root}: {error.strerror or error}; free space or choose another folder") from error

    def discard(self) -> None:
        """Give up: remove the parts."""
        for table in self._tables.values():
            with suppress(OSError):  # a full disk refuses the footer; the part goes anyway
                table.writer.close()
            table.part.unlink(missing_ok=True)

    def _clip_columns(self) -> list[str]:
        return list(dict.fromkeys(SCHEMAS["clips"].names + [name for row in self._clips for name in row]))

    def __enter__(self) -> RecordsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()
