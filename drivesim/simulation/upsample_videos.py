"""Videos and clip datasets enlarged on disk: a long video goes on where it was cut off, a clip that is done is not done again.

What was asked for stands in ``upsample.json``: a folder of another source, checkpoint, seed or setting is refused. Labels are shares of
the frame, so they stay true. This file does not know how frames are enlarged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from drivesim.errors import UsageError
from drivesim.io.atomic import write_json
from drivesim.io.checkpoints import Checkpoint
from drivesim.io.records import DatasetRecords, header, write_records
from drivesim.io.video import SegmentedVideoWriter, VideoInfo, iterate_frames, probe, whole_segments
from drivesim.simulation.recording.folder import FolderLock
from drivesim.simulation.upsample import Upsampler

__all__ = ["DESCRIPTION", "upsample_dataset", "upsample_file", "upsample_video"]

DESCRIPTION = "upsample.json"
FORMAT, VERSION = "drivesim-upsample", 1
SEGMENT_S = 2.0
PIECE = 16
"""Frames read at a time."""

Told = Callable[[int], None]
"""Called with the number of frames that are done."""


def upsample_file(upsampler: Upsampler, checkpoint: Checkpoint, source: Path, out: Path, told: Told) -> DatasetRecords:
    """Enlarge one video of any kind; ``out`` becomes a clip dataset of one clip whose labels nobody knows.

    Raises:
        VideoError: an unreadable, truncated or changing video, or a disk that is full.   UsageError: see ``_claim``.
        DrivesimError: a sample that is not finite.
    """
    info = probe(source)
    clip = {"clip_id": source.stem, "video": source.name, "fps": info.fps, "frames": info.frames, "height": info.height,
            "width": info.width, "duration_s": info.duration_s, "source": "upsampled"}  # fmt: skip
    records = DatasetRecords(source.parent, pd.DataFrame([clip]), header=header(""))
    return upsample_dataset(upsampler, checkpoint, records, out, told)


def upsample_dataset(upsampler: Upsampler, checkpoint: Checkpoint, records: DatasetRecords, out: Path, told: Told) -> DatasetRecords:
    """Enlarge every clip of a dataset into ``out``, with its labels; what an earlier run has done of it stays.

    Raises: as ``upsample_file``; DatasetError: a video path that leaves the dataset.
    """
    lock = FolderLock(out)
    try:
        _claim(out, {"source": str(records.root.resolve()), "clips": records.clip_ids, "checkpoint": checkpoint.hash,
                     "seed": upsampler.seed, "settings": asdict(upsampler.settings)})  # fmt: skip
        done, rows = 0, list[dict[str, Any]]()
        for clip_id in records.clip_ids:
            source, target = records.video_path(clip_id), Path("videos") / f"{clip_id}.mp4"
            info = upsample_video(upsampler, source, out / target, lambda frames, before=done: told(before + frames))  # type: ignore[misc]
            done += info.frames
            origin = _provenance(records.clip(clip_id).get("provenance"), upsampler.name, checkpoint)
            rows.append({"video": str(target), "height": info.height, "width": info.width, "provenance": origin})
        changed = {name: [row[name] for row in rows] for name in ("video", "height", "width", "provenance")}
        return write_records(out, replace(records, root=out, clips=records.clips.assign(**changed)))
    finally:
        lock.release()


def upsample_video(upsampler: Upsampler, source: Path, target: Path, told: Told) -> VideoInfo:
    """Enlarge ``source`` to ``target`` and say what it holds; segments that an earlier run has closed are not made again."""
    info, factor = probe(source), upsampler.factor
    size, length = (info.height * factor, info.width * factor), max(1, round(SEGMENT_S * info.fps))
    if target.is_file():
        told(info.frames)
        return probe(target)
    kept = whole_segments(target, info.rate, size, length, info.frames)
    first = sum(probe(segment).frames for segment in kept)
    begin = upsampler.lead(first)
    with SegmentedVideoWriter(target, info.rate, size, length, kept=kept) as writer:
        told(first)
        if first < info.frames:
            pieces = _pieces(islice(iterate_frames(source), begin, None))
            for number, frame in enumerate(upsampler.stream(pieces, begin), begin):
                if number >= first:
                    writer.write(frame[None])
                    told(number + 1)
    return probe(target)


def _pieces(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while piece := list(islice(frames, PIECE)):
        yield np.stack(piece)


def _claim(out: Path, asked: Mapping[str, Any]) -> None:
    """Write down what this folder is for.

    Raises:
        UsageError: it holds something else, or was begun for something else.
    """
    path = out / DESCRIPTION
    wanted = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **asked}))
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UsageError(f"{path} is unreadable; choose another --out") from None
        other = [name for name, value in wanted.items() if not isinstance(found, dict) or found.get(name) != value]
        if other:
            raise UsageError(f"{out} was begun with another {', '.join(other)}; choose another --out, or remove it")
        return
    if {entry.name for entry in out.iterdir()} - {".rollout.lock", "videos"}:
        raise UsageError(f"{out} holds other files; choose a new or empty folder for --out")
    write_json(path, wanted)


def _provenance(before: Any, name: str, checkpoint: Checkpoint) -> str:
    """What the clip's provenance said, and what was done to it, as JSON."""
    try:
        known = json.loads(before) if isinstance(before, str) else {}
    except ValueError:
        known = {"before": before}
    return json.dumps({**known, "upsampled": {"network": name, "checkpoint": checkpoint.hash}})
