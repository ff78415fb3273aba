"""A generation: many scenarios becoming one clip dataset, by any number of processes, in any order, with any interruptions.

    OUT/generation.json                      what all processes must agree on
    OUT/videos/ID.mp4                        a finished clip's video
    OUT/parts/ID.{frames,boxes}.parquet      its label rows
    OUT/parts/ID.json                        written last: with it the clip is finished, without it nothing of the clip counts
    OUT/{clips,frames,boxes}.parquet, manifest.json, dataset.json      made of the parts when all are there

A finished clip is known by the hash of its scenario and of all else that fixes its frames, so asking again makes only what is missing.
This file does not know networks, how clips are made, or who makes them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

import drivesim
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.places import Place
from drivesim.io.records import RecordsWriter
from drivesim.io.schemas import as_arrow, as_frame
from drivesim.simulation.scenes.table import Request

__all__ = ["Group", "Order", "Summary", "assemble", "begin", "finished", "groups", "keep", "key_of", "missing", "of_shard"]

FORMAT, VERSION = "drivesim-generation", 1
"""The version goes up when a generation that was begun before could no longer be finished to the same frames."""
DESCRIPTION, MANIFEST, DATASET = "generation.json", "manifest.json", "dataset.json"
TABLES = ("frames", "boxes")


@dataclass(frozen=True)
class Order:
    """What every process of a generation is told. All but ``out``, ``checkpoint``, ``detector`` and ``device`` fixes what is made.

    out: where to, a folder or an fsspec URL.   checkpoint: a preset or folder, whose weights have ``checkpoint_hash``.
    settings, upsampling: of the rollout and of enlarging (None = not).   batch: scenarios made side by side.   threads: of each process.
    detector: path of the one that agreement is measured with, whose weights have ``detector_hash``.   min_agreement: F1 below which a clip
    is made again with other noise, up to ``tries`` times in all, and dropped after that; None = every clip stays.
    """

    out: str
    checkpoint: str
    checkpoint_hash: str
    detector: str
    detector_hash: str
    settings: Mapping[str, Any]
    upsampling: Mapping[str, Any] | None = None
    batch: int = 8
    threads: int = 1
    device: str = "cpu"
    min_agreement: float | None = None
    tries: int = 2
    drivesim: str = drivesim.__version__

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "tries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} must be a whole number from 1, not {value}")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise UsageError(f"min-agreement must lie in 0..1, not {self.min_agreement}")

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for all who work on it, as JSON holds it."""
        told = {name: value for name, value in asdict(self).items() if name not in ("out", "checkpoint", "detector", "device")}
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain


@dataclass(frozen=True)
class Group:
    """Scenarios that are made side by side. Which ones follows from the table alone, so a group that was cut off is made again to the
    same bits."""

    number: int
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Summary:
    """What a finished generation holds. dropped: ids of clips that did not agree with their labels.   remade: clips that did only after
    another try.   agreement: mean F1 of the clips that stayed."""

    clips: int
    frames: int
    dropped: tuple[str, ...]
    remade: int
    agreement: float | None


def key_of(order: Order, request: Request) -> str:
    """Names a clip's content: SHA-256 over its scenario and all that fixes its frames, a start's bytes among it."""
    return hashlib.sha256(json.dumps([request.content, order.identity], sort_keys=True).encode()).hexdigest()


def groups(requests: Sequence[Request], batch: int) -> list[Group]:
    """Scenarios of one frame rate, ``batch`` at a time, in the table's order."""
    rates: dict[float | None, list[Request]] = {}
    for request in requests:
        rates.setdefault(request.fps, []).append(request)
    parts = [same[first : first + batch] for same in rates.values() for first in range(0, len(same), batch)]
    return [Group(number, tuple(part)) for number, part in enumerate(parts)]


def of_shard(all_groups: Sequence[Group], shard: str | None) -> list[Group]:
    """The groups of shard "I/N", I from 1 to N; None = all.

    Raises:
        UsageError: not of that form.
    """
    if shard is None:
        return list(all_groups)
    number, _, count = shard.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard must be I/N with I from 1 to N, such as 1/4, not {shard!r}")
    return list(all_groups[int(number) - 1 :: int(count)])


def begin(place: Place, order: Order, requests: Sequence[Request], overwrite: bool = False) -> None:
    """Claim ``place`` for a generation, or find that it was begun there before.

    Raises:
        UsageError: the place holds something else, or a generation of another version, checkpoint, setting or scenario.
    """
    told = place.read_json(DESCRIPTION)
    if told is None:
        there = [name for name in place.names() if not name.startswith(".")]
        if there:
            raise UsageError(f"{place} holds {there[0]} and no generation; choose a new or empty folder for --out")
    else:
        fault = _difference(place, told, order) or _other_scenario(place, order, requests)
        if fault and not overwrite:
            raise UsageError(f"{fault}; choose another --out, or pass --overwrite to begin anew")
        if overwrite:
            _clear(place)
    if told is None or overwrite:
        place.write_json(DESCRIPTION, {"format": FORMAT, "version": VERSION, **order.identity})


def _difference(place: Place, told: Mapping[str, Any], order: Order) -> str | None:
    """How the generation there is not this one."""
    if (told.get("format"), told.get("version")) != (FORMAT, VERSION):
        return f"{place.at(DESCRIPTION)} is {told.get('format')} version {told.get('version')}, not {FORMAT} version {VERSION}"
    other = [(name, told.get(name), value) for name, value in order.identity.items() if told.get(name) != value]
    if not other:
        return None
    name, before, now = other[0]
    if isinstance(before, dict) and isinstance(now, dict):
        inner = next(key for key in [*before, *now] if before.get(key) != now.get(key))
        name, before, now = f"{name}.{inner}", before.get(inner), now.get(inner)
    more = f" and {len(other) - 1} more" * (len(other) > 1)
    return f"{place} was begun with {name} {_short(before)}, not {_short(now)}{more}"


def _short(value: Any) -> str:
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else "none" if value is None else str(value)


def _other_scenario(place: Place, order: Order, requests: Sequence[Request]) -> str | None:
    """A finished clip that the table does not know, or knows as another scenario."""
    wanted = {request.scenario_id: request for request in requests}
    for name in _ids(place):
        if name not in wanted:
            return f"{place} holds the clip {name}, which the table does not name"
        part = place.read_json(f"parts/{name}.json") or {}
        if part and part.get("key") != key_of(order, wanted[name]):
            start = wanted[name].start
            return f"{place} holds the clip {name} of another scenario" + (f", or {start} has changed since" if start is not None else "")
    return None


def _ids(place: Place) -> list[str]:
    return [name.removesuffix(".json") for name in place.names("parts") if name.endswith(".json") and not name.startswith(".")]


def _clear(place: Place) -> None:
    """Remove what a generation wrote, what makes it a dataset first."""
    for name in (DATASET, MANIFEST, "clips.parquet", *(f"{table}.parquet" for table in TABLES)):
        place.remove(name)
    for clip in _ids(place):
        place.remove(f"parts/{clip}.json")
    for folder in ("parts", "videos"):
        for name in place.names(folder):
            place.remove(f"{folder}/{name}")


# parts


def finished(place: Place, order: Order, request: Request) -> dict[str, Any] | None:
    """What the part of a finished clip says; None where it is to be made. A part without its files is none."""
    part = place.read_json(f"parts/{request.scenario_id}.json")
    if part is None or part.get("key") != key_of(order, request):
        return None
    return part if all(place.exists(name) for name in part["files"]) else None


def keep(
    place: Place, order: Order, request: Request, clip: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], files: Mapping[str, str],
    **told: Any,
) -> dict[str, Any]:  # fmt: skip
    """Finish a clip whose video is in place.

    clip: its row.   tables: its rows of ``TABLES``, none of a clip that was dropped.   files: name -> SHA-256.   told: further entries.
    """
    name = request.scenario_id
    for kind, rows in tables.items():
        content = io.BytesIO()
        pq.write_table(as_arrow(rows, kind, Path(_table_name(name, kind))), content, compression="zstd")
        place.write(_table_name(name, kind), content.getvalue())
        files = {**files, _table_name(name, kind): hashlib.sha256(content.getvalue()).hexdigest()}
    fixed = {"scenario_id": name, "key": key_of(order, request), "content": request.content}
    part = {**fixed, **told, "files": dict(files), "clip": dict(clip)}
    place.write_json(f"parts/{name}.json", part)
    return part


def _table_name(name: str, kind: str) -> str:
    return f"parts/{name}.{kind}.parquet"


# the whole


def assemble(place: Place, order: Order, requests: Sequence[Request]) -> Summary | None:
    """Make the dataset of all finished clips, in the table's order; None while clips are missing. Doing it twice makes the same files.

    Raises:
        DrivesimError: a part is damaged, or the place cannot be written.
    """
    parts = [finished(place, order, request) for request in requests]
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    made = [part for part in there if part["state"] == "made"]
    place.remove(DATASET)
    with place.scratch() as folder:
        with RecordsWriter(folder / "tables", creator=f"drivesim {drivesim.__version__}", generation=order.identity) as writer:
            for part in made:
                writer.append_rows(*(_rows(place, part, kind) for kind in TABLES))
                writer.add_clip(**part["clip"])
        place.write_json(MANIFEST, {"format": FORMAT, "version": VERSION, "clips": [_entry(part) for part in there]})
        for name in ("frames.parquet", "boxes.parquet", "clips.parquet", DATASET):
            place.put(folder / "tables" / name, name)
    return _summary(there)


def _entry(part: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a clip: the same however often its making was interrupted."""
    return {name: part[name] for name in ("scenario_id", "content", "key", "state", "tries", "seed", "frames", "agreement", "files")}


def _rows(place: Place, part: Mapping[str, Any], kind: str) -> pd.DataFrame:
    name = _table_name(part["scenario_id"], kind)
    content = place.read(name)
    if content is None or hashlib.sha256(content).hexdigest() != part["files"][name]:
        raise DrivesimError(f"{place.at(name)} is damaged; remove parts/{part['scenario_id']}.json and run the command again")
    return as_frame(pq.read_table(io.BytesIO(content)))


def _summary(parts: Sequence[Mapping[str, Any]]) -> Summary:
    made = [part for part in parts if part["state"] == "made"]
    scores = [float(part["agreement"]) for part in made if part["agreement"] is not None]
    dropped = tuple(str(part["scenario_id"]) for part in parts if part["state"] == "dropped")
    remade = sum(int(part["tries"]) > 1 for part in made)
    mean = sum(scores) / len(scores) if scores else None
    return Summary(len(made), sum(int(part["frames"]) for part in made), dropped, remade, mean)


def missing(place: Place, order: Order, some: Sequence[Group]) -> Iterator[tuple[Group, int]]:
    """Groups that hold unfinished clips, each with their number."""
    for group in some:
        count = sum(finished(place, order, request) is None for request in group.requests)
        if count:
            yield group, count
