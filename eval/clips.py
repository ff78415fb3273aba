"""One clip as a comparison sees it, and the three places clips come from: clip datasets, folders of videos, arrays in memory.

A clip that cannot be used is named with its reason and left out; a dataset that cannot be read at all is an error. This file does not
know windows, networks or protocols.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drivesim.errors import UsageError
from drivesim.io.checkpoints import file_hash
from drivesim.io.records import DatasetRecords, read_records, row_faults
from drivesim.io.video import VideoError, probe, read_frames

__all__ = ["KINDS", "VIDEOS", "Clip", "Opened", "clips_in_memory", "open_clips"]

KINDS = ("real", "simulated", "generated", "unknown")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv")


@dataclass(frozen=True)
class Clip:
    """A recording. ``content``: the video file, or uint8 frames (t, h, w, 3).

    drive: clips of one drive are not independent of each other.   named: whether the dataset says which drive; else it is the clip's own
    name, which means nothing outside its dataset.   given: so many of its first frames were given to the generator.
    context_frames: how many real frames the generator saw, None = not said.   checkpoint: hash of the weights that made it.
    """

    clip_id: str
    drive: str
    kind: str
    fps: float
    frames: int
    size: tuple[int, int]
    content: Path | np.ndarray
    given: int = 0
    context_frames: int | None = None
    checkpoint: str | None = None
    named: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the video file, or of the frames in memory.

        Raises:
            VideoError: the file cannot be read.
        """
        if isinstance(self.content, np.ndarray):
            return hashlib.sha256(f"{self.content.shape}".encode() + self.content.tobytes()).hexdigest()
        try:
            return file_hash(self.content)
        except OSError as error:
            raise VideoError(f"{self.content}: cannot be read ({error.strerror or error}); copy the video again") from error

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Frames by number, asked for by their times: uint8 (n, h, w, 3) RGB.

        Raises:
            VideoError: unreadable, or shorter than its row says.
        """
        if isinstance(self.content, np.ndarray):
            return self.content[indices]
        return read_frames(self.content, np.asarray(indices) / self.fps)


@dataclass(frozen=True)
class Opened:
    """Clips found, clip id -> why one was left out, and the labels of those that have any."""

    clips: list[Clip] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    records: DatasetRecords | None = None


def open_clips(paths: Sequence[Path], split: str | None) -> Opened:
    """The clips of clip datasets (of one ``split``; clips without one belong to "train"), folders of videos, or single videos.

    Raises:
        DatasetError: a dataset that cannot be read at all.   UsageError: a path that holds no clips, or none of that split.
    """
    parts = [_open(Path(path), split) for path in paths]
    shared = {clip_id for clip_id, count in Counter(_ids(parts)).items() if count > 1}
    parts = [_renamed(part, _prefix(Path(path), number), shared) for number, (path, part) in enumerate(zip(paths, parts, strict=True))]
    skipped = {clip_id: reason for part in parts for clip_id, reason in part.skipped.items()}
    records = [part.records for part in parts if part.records is not None]
    return Opened([clip for part in parts for clip in part.clips], skipped, _joined(records) if records else None)


def clips_in_memory(frames: Iterable[np.ndarray], fps: float, drives: Sequence[str] | None) -> list[Clip]:
    """Arrays uint8 (t, h, w, 3) RGB as clips; without ``drives`` each is a drive of its own.

    Raises:
        UsageError: other shapes or types, NaN, no frames, or not one drive a clip.
    """
    clips = []
    for number, array in enumerate(frames):
        clip_id = f"clip_{number:06d}"
        checked = _checked(clip_id, array)
        drive = clip_id if drives is None else str(drives[number]) if number < len(drives) else ""
        clips.append(Clip(clip_id, drive, "unknown", float(fps), len(checked), (checked.shape[1], checked.shape[2]), checked))
    if not clips:
        raise UsageError("no clips in memory: the iterable of frames is empty")
    if drives is not None and len(drives) != len(clips):
        raise UsageError(f"{len(drives)} drives were named for {len(clips)} clips; name one for each")
    return clips


def _checked(clip_id: str, frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames)
    if np.issubdtype(frames.dtype, np.floating) and not np.isfinite(frames).all():
        raise UsageError(f"{clip_id}: its frames hold NaN or infinity; look at what made them, and give uint8 RGB in 0..255")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise UsageError(f"{clip_id}: frames must be uint8 (t, h, w, 3) RGB in 0..255, not {frames.dtype} {frames.shape}")
    return np.ascontiguousarray(frames)


def _open(path: Path, split: str | None) -> Opened:
    if (path / "dataset.json").exists():
        return _dataset(path, split)
    if path.is_file():
        return _videos([path], path.parent)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; give a clip dataset or a folder of MP4 videos")
    videos = sorted(found for found in path.rglob("*") if found.suffix.lower() in VIDEOS and not found.name.startswith("."))
    if not videos:
        raise UsageError(f"{path}: the folder holds neither a dataset.json nor an MP4 video; give a clip dataset or a folder of MP4 videos")
    return _videos(videos, path)


def _videos(paths: Sequence[Path], root: Path) -> Opened:
    """Each file a clip and a drive of its own."""
    found = Opened()
    for path in paths:
        clip_id = str(path.relative_to(root).with_suffix(""))
        try:
            info = probe(path)
        except VideoError as error:
            found.skipped[clip_id] = str(error)
            continue
        found.clips.append(Clip(clip_id, clip_id, "unknown", info.fps, info.frames, (info.height, info.width), path))
    return found


def _dataset(root: Path, split: str | None) -> Opened:
    whole = read_records(root)
    faults = {str(fault.clip_id): f"{fault.file}: {fault.reason}" for fault in reversed(row_faults(whole)) if fault.clip_id is not None}
    records, rollout = _of_split(whole, split), _rollout(root)
    found = Opened(records=records)
    for row in records.clips.to_dict("records"):
        clip_id = str(row["clip_id"])
        path = root / str(row["video"])
        if clip_id not in faults and not (path.is_file() and path.stat().st_size):
            faults[clip_id] = f"{path}: the video is missing or empty; copy it again"
        if clip_id in faults:
            found.skipped[clip_id] = faults[clip_id]
        else:
            found.clips.append(_clip(row, path, {**rollout, **_json(row["provenance"])}))
    return found


def _of_split(records: DatasetRecords, split: str | None) -> DatasetRecords:
    splits = records.clips["split"].fillna("train")
    chosen = records.clips if split is None else records.clips[splits == split]
    if not len(chosen):
        there = ", ".join(f"{name} ({count})" for name, count in Counter(splits).items()) or "no clips at all"
        raise UsageError(f"{records.root}: no clips" + (f" of split {split!r}; it has {there}" if split is not None else ""))
    return replace(records, clips=chosen.reset_index(drop=True))


def _clip(row: Mapping[Any, Any], path: Path, origin: Mapping[str, Any]) -> Clip:
    kind = str(origin.get("kind"))
    context = origin.get("context_frames")
    made_by = origin.get("checkpoint")
    return Clip(
        str(row["clip_id"]), str(origin.get("drive", row["clip_id"])), kind if kind in KINDS else "unknown", float(row["fps"]),
        int(row["frames"]), (int(row["height"]), int(row["width"])), path, given=int(origin.get("given_frames", context or 0)),
        context_frames=None if context is None else int(context),
        checkpoint=made_by.get("hash") if isinstance(made_by, Mapping) else None if made_by is None else str(made_by),
        named="drive" in origin,
    )  # fmt: skip


def _rollout(root: Path) -> dict[str, Any]:
    """What rollout.json says of every clip beside it: started from given pictures, a rollout shows the last of them as its first frame."""
    try:
        start = int(_json((root / "rollout.json").read_text(encoding="utf-8")).get("start_frames", 0))
    except (OSError, ValueError):
        return {}
    return {"context_frames": min(start, 2), "given_frames": min(start, 1)}


def _json(text: Any) -> dict[str, Any]:
    """A JSON object; {} for anything else."""
    try:
        content = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _ids(parts: Iterable[Opened]) -> list[str]:
    return [clip_id for part in parts for clip_id in [*(clip.clip_id for clip in part.clips), *part.skipped]]


def _prefix(path: Path, number: int) -> str:
    return f"{number}:{path.resolve().name}/"


def _renamed(part: Opened, prefix: str, shared: set[str]) -> Opened:
    """Clip ids that several folders use get the folder's name in front, and so do drives that are only the clip's own name."""
    if not shared:
        return part

    def new(name: str) -> str:
        return prefix + name if name in shared else name

    clips = [replace(c, clip_id=new(c.clip_id), drive=c.drive if c.named else new(c.drive)) for c in part.clips]
    return Opened(clips, {new(name): reason for name, reason in part.skipped.items()}, _records_renamed(part.records, new))


def _records_renamed(records: DatasetRecords | None, new: Callable[[str], str]) -> DatasetRecords | None:
    if records is None:
        return None

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(clip_id=rows["clip_id"].map(new))

    frames = None if records.frames is None else table(records.frames)
    return replace(records, clips=table(records.clips), boxes=table(records.boxes), frames=frames)


def _joined(records: Sequence[DatasetRecords]) -> DatasetRecords:
    """The tables of several datasets one below the other; clips of one without a frames.parquet have no rows in ``frames``. Videos are
    found through clips, not through these."""
    if len(records) == 1:
        return records[0]
    frames = [part.frames for part in records if part.frames is not None]
    clips, boxes = (pd.concat([getattr(part, name) for part in records], ignore_index=True) for name in ("clips", "boxes"))
    return replace(records[0], clips=clips, boxes=boxes, frames=pd.concat(frames, ignore_index=True) if frames else None)
