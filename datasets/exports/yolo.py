"""Our format -> YOLO detection as Ultralytics reads it: pictures, a text file of boxes beside each, and ``data.yaml``.

    out/data.yaml                                   train, val (and test): folders of pictures; names: number -> category
    out/images/<split>/<clip>_<frame>.jpg
    out/labels/<split>/<clip>_<frame>.txt           a line per box: category, centre x, centre y, width, height in 0..1 of the picture
    out/labels_drivesim/<split>/<clip>.txt          a row per box of the clip, ignored ones too: frame, category, x1, y1, x2, y2 (0..1),
                                                    track, ignore, hidden share, truncated, who says so; - where nobody knows
    out/export.json                                 what YOLO has no place for: which clip and frames pictures are, their rate, time of day

Layout: docs.ultralytics.com/datasets/detect. ``data.yaml`` names no ``path``, so that the folder may be moved: its pictures are looked for
beside it. Older releases of Ultralytics do so only where ``data.yaml`` is given by its absolute path.

The categories are ours, unchanged. The format knows no tracks and no boxes to be ignored; what becomes of those is the caller's choice.
``drivesim data import yolo`` reads the files beside the format's own, so that every box comes back as it was; no other reader looks there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.errors import DrivesimError
from drivesim.labels import CATEGORIES, LABELS

from ..folders import new_folder
from .footage import Footage, OutgoingClip, one_of

__all__ = ["export_yolo"]

SPLITS = ("train", "val", "test")
NEEDED = ("train", "val")
BESIDE = "labels_drivesim"


def export_yolo(
    dataset: str | Path, out: str | Path, split: str | None = None, every: int = 1, pictures: str = "jpg", ignored: str = "drop"
) -> dict[str, Any]:
    """Write the folder ``out`` with every ``every``-th frame of every clip, in the split that the clip belongs to.

    Ultralytics refuses a ``data.yaml`` without "train" or "val", so where no clip is marked so the other one stands in; ``data.yaml`` and
    the summary say it.

    Args:
        pictures: jpg | png.
        ignored: what becomes of boxes marked ignore: "drop" (a detector that finds them is punished) or "keep" (as boxes like any other).

    Returns:
        {"images": {split: count}, "boxes", "ignored boxes dropped", "stand-ins", "frames without known boxes",
        "clips that cannot be read", "out"}.

    Raises:
        UsageError: an argument out of range.
        DatasetError: ``dataset`` is none, or has no frame to export.
        DrivesimError: a clip's split is none of train, val, test, or ``out`` exists or cannot be written.
    """
    one_of("pictures", pictures, ("jpg", "png"))
    one_of("ignored", ignored, ("drop", "keep"))
    footage = Footage(dataset, split, every)
    with new_folder(out) as folder:
        writer = _Writer(folder, pictures, keep=ignored == "keep")
        for clip in footage.clips():
            writer.add_clip(footage, clip)
        footage.require(writer.images.total())
        stand_ins = {name: _stand_in(writer.images, name) for name in NEEDED if not writer.images[name]}
        (folder / "data.yaml").write_text(_data_yaml(footage.name, writer.images, stand_ins), encoding="utf-8")
        about = {"creator": "drivesim data export yolo", "dataset": footage.name, "every": every, "pictures": pictures, "ignored": ignored}
        (folder / "export.json").write_text(json.dumps({**about, "clips": writer.clips}, indent=1), encoding="utf-8")
    counts = {"images": dict(writer.images), "boxes": writer.boxes, "ignored boxes dropped": writer.dropped, "stand-ins": stand_ins}
    return {**counts, **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far."""

    def __init__(self, folder: Path, pictures: str, keep: bool) -> None:
        self.folder, self.pictures, self.keep = folder, pictures, keep
        self.images: Counter[str] = Counter()
        self.clips: list[dict[str, Any]] = []
        self.boxes = self.dropped = 0

    def add_clip(self, footage: Footage, clip: OutgoingClip) -> None:
        if clip.split not in SPLITS:
            raise DrivesimError(
                f"clip {clip.clip_id!r} is of split {clip.split!r}, and YOLO knows only {', '.join(SPLITS)}; "
                "change the column split of clips.parquet or export one split with split=NAME"
            )
        stems = {int(frame): f"{clip.split}/{clip.name}_{frame:06d}" for frame in clip.frames}
        if not footage.write_pictures(clip, {frame: self.folder / f"images/{stem}.{self.pictures}" for frame, stem in stems.items()}):
            return
        for labels in ("labels", BESIDE):
            (self.folder / labels / clip.split).mkdir(parents=True, exist_ok=True)
        for frame, stem in stems.items():
            (self.folder / f"labels/{stem}.txt").write_text("".join(self._lines(clip, frame)), encoding="utf-8")
        self.images[clip.split] += len(stems)
        beside = "".join(row for frame in stems for row in _beside(clip, frame))
        (self.folder / BESIDE / clip.split / f"{clip.name}.txt").write_text(beside, encoding="utf-8")
        times = [LABELS["time_of_day"].decode(float(code)) for code in clip.track.values["time_of_day"][clip.frames]]
        about = {"name": clip.name, "clip_id": clip.clip_id, "split": clip.split, "fps": clip.track.fps, "licence": clip.licence}
        self.clips.append({**about, "time_of_day": times, "frames": clip.frames.tolist()})

    def _lines(self, clip: OutgoingClip, frame: int) -> list[str]:
        boxes = clip.boxes(frame)
        kept = boxes if self.keep else boxes.where(~boxes.ignore)
        self.boxes += len(kept)
        self.dropped += len(boxes) - len(kept)
        return [
            f"{category} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"
            for category, (x1, y1, x2, y2) in zip(kept.category, kept.xyxy.astype(float), strict=True)
        ]


def _beside(clip: OutgoingClip, frame: int) -> Iterator[str]:
    """Nine digits give back the number that was held in 32 bits."""
    rows, boxes = clip.at(frame), clip.boxes(frame)
    more = zip(clip.occlusion[rows], clip.truncated[rows], clip.provenance[rows], strict=True)
    told = zip(boxes.category, boxes.xyxy.astype(float), boxes.track_id, boxes.ignore, more, strict=True)
    for category, corners, track, ignore, (occlusion, truncated, provenance) in told:
        edges = " ".join(f"{edge:.9g}" for edge in corners)
        hidden, cut = ("-" if np.isnan(value) else f"{value:.9g}" for value in (occlusion, truncated))
        yield f"{frame} {CATEGORIES[category]} {edges} {track} {int(ignore)} {hidden} {cut} {provenance or '-'}\n"


def _stand_in(images: Counter[str], missing: str) -> str:
    """The split that is read in place of one without pictures."""
    return next(name for name in (*NEEDED, "test") if images[name] and name != missing)


def _data_yaml(name: str, images: Counter[str], stand_ins: dict[str, str]) -> str:
    lines = [f"# {name.encode('ascii', 'replace').decode()!r}, exported by drivesim. Give this file by its absolute path."]
    for split in SPLITS:
        note = f" # no clip is marked {split}: the pictures of {stand_ins[split]} stand in" if split in stand_ins else ""
        if images[split] or note:
            lines.append(f"{split}: images/{stand_ins.get(split, split)}{note}")
    lines += ["names:", *(f"  {number}: {category}" for number, category in enumerate(CATEGORIES))]
    return "\n".join(lines) + "\n"
