"""BDD100K videos with the box tracks of its MOT 2020 labels -> a clip dataset at the videos' own rate (30 frames a second, nominally).

Layout below ``bdd100k/``, from the release's documentation (doc.bdd100k.com): ``videos/{train,val,test}/NAME.mov`` (the videos' parts say
so; ``videos/100k/...`` is taken, too), ``labels/box_track_20/{train,val}/NAME.json`` (a list of frames: name, videoName, frameIndex, labels
of id, category, attributes, box2d), and for time of day ``labels/det_20/det_{train,val}.json`` or the labels of 2018,
``labels/bdd100k_labels_images_{train,val}.json`` (a list of pictures: name = NAME.jpg, attributes).
Instead of videos, the pictures that were labelled will do: ``images/track/{train,val,test}/NAME/NAME-0000001.jpg``. Our own export is
of that layout, with ``export.json`` beside it; its boxes, tracks, rates and splits come back as they were.

Quirks:
- Only 1,600 of 100,000 videos have public box tracks; the others are imported with boxes unknown, or passed over (``only_labelled``).
- Tracks are at 5 frames a second, cut from the videos: label frame k is taken to be the video's frame nearest to k / 5 s. Frames between
  are not labelled. How exactly the release cut them is not documented; half a video frame of error is to be expected.
- Time of day and weather are said of one picture, 10 s into the video, in another archive: they are taken for the whole video.
  "dawn/dusk" is neither day nor night to us, and "undefined" is nothing: unknown.
- Boxes are in pixels of 1280x720, and end one pixel behind x2 and y2, as the release's own toolkit counts.
- Some videos are stored turned, with a note that players obey: they are turned upright here.
- ``frameIndex`` was ``index`` in the first release, and attributes had capitals ("Crowd").
- A rider's box holds the person alone: a person. Crowd boxes hold several of a kind: ignored. "occluded" is yes or no, no share.

This file knows the layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError, iterate_frames, probe
from drivesim.labels import LABELS

from .bdd100k_tracks import TRACKS, listed, read_tracks
from .release_files import exported, needed, numbered, pictures
from .releases import Kind, Recording, Release, labelled, write_release

__all__ = ["FILLS", "MAPPING", "import_bdd100k"]

SPLITS = ("train", "val", "test")
LABEL_FPS, LABEL_SIZE = 5.0, (720, 1280)
VIDEOS, PICTURES = "Video Parts (bdd100k_videos_train_00.zip and on)", "MOT 2020 Images (bdd100k_box_track_images_train.zip and val, test)"
FOOTAGE = ("auto", "videos", "track")
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


def import_bdd100k(
    source: str | Path, out: str | Path, height: int | None = None, width: int | None = None, only_labelled: bool = False,
    footage: str = "auto", progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Turn ``source`` (the folder ``bdd100k``, which holds ``videos`` and ``labels``) into a clip dataset at ``out``.

    height, width: centre crop and area resize to it (None = as recorded).   only_labelled: pass over videos without box tracks.
    footage: videos (30 frames a second, labels on every sixth) | track (the pictures that were labelled, 5 a second) | auto (videos where
    they are there).

    Returns:
        {"clips", "frames", "dropped_boxes": {category: count}, "left_out": {video: reason}, "out"}.

    Raises:
        UsageError: a bad argument, or no such folder.   DatasetError: an incomplete or damaged download; names the file and its archive.
        DrivesimError: ``out`` exists or cannot be written.
    """
    root = Path(source)
    root = root / "bdd100k" if (root / "bdd100k").is_dir() else root
    if footage not in FOOTAGE:
        raise UsageError(f"footage must be one of {', '.join(FOOTAGE)}, not {footage!r}")
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder bdd100k that {VIDEOS} and {TRACKS} were extracted to")
    release = Release("bdd100k", MAPPING, FILLS, "BDD100K license (berkeley.edu)")
    return write_release(out, release, _drives(root, release, only_labelled, footage), height, width, progress)


def _drives(root: Path, release: Release, only_labelled: bool, footage: str) -> Iterator[Recording]:
    ours = exported(root, "bdd100k", "videos")
    release.licence = release.licence if ours is None else None
    if ours is not None and not (root / "labels" / "box_track_20").is_dir():
        raise DatasetError(f"{root}: an export of single pictures (labels=det_20), not of clips; export with labels=box_track_20")
    needed(root / "labels" / "box_track_20", TRACKS)
    track = root / "images" / "track"
    if footage == "track" or (footage == "auto" and not (root / "videos").is_dir() and (track.is_dir() or ours is not None)):
        needed(track, PICTURES if ours is None else "an export with pictures=jpg or png")
        yield from _sequences(root, release, ours)
    else:
        needed(root / "videos", f"{VIDEOS}, or {PICTURES} (images/track)")
        yield from _videos(root, release, only_labelled)


def _videos(root: Path, release: Release, only_labelled: bool) -> Iterator[Recording]:
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
    high, wide = LABEL_SIZE
    if abs(size[1] / size[0] - wide / high) > 0.02:
        release.left_out[source] = f"is {size[1]}x{size[0]} upright, not of the {wide}x{high} that labels are told in"
        return None
    known = np.zeros(info.frames, bool)
    step = info.fps / LABEL_FPS
    boxes = [] if tracks is None else list(read_tracks(tracks).boxes(lambda place: round(place * step), known, LABEL_SIZE, release))
    track, columns = labelled(info.frames, info.fps, boxes, known, {"time_of_day": TIMES.get(about.get("timeofday", ""))})
    weather = about.get("weather", "undefined")
    frames = {} if weather == "undefined" else {"weather": [weather] * info.frames}
    origin = {"video": path.name, "labels": None if tracks is None else f"box_track_20/{split}/{tracks.name}"}
    named, read = (f"bdd_{path.stem}", source), partial(_upright, path, turns)
    return Recording(*named, size, read, track, split, columns, frames, None, origin, video=None if turns else path)


def _sequences(root: Path, release: Release, ours: Mapping[str, Mapping[str, Any]] | None) -> Iterator[Recording]:
    """The pictures that tracks are told of, 5 a second; of our own export at the rate and in the split that it notes."""
    for split in sorted({path.name for path in (root / "images" / "track").iterdir() if path.is_dir()}, key=_by_split):
        folders = sorted(path for path in (root / "images" / "track" / split).iterdir() if path.is_dir())
        about = {} if ours is not None else _about(root, split, {folder.name for folder in folders})
        for folder in folders:
            tracks = root / "labels" / "box_track_20" / split / f"{folder.name}.json"
            told = {} if ours is None else ours.get(folder.name, {})
            yield _sequence(folder, tracks, split, about.get(folder.name, {}), told, release)


def _by_split(name: str) -> tuple[int, str]:
    return SPLITS.index(name) if name in SPLITS else len(SPLITS), name


def _sequence(folder: Path, tracks: Path, split: str, about: Mapping[str, str], ours: Mapping[str, Any], release: Release) -> Recording:
    archive = "the whole export" if ours else PICTURES
    paths = numbered(folder, f"{folder.name}-{{:07d}}", archive, first=1)
    shape = next(pictures(paths[:1], archive)).shape
    size, count = (shape[0], shape[1]), len(paths)
    known = np.zeros(count, bool)
    if not tracks.exists() and split != "test":
        needed(tracks, TRACKS)
    found = read_tracks(tracks, exact=bool(ours)) if tracks.exists() else None
    if found is not None and max(found.entries, default=0) >= count:
        needed(folder / f"{folder.name}-{max(found.entries) + 1:07d}{paths[0].suffix}", archive)
    boxes = [] if found is None else list(found.boxes(lambda place: place, known, size, release))
    said = {name: {} if found is None else found.said(name) for name in ("timeofday", "weather")}
    times, weather = ([said[name].get(at, about.get(name, "undefined")) for at in range(count)] for name in said)
    codes = [LABELS["time_of_day"].encode(TIMES.get(time)) for time in times]
    track, columns = labelled(count, float(ours.get("fps", LABEL_FPS)), boxes, known, {"time_of_day": np.array(codes)})
    frames = {"weather": [None if word == "undefined" else word for word in weather]}
    origin = {"images": f"track/{split}/{folder.name}", **({"clip_id": ours["clip_id"], "frames": ours["frames"]} if ours else {})}
    named, read = (f"bdd_{folder.name}", f"images/track/{split}/{folder.name}"), partial(pictures, paths, archive)
    return Recording(*named, size, read, track, split, columns, frames, None, origin, ours.get("licence"))


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
