"""Our format -> YOLO detection as Ultralytics reads it: pictures, a text file of boxes beside each, and ``data.yaml``.

    out/data.yaml                                   train, val (and test): folders of pictures; names: number -> category
    out/images/<split>/<clip>_<frame>.jpg
    out/labels/<split>/<clip>_<frame>.txt           a line per box: category, centre x, centre y, width, height in 0..1 of the picture

Layout: docs.ultralytics.com/datasets/detect. ``data.yaml`` names no ``path``, so that the folder may be moved: its pictures are looked for
beside it. Older releases of Ultralytics do so only where ``data.yaml`` is given by its absolute path.

The categories are ours, unchanged. The format knows no tracks and no boxes to be ignored; what becomes of those is the caller's choice.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from drivesim.errors import DrivesimError
from drivesim.labels import CATEGORIES

from ..folders import new_folder
from .footage import Footage, OutgoingClip, one_of

__all__ = ["export_yolo"]

SPLITS = ("train", "val", "test")
NEEDED = ("train", "val")


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
    counts = {"images": dict(writer.images), "boxes": writer.boxes, "ignored boxes dropped": writer.dropped, "stand-ins": stand_ins}
    return {**counts, **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far."""

    def __init__(self, folder: Path, pictures: str, keep: bool) -> None:
        self.folder, self.pictures, self.keep = folder, pictures, keep
        self.images: Counter[str] = Counter()
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
        (self.folder / "labels" / clip.split).mkdir(parents=True, exist_ok=True)
        for frame, stem in stems.items():
            (self.folder / f"labels/{stem}.txt").write_text("".join(self._lines(clip, frame)), encoding="utf-8")
        self.images[clip.split] += len(stems)

    def _lines(self, clip: OutgoingClip, frame: int) -> list[str]:
        boxes = clip.boxes(frame)
        kept = boxes if self.keep else boxes.where(~boxes.ignore)
        self.boxes += len(kept)
        self.dropped += len(boxes) - len(kept)
        return [
            f"{category} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"
            for category, (x1, y1, x2, y2) in zip(kept.category, kept.xyxy.astype(float), strict=True)
        ]


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
