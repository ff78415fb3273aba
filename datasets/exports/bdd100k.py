"""Our format -> BDD100K as released in 2020: box tracking (a JSON file per video) or detection (one per split).

    labels="box_track_20"   out/labels/box_track_20/<split>/<video>.json
                            out/images/track/<split>/<video>/<video>-0000001.jpg
    labels="det_20"         out/labels/det_20/det_<split>.json
                            out/images/100k/<split>/<clip>-0000001.jpg
    both                    out/export.json: which clip and frames a video is, its rate, the mapping

Layout: doc.bdd100k.com/format.html and download.html; fields: Scalabel's format, of whose toolkit these are the habits: pictures are
counted from 1 and ``frameIndex`` from 0; ``box2d`` names the first and the last pixel of a box, so that its width is x2 - x1 + 1.

- Boxes marked ignore carry the attribute ``ignored``, which the toolkit's evaluation passes over. ``occluded`` and ``truncated`` are left
  out where nobody knows them, as they have no word for it; weather and time of day are then "undefined".
- Beyond the format's attributes stand ``occlusion`` (hidden share) and ``provenance`` (who says so), where known. With them and
  ``export.json``, ``drivesim data import bdd100k`` gives back the boxes of tracking videos as they were, to 1e-4 of a pixel.
- A tracking video has no gaps: a clip is cut where frames are not known, and what is behind a cut is a video of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.labels import CATEGORIES, LABELS

from ..folders import new_folder
from .footage import Footage, OutgoingClip, one_of

__all__ = ["MAPPING", "export_bdd100k"]

MAPPING = {"car": "car", "truck": "truck", "bus": "bus", "motorcycle": "motorcycle", "bicycle": "bicycle", "person": "pedestrian"}
"""Our categories -> those of BDD100K. Its riders are apart from their bicycles; where ours are in one box, they go as the box is called."""
DAYTIME = {"day": "daytime", "night": "night"}
WEATHER = ("rainy", "snowy", "clear", "overcast", "partly cloudy", "foggy")
OCCLUDED = 0.1
"""Hidden share from which a box is called occluded. The format says yes or no; the share is ours."""
KINDS = ("box_track_20", "det_20")
PICTURES = ("jpg", "png", "none")


def export_bdd100k(
    dataset: str | Path, out: str | Path, split: str | None = None, every: int = 1, pictures: str = "jpg", labels: str = "box_track_20"
) -> dict[str, Any]:
    """Write the folder ``out`` with every ``every``-th frame of every clip whose boxes are known.

    Args:
        pictures: jpg (as released) | png | none (labels only).   labels: box_track_20 | det_20.

    Returns:
        {"videos" (clips, for det_20), "frames": {split: count}, "boxes", "ignored", "mapping", "frames without known boxes",
        "clips that cannot be read", "out"}.

    Raises:
        UsageError: an argument out of range.
        DatasetError: ``dataset`` is none, or has no frame to export.
        DrivesimError: ``out`` exists or cannot be written.
    """
    one_of("pictures", pictures, PICTURES)
    one_of("labels", labels, KINDS)
    footage = Footage(dataset, split, every)
    with new_folder(out) as folder:
        writer = _Writer(footage, folder, pictures, labels)
        for clip in footage.clips():
            writer.add_clip(clip)
        footage.require(writer.frames.total())
        writer.close()
    counts = {"videos": len(writer.videos), "frames": dict(writer.frames), "boxes": writer.boxes, "ignored": writer.ignored}
    return {**counts, "mapping": MAPPING, **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far."""

    def __init__(self, footage: Footage, folder: Path, pictures: str, kind: str) -> None:
        self.footage, self.folder, self.pictures, self.kind = footage, folder, pictures, kind
        self.suffix = "jpg" if pictures == "none" else pictures
        self.videos: list[dict[str, Any]] = []
        self.detection: dict[str, list[dict[str, Any]]] = {}
        self.frames: Counter[str] = Counter()
        self.boxes = self.ignored = 0

    def add_clip(self, clip: OutgoingClip) -> None:
        names = {
            frame: (video, index)
            for video, run in self._videos(clip).items() for index, frame in enumerate(run.tolist())
        }  # fmt: skip
        if self.pictures != "none" and not self.footage.write_pictures(clip, {frame: self._path(clip, *at) for frame, at in names.items()}):
            self._tidy(clip)
            return
        weather = _weather(self.footage, clip)
        for video, run in self._videos(clip).items():
            entries = [self._entry(clip, frame, *names[frame], weather.get(frame)) for frame in run.tolist()]
            self._keep(clip.split, video, entries)
            about = {"name": video, "clip_id": clip.clip_id, "split": clip.split, "fps": clip.fps, "licence": clip.licence}
            self.videos.append({**about, "frames": run.tolist()})
        self.frames[clip.split] += len(names)

    def _videos(self, clip: OutgoingClip) -> dict[str, np.ndarray]:
        """Video -> its frames: the clip, or for tracking each piece of it that has no gaps."""
        runs = clip.runs() if self.kind == "box_track_20" else [clip.frames]
        return {clip.name if len(runs) == 1 else f"{clip.name}_{run[0]:06d}": run for run in runs}

    def _name(self, video: str, index: int) -> str:
        return f"{video}-{index + 1:07d}.{self.suffix}"

    def _path(self, clip: OutgoingClip, video: str, index: int) -> Path:
        place = f"track/{clip.split}/{video}" if self.kind == "box_track_20" else f"100k/{clip.split}"
        return self.folder / "images" / place / self._name(video, index)

    def _tidy(self, clip: OutgoingClip) -> None:
        for video in self._videos(clip) if self.kind == "box_track_20" else ():
            (self.folder / "images" / "track" / clip.split / video).rmdir()

    def _entry(self, clip: OutgoingClip, frame: int, video: str, index: int, weather: str | None) -> dict[str, Any]:
        time = LABELS["time_of_day"].decode(float(clip.track.values["time_of_day"][frame]))
        about = {"weather": weather if weather in WEATHER else "undefined", "scene": "undefined"}
        entry = {
            "name": self._name(video, index), "timestamp": round(1000 * frame / clip.track.fps),
            "attributes": {**about, "timeofday": DAYTIME.get(str(time), "undefined")}, "labels": self._labels(clip, frame),
        }  # fmt: skip
        return entry if self.kind == "det_20" else {**entry, "videoName": video, "frameIndex": index}

    def _labels(self, clip: OutgoingClip, frame: int) -> list[dict[str, Any]]:
        rows, boxes = clip.at(frame), clip.boxes(frame)
        self.boxes += len(boxes)
        self.ignored += int(boxes.ignore.sum())
        seen = zip(clip.occlusion[rows], clip.truncated[rows], clip.provenance[rows], strict=True)
        return [
            {
                "id": str(track), "category": MAPPING[CATEGORIES[category]], "attributes": _attributes(bool(ignore), *told),
                "box2d": _box2d(corners),
            }
            for track, category, ignore, corners, told
            in zip(boxes.track_id.tolist(), boxes.category, boxes.ignore, clip.corners(frame), seen, strict=True)
        ]  # fmt: skip

    def _keep(self, split: str, video: str, entries: list[dict[str, Any]]) -> None:
        if self.kind == "det_20":
            self.detection.setdefault(split, []).extend(entries)
            return
        _write(self.folder / "labels" / self.kind / split / f"{video}.json", entries)

    def close(self) -> None:
        for split, entries in self.detection.items():
            _write(self.folder / "labels" / self.kind / f"det_{split}.json", entries)
        about = {"creator": "drivesim data export bdd100k", "dataset": self.footage.name, "every": self.footage.every}
        about |= {"mapping": MAPPING, "videos": self.videos}
        _write(self.folder / "export.json", about)


def _attributes(ignore: bool, occlusion: float, truncated: float, provenance: str | None) -> dict[str, bool | float | str]:
    known = {"occluded": (occlusion, OCCLUDED), "truncated": (truncated, 1.0)}
    said = {name: bool(value >= least) for name, (value, least) in known.items() if not np.isnan(value)}
    more = {"occlusion": None if np.isnan(occlusion) else float(occlusion), "provenance": provenance}
    return {**said, "crowd": False, "ignored": ignore, **{name: value for name, value in more.items() if value is not None}}


def _box2d(corners: np.ndarray) -> dict[str, float]:
    """First and last pixel of a box, which is at least one pixel wide and high."""
    x1, y1, x2, y2 = (round(float(edge), 4) for edge in (*corners[:2], *np.maximum(corners[2:] - 1, corners[:2])))
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}


def _weather(footage: Footage, clip: OutgoingClip) -> dict[int, str]:
    rows = footage.dataset.records.frames_of(clip.clip_id)
    return {} if rows is None else dict(zip(rows["frame"].tolist(), rows["weather"].fillna("undefined"), strict=True))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
