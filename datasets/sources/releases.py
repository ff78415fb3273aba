"""What every adapter of a release shares: recordings in, a clip dataset out, whole or not at all.

An adapter (one file each beside this one) reads a release's own layout and yields a ``Recording`` for each of its drives. Here pictures are
streamed into the one encoder setting, boxes are clipped to the picture and put in order, and what could not be used is counted. An adapter
publishes ``MAPPING`` (the release's category -> ``Kind``, None = dropped) and ``FILLS`` (which of our columns it can fill, and from what);
both stand in the dataset's dataset.json. This file does not know any release.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, RecordsWriter, clip_row, rows_of
from drivesim.io.video import VideoError, VideoWriter, iterate_yuv
from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelTrack, count_vehicles

from ..augment import PLAIN
from ..folders import new_folder

__all__ = ["Box", "Kind", "Recording", "Release", "held_out", "labelled", "within", "write_release"]

Frame = TypeVar("Frame")
LOWEST, HIDDEN = 6 / 128, 0.7
"""Boxes lower than this share of the picture, or hidden by more than that, are marked ignore, as everywhere in the format."""


@dataclass(frozen=True)
class Kind:
    """What a release's category is to us: one of CATEGORIES. ``ignore``: near enough to be left alone, too unlike to be asked for."""

    category: str
    ignore: bool = False

    def __str__(self) -> str:
        return f"{self.category}, ignored" if self.ignore else self.category


@dataclass(frozen=True)
class Box:
    """One box of one frame as a release tells it.

    xyxy: x1, y1, x2, y2 in 0..1 of the picture; may reach outside.   occlusion: hidden share 0..1, None = not told.
    ignore: None = not told: then low boxes and hidden ones are.   provenance: who says so, None = nobody knows.
    depth_m: metres along the optical axis to the nearest corner.   box3d: x, y, z of the centre in the camera's axes (right, down, ahead;
    metres), length, width, height, and the turn about the down axis in radians (0 = facing right).
    """

    frame: int
    track_id: int
    category: str
    xyxy: tuple[float, float, float, float]
    ignore: bool | None = None
    occlusion: float | None = None
    truncated: bool | None = None
    depth_m: float | None = None
    box3d: tuple[float, ...] | None = None
    provenance: str | None = "human"


@dataclass(frozen=True)
class Recording:
    """One drive, ready to be written. ``pictures()`` yields uint8 RGB (h, w, 3) of ``size`` = (h, w), as many as ``track`` has frames.

    boxes, frames: further columns of boxes.parquet (a row per box of ``track``) and frames.parquet (a row per frame).
    camera: {"model", "fx", "fy", "cx", "cy", ...} in pixels of ``size``, None = unknown.   origin: what the clip's provenance says.
    licence: where it is not the release's.   video: a file whose frames are the pictures, all of them in order, as they are: those need
    not be drawn where they keep their size.
    """

    clip_id: str
    source: str
    size: tuple[int, int]
    pictures: Callable[[], Iterator[np.ndarray]]
    track: LabelTrack
    split: str
    boxes: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    camera: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    video: Path | None = None


@dataclass
class Release:
    """What is said of a release as a whole, and what was left of it: ``dropped`` boxes by their category, ``left_out`` drives by reason."""

    name: str
    mapping: Mapping[str, Kind | None]
    fills: Mapping[str, str]
    licence: str | None
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)

    def kind(self, category: str) -> Kind | None:
        """Our kind of a release's category; what is dropped, or unknown, is counted."""
        kind = self.mapping.get(category)
        if kind is None:
            self.dropped[category] += 1
        return kind

    def header(self) -> dict[str, Any]:
        """What dataset.json says of where labels come from."""
        told = {name: None if kind is None else str(kind) for name, kind in self.mapping.items()}
        return {"release": self.name, "category_mapping": told, "fills": dict(self.fills)}


def labelled(
    frames: int, fps: float, boxes: Iterable[Box], known: np.ndarray | bool, values: Mapping[str, Any] | None = None
) -> tuple[LabelTrack, dict[str, Any]]:
    """Boxes and scalar labels as a track of ``frames`` frames, with the boxes' further columns in the track's order.

    Boxes are clipped to the picture; what is empty afterwards goes. Crowdedness is counted where boxes are known.
    known: bool (frames,), or one for all.   values: label name -> a user's word or numbers (frames,); out-of-range numbers become unknown.
    """
    kept = sorted((box for box in (_clipped(box) for box in boxes) if box is not None), key=lambda box: box.frame)
    track = LabelTrack.unknown(frames, fps)
    track = replace(track, boxes=_as_boxes(kept), boxes_known=np.broadcast_to(np.asarray(known, bool), frames).copy())
    track.values["crowdedness"][:] = np.where(track.boxes_known, count_vehicles(track.boxes, frames), np.nan)
    for name, value in (values or {}).items():
        label = LABELS[name]
        numbers = np.full(frames, label.encode(value)) if value is None or isinstance(value, str) else np.asarray(value, np.float64)
        track.values[name][:] = np.where((numbers >= label.low) & (numbers <= label.high), numbers, np.nan)
    columns = {name: [getattr(box, name) for box in kept] for name in ("occlusion", "truncated", "depth_m", "box3d", "provenance")}
    return track, columns


def _clipped(box: Box) -> Box | None:
    x1, y1, x2, y2 = np.clip(np.array(box.xyxy, np.float32), 0, 1)
    return replace(box, xyxy=(x1, y1, x2, y2)) if x2 > x1 and y2 > y1 else None


def _as_boxes(boxes: list[Box]) -> Boxes:
    xyxy = np.array([box.xyxy for box in boxes], np.float32).reshape(-1, 4)
    derived = np.array([(box.occlusion or 0) > HIDDEN for box in boxes], bool) | (xyxy[:, 3] - xyxy[:, 1] < LOWEST)
    ignore = np.array([low if box.ignore is None else box.ignore for box, low in zip(boxes, derived, strict=True)], bool)
    frame, track_id = (np.array([getattr(box, name) for box in boxes], np.int64) for name in ("frame", "track_id"))
    category = np.array([CATEGORIES.index(box.category) for box in boxes], np.int64)
    return Boxes(frame, track_id, category, xyxy, ignore)


def write_release(
    out: str | Path, release: Release, recordings: Iterable[Recording], height: int | None, width: int | None, progress: bool = True
) -> dict[str, Any]:
    """Write recordings as a clip dataset at ``out``, which must not exist yet; returns counts and what was left out.

    height, width: centre crop and area resize to it; None = as recorded, cut to even numbers.

    Raises:
        UsageError: only one of height and width, or odd ones.   DatasetError: not one recording could be used.
        DrivesimError: ``out`` exists or cannot be written.
    """
    target = _target(height, width)
    clips = frames = 0
    with new_folder(out) as root, RecordsWriter(root, f"drivesim data import {release.name}", **release.header()) as records:
        for recording in tqdm(recordings, desc=f"import {release.name}", unit="drive", disable=not progress):
            if _write(root, records, recording, target, release):
                clips, frames = clips + 1, frames + len(recording.track)
        if not clips:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in release.left_out.items())
            raise DatasetError(f"{release.name}: no clip could be made: {reasons or 'there are no drives in it'}")
    found = {"clips": clips, "frames": frames, "dropped_boxes": dict(release.dropped), "left_out": dict(release.left_out)}
    return {**found, "out": str(out)}


def _target(height: int | None, width: int | None) -> tuple[int, int] | None:
    if (height is None) != (width is None):
        raise UsageError("give both height and width, or neither")
    if height is None or width is None:
        return None
    if min(height, width) < 16 or height % 2 or width % 2:
        raise UsageError(f"height and width must be even and at least 16, not {height}x{width}")
    return height, width


def _write(root: Path, records: RecordsWriter, recording: Recording, target: tuple[int, int] | None, release: Release) -> bool:
    """Write one clip; a drive whose pictures cannot be read to their end is left out and told of."""
    even = (recording.size[0] // 2 * 2, recording.size[1] // 2 * 2)
    size, video = target or even, f"videos/{recording.clip_id}.mp4"
    writer = VideoWriter(root / video, recording.track.fps, size)
    try:
        if recording.video is not None and size == recording.size:
            for frame in _readable(iterate_yuv(recording.video), recording, release):
                writer.write_decoded(frame)
        else:
            for picture in _readable(recording.pictures(), recording, release):
                part = picture[: even[0], : even[1]]
                writer.write(part if size == even else PLAIN.picture(part[None], *size)[0])
        if writer.frames != len(recording.track):
            reason = f"holds {writer.frames} frames where {len(recording.track)} were expected"
            release.left_out.setdefault(recording.source, reason)
            writer.discard()
            return False
        writer.close()
    except BaseException:
        writer.discard()
        raise
    _record(records, recording, video, even, size, release)
    return True


def _readable(frames: Iterator[Frame], recording: Recording, release: Release) -> Iterator[Frame]:
    """Frames up to the first that cannot be decoded. Faults of writing pass through: they concern the disk."""
    try:
        yield from frames
    except VideoError as error:
        release.left_out[recording.source] = str(error)


def _record(
    records: RecordsWriter, recording: Recording, video: str, even: tuple[int, int], size: tuple[int, int], release: Release
) -> None:
    track, rows = within(recording.track, recording.size, even, size)
    frames, boxes = rows_of(track, recording.clip_id, "human")
    more = {name: pd.Series([values[row] for row in rows], dtype=object) for name, values in recording.boxes.items()}
    records.append_rows(frames.assign(**recording.frames), boxes.assign(**more))
    camera = None if recording.camera is None else json.dumps(_seen_camera(recording.camera, even, size))
    origin = json.dumps({"kind": "imported", "release": release.name, **recording.origin})
    about: dict[str, Any] = {"split": recording.split, "source": recording.source, "licence": recording.licence or release.licence}
    about |= {"camera": camera, "provenance": origin}
    row = clip_row(track, recording.clip_id, video, *size, **about)
    records.add_clip(row.pop("clip_id"), row.pop("video"), row.pop("fps"), row.pop("height"), row.pop("width"), **row)


def within(track: LabelTrack, source: tuple[int, int], even: tuple[int, int], size: tuple[int, int]) -> tuple[LabelTrack, np.ndarray]:
    """Labels of ``source`` (height, width) cut to ``even`` and fitted to ``size``, and the rows of the boxes that are kept."""
    numbered = replace(track.boxes, track_id=np.arange(len(track.boxes)))
    if even != source:
        numbered = numbered.cropped(0, 0, even[1] / source[1], even[0] / source[0])
    seen = PLAIN.labels(replace(track, boxes=numbered), *even, *size)
    rows = seen.boxes.track_id
    return replace(seen, boxes=replace(seen.boxes, track_id=track.boxes.track_id[rows])), rows


def _seen_camera(camera: Mapping[str, Any], even: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    left, top, right, bottom = PLAIN.rect(*even, *size)
    across, down = size[1] / (right - left), size[0] / (bottom - top)
    moved = {"fx": camera["fx"] * across, "fy": camera["fy"] * down}
    return {**camera, **moved, "cx": (camera["cx"] - left) * across, "cy": (camera["cy"] - top) * down}


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The ``share`` of drives set aside for validation, the same ones whatever else is imported with them: by checksum of the name.

    Raises:
        UsageError: share outside 0..1.
    """
    if not 0 <= share < 1:
        raise UsageError(f"val_share must lie in 0..1, not {share}")
    ordered = sorted(set(names), key=lambda name: zlib.crc32(name.encode()))
    return set(ordered[: max(1, round(share * len(ordered)))]) if share and len(ordered) > 1 else set()
