"""Our format -> LeRobot dataset v3.0: one episode a clip, its video as it is, its labels frame by frame.

    out/meta/info.json                              rate, features, where files are
    out/meta/tasks.parquet                          what is done: to drive, by day or at night
    out/meta/stats.json                             min, max, mean, std, count of every feature (no quantiles)
    out/meta/episodes/chunk-000/file-000.parquet    a row per episode: its rows, its video, its own statistics; clip_id, split,
                                                    licence, boxes_provenance (who says so, where all boxes agree)
    out/data/chunk-000/file-000.parquet             a row per frame
    out/videos/observation.images.front/chunk-000/file-000.mp4      the clips' own files, one an episode

Layout: huggingface.co/docs/lerobot/lerobot-dataset-v3, and lerobot's src/lerobot/datasets. A dataset has one rate and one picture size
there, so clips of another one are left out and told.

Every frame leaves, since a video has no holes: ``boxes_known`` says where no boxes mean nothing. Boxes are padded to the most of any
frame: ``boxes.xyxy`` (x1, y1, x2, y2 in 0..1, box after box), ``boxes.category`` (our number, -1 where there is no box),
``boxes.track_id``, ``boxes.ignore``. ``crowdedness`` counts vehicles. ``observation.state`` holds what is known of the own car, NaN in
frames where it is not. There is no ``action``: our labels do not say what the driver did.

A video is looked at no further than its index, which tells one that was cut short; statistics of pictures are those of some episodes, and
stand in for the others'.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from drivesim.io.video import VideoError, count_frames, read_frames
from drivesim.labels import CATEGORIES

from ..folders import new_folder
from .footage import Footage, OutgoingClip
from .lerobot_tables import KEYS, Stats, arrow, columns_of, merged, picture_stats, stats_of
from .mp4_index import indexed_frames

__all__ = ["export_lerobot"]

CAMERA = "observation.images.front"
STATE = ("ego_speed_mps", "ego_yaw_rate_radps")
TASKS = ("drive", "drive by day", "drive at night")
CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA, VIDEO = f"data/{PLACE}.parquet", f"videos/{{video_key}}/{PLACE}.mp4"
EPISODES, LOOKED_AT = 24, 3
"""Episodes, evenly spread, and frames of each, from which the statistics of the pictures are estimated."""
DISK = LocalFileSystem()
BATCH, COPIES = 64, 2
"""Episodes whose rows are made at once, and videos that are copied at once."""


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
        writer.add_clips(chosen)
        footage.require(writer.frames)
        writer.close()
    others = [clip.clip_id for clip in clips if (clip.fps, clip.size) != kind]
    counts = {"episodes": len(writer.episodes), "frames": writer.frames, "boxes": writer.boxes, "fps": kind[0], "size": list(kind[1])}
    return {**counts, "of another rate or size": others, **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far. Episodes are written by the batch: numbers of many at once cost little more than those of one."""

    def __init__(self, footage: Footage, folder: Path, clips: Sequence[OutgoingClip]) -> None:
        self.footage, self.folder, self.fps, self.size = footage, folder, clips[0].fps, clips[0].size
        self.state = [name for name in STATE if any(np.isfinite(clip.track.values[name]).any() for clip in clips)]
        self.crowdedness = any(np.isfinite(clip.track.values["crowdedness"]).any() for clip in clips)
        most = max((int(np.bincount(clip.track.boxes.frame).max()) for clip in clips if len(clip.track.boxes)), default=0)
        self.slots = max(2, most)  # LeRobot takes a feature of one number for a scalar
        self.episodes: list[dict[str, Any]] = []
        self.stats: list[dict[str, Stats]] = []
        self.pixels: dict[str, np.ndarray | None] = {}
        self.frames = self.boxes = self.file = 0
        self._parquet: pq.ParquetWriter | None = None

    def add_clips(self, clips: Sequence[OutgoingClip]) -> None:
        """Copy the clips' videos while they are looked at and their rows are written; what turns out to be damaged is taken back."""
        with ThreadPoolExecutor(COPIES + 1) as pool:
            seen = pool.map(self._pixels, looked_at := _spread(clips))
            copies = [pool.submit(self._copy, list(enumerate(clips))[part::COPIES]) for part in range(COPIES)]
            sound = [clip for clip in clips if self._is_sound(clip)]
            self.pixels = {clip.clip_id: pixels for clip, pixels in zip(looked_at, seen, strict=True)}
            sound = [clip for clip in sound if self._shows(clip)]
            for start in range(0, len(sound), BATCH):
                self._add_batch(sound[start : start + BATCH], pool)
            for copy in copies:
                copy.result()
        if len(sound) < len(clips):
            self._close_up(clips, {clip.clip_id for clip in sound})

    def _close_up(self, clips: Sequence[OutgoingClip], sound: set[str]) -> None:
        """Videos lie where their clips stand among all; episodes are numbered without the damaged ones."""
        episode = 0
        for number, clip in enumerate(clips):
            path = self._video(number)
            if clip.clip_id not in sound:
                path.unlink(missing_ok=True)
                continue
            path.rename(self._video(episode))
            episode += 1
        for folder in (self.folder / "videos" / CAMERA).iterdir():
            if not any(folder.iterdir()):
                folder.rmdir()

    def _video(self, number: int) -> Path:
        return self.folder / VIDEO.format(video_key=CAMERA, **_place(number))

    def _is_sound(self, clip: OutgoingClip) -> bool:
        """Whether all frames are in the clip's video; it is not decoded."""
        source = self.footage.dataset.video(clip.position)
        try:
            held = indexed_frames(source)
            sound = (count_frames(source) if held is None else held) == len(clip.track)
        except VideoError:
            sound = False
        if not sound:
            self.footage.unreadable.append(clip.clip_id)
        return sound

    def _shows(self, clip: OutgoingClip) -> bool:
        """Whether a clip whose pictures were looked at has any; the others are believed."""
        if clip.clip_id in self.pixels and self.pixels[clip.clip_id] is None:
            self.footage.unreadable.append(clip.clip_id)
            return False
        return True

    def _pixels(self, clip: OutgoingClip) -> np.ndarray | None:
        """Some pixels of some frames, as LeRobot looks at them: (n, 3) in 0..1; None = the video is damaged."""
        places = np.unique(np.linspace(0, len(clip.track) - 1, LOOKED_AT).round().astype(np.int64))
        step = max(1, min(self.size) // 32)
        try:
            pictures = read_frames(self.footage.dataset.video(clip.position), places / clip.fps)
        except VideoError:
            return None
        return pictures[:, ::step, ::step].reshape(-1, 3) / 255

    def _copy(self, numbered: Sequence[tuple[int, OutgoingClip]]) -> None:
        """Videos of (number, clip). One call for many, and one a file, since each may wait for the interpreter's lock: exports of small
        clips took 2.3 s so and 2.9 s with ``shutil``, side by side."""
        for number, clip in numbered:
            source, path = self.footage.dataset.video(clip.position), self._video(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            DISK.copy_file(str(source), str(path))

    def _add_batch(self, clips: Sequence[OutgoingClip], pool: Executor) -> None:
        lengths, first = np.array([len(clip.track) for clip in clips]), len(self.episodes)
        columns = columns_of([clip.track for clip in clips], self.state, self.slots, self.crowdedness)
        columns["timestamp"] = (columns["frame_index"] / self.fps).astype(np.float32)
        columns["episode_index"] = np.repeat(np.arange(first, first + len(clips)), lengths)
        columns["index"] = self.frames + np.arange(int(lengths.sum()))
        written = pool.submit(self._write, columns)
        self.stats.append({name: stats_of(values, lengths) for name, values in columns.items()})
        data = written.result()
        for clip, task in zip(clips, np.split(columns["task_index"], np.cumsum(lengths)[:-1]), strict=True):
            self._note(clip, [TASKS[number] for number in np.unique(task)], data)

    def _note(self, clip: OutgoingClip, tasks: list[str], data: Mapping[str, int]) -> None:
        episode, length = len(self.episodes), len(clip.track)
        video = {**_place(episode), "from_timestamp": 0.0, "to_timestamp": length / clip.fps}
        self.episodes.append(
            {
                "episode_index": episode, "tasks": tasks, "length": length,
                "dataset_from_index": self.frames, "dataset_to_index": self.frames + length,
                **{f"data/{name}": value for name, value in data.items()},
                **{f"videos/{CAMERA}/{name}": value for name, value in video.items()},
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, "clip_id": clip.clip_id, "split": clip.split,
                "licence": clip.licence, "boxes_provenance": clip.one_voice,
            }
        )  # fmt: skip
        self.frames += length
        self.boxes += len(clip.track.boxes)

    def _write(self, columns: dict[str, np.ndarray]) -> dict[str, int]:
        """Append episodes; returns which file they went to."""
        table = pa.table({name: arrow(values) for name, values in columns.items()})
        place = _place(self.file)
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
        parts = {name: [part[name] for part in self.stats] for name in self.stats[0]}
        stats: dict[str, Stats] = {name: {key: np.concatenate([part[key] for part in of]) for key in KEYS} for name, of in parts.items()}
        found = [(number, self.pixels.get(row["clip_id"])) for number, row in enumerate(self.episodes)]
        seen = {number: pixels for number, pixels in found if pixels is not None}
        stats[CAMERA] = picture_stats(seen, len(self.episodes))
        table = pa.Table.from_pylist(self.episodes)
        for name, of in stats.items():
            for key in KEYS:
                table = table.append_column(f"stats/{name}/{key}", _lists(of[key], name == CAMERA and key != "count"))
        pq.write_table(table, meta / "episodes" / "chunk-000" / "file-000.parquet")
        pd.DataFrame({"task_index": range(len(TASKS))}, index=pd.Index(TASKS, name="task")).to_parquet(meta / "tasks.parquet")
        whole = {name: {key: _lists(value, name == CAMERA and key != "count").to_pylist()[0] for key, value in merged(of).items()}
                 for name, of in stats.items()}  # fmt: skip
        (meta / "stats.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
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
        crowd = {"crowdedness": _feature("float32", 1)} if self.crowdedness else {}
        meaning = {"info": {"categories": dict(enumerate(CATEGORIES)), "no box": -1}}
        return {
            CAMERA: {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": video}, **state,
            "boxes.xyxy": _feature("float32", 4 * self.slots), "boxes.category": {**_feature("int64", self.slots), **meaning},
            "boxes.track_id": _feature("int64", self.slots), "boxes.ignore": _feature("bool", self.slots),
            "boxes_known": _feature("bool", 1), **crowd, "timestamp": _feature("float32", 1),
            **{name: _feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")},
        }  # fmt: skip


def _spread(clips: Sequence[OutgoingClip]) -> list[OutgoingClip]:
    """Some clips, evenly spread."""
    return [clips[number] for number in np.unique(np.linspace(0, len(clips) - 1, EPISODES).round().astype(np.int64))] if clips else []


def _feature(dtype: str, numbers: int, names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [numbers], "names": names}


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // CHUNK, "file_index": number % CHUNK}


def _lists(values: np.ndarray, picture: bool) -> pa.Array:
    """(E, N) as a list of N numbers for each episode; of a picture's channels as lists of 3 x 1 x 1."""
    if picture:
        return pa.array(values.reshape(-1, 3, 1, 1).tolist())
    places = pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32())
    return pa.ListArray.from_arrays(places, pa.array(np.ascontiguousarray(values).reshape(-1)))
