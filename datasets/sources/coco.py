"""COCO detection -> a clip dataset: our own export with every box and track, video datasets in COCO's form, pictures of others.

Layout, from cocodataset.org (format-data): a JSON file with ``images`` (id, file_name, width, height), ``annotations`` (image_id,
category_id, bbox [x, y, width, height] in pixels from the upper left corner, iscrowd, segmentation) and ``categories`` (id, name). Files
are looked for as COCO itself, CVAT, Roboflow and our export place them: ``annotations/*.json``, ``*.json``, ``*/_annotations.coco.json``;
pictures beside the file, in the folder, or in ``images``, ``data``, a folder called as the file is (``instances_train2017``: train2017), or
``images/`` with that.

Quirks:
- Nothing says which pictures follow each other: each is a clip of one frame (``clips``: see ``stills``). Where images have a
  ``video_id``, and ``frame_index`` or ``frame_id``, as in video datasets of COCO's form, a video is a clip, cut where frames are missing.
- No rate is told, but by our export: clips run at ``fps`` pictures a second.
- Tracks: ``track_id`` or ``instance_id``, also as CVAT's attribute; a box without one is a track of its own.
- Categories have no fixed list and go by their names (``common_names``). A picture is known as regards those that the dataset names.
- A picture without annotations is known to be empty. A file without the key ``annotations`` holds pictures that nobody looked at: COCO's
  own image_info_test2017.json, where ``annotations`` names it.
- Crowds (``iscrowd``), and boxes marked ``ignore``, are ignored. Without ``bbox`` the box around the segmentation is taken, polygons or
  RLE; without either there is no box, which is counted.
- Boxes are cut at the picture's border; what lies outside or is empty is counted. A picture of another shape than its entry says is left
  out.
- Split: the last of train, val, valid, test in the file's path. Files of captions, keypoints, stuff and panoptic are passed over.
- Our own export also brings clip ids, rates, splits, time of day, ignore, occlusion, truncated and provenance back. Frames that did not
  leave leave gaps: a clip comes back as the pieces between them, each called by its first frame.

This file knows the layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.labels import LABELS

from .common_names import MAPPING, mapped
from .release_files import needed
from .releases import Box, Kind, Release, write_release
from .stills import GROUPINGS, Still, Strip, check_rate, natural, recordings, runs, split_of, strips

__all__ = ["FILLS", "MAPPING", "import_coco"]

CLIPS = ("auto", *GROUPINGS)
OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
FILLS = {
    "boxes": "annotations; occlusion, truncated, provenance of our own export only",
    "crowdedness": "counted from the boxes, where the dataset names a vehicle",
    "time_of_day": "of our own export only",
    "licence": "the picture's own, where told",
}


def import_coco(
    source: str | Path, out: str | Path, annotations: str | None = None, images: str | None = None, clips: str = "auto", fps: float = 10.0,
    categories: Mapping[str, str | None] | None = None, height: int | None = None, width: int | None = None, val_share: float = 0.1,
    licence: str | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Turn ``source`` (the folder that holds annotations and pictures) into a clip dataset at ``out``.

    Args:
        annotations: one JSON file, from ``source``; None = all that are found, see the module.
        images: folder that file names begin in, from ``source``; None = found, see the module.
        clips: auto (a clip per video where the file names videos, else per picture) | images | folders | numbered, see ``stills``.
        fps: pictures a second, where the file does not say.   categories: the dataset's -> ours, None = drop, beyond ``MAPPING``.
        height, width: centre crop and area resize to it (None = as recorded).
        val_share: share of the clips marked "val", where no split is told.   licence: of clips without one of their own.

    Returns:
        {"clips", "frames", "dropped_boxes": {category: count}, "left_out": {picture: reason}, "out"}.

    Raises:
        UsageError: a bad argument, no such folder, or no category that is one of ours.
        DatasetError: a missing or damaged file, named with where it is told of.   DrivesimError: ``out`` cannot be written.
    """
    root = Path(source)
    if clips not in CLIPS:
        raise UsageError(f"clips must be one of {', '.join(CLIPS)}, not {clips!r}")
    check_rate(fps)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder of a COCO dataset, which holds its JSON files and pictures")
    files = [_read(root, path) for path in _found(root, annotations)]
    mapping = mapped((name for file in files for name in file.names.values()), categories, root)
    release = Release("coco", mapping, FILLS, licence)
    found = [strip for file in files for strip in file.strips(root, images, clips, fps, release)]
    return write_release(out, release, recordings(found, release, val_share), height, width, progress)


def _found(root: Path, annotations: str | None) -> list[Path]:
    """The files of the dataset."""
    if annotations is not None:
        return [needed(root / annotations, "the dataset")]
    for pattern in ("annotations/*.json", "*.json", "*/_annotations.coco.json"):
        paths = [path for path in sorted(root.glob(pattern)) if not path.name.startswith(OTHER_TASKS)]
        if paths:
            return paths
    raise UsageError(f"{root}: neither annotations/*.json nor *.json nor */_annotations.coco.json in it; say annotations=FILE")


@contextmanager
def _readable(path: Path, what: str = "") -> Iterator[None]:
    """Whatever a damaged file makes of the code inside becomes one error that names it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: {what}not as COCO detection has it ({reason}); correct it, or say annotations=FILE") from error


@dataclass(frozen=True)
class _File:
    """One JSON file. names: of categories.   told: image id -> its annotations, None = nobody looked.   ours: our own export."""

    path: Path
    split: str | None
    ours: bool
    images: Sequence[Mapping[str, Any]]
    names: Mapping[Any, str]
    told: Mapping[Any, Sequence[Mapping[str, Any]]] | None
    videos: Mapping[Any, Mapping[str, Any]]
    licences: Mapping[Any, str]
    fresh: Iterator[int]

    def strips(self, root: Path, images: str | None, clips: str, fps: float, release: Release) -> Iterator[Strip]:
        """Its pictures as clips.

        Raises:
            DatasetError: a picture is missing.
        """
        with _readable(self.path):
            base = self._base(root, images)
            made = [(image, self._still(image, base, release)) for image in self.images]
            videos: dict[Any, list[tuple[Mapping[str, Any], Still]]] = {}
            for image, still in made:
                if clips == "auto" and image.get("video_id") is not None:
                    videos.setdefault(image["video_id"], []).append((image, still))
            loose = [still for image, still in made if clips != "auto" or image.get("video_id") is None]
            yield from strips(loose, "images" if clips == "auto" else clips, fps, "coco")
            for number, found in videos.items():
                yield from self._video(number, found, fps)

    def _video(self, number: Any, found: list[tuple[Mapping[str, Any], Still]], fps: float) -> Iterator[Strip]:
        about = self.videos.get(number, {})
        found.sort(key=lambda pair: natural(pair[1].name))
        frames = [image.get("frame_index", image.get("frame_id", place)) for place, (image, _) in enumerate(found)]
        order = sorted(range(len(found)), key=lambda place: int(frames[place]))
        numbers = [int(frames[place]) for place in order]
        step, parts = runs(numbers)
        if step < 1:
            raise ValueError(f"two images of video {number!r} are the same frame")
        drive = str(about.get("name", number)) if self.ours else f"coco_{about.get('name', number)}"
        rate = float(about["fps"]) / step if about.get("fps") else fps
        if not rate > 0:
            raise ValueError(f"video {number!r} runs at fps {about['fps']}")
        for part in parts:
            name = drive if len(parts) == 1 else f"{drive}_{numbers[part[0]]:06d}"
            origin = {"drive": drive, "clip_id": about.get("name"), "frames": [numbers[place] for place in part]}
            yield Strip(name, rate, [found[order[place]][1] for place in part], origin)

    def _still(self, image: Mapping[str, Any], base: Path, release: Release) -> Still:
        file = _within(image["file_name"])
        if self.ours and "#" in file.name:
            raise DatasetError(f"{self.path}: {file} points into a video: an export without pictures; export with pictures=jpg or png")
        path = base / file
        if not path.is_file():
            raise DatasetError(
                f"{path}: missing, but {self.path} names it (image {image['id']}); put it there, or say images=FOLDER where pictures are"
            )
        about = self.videos.get(image.get("video_id"), {})
        size = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
        known, boxes = self.told is not None, partial(self._boxes, image["id"], size, release)
        name, licence = str(file.with_suffix("")), self.licences.get(image.get("license"))
        if not self.ours:
            return Still(path, name, boxes, self.split, known, size, licence=licence)
        time = LABELS["time_of_day"].encode(image.get("time_of_day"))
        return Still(path, name, boxes, about.get("split", self.split), known, size, time, about.get("licence"))

    def _base(self, root: Path, images: str | None) -> Path:
        """Where file names begin: the place where most of the first are."""
        if images is not None:
            return needed(root / images, "the dataset")
        token = self.path.stem.removeprefix("instances_")
        places = [self.path.parent, root, *(root / name for name in ("images", "data", token, f"images/{token}"))]
        names = [_within(image["file_name"]) for image in self.images[:50]]
        return max(places[1:] + places[:1], key=lambda place: sum((place / name).is_file() for name in names))

    def _boxes(self, number: Any, told: tuple[int, int] | None, release: Release, size: tuple[int, int]) -> Iterator[Box]:
        for row in (self.told or {}).get(number, ()):
            with _readable(self.path, f"annotation {row.get('id')}: "):
                name = self.names[row["category_id"]]
                kind = release.kind(name)
                bounds = None if kind is None else _bounds(row, told or size)
                if kind is not None and bounds is not None:
                    yield self._box(row, kind, bounds)
                elif kind is not None:
                    release.dropped[f"{name}, without a box"] += 1

    def _box(self, row: Mapping[str, Any], kind: Kind, bounds: tuple[float, float, float, float]) -> Box:
        told = _track(row)
        track = next(self.fresh) if told is None else told
        ignore = kind.ignore or bool(row.get("iscrowd")) or bool(row.get("ignore"))
        if not self.ours:
            return Box(0, track, kind.category, bounds, ignore or None, provenance=None)
        hidden = None if row.get("occlusion") is None else float(row["occlusion"])
        return Box(0, track, kind.category, bounds, ignore, hidden, row.get("truncated"), provenance=row.get("provenance"))


def _read(root: Path, path: Path) -> _File:
    try:
        with path.open(encoding="utf-8") as file:
            document = json.load(file, object_hook=_lean)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable JSON ({str(error).splitlines()[0]}); copy the dataset again") from error
    with _readable(path):
        images, rows = list(document["images"]), document.get("annotations")
        told: dict[Any, list[Mapping[str, Any]]] | None = None if rows is None else {image["id"]: [] for image in images}
        if len({image["id"] for image in images}) < len(images):
            raise ValueError("two images have one id")
        names = {row["id"]: str(row["name"]) for row in document["categories"]}
        for row in rows or ():
            if told is None or row["image_id"] not in told or row["category_id"] not in names:
                what = "image" if row["category_id"] in names else "category"
                raise ValueError(f"annotation {row.get('id')} names {what} {row[f'{what}_id']!r}, which is not in the file")
            told[row["image_id"]].append(row)
        videos = {row["id"]: row for row in document.get("videos") or ()}
        licences = {row["id"]: str(row["name"]) for row in document.get("licenses") or () if row.get("name")}
        ours = str((document.get("info") or {}).get("description", "")).endswith("exported by drivesim")
        numbers = [track for row in rows or () if (track := _track(row)) is not None]
        split = split_of(str(path.relative_to(root)) if path.is_relative_to(root) else path.name)
        return _File(path, split, ours, images, names, told, videos, licences, count(max(numbers, default=0) + 1))


def _lean(row: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of such a file, and not needed where there is a box."""
    if row.get("bbox"):
        row.pop("segmentation", None)
    return row


def _within(name: Any) -> PurePosixPath:
    """A picture's path, which must not leave the dataset.

    Raises:
        ValueError: it does.
    """
    path = PurePosixPath(str(name).replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"file_name {name!r} leaves the dataset's folder; write it relative to that")
    return path


def _bounds(row: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Corners in 0..1 of the picture, None where nothing tells them."""
    high, wide = size
    if row.get("bbox"):
        x, y, w, h = (float(number) for number in row["bbox"])
    elif isinstance(row.get("segmentation"), Mapping):
        outline = row["segmentation"]
        packed = mask.frPyObjects(outline, *outline["size"]) if isinstance(outline["counts"], list) else outline
        x, y, w, h = (float(number) for number in mask.toBbox(packed))
    elif row.get("segmentation"):
        points = np.concatenate([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in row["segmentation"]])
        (x, y), (w, h) = points.min(axis=0).tolist(), np.ptp(points, axis=0).tolist()
    else:
        return None
    if not np.isfinite([x, y, w, h]).all():
        raise ValueError("a number is not finite")
    return x / wide, y / high, (x + w) / wide, (y + h) / high


def _track(row: Mapping[str, Any]) -> int | None:
    """The number of an annotation's track, where it has one."""
    attributes = row.get("attributes")
    told = row.get("track_id", row.get("instance_id", attributes.get("track_id") if isinstance(attributes, Mapping) else None))
    return told if isinstance(told, int) and not isinstance(told, bool) else None
