"""Our format -> COCO detection: pictures and ``instances.json``, readable by pycocotools and by most detection training code.

Frames that nobody looked at for boxes are left out, since "no box" would be read as "no vehicle"; boxes marked ignore become crowd
regions, which COCO evaluation neither asks for nor punishes.

Beyond COCO's own fields stand ``videos`` (a clip each: name, fps, split, licence), of images ``video_id``, ``frame_index`` and
``time_of_day``, of annotations ``track_id``, ``occlusion`` (hidden share), ``truncated`` and ``provenance`` (who says so); what nobody
knows is left out. With them ``drivesim data import coco`` gives back every box as it was, to 1e-4 of a pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.labels import CATEGORIES, LABELS, VEHICLES

from ..folders import new_folder
from .footage import Footage, OutgoingClip, one_of

__all__ = ["export_coco"]

PICTURES = ("jpg", "png", "none")
DIGITS = 4
"""Of a pixel: the coarsest that gives a box back to a millionth of the picture."""


def export_coco(dataset: str | Path, out: str | Path, split: str | None = None, every: int = 1, pictures: str = "jpg") -> dict[str, Any]:
    """Write ``out/instances.json`` and ``out/images/<clip>/<frame>.<pictures>`` for every ``every``-th frame.

    ``pictures`` "none": no pictures are written and ``file_name`` is ``<video>#<frame>``.

    Returns:
        {"images", "annotations", "frames without known boxes", "clips that cannot be read", "out"}.

    Raises:
        UsageError: an argument out of range.
        DrivesimError: ``dataset`` is none, ``out`` exists or cannot be written.
    """
    one_of("pictures", pictures, PICTURES)
    footage = Footage(dataset, split, every)
    with new_folder(out) as folder:
        writer = _Writer(footage, folder, pictures)
        for clip in footage.clips():
            writer.add_clip(clip)
        (folder / "instances.json").write_text(json.dumps(writer.document()), encoding="utf-8")
    return {"images": len(writer.images), "annotations": len(writer.annotations), **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far. COCO counts everything from 1."""

    def __init__(self, footage: Footage, folder: Path, pictures: str) -> None:
        self.footage, self.folder, self.pictures = footage, folder, pictures
        self.videos: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_clip(self, clip: OutgoingClip) -> None:
        frames = [int(frame) for frame in clip.frames]
        if self.pictures == "none":
            names = {frame: f"{clip.row['video']}#{frame}" for frame in frames}
        else:
            names = {frame: f"images/{clip.name}/{frame:06d}.{self.pictures}" for frame in frames}
            if not self.footage.write_pictures(clip, {frame: self.folder / name for frame, name in names.items()}):
                (self.folder / "images" / clip.name).rmdir()
                return
        height, width = clip.size
        video = {"id": len(self.videos) + 1, "name": clip.clip_id, "fps": clip.track.fps, "width": width, "height": height}
        self.videos.append(video | {"split": clip.split} | ({} if clip.licence is None else {"licence": clip.licence}))
        times = clip.track.values["time_of_day"]
        for frame, name in names.items():
            image = {"id": len(self.images) + 1, "file_name": name, "width": width, "height": height}
            time = LABELS["time_of_day"].decode(float(times[frame]))
            self.images.append({**image, "video_id": video["id"], "frame_index": frame, **({"time_of_day": time} if time else {})})
            self._annotate(clip, frame, image["id"])

    def _annotate(self, clip: OutgoingClip, frame: int, image: Any) -> None:
        rows, boxes = clip.at(frame), clip.boxes(frame)
        told = zip(boxes.category, boxes.track_id, boxes.ignore, _known(clip, rows), strict=True)
        for corners, (category, track_id, ignore, known) in zip(clip.corners(frame), told, strict=True):
            x1, y1, x2, y2 = (round(float(value), DIGITS) for value in corners)
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1, "image_id": image, "category_id": int(category) + 1, "track_id": int(track_id),
                    "bbox": [x1, y1, round(x2 - x1, DIGITS), round(y2 - y1, DIGITS)], "area": round((x2 - x1) * (y2 - y1), 2),
                    "iscrowd": int(ignore), "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]], **known,
                }
            )  # fmt: skip

    def document(self) -> dict[str, Any]:
        kinds = [
            {"id": number, "name": name, "supercategory": "vehicle" if name in VEHICLES else "road user"}
            for number, name in enumerate(CATEGORIES, 1)
        ]
        info = {"description": f"{self.footage.name}, exported by drivesim", "version": "1"}
        parts = {"images": self.images, "annotations": self.annotations, "categories": kinds, "videos": self.videos}
        return {"info": info, "licenses": [], **parts}


def _known(clip: OutgoingClip, rows: slice) -> Iterator[dict[str, Any]]:
    """What is known of boxes beyond their place."""
    for hidden, cut, who in zip(clip.occlusion[rows], clip.truncated[rows], clip.provenance[rows], strict=True):
        told = {"occlusion": None if np.isnan(hidden) else float(hidden), "truncated": None if np.isnan(cut) else bool(cut)}
        yield {name: value for name, value in {**told, "provenance": who}.items() if value is not None}
