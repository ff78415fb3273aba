"""Our format -> COCO detection: pictures and ``instances.json``, readable by pycocotools and by most detection training code.

Frames that nobody looked at for boxes are left out, since "no box" would be read as "no vehicle"; boxes marked ignore become crowd
regions, which COCO evaluation neither asks for nor punishes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.video import VideoError, iterate_frames
from drivesim.labels import CATEGORIES, VEHICLES, LabelTrack

from ..clips import ClipDataset
from ..folders import new_folder

__all__ = ["export_coco"]

PICTURES = ("jpg", "png", "none")


def export_coco(dataset: str | Path, out: str | Path, split: str | None = None, every: int = 1, pictures: str = "jpg") -> dict[str, Any]:
    """Write ``out/instances.json`` and ``out/images/<clip>/<frame>.<pictures>`` for every ``every``-th frame.

    ``pictures`` "none": no pictures are written and ``file_name`` is ``<video>#<frame>``. Beyond COCO's own fields, images carry
    ``video_id`` and ``frame_index``, annotations ``track_id``.

    Returns:
        {"images", "annotations", "frames without known boxes", "clips that cannot be read", "out"}.

    Raises:
        UsageError: an argument out of range.
        DrivesimError: ``dataset`` is none, ``out`` exists or cannot be written.
    """
    if every < 1:
        raise UsageError(f"every must be at least 1, not {every}")
    if pictures not in PICTURES:
        raise UsageError(f"pictures must be one of {', '.join(PICTURES)}, not {pictures!r}")
    clips = ClipDataset(dataset, split)
    with new_folder(out) as folder:
        writer = _Writer(clips, folder, every, pictures)
        for clip in range(len(clips)):
            writer.add_clip(clip)
        (folder / "instances.json").write_text(json.dumps(writer.document()), encoding="utf-8")
    return {**writer.summary(), "out": str(out)}


class _Writer:
    """What has been written so far. COCO counts everything from 1."""

    def __init__(self, clips: ClipDataset, folder: Path, every: int, pictures: str) -> None:
        self.clips, self.folder, self.every, self.pictures = clips, folder, every, pictures
        self.videos: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.unknown = 0
        self.unreadable: list[str] = []

    def add_clip(self, clip: int) -> None:
        if clip in self.clips.faults:
            self.unreadable.append(self.clips.clip_ids[clip])
            return
        track = self.clips.labels(clip)
        frames = np.arange(0, len(track), self.every)
        known = frames[track.boxes_known[frames]]
        self.unknown += len(frames) - len(known)
        if not len(known):
            return
        try:
            names = list(self._pictures_of(clip, set(known.tolist())))
        except VideoError:
            self.unreadable.append(self.clips.clip_ids[clip])
            shutil.rmtree(self.folder / "images" / self.clips.clip_ids[clip], ignore_errors=True)
            return
        self._describe(clip, track, names)

    def _pictures_of(self, clip: int, wanted: set[int]) -> Iterator[tuple[int, str]]:
        """(frame, file name) of every wanted frame, after writing it."""
        row, clip_id = self.clips.records.clips.iloc[clip], self.clips.clip_ids[clip]
        if self.pictures == "none":
            yield from ((frame, f"{row['video']}#{frame}") for frame in sorted(wanted))
            return
        (self.folder / "images" / clip_id).mkdir(parents=True, exist_ok=True)
        for frame, picture in enumerate(iterate_frames(self.clips.video(clip))):
            if frame in wanted:
                name = f"images/{clip_id}/{frame:06d}.{self.pictures}"
                _write_picture(self.folder / name, picture)
                yield frame, name

    def _describe(self, clip: int, track: LabelTrack, names: list[tuple[int, str]]) -> None:
        height, width = self.clips.size(clip)
        video = {"id": len(self.videos) + 1, "name": self.clips.clip_ids[clip], "fps": track.fps, "width": width, "height": height}
        self.videos.append(video)
        for frame, name in names:
            image = {"id": len(self.images) + 1, "file_name": name, "width": width, "height": height}
            self.images.append({**image, "video_id": video["id"], "frame_index": frame})
            self._annotate(track, frame, image["id"], np.array([width, height] * 2))

    def _annotate(self, track: LabelTrack, frame: int, image: Any, size: np.ndarray) -> None:
        boxes = track.boxes.where(track.boxes.frame == frame)
        for xyxy, category, track_id, ignore in zip(boxes.xyxy, boxes.category, boxes.track_id, boxes.ignore, strict=True):
            x1, y1, x2, y2 = (round(float(value), 2) for value in xyxy * size)
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1, "image_id": image, "category_id": int(category) + 1, "track_id": int(track_id),
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": int(ignore), "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )  # fmt: skip

    def document(self) -> dict[str, Any]:
        kinds = [
            {"id": number, "name": name, "supercategory": "vehicle" if name in VEHICLES else "road user"}
            for number, name in enumerate(CATEGORIES, 1)
        ]
        info = {"description": f"{self.clips.name}, exported by drivesim", "version": "1"}
        parts = {"images": self.images, "annotations": self.annotations, "categories": kinds, "videos": self.videos}
        return {"info": info, "licenses": [], **parts}

    def summary(self) -> dict[str, Any]:
        return {
            "images": len(self.images),
            "annotations": len(self.annotations),
            "frames without known boxes": self.unknown,
            "clips that cannot be read": self.unreadable,
        }


def _write_picture(path: Path, picture: np.ndarray) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    fine, data = cv2.imencode(path.suffix, picture[:, :, ::-1], quality)
    if not fine:
        raise DrivesimError(f"cannot encode {path.name} as {path.suffix}; try pictures=png")
    path.write_bytes(data.tobytes())
