"""One protocol, both sides: shots, features, distances, and the numbers they stand beside (floor, ceiling, baselines).

Both sides have equally many shots. What makes a number weaker than its protocol asks for is said in ``marks``. This file does not know
where results are written or how they look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.checkpoints import Checkpoint

from .cache import FeatureCache
from .codec import Preparation
from .derived import frozen, reconstructed
from .extract import Features, features_of
from .features import FeatureNetwork
from .footage import Footage, Shot
from .intervals import Interval, frechet_over_drives, kernel_over_drives
from .protocols import Protocol

__all__ = ["Comparison", "Sides", "distances"]

KERNEL_MINIMUM = 16
"""Fewest shots of each side for the kernel distance, which is unbiased but noisy."""
KERNEL_RESAMPLES = 1000
UNKNOWN = {"value": None, "low": None, "high": None, "resamples": 0, "level": 0.95}

Distances = dict[str, Any]
"""{"frechet", "kernel"}: an interval as JSON, its numbers None where the distance is refused."""


@dataclass(frozen=True)
class Sides:
    """What is compared. train: clips of the kind of ``real`` that share no drive with it, None = no floor."""

    real: Footage
    generated: Footage
    train: Footage | None = None
    checkpoint: Checkpoint | None = None


@dataclass
class Comparison:
    """One protocol's comparison. ``limit``: at most so many shots of each side, None = the protocol's.

    ``result`` does the work; ``marks`` then says what is weak about it.
    """

    protocol: Protocol
    network: FeatureNetwork
    sides: Sides
    cache: FeatureCache | None = None
    limit: int | None = None
    progress: bool = False
    marks: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises UsageError where a side holds too few shots for any distance; nothing is decoded."""
        self._equal(self.sides.real, self.sides.generated)

    def result(self) -> dict[str, Any]:
        """The protocol's part of result.json.

        Raises:
            UsageError: see ``check``.
        """
        real, generated = self._equal(self.sides.real, self.sides.generated)
        judged, made = self._features("real", real), self._features("generated", generated)
        network = {name: getattr(self.network, name) for name in ("name", "hash", "preprocessing")}
        return {
            "protocol": self.protocol.describe(), "network": network, "prepared": self._prepared,
            "n_real": len(judged), "n_generated": len(made),
            **distances(judged, made, self.protocol), **self._beside(judged), "marks": self._weaknesses(judged, made),
        }  # fmt: skip

    def _equal(self, first: Footage, second: Footage) -> tuple[list[Shot], list[Shot]]:
        """Equally many shots of both."""
        most = min(len(self._shots(first, self.limit)), len(self._shots(second, self.limit)))
        if most < KERNEL_MINIMUM:
            few = first if len(self._shots(first, KERNEL_MINIMUM)) == most else second
            raise UsageError(f"{self.protocol.name}: {few.name} gives {self._too_few(few, most)}")
        return self._shots(first, most), self._shots(second, most)

    def _shots(self, footage: Footage, limit: int | None) -> list[Shot]:
        return self.protocol.shots(footage, limit)

    def _too_few(self, footage: Footage, number: int) -> str:
        protocol = self.protocol
        left_out = _told(footage.left_out(protocol.frames, protocol.rate))
        window = f"{protocol.frames} frames at {protocol.fps:g} fps" if protocol.video else f"one every {protocol.every_s:g} s"
        return f"only {number} {protocol.unit} ({window}), at least {KERNEL_MINIMUM} are needed" + (f"; {left_out}" if left_out else "")

    @property
    def _prepared(self) -> str:
        """What was done to the frames, with the versions of the libraries that did it."""
        return Preparation(self.protocol.size, self.protocol.codec, self.protocol.fps).text

    def _features(self, title: str, shots: Sequence[Shot]) -> Features:
        protocol = self.protocol
        found = features_of(
            shots, self.network, size=protocol.size, codec=protocol.codec, fps=protocol.fps, cache=self.cache,
            progress=f"{protocol.name}: {title}" if self.progress else None,
        )  # fmt: skip
        if found.skipped:
            self.marks.append(f"{title}: {len(found.skipped)} clips could not be read: {_named(found.skipped)}")
        return found

    def _beside(self, judged: Features) -> dict[str, Any]:
        """Floor, ceiling and baselines, all at the real side's shots."""
        ceiling = None
        if self.sides.checkpoint is not None:
            made = self._features("reconstruction", reconstructed(judged.shots, self.sides.checkpoint))
            ceiling = {**distances(judged, made, self.protocol, paired=True), "n": len(made), "what": "reconstruction against test"}
        baselines = {}
        if self.protocol.video:
            baselines["frozen"] = distances(judged, self._features("frozen", frozen(judged.shots)), self.protocol, paired=True)
        return {"floor": self._floor(judged), "ceiling": ceiling, "baselines": baselines}

    def _floor(self, judged: Features) -> dict[str, Any] | None:
        """Train against test, as many shots of each as are compared."""
        train = None if self.sides.train is None else self._shots(self.sides.train, len(judged))
        if not train or len(train) < KERNEL_MINIMUM:
            self.marks.append(f"no floor: {'no train clips' if self.sides.train is None else f'only {len(train or ())} train shots'}")
            return None
        seen = self._features("train", train)
        test = self._part(judged, len(seen))
        if len(seen) < len(judged):
            self.marks.append(f"the floor is at {len(seen)} {self.protocol.unit} a side, not at {len(judged)}: it lies too high for them")
        return {**distances(test, seen, self.protocol), "n": min(len(seen), len(test)), "what": "train against test"}

    def _part(self, features: Features, number: int) -> Features:
        """The rows that the protocol would have chosen had it asked for ``number``: its choices are nested."""
        if number >= len(features):
            return features
        wanted = {shot.key for shot in self._shots(self.sides.real, number)}
        rows = [row for row, key in enumerate(features.keys) if key in wanted]
        drives, keys, shots = ([part[row] for row in rows] for part in (features.drives, features.keys, features.shots))
        return Features(features.values[rows], drives, keys, features.skipped, shots)  # type: ignore[arg-type]

    def _weaknesses(self, judged: Features, made: Features) -> list[str]:
        protocol, number = self.protocol, min(len(judged), len(made))
        marks = list(self.marks)
        if number < protocol.minimum:
            marks.insert(0, f"Frechet distance refused: {number} {protocol.unit} a side mean nothing, {protocol.minimum} are the least")
        elif number < protocol.enough:
            marks.insert(0, f"only {number} {protocol.unit} a side, {protocol.enough} are asked for: the Frechet distance lies too high")
        for title, footage, features in (("real", self.sides.real, judged), ("generated", self.sides.generated, made)):
            left_out = footage.left_out(protocol.frames, protocol.rate)
            if left_out:
                marks.append(f"{title}: {sum(map(len, left_out.values()))} of {len(footage.clips)} clips hold no shot: {_told(left_out)}")
            if len(set(features.drives)) < 2:
                marks.append(f"{title}: one drive only, so the interval is unknown")
            if protocol.codec == "lossless" and footage.lossy:
                marks.append(f"{title}: frames come from video files, which had lost something before this lossless protocol saw them")
        return marks


def distances(first: Features, second: Features, protocol: Protocol, paired: bool = False) -> Distances:
    """Frechet and kernel distance with their intervals over drives, as JSON. ``paired``: the second is made of the first's shots."""
    sides = (first.values, first.drives, second.values, second.drives)
    together = paired and set(first.drives) == set(second.drives)
    number = min(len(first), len(second))
    frechet = kernel = None
    if number >= protocol.minimum:
        frechet = frechet_over_drives(*sides, resamples=protocol.resamples, seed=protocol.seed, ddof=protocol.ddof, paired=together)
    if number >= KERNEL_MINIMUM:
        kernel = kernel_over_drives(*sides, resamples=KERNEL_RESAMPLES, seed=protocol.seed, paired=together)
    return {"frechet": interval_json(frechet), "kernel": interval_json(kernel)}


def interval_json(interval: Interval | None) -> dict[str, Any]:
    """An interval's fields, None for what is not a number."""
    fields = UNKNOWN if interval is None else asdict(interval)
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in fields.items()}


def _named(reasons: Mapping[str, str], most: int = 8) -> str:
    """``id (reason)``, ..."""
    told = [f"{clip_id} ({reason})" for clip_id, reason in list(reasons.items())[:most]]
    return ", ".join(told) + (f" and {len(reasons) - most} more" if len(reasons) > most else "")


def _told(left_out: Mapping[str, Sequence[str]], most: int = 8) -> str:
    """``reason (ids)``; ..."""
    told = []
    for reason, ids in left_out.items():
        more = f" and {len(ids) - most} more" if len(ids) > most else ""
        told.append(f"{reason} ({', '.join(ids[:most])}{more})")
    return "; ".join(told)
