"""Which windows a set of clips holds at a stage's rate: integers only, vectorised over clips. Nothing is decoded here.

A window takes every ``stride``-th source frame, so that no frame is shown twice or skipped unevenly; the rate that results must lie
within ``tolerance`` of the stage's. This file does not know what a frame looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from drivesim.errors import UsageError
from drivesim.rates import whole_strides

__all__ = ["Listing", "Served", "Window", "WindowSpec", "WindowTable"]


@dataclass(frozen=True)
class WindowSpec:
    """What a network sees at once: ``frames`` frames at one of the rates ``fps``, as ``height`` x ``width`` pictures.

    ``fps`` empty: consecutive frames at whatever rate the clip has.
    """

    frames: int
    height: int
    width: int
    fps: tuple[float, ...] = ()
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UsageError(f"a window needs at least 1 frame, not {self.frames}")
        if self.height < 1 or self.width < 1:
            raise UsageError(f"a window's height and width must be positive, not {self.height}x{self.width}")
        if any(not (np.isfinite(rate) and rate > 0) for rate in self.fps):
            raise UsageError(f"a window's frame rates must be positive numbers, not {self.fps}")


@dataclass(frozen=True)
class Window:
    """One window: dataset and clip by position, source frames ``start``, ``start + stride``, ... ``fps`` is what its labels say.

    ``speed`` is how much faster than real it plays: ego speed and turn rate grow by it.
    """

    dataset: int
    clip: int
    start: int
    stride: int
    fps: float
    speed: float = 1.0

    def indices(self, frames: int) -> np.ndarray:
        """Source frame numbers, int64 (frames,)."""
        return self.start + self.stride * np.arange(frames)


@dataclass(frozen=True)
class Served:
    """What a dataset gives to a stage at one rate. ``left_out``: reason -> clip ids."""

    dataset: str
    fps: float | None
    clips: int
    windows: int
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = "any rate" if self.fps is None else f"{self.fps:g} fps"
        told = f"{self.dataset} at {rate}: {self.windows} windows from {self.clips} clips"
        missing = "; ".join(f"{len(ids)} left out: {reason}" for reason, ids in self.left_out.items())
        return f"{told} ({missing})" if missing else told


class Listing:
    """Every window of a list of clips at one rate (None = each clip's own). ``starts``: int64 (clips,), possible first frames of each.

    frame_rates: float (clips,).   lengths: int (clips,) in frames.
    """

    def __init__(self, frame_rates: np.ndarray, lengths: np.ndarray, frames: int, fps: float | None, tolerance: float = 0.1) -> None:
        self.frames, self.fps = frames, fps
        self.frame_rates, self.lengths = np.asarray(frame_rates, np.float64), np.asarray(lengths, np.int64)
        stride = np.ones_like(self.lengths) if fps is None else whole_strides(self.frame_rates, fps, tolerance)
        self.fits = stride > 0
        self.stride = np.maximum(1, stride)
        self.starts = np.where(self.fits, np.maximum(0, self.lengths - (frames - 1) * self.stride), 0)
        self._ends = np.cumsum(self.starts)
        self._disjoint = np.where(self.starts > 0, (self.starts - 1) // (frames * self.stride) + 1, 0)

    @property
    def windows(self) -> int:
        """All windows, overlapping ones counted."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def disjoint(self) -> int:
        """Windows that share no frame."""
        return int(self._disjoint.sum())

    def why_not(self, clip: int) -> str | None:
        """Why a clip gives no window; None if it gives one."""
        if not self.fits[clip]:
            return f"{self.frame_rates[clip]:g} fps has no whole-number stride near {self.fps:g} fps"
        needs = (self.frames - 1) * int(self.stride[clip]) + 1
        return None if self.starts[clip] else f"shorter than the {needs} frames a window at {self.frame_rates[clip]:g} fps needs"

    def draw(self, rng: np.random.Generator, dataset: int, speed: float) -> Window:
        """A window, all equally likely; then a stride within ``speed`` of real speed that the clip still has room for."""
        number = int(rng.integers(self.windows))
        clip = int(np.searchsorted(self._ends, number, side="right"))
        whole = int(self.stride[clip])
        strides = np.arange(int(np.ceil(whole * (1 - speed) - 1e-9)), int(np.floor(whole * (1 + speed) + 1e-9)) + 1)
        strides = strides[(strides > 0) & (self.lengths[clip] > (self.frames - 1) * strides)]
        stride = int(rng.choice(strides))
        start = int(rng.integers(self.lengths[clip] - (self.frames - 1) * stride))
        return Window(dataset, clip, start, stride, float(self.frame_rates[clip] / whole), stride / whole)

    def nth(self, number: int, dataset: int) -> Window:
        """The ``number``-th of the disjoint windows, clip by clip."""
        ends = np.cumsum(self._disjoint)
        clip = int(np.searchsorted(ends, number, side="right"))
        stride = int(self.stride[clip])
        place = number - (int(ends[clip - 1]) if clip else 0)
        return Window(dataset, clip, place * self.frames * stride, stride, float(self.frame_rates[clip] / stride))


class WindowTable:
    """The windows of several datasets at a spec's rates, drawn at random by weight or listed in order.

    frame_rates, lengths: one array (clips,) a dataset; a length of 0 takes the clip out.   weights: share of each dataset in random
    draws (None = by number of windows); the share of one that cannot serve goes to the others. Rates that a dataset serves share equally.
    """

    def __init__(
        self, spec: WindowSpec, frame_rates: Sequence[np.ndarray], lengths: Sequence[np.ndarray], weights: Sequence[float] | None = None
    ) -> None:
        self.spec = spec
        rates: tuple[float | None, ...] = spec.fps or (None,)
        self.listings = [
            (dataset, Listing(fps, length, spec.frames, rate, spec.tolerance))
            for dataset, (fps, length) in enumerate(zip(frame_rates, lengths, strict=True))
            for rate in rates
        ]
        self._share = self._shares(len(frame_rates), weights)

    @property
    def windows(self) -> int:
        return sum(listing.windows for _, listing in self.listings)

    @property
    def disjoint(self) -> int:
        return sum(listing.disjoint for _, listing in self.listings)

    def draw(self, rng: np.random.Generator, speed: float = 0.0) -> Window:
        """A random window; ``speed`` as in ``Augment``.

        Raises:
            UsageError: there is none.
        """
        if not self.windows:
            raise UsageError(f"no clip holds a window of {self.spec.frames} frames at {self.spec.fps or 'its own'} fps")
        dataset, listing = self.listings[int(rng.choice(len(self.listings), p=self._share))]
        return listing.draw(rng, dataset, speed)

    def every(self, limit: int | None = None) -> list[Window]:
        """Disjoint windows of every clip; at most ``limit``, evenly spread."""
        total = self.disjoint
        numbers = np.arange(total) if limit is None or limit >= total else np.linspace(0, total - 1, limit).round().astype(int)
        ends = np.cumsum([listing.disjoint for _, listing in self.listings])
        found = []
        for number in numbers:
            at = int(np.searchsorted(ends, number, side="right"))
            dataset, listing = self.listings[at]
            found.append(listing.nth(int(number) - (int(ends[at - 1]) if at else 0), dataset))
        return found

    def _shares(self, datasets: int, weights: Sequence[float] | None) -> np.ndarray:
        if weights is not None and (len(weights) != datasets or min(weights) < 0 or not all(np.isfinite(weights))):
            raise UsageError(f"weights must be one number >= 0 for each of the {datasets} datasets, not {list(weights)}")
        windows = np.array([listing.windows for _, listing in self.listings], np.float64)
        owner = np.array([dataset for dataset, _ in self.listings])
        share = np.zeros(len(windows))
        for dataset in range(datasets):
            serving = (owner == dataset) & (windows > 0)
            whole = windows[serving].sum() if weights is None else float(weights[dataset])
            share[serving] = whole / max(1, serving.sum())
        if windows.any() and not share.any():
            raise UsageError("every dataset that can serve this stage has weight 0; give one of them a weight")
        return share / share.sum() if share.any() else share
