"""A clip dataset that lies elsewhere, as a folder of this disk: fetched once, and again only where a file of it has changed.

    CACHE/<address>/<state>/NAME/...     files of the dataset, each of them whole
    CACHE/<address>/<state>.json         what the place told of every file when it was in that state

<address> and <state> are hashes, the latter of all names, sizes, times and tags that the place tells, and of dataset.json. A fetch that was
killed goes on with the next one. The cache may be removed whenever nobody reads from it. This file does not know labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from drivesim.errors import DrivesimError, UsageError

from .atomic import write_json
from .places import Place
from .schemas import REQUIRED, DatasetError

__all__ = ["cache_folder", "folder_to_write", "local_folder", "on_this_disk"]

Stamps = dict[str, list[Any]]
"""File -> its size in bytes (None = not told), and all else that would tell a change of it."""

TELLING = ("ETag", "etag", "md5Hash", "content_md5", "generation", "mtime", "LastModified", "last_modified", "updated", "created", "CRC")
"""What places call the tag or the time of a file."""
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv")
LEFT_OUT = ("parts", "quarantine")
"""Folders in a dataset that no reader looks into."""
AT_A_TIME = 16
"""Files that are asked for together."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/drivesim/clips``, or the same under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drivesim" / "clips"


def _is_address(place: str | Path) -> bool:
    """Whether it is an fsspec URL rather than a path."""
    return "://" in str(place)


def on_this_disk(address: str | Path) -> Path | None:
    """The folder at ``address``; None where it lies elsewhere. Raises UsageError as ``local_folder``."""
    return Place(address).local if _is_address(address) else Path(address)


def local_folder(address: str | Path, dataset: bool = True, videos: bool = True) -> Path:
    """The folder at ``address`` on this disk: itself where it is there, else a copy of it as it stands now.

    dataset: False = a folder of videos or results will do, too.   videos: False = the tables are enough.

    Raises:
        UsageError: a kind of place that fsspec does not know, or whose plug-in is not installed.
        DatasetError: nothing is there, a dataset that is not whole or changes meanwhile.   DrivesimError: it cannot be read, or the cache
            cannot be written.
    """
    if (folder := on_this_disk(address)) is not None:
        return folder
    place = Place(address)
    stamps = _stamps(place)
    if dataset:
        _require_whole(place, stamps)
    home = cache_folder() / _hash(place.url.rstrip("/"))
    state = _hash([stamps, (place.read("dataset.json") or b"").hex()])
    folder = home / state / re.sub(r"[^\w.-]", "_", place.root.rstrip("/").rpartition("/")[2] or "clips")
    try:
        write_json(home / f"{state}.json", stamps)
        copied = _fill(place, folder, stamps, [name for name in stamps if _beside_videos(name)])
        if videos:
            copied += _fill(place, folder, stamps, _videos(folder, stamps))
    except OSError as error:
        mend = "free space, or name another folder with XDG_CACHE_HOME"
        raise DrivesimError(f"cannot keep {place} in {home} ({error.strerror or error}); {mend}") from error
    if copied and _stamps(place) != stamps:
        raise DatasetError(f"{place} was changed while it was fetched; run the command again when nobody writes there")
    return folder


def folder_to_write(address: str | Path, mend: str) -> Path:
    """The folder at ``address``, to be changed in place.

    Raises:
        UsageError: it is not on this disk; ``mend`` says what to do.
    """
    if (folder := on_this_disk(address)) is None:
        raise UsageError(f"{address} is not a folder of this disk, so nothing is written into it; {mend}")
    return folder


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def _stamps(place: Place) -> Stamps:
    """Of every file that a reader might look at."""
    told = place.listing()
    if not told:
        raise DatasetError(f"{place}: nothing is there; give the address of a folder, and see that you may read it")
    names = sorted(name for name in told if _is_ours(name))
    return {name: [told[name].get("size"), *(str(told[name][tag]) for tag in TELLING if told[name].get(tag) is not None)] for name in names}


def _is_ours(name: str) -> bool:
    """Names that climb out of the folder are nobody's."""
    parts = name.split("/")
    return parts[0] not in LEFT_OUT and not any(not part or part.startswith(".") or "\\" in part for part in parts)


def _beside_videos(name: str) -> bool:
    """Tables and descriptions: what lies at the top, and the result of an evaluation."""
    return not name.lower().endswith(VIDEOS) and ("/" not in name or name.startswith("evaluation/"))


def _require_whole(place: Place, stamps: Stamps) -> None:
    if "dataset.json" not in stamps and "generation.json" in stamps:
        raise DatasetError(f"{place}: its generation is not finished (no dataset.json); run the same drivesim generate until it is")
    tables = ["dataset.json", *(f"{kind}.parquet" for kind in REQUIRED if kind != "frames")]
    missing = [name for name in tables if name not in stamps]
    if missing:
        raise DatasetError(f"{place}: no {missing[0]} there: not a clip dataset, or not all of one; copy it whole, dataset.json last")


def _videos(folder: Path, stamps: Stamps) -> list[str]:
    """Those that the table of clips names; all where there is no table. One that is not there is the reader's to tell."""
    table = folder / "clips.parquet"
    if not table.exists():
        return [name for name in stamps if name.lower().endswith(VIDEOS)]
    try:
        named = pq.read_table(table, columns=["video"], partitioning=None)["video"].to_pylist()
    except (pa.ArrowException, KeyError):
        return []
    return [name for name in dict.fromkeys(posixpath.normpath(str(name)) for name in named) if name in stamps]


def _fill(place: Place, folder: Path, stamps: Stamps, names: Sequence[str]) -> int:
    """Bring the files that ``folder`` lacks, each whole or not at all; returns how many had to be fetched."""
    earlier = _earlier(folder)
    due = [name for name in names if not _is_there(folder / name, stamps[name]) and not _linked(folder, name, stamps[name], earlier)]
    if not due:
        return 0
    total = sum(stamps[name][0] or 0 for name in due)
    home = Place(folder.parents[1])
    with home.scratch() as scratch, tqdm(total=total, desc=folder.name, unit="B", unit_scale=True, disable=None) as bar:
        for first in range(0, len(due), AT_A_TIME):
            some = {scratch / str(number): name for number, name in enumerate(due[first : first + AT_A_TIME])}
            place.get(dict(zip(some.values(), some, strict=True)))
            for path, name in some.items():
                if not _is_there(path, stamps[name]):
                    raise DatasetError(f"{place.at(name)} came incomplete, or was changed meanwhile; run the command again")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, folder / name)
                bar.update(stamps[name][0] or 0)
    return len(due)


def _is_there(path: Path, stamp: Sequence[Any]) -> bool:
    return path.is_file() and stamp[0] in (None, path.stat().st_size)


def _earlier(folder: Path) -> dict[Path, Mapping[str, Any]]:
    """Folders of other states of the same address, with their stamps."""
    found: dict[Path, Mapping[str, Any]] = {}
    for path in folder.parents[1].glob("*.json"):
        if path.stem != folder.parent.name:
            with suppress(OSError, ValueError):
                found[path.with_suffix("") / folder.name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _linked(folder: Path, name: str, stamp: list[Any], earlier: Mapping[Path, Mapping[str, Any]]) -> bool:
    """Take a file over from an earlier state in which the place told the same of it; sizes alone do not tell files apart."""
    for other, stamps in earlier.items():
        if len(stamp) > 1 and stamps.get(name) == stamp and _is_there(other / name, stamp):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):
                os.link(other / name, folder / name)
            return _is_there(folder / name, stamp)
    return False
