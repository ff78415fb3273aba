"""YOLO detection in the layout of Ultralytics -> a clip dataset: our own export with every box and track, pictures of others.

Layout, from docs.ultralytics.com/datasets/detect: ``data.yaml`` (``path``; ``train``, ``val``, ``test``: a folder of pictures, several, or
a text file that lists pictures; ``names``: number -> category), ``images/train/NAME.jpg`` and ``labels/train/NAME.txt``: the last folder
``images`` of a picture's path becomes ``labels``; without one, labels are beside the pictures. Roboflow's ``train/images`` is taken, too.
A line is a class, centre x, centre y, width, height in 0..1 of the picture; outlines and poses: see ``yolo_text``.

Quirks:
- Nothing says which pictures follow each other: each is a clip of one frame, unless ``clips`` says that names tell it (see ``stills``).
- No rate is told, but by our export: clips run at ``fps`` pictures a second. No tracks are either: every box is a track of its own.
- Categories have no fixed list and go by their names (``common_names``). A picture is known as regards those that the dataset names.
- A picture without a label file is known to be empty, as Ultralytics trains on it. A split without any label file was not looked at:
  taken with boxes unknown where it is test, refused where it is train or val.
- ``path`` often names a place on its author's machine, and Roboflow's folders begin with "../": whatever they say, files are looked for
  within the folder that is given. A test split that is named and not there is left out and told.
- A folder that stands for two splits, as val does for train in small samples, is taken once, for the first.
- There is no crowd and no ignore: low boxes are ignored, as everywhere. Boxes are cut at the picture's border; empty ones are counted.
- Our own export also brings clip ids, frames, rates, time of day, tracks, ignored boxes (dropped from ``labels`` or not), occlusion,
  truncated and provenance back. Frames that did not leave leave gaps: a clip comes back as the pieces between them, each called by its
  first frame.

This file knows the layout. It does not know how clips are written (``releases``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from drivesim.errors import UsageError
from drivesim.io.records import DatasetError

from .common_names import MAPPING, mapped
from .release_files import exported
from .releases import Box, Release, write_release
from .stills import GROUPINGS, Still, Strip, check_rate, natural, recordings, strips
from .yolo_export import exported_strips
from .yolo_text import label_lines

__all__ = ["FILLS", "MAPPING", "import_yolo"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = ("train", "val", "test")
FILLS = {
    "boxes": "labels; ignore, occlusion, truncated, provenance of our own export only",
    "crowdedness": "counted from the boxes, where the dataset names a vehicle",
    "time_of_day": "of our own export only",
}


def import_yolo(
    source: str | Path, out: str | Path, clips: str = "images", fps: float = 10.0, categories: Mapping[str, str | None] | None = None,
    height: int | None = None, width: int | None = None, val_share: float = 0.1, licence: str | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Turn ``source`` (the folder that holds ``data.yaml``) into a clip dataset at ``out``.

    Args:
        clips: images (a clip per picture) | folders | numbered, see ``stills``; our own export tells its clips.
        fps: pictures a second, where our export does not say.   categories: the dataset's -> ours, None = drop, beyond ``MAPPING``.
        height, width: centre crop and area resize to it (None = as recorded).
        val_share: share of the clips marked "val", where ``data.yaml`` names no other pictures so.   licence: of clips without their own.

    Returns:
        {"clips", "frames", "dropped_boxes": {category: count}, "left_out": {picture: reason}, "out"}.

    Raises:
        UsageError: a bad argument, no such folder, or no category that is one of ours.
        DatasetError: a missing or damaged file, named with where it is told of.   DrivesimError: ``out`` cannot be written.
    """
    root = Path(source)
    if clips not in GROUPINGS:
        raise UsageError(f"clips must be one of {', '.join(GROUPINGS)}, not {clips!r}")
    check_rate(fps)
    path = _description(root)
    data = _read(path)
    names = _names(path, data)
    release = Release("yolo", mapped(names.values(), categories, root), FILLS, licence)
    ours = exported(root, "yolo", "clips")
    if ours is not None and categories:
        raise UsageError(f"{root}: an export of ours, whose categories are ours already; leave categories out")
    found = list(exported_strips(root, ours) if ours is not None else _strips(root, path, data, names, clips, fps, release))
    return write_release(out, release, recordings(found, release, val_share), height, width, progress)


def _description(root: Path) -> Path:
    """data.yaml, or the only one in the folder."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder of a YOLO dataset, which holds data.yaml")
    there = sorted(path for path in root.iterdir() if path.suffix in (".yaml", ".yml"))
    named = [path for path in there if path.stem == "data"]
    if not named and len(there) != 1:
        raise UsageError(f"{root}: {'several YAML files but no' if there else 'no'} data.yaml, which names pictures and categories")
    return (named or there)[0]


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: not readable YAML ({str(error).splitlines()[0]}); copy the dataset again") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: does not name train, val and names; copy the dataset again")
    return data


def _names(path: Path, data: Mapping[str, Any]) -> dict[int, str]:
    told = data.get("names")
    try:
        rows = told.items() if isinstance(told, dict) else enumerate(told)  # type: ignore[arg-type]
        return {int(number): str(name) for number, name in rows}
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: names must be a list of categories, or number: category ({error}); correct it") from error


def _strips(
    root: Path, path: Path, data: Mapping[str, Any], names: Mapping[int, str], clips: str, fps: float, release: Release
) -> Iterator[Strip]:
    fresh, stills = count(1), []
    splits: dict[Path, str] = {}
    for split in SPLITS:
        for picture in _pictures(root, path, data, split, release):
            splits.setdefault(picture, split)
    for split in SPLITS:
        pictures = [picture for picture, said in splits.items() if said == split]
        labels = {picture: _label_file(root, picture) for picture in pictures}
        looked = any(file.exists() for file in labels.values())
        if pictures and not looked and split != "test":
            first = labels[pictures[0]]
            raise DatasetError(f"{first}: missing, and so are all labels of {split} ({len(pictures)} pictures that {path.name} names)")
        told = split if split == "test" or "val" in splits.values() else None
        for picture, file in labels.items():
            boxes = partial(_boxes, file, names, path, "kpt_shape" in data, fresh, release)
            stills.append(Still(picture, _name(root, picture), boxes, told, looked))
    if not stills:
        raise DatasetError(f"{path}: no pictures in what it names as {', '.join(SPLITS)}; put them there or correct it")
    yield from strips(stills, clips, fps, "yolo")


def _boxes(
    file: Path, names: Mapping[int, str], path: Path, keypoints: bool, fresh: Iterator[int], release: Release, size: tuple[int, int]
) -> Iterator[Box]:
    for line, (number, corners) in enumerate(label_lines(file, keypoints) if file.exists() else (), 1):
        if number not in names:
            raise DatasetError(f"{file}: box {line}: class {number}, which {path.name} has no name for; correct one of them")
        kind = release.kind(names[number])
        if kind is not None:
            yield Box(0, next(fresh), kind.category, corners, kind.ignore or None, provenance=None)


def _pictures(root: Path, path: Path, data: Mapping[str, Any], split: str, release: Release) -> list[Path]:
    """The pictures of a split in order of their names."""
    told = data.get(split) or (data.get("validation") if split == "val" else None) or []
    if not isinstance(told, str | list):
        raise DatasetError(f"{path}: {split} must be a folder, a text file or a list of them, not {told!r}; correct it")
    found: list[Path] = []
    for item in [told] if isinstance(told, str) else told:
        place = _place(root, str(data.get("path") or ""), str(item))
        if place is None and split == "test":
            release.left_out[split] = f"{item}, which {path.name} names, is not in {root}"
        elif place is None:
            raise DatasetError(f"{root / str(item)}: missing; {path} names it as {split}: extract the dataset there or correct the line")
        elif place.is_dir():
            files = (file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
            found += sorted(files, key=lambda file: natural(str(file)))
        else:
            found += _listed(root, place)
    return list(dict.fromkeys(found))


def _listed(root: Path, file: Path) -> Iterator[Path]:
    """Pictures that a text file lists, a path a line, from its own folder where it begins with "./"."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: neither a folder of pictures nor a list of them ({error}); correct data.yaml") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            picture = _place(root, str(PurePosixPath(*file.parent.relative_to(root).parts)), line.strip())
            if picture is None:
                raise DatasetError(f"{root / line.strip()}: missing; {file} names it in line {number}: extract the dataset there")
            yield picture


def _place(root: Path, base: str, item: str) -> Path | None:
    """A path of ``data.yaml`` within the folder, whatever it begins with; None = it is not there."""
    before, path = (_parts(text) for text in (base, item))
    absolute = item.replace("\\", "/").startswith("/") or item[1:2] == ":"
    every = path if absolute else before + path
    for first in range(len(path) if absolute else len(before) + 1):
        place = root.joinpath(*every[first:])
        if place.exists():
            return place
    return None


def _parts(text: str) -> list[str]:
    return [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _label_file(root: Path, picture: Path) -> Path:
    parts = list(picture.relative_to(root).parts)
    folders = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _name(root: Path, picture: Path) -> str:
    """What a picture is called: its path without suffix and the folder ``images``."""
    parts = picture.relative_to(root).with_suffix("").parts
    return "/".join(part for place, part in enumerate(parts) if part != "images" or place == len(parts) - 1)
