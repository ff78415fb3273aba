"""The parts of an evaluation beside distances: when each applies, and what it is given. This file does not know how any of them judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivesim.errors import UsageError

from .cache import FeatureCache
from .compare import Sides
from .drift import drift_report, long_clips
from .extract import Features, features_of
from .features import FeatureNetwork, feature_network
from .footage import Footage
from .label_fidelity import label_report
from .memorisation import memorisation_report
from .protocols import PROTOCOLS

__all__ = ["BESIDE", "Bench", "Part", "drift", "has_boxes", "labels", "memorisation"]

CLIPS = PROTOCOLS["fvd_lite0_256x16_h264crf18"]
"""Whose clips and features copies are looked for in."""
MOST = 4096
"""Shots of each side that are looked at for copies."""


@dataclass(frozen=True)
class Bench:
    """What every part is given. out: folder for plots.   limit: at most so many shots of each side, None = the part's own."""

    sides: Sides
    out: Path
    cache: FeatureCache | None = None
    limit: int | None = None
    progress: bool = False


def drift(bench: Bench) -> dict[str, Any]:
    """The "drift" part.

    Raises:
        UsageError: no generated clip is long enough.
    """
    if not long_clips(bench.sides.generated):
        raise UsageError(f"drift is judged over a minute and more; no clip of {bench.sides.generated.name} is that long")
    network = feature_network("lite0-frames")
    return drift_report(bench.sides.generated, bench.sides.real, network, bench.out, cache=bench.cache, progress=bench.progress)


def memorisation(bench: Bench) -> dict[str, Any]:
    """The "memorisation" part, by the clip features of the offline video protocol.

    Raises:
        UsageError: no training clips, or a side without windows.
    """
    train = bench.sides.train
    if train is None:
        raise UsageError("memorisation compares with the training clips, and there are none of the real side's kind; give --train")
    network = feature_network(CLIPS.network)
    generated, seen, test = (_clips(bench, side, network) for side in (bench.sides.generated, train, bench.sides.real))
    return memorisation_report(generated, seen, test, generated.shots, seen.shots, bench.out)


def _clips(bench: Bench, side: Footage, network: FeatureNetwork) -> Features:
    shots = side.shots(CLIPS.frames, CLIPS.fps, limit=min(MOST, bench.limit or MOST), seed=CLIPS.seed)
    if not shots:
        raise UsageError(f"memorisation: {side.name} holds no window of {CLIPS.frames} frames at {CLIPS.fps:g} fps")
    return features_of(
        shots, network, size=CLIPS.size, codec=CLIPS.codec, fps=CLIPS.fps, cache=bench.cache,
        progress=f"memorisation: {side.name}" if bench.progress else None,
    )  # fmt: skip


def labels(bench: Bench) -> dict[str, Any]:
    """The "label_fidelity" part.

    Raises:
        UsageError: the generated clips say of no box where it should be.
    """
    sides = bench.sides
    if not has_boxes(sides.generated):
        raise UsageError(f"label fidelity compares pictures with the boxes asked for, and {sides.generated.name} has no boxes")
    return label_report(sides.generated, sides.real, sides.checkpoint, bench.out)


def has_boxes(side: Footage) -> bool:
    """Whether any of its clips has a box."""
    return side.records is not None and bool(side.records.boxes["clip_id"].isin(side.records.clip_ids).any())


@dataclass(frozen=True)
class Part:
    """entry: its name in result.json.   applies: whether these sides have what it needs.   judge: makes it."""

    entry: str
    applies: Callable[[Sides], bool]
    judge: Callable[[Bench], dict[str, Any]]


BESIDE = {
    "drift": Part("drift", lambda sides: bool(long_clips(sides.generated)), drift),
    "labels": Part("label_fidelity", lambda sides: has_boxes(sides.generated), labels),
    "memorisation": Part("memorisation", lambda sides: sides.train is not None, memorisation),
}
