"""Our format -> LeRobot dataset v3.0: one episode a clip, its video as it is, its labels frame by frame.

    out/meta/info.json                              rate, features, where files are
    out/meta/tasks.parquet                          what is done: to drive, by day or at night
    out/meta/stats.json                             min, max, mean, std, count of every feature (no quantiles)
    out/meta/episodes/chunk-000/file-000.parquet    a row per episode: its rows, its video, its own statistics; clip_id, split
    out/data/chunk-000/file-000.parquet             a row per frame, a row group per episode
    out/videos/observation.images.front/chunk-000/file-000.mp4      the clips' own files, one an episode

Layout: huggingface.co/docs/lerobot/lerobot-dataset-v3, and lerobot's src/lerobot/datasets. A dataset has one rate and one picture size
there, so clips of another one are left out and told.

Every frame leaves, since a video has no holes: ``boxes_known`` says where no boxes mean nothing. Boxes are padded to the most of any
frame: ``boxes.xyxy`` (x1, y1, x2, y2 in 0..1, box after box), ``boxes.category`` (our number, -1 where there is no box),
``boxes.track_id``, ``boxes.ignore``. ``observation.state`` holds what is known of the own car, NaN in frames where it is not. There is no
``action``: our labels do not say what the driver did.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from drivesim.io.video import VideoError, count_frames
from drivesim.labels import CATEGORIES

from ..folders import new_folder
from .footage import Footage, OutgoingClip

__all__ = ["export_lerobot"]

CAMERA = "observation.images.front"
STATE = ("ego_speed_mps", "ego_yaw_rate_radps")
TASKS = ("drive", "drive by day", "drive at night")
CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA, VIDEO = f"data/{PLACE}.parquet", f"videos/{{video_key}}/{PLACE}.mp4"
LOOKED_AT = 4
"""Frames of every clip from which the statistics of the pictures are estimated."""

Stats = dict[str, np.ndarray]


def export_lerobot(dataset: str | Path, out: str | Path, split: str | None = None) -> dict[str, Any]:
    """Write the folder ``out`` with every clip that has the most frequent rate and picture size. Splits become ranges of episodes.

    Returns:
        {"episodes", "frames", "boxes", "fps", "size", "of another rate or size": [clip_id], "frames without known boxes" (they leave),
        "clips that cannot be read", "out"}.

    Raises:
        DatasetError: ``dataset`` is none, or has no clip to export.
        DrivesimError: ``out`` exists or cannot be written.
    """
    footage = Footage(dataset, split)
    clips = list(footage.clips(unknown=True))
    kinds = Counter((clip.fps, clip.size) for clip in clips)
    footage.require(len(clips))
    kind = kinds.most_common(1)[0][0]
    chosen = sorted((clip for clip in clips if (clip.fps, clip.size) == kind), key=lambda clip: (clip.split != "train", clip.split))
    with new_folder(out) as folder:
        writer = _Writer(footage, folder, chosen)
        for clip in chosen:
            writer.add_clip(clip)
        footage.require(writer.frames)
        writer.close()
    others = [clip.clip_id for clip in clips if (clip.fps, clip.size) != kind]
    counts = {"episodes": len(writer.episodes), "frames": writer.frames, "boxes": writer.boxes, "fps": kind[0], "size": list(kind[1])}
    return {**counts, "of another rate or size": others, **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far: rows of ``episodes``, and files of frames that are closed when they are large."""

    def __init__(self, footage: Footage, folder: Path, clips: Sequence[OutgoingClip]) -> None:
        self.footage, self.folder = footage, folder
        self.fps, self.size = clips[0].fps, clips[0].size
        self.state = [name for name in STATE if any(np.isfinite(clip.track.values[name]).any() for clip in clips)]
        most = max((int(np.bincount(clip.track.boxes.frame).max()) for clip in clips if len(clip.track.boxes)), default=0)
        self.slots = max(2, most)  # LeRobot takes a feature of one number for a scalar
        self.episodes: list[dict[str, Any]] = []
        self.stats: list[dict[str, Stats]] = []
        self.frames = self.boxes = self.file = 0
        self._parquet: pq.ParquetWriter | None = None

    def add_clip(self, clip: OutgoingClip) -> None:
        episode = len(self.episodes)
        place = {"chunk_index": episode // CHUNK, "file_index": episode % CHUNK}
        try:
            pictures = self._video(clip, self.folder / VIDEO.format(video_key=CAMERA, **place))
        except VideoError:
            self.footage.unreadable.append(clip.clip_id)
            return
        columns = self._columns(clip, episode)
        data = self._write(columns)
        stats = {name: _stats(np.asarray(values, np.float64).reshape(len(clip.track), -1)) for name, values in columns.items()}
        stats[CAMERA] = {name: value if name == "count" else value.reshape(3, 1, 1) for name, value in _stats(pictures).items()}
        video = {**place, "from_timestamp": 0.0, "to_timestamp": len(clip.track) / clip.fps}
        self.episodes.append(
            {
                "episode_index": episode, "tasks": [TASKS[task] for task in np.unique(columns["task_index"])], "length": len(clip.track),
                "dataset_from_index": self.frames, "dataset_to_index": self.frames + len(clip.track),
                **{f"data/{name}": value for name, value in data.items()},
                **{f"videos/{CAMERA}/{name}": value for name, value in video.items()},
                **{f"stats/{name}/{key}": value.tolist() for name, found in stats.items() for key, value in found.items()},
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, "clip_id": clip.clip_id, "split": clip.split,
            }
        )  # fmt: skip
        self.stats.append(stats)
        self.frames += len(clip.track)
        self.boxes += len(clip.track.boxes)

    def _video(self, clip: OutgoingClip, path: Path) -> np.ndarray:
        """Copy the clip's video; returns some of its pixels, float64 (n, 3) in 0..1.

        Raises:
            VideoError: it cannot be read to its end; then nothing is copied.
        """
        source = self.footage.dataset.video(clip.position)
        if count_frames(source) != len(clip.track):
            raise VideoError(f"{source}: holds {count_frames(source)} frames, not {len(clip.track)}")
        looked_at = np.unique(np.linspace(0, len(clip.track) - 1, LOOKED_AT).round().astype(np.int64))
        pictures = self.footage.dataset.frames(clip.position, looked_at)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        return pictures.reshape(-1, 3) / 255

    def _columns(self, clip: OutgoingClip, episode: int) -> dict[str, np.ndarray]:
        """Feature -> (frames,) or (frames, numbers), as ``_features`` describes them."""
        track, count = clip.track, len(clip.track)
        frame, boxes = np.arange(count), track.boxes
        slot = np.arange(len(boxes)) - np.searchsorted(boxes.frame, boxes.frame)
        padded = {
            "boxes.xyxy": np.zeros((count, self.slots, 4), np.float32), "boxes.category": np.full((count, self.slots), -1),
            "boxes.track_id": np.full((count, self.slots), -1), "boxes.ignore": np.zeros((count, self.slots), bool),
        }  # fmt: skip
        for name, values in padded.items():
            values[boxes.frame, slot] = getattr(boxes, name.removeprefix("boxes."))
        state = {"observation.state": np.stack([track.values[name] for name in self.state], axis=1)} if self.state else {}
        task = np.nan_to_num(track.values["time_of_day"] + 1, nan=0).astype(np.int64)
        return {
            **state, **padded, "boxes.xyxy": padded["boxes.xyxy"].reshape(count, -1), "boxes_known": track.boxes_known,
            "timestamp": (frame / clip.fps).astype(np.float32), "frame_index": frame, "episode_index": np.full(count, episode),
            "index": self.frames + frame, "task_index": task,
        }  # fmt: skip

    def _write(self, columns: dict[str, np.ndarray]) -> dict[str, int]:
        """Append an episode; returns which file it went to."""
        table = pa.table({name: _arrow(values) for name, values in columns.items()})
        place = {"chunk_index": self.file // CHUNK, "file_index": self.file % CHUNK}
        path = self.folder / DATA.format(**place)
        if self._parquet is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._parquet.write_table(table)
        if path.stat().st_size > DATA_MB * 2**20:
            self._end_file()
        return place

    def _end_file(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet, self.file = None, self.file + 1

    def close(self) -> None:
        self._end_file()
        meta = self.folder / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self.episodes), meta / "episodes" / "chunk-000" / "file-000.parquet")
        pd.DataFrame({"task_index": range(len(TASKS))}, index=pd.Index(TASKS, name="task")).to_parquet(meta / "tasks.parquet")
        merged = {name: _merged([stats[name] for stats in self.stats]) for name in self.stats[0]}
        stats = {name: {key: value.tolist() for key, value in found.items()} for name, found in merged.items()}
        (meta / "stats.json").write_text(json.dumps(stats, indent=1), encoding="utf-8")
        (meta / "info.json").write_text(json.dumps(self._info(), indent=1), encoding="utf-8")

    def _info(self) -> dict[str, Any]:
        splits = [episode["split"] for episode in self.episodes]
        ranges = {name: f"{splits.index(name)}:{splits.index(name) + splits.count(name)}" for name in dict.fromkeys(splits)}
        fps = int(self.fps) if self.fps == int(self.fps) else self.fps
        return {
            "codebase_version": "v3.0", "robot_type": "car", "total_episodes": len(self.episodes), "total_frames": self.frames,
            "total_tasks": len(TASKS), "chunks_size": CHUNK, "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": VIDEO_MB,
            "fps": fps, "splits": ranges, "data_path": DATA, "video_path": VIDEO, "features": self._features(fps),
        }  # fmt: skip

    def _features(self, fps: float) -> dict[str, Any]:
        height, width = self.size
        video = {
            "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": "yuv420p", "video.is_depth_map": False,
            "video.fps": fps, "video.channels": 3, "has_audio": False,
        }  # fmt: skip
        state = {"observation.state": _feature("float32", len(self.state), self.state)} if self.state else {}
        meaning = {"info": {"categories": dict(enumerate(CATEGORIES)), "no box": -1}}
        return {
            CAMERA: {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": video}, **state,
            "boxes.xyxy": _feature("float32", 4 * self.slots), "boxes.category": {**_feature("int64", self.slots), **meaning},
            "boxes.track_id": _feature("int64", self.slots), "boxes.ignore": _feature("bool", self.slots),
            "boxes_known": _feature("bool", 1), "timestamp": _feature("float32", 1),
            **{name: _feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")},
        }  # fmt: skip


def _feature(dtype: str, numbers: int, names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [numbers], "names": names}


def _arrow(values: np.ndarray) -> pa.Array:
    """One number a frame as it is, several (or a column of one that LeRobot takes for a scalar) as a list of fixed size."""
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _stats(values: np.ndarray) -> Stats:
    """Of float64 (n, numbers), over rows without NaN; zeros where there is none."""
    rows = values[~np.isnan(values).any(axis=1)]
    count = np.array([len(rows)])
    rows = rows if len(rows) else np.zeros((1, values.shape[1]))
    return {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0), "count": count}


def _merged(parts: Sequence[Stats]) -> Stats:
    """Statistics of all rows from those of their parts."""
    parts = [part for part in parts if part["count"][0]] or parts[:1]
    weights = np.array([max(part["count"][0], 1) for part in parts], np.float64)
    mean = np.average([part["mean"] for part in parts], axis=0, weights=weights)
    square = np.average([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts], axis=0, weights=weights)
    least, most = np.min([part["min"] for part in parts], axis=0), np.max([part["max"] for part in parts], axis=0)
    return {"min": least, "max": most, "mean": mean, "std": np.sqrt(square), "count": np.sum([part["count"] for part in parts], axis=0)}
