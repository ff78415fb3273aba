"""LeRobot datasets, version 3 -> a clip dataset of one of their cameras, a clip per episode.

Layout, from huggingface.co/docs/lerobot/lerobot-dataset-v3 and lerobot's own reader: ``meta/info.json`` (rate, features, where files are),
``meta/tasks.parquet``, ``meta/episodes/chunk-000/file-000.parquet`` (a row per episode: its rows, its stretch of each video),
``data/chunk-000/file-000.parquet`` (a row per frame), ``videos/CAMERA/chunk-000/file-000.mp4`` (several episodes in one file).

Quirks:
- There is one rate for all; frame k of an episode is shown ``from_timestamp + k / fps`` into its video.
- Nothing in the format says what a number is but its name. Ego speed is a number of ``observation.state...`` called speed, ego_speed,
  vehicle_speed, car_speed or forward_speed, with its unit behind (``_mps``, ``_kmh``, ``_kph``); without one the caller has to say it
  (``speed_unit``). Turn rate is yaw_rate_radps or ego_yaw_rate_radps, left positive. Actions are wishes, not what the car did: not read.
- Nothing says which camera looks ahead, either: the only one; else one with "front" in its name, rather without left, right, rear, back,
  depth; else the caller has to say it (``camera``). Cameras stored as pictures in the tables are not read.
- Splits are ranges of episodes. Where there is but one, some episodes are held out here; they may be of one drive.
- Our own export brings its boxes, ``boxes_known``, crowdedness, time of day, clip ids and splits back as they were.

This file knows the layout. It does not know what the columns say (``lerobot_columns``) or how clips are written (``releases``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError, count_frames, iterate_frames, probe, read_frames
from drivesim.labels import CATEGORIES

from .lerobot_columns import Columns
from .release_files import read_json
from .releases import Kind, Recording, Release, held_out, write_release

__all__ = ["FILLS", "MAPPING", "front_camera", "import_lerobot"]

MAPPING: dict[str, Kind | None] = {name: Kind(name) for name in CATEGORIES}
FILLS = {
    "ego_speed_mps": "a state named so, see the module",
    "ego_yaw_rate_radps": "a state named so, left positive",
    "boxes": "of our own export only",
    "crowdedness": "of our own export only",
    "time_of_day": "of our own export's tasks only",
}
REST = "the dataset's repository; download the whole of it again"
SIDES = ("left", "right", "rear", "back", "depth", "map")
AT_ONCE = 64
"""Frames that are read in one go."""


def import_lerobot(
    source: str | Path, out: str | Path, camera: str | None = None, speed_unit: str | None = None, height: int | None = None,
    width: int | None = None, val_share: float = 0.1, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Turn ``source`` (the folder that holds ``meta``, ``data`` and ``videos``) into a clip dataset at ``out``.

    Args:
        camera: name of a video feature; None = the one that looks ahead, see the module.
        speed_unit: mps | kmh, of a speed whose name does not say it; None = such a speed is not taken.
        height, width: centre crop and area resize to it (None = as recorded).
        val_share: share of the episodes marked "val", where the dataset has but one split.

    Returns:
        {"clips", "frames", "dropped_boxes" (none), "left_out": {episode or column: reason}, "out"}.

    Raises:
        UsageError: a bad argument, no such folder, or a camera that has to be chosen.
        DatasetError: another version, an incomplete or damaged download; names the file.   DrivesimError: ``out`` cannot be written.
    """
    root = Path(source)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder of a LeRobot dataset, which holds meta, data and videos")
    release = Release("lerobot", MAPPING, FILLS, None)
    return write_release(out, release, _Dataset(root, release, camera, speed_unit).recordings(val_share), height, width, progress)


def front_camera(names: list[str]) -> str | None:
    """The camera that looks ahead, by its name; None = cannot be told."""
    ahead = [name for name in names if "front" in name.lower()]
    ahead.sort(key=lambda name: (any(side in name.lower() for side in SIDES), len(name), name))
    return names[0] if len(names) == 1 else ahead[0] if ahead else None


class _Dataset:
    """A dataset's description, and its episodes one by one."""

    def __init__(self, root: Path, release: Release, camera: str | None, speed_unit: str | None) -> None:
        self.root, self.release = root, release
        self.info = read_json(_there(root / "meta" / "info.json"), REST)
        version = str(self.info.get("codebase_version", "?")) if isinstance(self.info, dict) else "?"
        if not version.startswith("v3"):
            raise DatasetError(f"{root / 'meta' / 'info.json'}: version {version}, this reads v3; convert it with lerobot's own script")
        try:
            self.fps, self.features = float(self.info["fps"]), dict(self.info["features"])
            videos = [name for name, feature in self.features.items() if feature["dtype"] == "video"]
            self.columns = Columns(root, self.features, self._tasks(), speed_unit)
            if not self.fps > 0:
                raise ValueError(f"fps is {self.fps}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{root / 'meta' / 'info.json'}: {type(error).__name__}: {error}; it is damaged: {REST}") from error
        self.camera = camera or front_camera(videos)
        if self.camera not in videos:
            told = f"no video {camera!r} in it" if camera else "which camera looks ahead cannot be told" if videos else "no videos in it"
            raise UsageError(f"{root}: {told}; say camera=NAME, one of: {', '.join(videos) or 'none'}")
        release.left_out |= self.columns.passed_over
        self._open: tuple[Path, pa.Table] | None = None

    def _tasks(self) -> dict[int, str]:
        path = self.root / "meta" / "tasks.parquet"
        rows = _table(path).to_pandas() if path.exists() else None
        if rows is None or "task_index" not in rows:
            return {}
        words = rows.get("task", rows.index)
        return dict(zip(rows["task_index"].tolist(), map(str, words), strict=True))

    @cached_property
    def episodes(self) -> list[dict[str, Any]]:
        paths = sorted(_there(self.root / "meta" / "episodes").glob("*/*.parquet"))
        if not paths:
            _there(self.root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
        found = [row for path in paths for row in _table(path, drop="stats/").to_pylist()]
        return sorted(found, key=lambda row: int(row["episode_index"]))

    def recordings(self, val_share: float) -> Iterator[Recording]:
        """Every episode in order."""
        splits = self._splits(val_share)
        for row in self.episodes:
            number = row.get("episode_index")
            try:
                recording = self._recording(row, splits.get(int(row["episode_index"]), "train"))
            except (KeyError, TypeError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"
                raise DatasetError(f"{self.root / 'meta' / 'episodes'}: episode {number}: {reason}; it is damaged: {REST}") from error
            if recording is not None:
                yield recording

    def _splits(self, val_share: float) -> dict[int, str]:
        """Episode -> split: the episode's own word (our export), the dataset's ranges, or held out here."""
        numbers = [int(row["episode_index"]) for row in self.episodes]
        told = {int(row["episode_index"]): row["split"] for row in self.episodes if isinstance(row.get("split"), str)}
        ranges = self.info.get("splits") or {}
        if told or len(ranges) > 1:
            spans = {name: range(*map(int, str(span).split(":"))) for name, span in ranges.items()}
            return {n: told.get(n) or next((name for name, span in spans.items() if n in span), "train") for n in numbers}
        val = held_out([f"episode {number}" for number in numbers], val_share)
        return {number: "val" if f"episode {number}" in val else "train" for number in numbers}

    def _recording(self, row: Mapping[str, Any], split: str) -> Recording | None:
        number, length = int(row["episode_index"]), int(row["length"])
        place = {name: int(row[f"videos/{self.camera}/{name}"]) for name in ("chunk_index", "file_index")}
        path = _there(self.root / str(self.info["video_path"]).format(video_key=self.camera, **place))
        rows = self._rows(row, number)
        if rows.num_rows != length:
            raise DatasetError(f"{self.root}: episode {number} has {rows.num_rows} rows in data, not {length}; {REST}")
        begin = float(row[f"videos/{self.camera}/from_timestamp"])
        try:
            info = probe(path)
            whole = begin == 0 and count_frames(path) == length
        except VideoError as error:
            self.release.left_out[f"episode {number}"] = str(error)
            return None
        size = (info.height, info.width)
        read = partial(iterate_frames, path) if whole else partial(_stretch, path, begin + np.arange(length) / self.fps)
        track, boxes = self.columns.read(rows, self.fps, number, row.get("boxes_provenance"))
        own = row.get("clip_id")
        clip_id = own if isinstance(own, str) and _plain(own) else f"lerobot_{number:06d}"
        origin = {"camera": self.camera, "episode": number, "tasks": row.get("tasks"), "clip_id": own}
        source, licence = f"episode {number}", row.get("licence")
        return Recording(clip_id, source, size, read, track, split, boxes, {}, None, origin, licence, path if whole else None)

    def _rows(self, row: Mapping[str, Any], number: int) -> pa.Table:
        """The frames of an episode, in order; the last file is kept open, since episodes follow each other in it."""
        place = {name: int(row[f"data/{name}"]) for name in ("chunk_index", "file_index")}
        path = _there(self.root / str(self.info["data_path"]).format(**place))
        if self._open is None or self._open[0] != path:
            self._open = path, _table(path, only=self.columns.needed)
        table = self._open[1]
        return table.filter(pc.equal(table["episode_index"], number)).sort_by("frame_index")


def _plain(name: str) -> bool:
    return bool(name) and not name.startswith(".") and all(letter.isalnum() or letter in "_-." for letter in name)


def _stretch(path: Path, times: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(times), AT_ONCE):
        yield from read_frames(path, times[first : first + AT_ONCE])


def _there(path: Path) -> Path:
    if not path.exists():
        raise DatasetError(f"{path}: missing; it comes from {REST}")
    return path


def _table(path: Path, drop: str | None = None, only: list[str] | None = None) -> pa.Table:
    """A Parquet file without the columns that begin with ``drop``, or with some only."""
    try:
        names = pq.read_schema(path).names
        missing = [name for name in only or () if name not in names]
        if missing:
            raise DatasetError(f"{path}: missing column {', '.join(missing)}; {REST}")
        columns = only or [name for name in names if drop is None or not name.startswith(drop)]
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}); {REST}") from error
