"""One folder as a report shows it: its clips, what rollout.json says, and what was measured of it.

A clip that cannot be shown costs a note, not the page. This file reads; it does not know how a page looks or how much fits into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetRecords, labels_of, read_records
from drivesim.io.video import VideoInfo, probe
from drivesim.labels import LabelTrack

__all__ = ["MAX_CLIPS", "ReportClip", "ReportRun", "open_run", "run_names"]

MAX_CLIPS = 40
"""Of a folder with more clips, so many are shown, evenly spread over the table."""
Item = TypeVar("Item")
FACTS = ("split", "source", "licence", "time_of_day", "crowdedness")


@dataclass(frozen=True)
class ReportClip:
    """One clip. labels: one entry a frame; all unknown where nothing is.   facts: what the clip's row says.   size: of the file, bytes."""

    clip_id: str
    video: Path
    info: VideoInfo
    size: int
    labels: LabelTrack
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportRun:
    """One folder. total: clips it holds.   rollout, header, result: JSON of rollout.json, dataset.json, result.json, {} where absent.

    evaluation: the folder of result.json, None where there is none.   notes: what could not be shown, and why.
    """

    name: str
    folder: Path
    clips: tuple[ReportClip, ...]
    total: int
    rollout: Mapping[str, Any]
    header: Mapping[str, Any]
    result: Mapping[str, Any]
    evaluation: Path | None
    notes: tuple[str, ...] = ()


def run_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its last part, or the path as given where two end alike, or that with a number."""
    last = [folder.resolve().name or str(folder) for folder in folders]
    names = [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({names[:at].count(name) + 1})" for at, name in enumerate(names)]


def open_run(folder: Path, name: str, most: int = MAX_CLIPS) -> ReportRun:
    """Read a clip dataset, a folder of MP4 videos, or a folder that holds only a result.

    Raises:
        UsageError: no such folder, or nothing in it that a report can show.   DatasetError: a clip dataset that cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folders of rollouts or clip datasets")
    notes: list[str] = []
    result, evaluation = _result(folder, notes)
    rollout = _json(folder / "rollout.json", notes)
    header: Mapping[str, Any] = {}
    if (folder / "dataset.json").exists():
        records = read_records(folder)
        header = records.header
        clips, total = _clips_of(records, most, notes)
    else:
        clips, total = _videos_in(folder, most, notes)
    if not total and not result:
        state = f"; its rollout is {rollout['state']}" if "state" in rollout else ""
        raise UsageError(f"{folder} holds no clip dataset, no videos and no result.json, so there is nothing to show{state}")
    _note_state(rollout, notes)
    return ReportRun(name, folder, tuple(clips), total, rollout, header, result, evaluation, tuple(notes))


def _note_state(rollout: Mapping[str, Any], notes: list[str]) -> None:
    if rollout.get("state", "finished") != "finished":
        reason = f": {rollout['error']}" if "error" in rollout else ""
        notes.append(f"this rollout is {rollout['state']}, {rollout.get('frames')} of {rollout.get('planned_frames')} frames{reason}")


def _clips_of(records: DatasetRecords, most: int, notes: list[str]) -> tuple[list[ReportClip], int]:
    ids = records.clip_ids
    clips = []
    for clip_id in _spread(ids, most, notes):
        try:
            clips.append(_clip(records, clip_id))
        except (DrivesimError, ValueError, OSError) as error:
            notes.append(f"clip {clip_id} cannot be shown: {error}")
    return clips, len(ids)


def _clip(records: DatasetRecords, clip_id: str) -> ReportClip:
    row, video = records.clip(clip_id), records.video_path(clip_id)
    labels, info = labels_of(records, clip_id), probe(video)
    facts = {name: _plain(row[name]) for name in FACTS if name in row}
    facts["kind"] = _provenance(row.get("provenance")).get("kind")
    known = {name: value for name, value in facts.items() if value is not None}
    return ReportClip(clip_id, video, info, video.stat().st_size, labels, known)


def _videos_in(folder: Path, most: int, notes: list[str]) -> tuple[list[ReportClip], int]:
    """Every MP4 of the folder as a clip without labels."""
    paths = sorted(path for path in folder.glob("*.mp4") if path.is_file())
    clips = []
    for path in _spread(paths, most, notes):
        try:
            info = probe(path)
            clips.append(ReportClip(path.stem, path, info, path.stat().st_size, LabelTrack.unknown(info.frames, info.fps)))
        except (DrivesimError, OSError) as error:
            notes.append(f"clip {path.stem} cannot be shown: {error}")
    return clips, len(paths)


def _spread(items: Sequence[Item], most: int, notes: list[str]) -> Sequence[Item]:
    if len(items) <= most:
        return items
    notes.append(f"{most} of {len(items)} clips are shown, evenly spread over the folder")
    return [items[at] for at in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _result(folder: Path, notes: list[str]) -> tuple[Mapping[str, Any], Path | None]:
    """result.json of the evaluation that lies in the folder, or is the folder."""
    for place in (folder / "evaluation", folder):
        path = place / "result.json"
        if not path.is_file():
            continue
        found = _json(path, notes)
        if found.get("format") == "drivesim-evaluation":
            if found.get("version") != 1:
                notes.append(f"{path} is of the unknown version {found.get('version')!r} and is shown as if it were 1")
            return found, place
        if found:
            notes.append(f"{path} is no result of drivesim evaluate and was left out")
    return {}, None


def _json(path: Path, notes: list[str]) -> Mapping[str, Any]:
    """A JSON object; {} where there is none, with a note where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path} cannot be read ({error}) and was left out")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path} holds no JSON object and was left out")
        return {}
    return found


def _provenance(text: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> Any:
    """A table's cell as JSON; None for its nulls."""
    if isinstance(value, str):
        return value
    return float(value) if isinstance(value, int | float | np.number) and np.isfinite(value) else None
