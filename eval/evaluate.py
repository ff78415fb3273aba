"""``drivesim evaluate``: made clips against recorded ones, by named protocols, into one folder of results.

Everything that can be refused is refused before the first clip is decoded. This file puts the parts in order; it does not know how any of
them judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.fetching import folder_to_write, local_folder
from drivesim.io.records import read_records

from .cache import FeatureCache
from .compare import Comparison, Sides
from .features import FeatureNetwork, feature_network
from .footage import Footage
from .parts import BESIDE, Bench, Part
from .plots import plot_distances
from .protocols import DEFAULT, Protocol, protocol_named
from .result import heading, table, write_result

__all__ = ["PARTS", "Evaluation", "evaluate"]

PARTS = ("distances", "drift", "labels", "memorisation")
Paths = str | Path | Sequence[str | Path]


def evaluate(
    real: Paths, generated: Paths, protocol: str | Sequence[str] | None = None, split: str | None = "test", train: Paths | None = None,
    checkpoint: str | Path | None = None, parts: str | Sequence[str] | None = None, out: str | Path | None = None,
    fetch_weights: bool = False, no_cache: bool = False, weights: str | Path | None = None, limit: int | None = None, progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Judge ``generated`` against ``real`` and write result.json, result.csv and plots.

    Args:
        real, generated: clip datasets or folders of videos, or their fsspec URLs. protocol: names of ``protocols.PROTOCOLS``, None = the
        offline ones.
        split: which clips of real clip datasets. train: clips for the floor and for memorisation, None = the train split of ``real``.
        checkpoint: whose autoencoder's reconstruction is the ceiling. parts: of PARTS, None = all that apply. out: folder, None =
        ``evaluation`` in the first of ``generated``. fetch_weights: download published networks that are missing. no_cache: compute all
        features again. weights: file of the published network. limit: at most so many shots of each side. progress: show bars.

    Returns:
        The content of result.json, "out", where it lies, and "table", its lines for the screen.

    Raises:
        UsageError: a value that cannot be, sides that cannot be compared.   DrivesimError: whatever the parts raise.
    """
    began = time.perf_counter()
    protocols = [protocol_named(name) for name in _list(protocol) or DEFAULT]
    chosen = _parts(parts)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UsageError(f"limit must be a whole number from 1, not {limit}")
    networks = _networks(protocols if "distances" in chosen else [], weights, fetch_weights)
    made, recorded = _list(generated), _list(real)
    folder = Path(out) if out is not None else _folder_of(made)
    sides, marks = _sides(recorded, made, split, _list(train), checkpoint)
    evaluation = Evaluation(sides, folder, None if no_cache else FeatureCache(), parts is not None, limit, progress, marks)
    found = evaluation.run(chosen, protocols, networks, protocol is not None)
    result = {**heading(time.perf_counter() - began), **evaluation.described(), "marks": marks, **found}
    write_result(result, folder)
    if result["protocols"]:
        plot_distances(result, folder / "distances.png")
    return {**result, "out": str(folder), "table": table(result)}


@dataclass
class Evaluation:
    """The parts over one pair of sides. ``strict``: a part that cannot be judged is an error, not a mark."""

    sides: Sides
    out: Path
    cache: FeatureCache | None = None
    strict: bool = False
    limit: int | None = None
    progress: bool = False
    marks: list[str] = field(default_factory=list)

    def run(
        self, parts: Sequence[str], protocols: Sequence[Protocol], networks: dict[str, FeatureNetwork], named: bool
    ) -> dict[str, Any]:
        """Every part of result.json that judges. ``named``: the user named the protocols, so one that cannot be used is an error."""
        found: dict[str, Any] = {"protocols": {}, "drift": None, "label_fidelity": None, "memorisation": None}
        if "distances" in parts:
            found["protocols"] = self.distances(protocols, networks, named)
        for name, part in BESIDE.items():
            if name in parts and (self.strict or part.applies(self.sides)):
                found[part.entry] = self._judged(name, part)
        if self.cache is not None and self.cache.failure:
            self.marks.append(f"features could not be kept for the next time: {self.cache.failure}")
        return found

    def distances(self, protocols: Sequence[Protocol], networks: dict[str, FeatureNetwork], named: bool) -> dict[str, Any]:
        """Protocol -> its part; protocols that cannot be used are marked, unless they were named or none is left."""
        usable, errors = [], list[UsageError]()
        for protocol in protocols:
            comparison = Comparison(protocol, networks[protocol.network], self.sides, self.cache, self.limit, self.progress)
            try:
                comparison.check()
                usable.append(comparison)
            except UsageError as error:
                errors.append(error)
        if errors and (named or not usable):
            raise errors[0]
        self.marks += [f"not judged: {error}" for error in errors]
        return {comparison.protocol.name: comparison.result() for comparison in usable}

    def _judged(self, name: str, part: Part) -> dict[str, Any] | None:
        """A part, or None and a mark."""
        try:
            return part.judge(Bench(self.sides, self.out, self.cache, self.limit, self.progress))
        except DrivesimError as error:
            if self.strict:
                raise
            self.marks.append(f"no {name}: {error}")
            return None

    def described(self) -> dict[str, Any]:
        """What the sides are."""
        generated = self.sides.generated
        context = {clip.context_frames for clip in generated.clips}
        made_by = {clip.checkpoint for clip in generated.clips}
        return {
            "real": _described(self.sides.real),
            "generated": {
                **_described(generated), "checkpoint": _only(made_by), "context_frames": _only(context),
            },
        }  # fmt: skip


def _folder_of(generated: Sequence[str | Path]) -> Path:
    """Where the result goes if nobody says."""
    first = folder_to_write(generated[0], "say with --out where the result goes") if generated else Path()
    return (first.parent if first.is_file() else first) / "evaluation"


def _sides(
    real: Sequence[str | Path], generated: Sequence[str | Path], split: str | None, train: Sequence[str | Path],
    checkpoint: str | Path | None,
) -> tuple[Sides, list[str]]:  # fmt: skip
    """Both sides opened and checked, and what to say of them."""
    weights = None if checkpoint is None else load_checkpoint(checkpoint, need=("autoencoder",))
    recorded, made = Footage.open(real, split), Footage.open(generated)
    made.require_uniform()
    _require_distinct(recorded, made)
    marks = _skipped(recorded, made) + _mixture(made)
    seen, more = _train(real, train, recorded, split)
    return Sides(recorded, made, seen, weights), marks + more


def _require_distinct(real: Footage, generated: Footage) -> None:
    """Raises UsageError where a video of one side is one of the other's, byte for byte."""
    recorded = {clip.digest: clip.clip_id for clip in real.clips}
    same = [f"{clip.clip_id} is {recorded[clip.digest]}" for clip in generated.clips if clip.digest in recorded]
    if same:
        what = "all" if len(same) == len(generated.clips) else f"{len(same)} of {len(generated.clips)}"
        raise UsageError(
            f"real and generated hold the same files: {what} clips of {generated.name} are clips of {real.name}, byte for byte "
            f"({', '.join(same[:3])}{', ...' if len(same) > 3 else ''}); compare clips that were made with clips that were recorded"
        )


def _skipped(*sides: Footage) -> list[str]:
    told = []
    for side in sides:
        if side.skipped:
            reasons = [f"{clip_id} ({reason})" for clip_id, reason in list(side.skipped.items())[:8]]
            rest = len(side.skipped) - len(reasons)
            told.append(f"{side.name}: {len(side.skipped)} clips left out: {', '.join(reasons)}" + (f" and {rest} more" if rest else ""))
    return told


def _mixture(generated: Footage) -> list[str]:
    """What generated clips should have in common and have not."""
    told = []
    for what, values in (
        ("context frames", {clip.context_frames for clip in generated.clips}),
        ("checkpoints", {clip.checkpoint for clip in generated.clips}),
    ):
        if len(values) > 1:
            told.append(f"{generated.name}: its clips were made with different {what}: {', '.join(sorted(map(str, values)))}")
    return told


def _train(
    real: Sequence[str | Path], train: Sequence[str | Path], recorded: Footage, split: str | None
) -> tuple[Footage | None, list[str]]:
    """Training clips of the kind of the real side that share no drive with it; what to say where there are none."""
    if not train and split in (None, "train"):
        return None, []
    places = train or [path for path in real if _has_split(path, "train")]
    if not places:
        return None, []
    seen = Footage.open(places, "train", "train")
    if seen.kind != recorded.kind:
        return None, [f"no floor: the train clips are {seen.kind}, the real side is {recorded.kind}, and they are never pooled or mixed"]
    drives, files = {clip.drive for clip in recorded.clips if clip.named}, {clip.digest for clip in recorded.clips}
    apart = tuple(clip for clip in seen.clips if not (clip.named and clip.drive in drives) and clip.digest not in files)
    shared = len(seen.clips) - len(apart)
    marks = [f"{shared} train clips share a drive with the real side and were left out"] * bool(shared)
    return (replace(seen, clips=apart) if apart else None), marks


def _has_split(path: str | Path, split: str) -> bool:
    root = local_folder(path, dataset=False)
    if not (root / "dataset.json").exists():
        return False
    return bool((read_records(root).clips["split"].fillna("train") == split).any())


def _networks(protocols: Iterable[Protocol], weights: str | Path | None, fetch: bool) -> dict[str, FeatureNetwork]:
    """Loaded first: weights that are missing are said before anything is computed."""
    path = None if weights is None else Path(weights)
    names = dict.fromkeys(protocol.network for protocol in protocols)
    return {name: feature_network(name) if name.startswith("lite0") else feature_network(name, path, fetch) for name in names}


def _parts(parts: str | Sequence[str] | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(name.strip() for text in _list(parts, str) for name in text.split(","))) or PARTS
    for name in chosen:
        if name not in PARTS:
            raise UsageError(f"no part named {name}; known are {', '.join(PARTS)}")
    return chosen


def _list(values: Any, kind: Callable[[Any], Any] | None = None) -> list[Any]:
    """One or several -> a list; None -> []."""
    several = [] if values is None else [values] if isinstance(values, str | Path) else list(values)
    return [kind(value) for value in several] if kind else several


def _described(side: Footage) -> dict[str, Any]:
    paths = [str(path) for path in side.paths]
    return {"name": side.name, "paths": paths, "kind": side.kind, "split": side.split, "clips": len(side.clips), "drives": len(side.drives)}


def _only(values: set[Any]) -> Any:
    """What all have in common, else None."""
    return next(iter(values)) if len(values) == 1 else None
