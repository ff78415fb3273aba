"""BDD100K videos with the box tracks of its MOT 2020 labels -> a clip dataset at the videos' own rate (30 frames a second, nominally).

Layout below ``bdd100k/``, from the release's documentation (doc.bdd100k.com): ``videos/{train,val,test}/NAME.mov`` (the videos' parts say
so; ``videos/100k/...`` is taken, too), ``labels/box_track_20/{train,val}/NAME.json`` (a list of frames: name, videoName, frameIndex, labels
of id, category, attributes, box2d), and for time of day ``labels/det_20/det_{train,val}.json`` or the labels of 2018,
``labels/bdd100k_labels_images_{train,val}.json`` (a list of pictures: name = NAME.jpg, attributes).

Quirks:
- Only 1,600 of 100,000 videos have public box tracks; the others are imported with boxes unknown, or passed over (``only_labelled``).
- Tracks are at 5 frames a second, cut from the videos: label frame k is taken to be the video's frame nearest to k / 5 s. Frames between
  are not labelled. How exactly the release cut them is not documented; half a video frame of error is to be expected.
- Time of day and weather are said of one picture, 10 s into the video, in another archive: they are taken for the whole video.
  "dawn/dusk" is neither day nor night to us, and "undefined" is nothing: unknown.
- Boxes are in pixels of 1280x720. Some videos are stored turned, with a note that players obey: they are turned upright here.
- ``frameIndex`` was ``index`` in the first release, and attributes had capitals ("Crowd").
- A rider's box holds the person alone: a person. Crowd boxes hold several of a kind: ignored. "occluded" is yes or no, no share.

This file knows the layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError, VideoInfo, iterate_frames, probe

from .release_files import needed, read_json
from .releases import Box, Kind, Recording, Release, labelled, write_release

__all__ = ["FILLS", "MAPPING", "import_bdd100k", "listed"]

SPLITS = ("train", "val", "test")
LABEL_FPS, LABEL_SIZE = 5.0, (1280, 720)
VIDEOS, TRACKS = "Video Parts (bdd100k_videos_train_00.zip and on)", "MOT 2020 Labels"
PICTURES = "Detection 2020 Labels"
TIMES = {"daytime": "day", "night": "night"}
MAPPING: dict[str, Kind | None] = {
    "pedestrian": Kind("person"), "rider": Kind("person"), "other person": Kind("person", ignore=True), "car": Kind("car"),
    "truck": Kind("truck"), "bus": Kind("bus"), "motorcycle": Kind("motorcycle"), "bicycle": Kind("bicycle"), "train": None,
    "trailer": None, "other vehicle": None,
}  # fmt: skip
FILLS = {
    "time_of_day": "said of the picture 10 s into the video, in another archive; dawn and dusk are unknown",
    "weather": "as time of day, in the release's words",
    "crowdedness": "counted from the boxes",
    "boxes": "human labels, 5 a second; truncated, occlusion 0 or unknown",
}
CHUNK = 1 << 20


def import_bdd100k(
    source: str | Path, out: str | Path, height: int | None = None, width: int | None = None, only_labelled: bool = False,
    progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Turn ``source`` (the folder ``bdd100k``, which holds ``videos`` and ``labels``) into a clip dataset at ``out``.

    height, width: centre crop and area resize to it (None = as recorded).   only_labelled: pass over videos without box tracks.

    Returns:
        {"clips", "frames", "dropped_boxes": {category: count}, "left_out": {video: reason}, "out"}.

    Raises:
        UsageError: a bad argument, or no such folder.   DatasetError: an incomplete or damaged download; names the file and its archive.
        DrivesimError: ``out`` exists or cannot be written.
    """
    root = Path(source)
    root = root / "bdd100k" if (root / "bdd100k").is_dir() else root
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder bdd100k that {VIDEOS} and {TRACKS} were extracted to")
    release = Release("bdd100k", MAPPING, FILLS, "BDD100K license (berkeley.edu)")
    return write_release(out, release, _drives(root, release, only_labelled), height, width, progress)


def _drives(root: Path, release: Release, only_labelled: bool) -> Iterator[Recording]:
    needed(root / "labels" / "box_track_20", TRACKS)
    needed(root / "videos", VIDEOS)
    for split in SPLITS:
        videos = {path.stem: path for part in ("", "100k/") for path in sorted((root / f"videos/{part}{split}").glob("*.mov"))}
        tracks = {path.stem: path for path in sorted((root / "labels" / "box_track_20" / split).glob("*.json"))}
        lonely = len(tracks.keys() - videos.keys())
        if lonely:
            release.left_out[f"{split} without a video"] = f"{lonely} label files; their videos come in {VIDEOS}"
        wanted = sorted(videos.keys() & tracks.keys() if only_labelled else videos.keys())
        about = _about(root, split, set(wanted))
        for name in wanted:
            recording = _drive(videos[name], tracks.get(name), split, about.get(name, {}), release)
            if recording is not None:
                yield recording


def _drive(path: Path, tracks: Path | None, split: str, about: Mapping[str, str], release: Release) -> Recording | None:
    source = f"videos/{split}/{path.name}"
    try:
        info, turns = probe(path), _quarter_turns(path)
    except VideoError as error:
        release.left_out[source] = str(error)
        return None
    size = (info.width, info.height) if turns % 2 else (info.height, info.width)
    if abs(size[1] / size[0] - LABEL_SIZE[0] / LABEL_SIZE[1]) > 0.02:
        release.left_out[source] = f"is {size[1]}x{size[0]} upright, not of the {LABEL_SIZE[0]}x{LABEL_SIZE[1]} that labels are told in"
        return None
    known = np.zeros(info.frames, bool)
    boxes = [] if tracks is None else list(_boxes(tracks, info, known, release))
    track, columns = labelled(info.frames, info.fps, boxes, known, {"time_of_day": TIMES.get(about.get("timeofday", ""))})
    weather = about.get("weather", "undefined")
    frames = {} if weather == "undefined" else {"weather": [weather] * info.frames}
    origin = {"video": path.name, "labels": None if tracks is None else f"box_track_20/{split}/{tracks.name}"}
    return Recording(f"bdd_{path.stem}", source, size, partial(_upright, path, turns), track, split, columns, frames, None, origin)


def _boxes(path: Path, info: VideoInfo, known: np.ndarray, release: Release) -> Iterator[Box]:
    """The boxes of a label file; marks the frames that it tells of in ``known``."""
    document = read_json(path, TRACKS)
    ids: dict[str, int] = {}
    try:
        for place, told in enumerate(document["frames"] if isinstance(document, dict) else document):
            frame = round(float(told.get("frameIndex", told.get("index", place))) / LABEL_FPS * info.fps)
            if not 0 <= frame < len(known):
                continue
            known[frame] = True
            for label in told.get("labels") or ():
                kind = release.kind(label["category"]) if label.get("box2d") else None
                if kind is not None:
                    yield _box(kind, frame, ids.setdefault(str(label["id"]), len(ids)), label)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"{path}: not box tracks in Scalabel's format ({reason}); extract {TRACKS} again") from error


def _box(kind: Kind, frame: int, track: int, label: Mapping[str, Any]) -> Box:
    told = {name.lower(): value for name, value in (label.get("attributes") or {}).items()}
    x1, y1, x2, y2 = (float(label["box2d"][name]) for name in ("x1", "y1", "x2", "y2"))
    wide, high = LABEL_SIZE
    hidden = 0.0 if told.get("occluded") is False else None
    ignore = kind.ignore or bool(told.get("crowd"))
    return Box(frame, track, kind.category, (x1 / wide, y1 / high, x2 / wide, y2 / high), ignore, hidden, told.get("truncated"))


def _about(root: Path, split: str, wanted: set[str]) -> dict[str, dict[str, str]]:
    """Video -> attributes of its picture, from whichever of the two label archives is there."""
    places = (root / "labels" / "det_20" / f"det_{split}.json", root / "labels" / f"bdd100k_labels_images_{split}.json")
    path = next((path for path in places if path.exists()), None)
    if path is None:
        return {}
    found = {}
    for picture in listed(path):
        name = Path(str(picture.get("name", ""))).stem
        if name in wanted:
            found[name] = dict(picture.get("attributes") or {})
    return found


def listed(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list one by one: these files are larger than memory should be.

    Raises:
        DatasetError: damaged or cut short.
    """
    decoder, waiting, begun = json.JSONDecoder(), "", False
    with path.open(encoding="utf-8") as file:
        while chunk := file.read(CHUNK):
            waiting += chunk
            if not begun:
                begun, waiting = "[" in waiting, waiting.partition("[")[2]
            while (start := waiting.find("{")) >= 0:
                try:
                    item, end = decoder.raw_decode(waiting, start)
                except json.JSONDecodeError:
                    break  # the object goes on in the next chunk
                yield item
                waiting = waiting[end:]
    if waiting.strip(" ,\r\n\t") != "]":
        raise DatasetError(f"{path}: not a whole JSON list; extract {PICTURES} again")


def _quarter_turns(path: Path) -> int:
    """How many quarter turns clockwise make the stored pictures upright, as the file notes for players."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return round(capture.get(cv2.CAP_PROP_ORIENTATION_META) / 90) % 4
    finally:
        capture.release()


def _upright(path: Path, turns: int) -> Iterator[np.ndarray]:
    for frame in iterate_frames(path):
        yield np.ascontiguousarray(np.rot90(frame, -turns)) if turns else frame
