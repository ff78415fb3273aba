"""Last span minus first span of long clips, in both distances to real frames, with an interval over the clips.

The distances are sums over pairs of clips (kernel) or over clips (Frechet), so they are taken apart once and put together for each
resample: a thousand resamples cost little more than one. This file knows features of clips; it does not know how they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from drivesim.errors import UsageError

from .frechet import GaussianSums, frechet_distance
from .intervals import Interval, over_drives
from .kernel import KernelSums

__all__ = ["Resampling", "frechet_change", "kernel_change", "ratio_of_change"]

Rows = list[np.ndarray]
"""Features of each clip or drive: float (n, d)."""


@dataclass(frozen=True)
class Resampling:
    """Whose the rows are: the drive of each generated clip and each real drive, and how often they are drawn again."""

    clips: Sequence[str]
    drives: Sequence[str]
    resamples: int = 1000
    seed: int = 0

    def interval(self, statistic: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        """``statistic`` takes the numbers of clips and of drives, with repeats."""
        return over_drives(statistic, self.clips, self.drives, resamples=self.resamples, seed=self.seed)


def kernel_change(first: Rows, last: Rows, real: Rows, resampling: Resampling) -> Interval:
    """Kernel distance of the clips' ``last`` spans to ``real`` minus that of their ``first``.

    In a resample that holds a clip twice, a row is not paired with its own copy.

    Raises:
        UsageError: no clips, or lists of different lengths.
    """
    _check(first, last, real, resampling)
    after, before = (_kernel_sums(span, real) for span in (last, first))

    def change(some: np.ndarray, others: np.ndarray) -> float:
        counts = (np.bincount(some, minlength=len(first)), np.bincount(others, minlength=len(real)))
        weights = [torch.from_numpy(count)[None].double() for count in counts]
        return float(after.distances(*weights) - before.distances(*weights))

    return resampling.interval(change)


def frechet_change(first: Rows, last: Rows, real: Rows, resampling: Resampling) -> Interval:
    """Frechet distance of the clips' ``last`` spans to ``real`` minus that of their ``first``.

    Spans are equally long, so most of the bias of few frames cancels out.

    Raises:
        UsageError: no clips, or lists of different lengths.
    """
    _check(first, last, real, resampling)
    sums = [[GaussianSums.of(rows) for rows in side] for side in (first, last, real)]

    def change(some: np.ndarray, others: np.ndarray) -> float:
        before, after, known = (_merged(side, rows) for side, rows in zip(sums, (some, some, others), strict=True))
        return frechet_distance(after, known) - frechet_distance(before, known)

    return resampling.interval(change)


def ratio_of_change(first: np.ndarray, last: np.ndarray, resampling: Resampling) -> Interval:
    """Mean of ``last`` over mean of ``first``, float (clips,) each; NaN where the first is nothing."""

    def ratio(some: np.ndarray, _others: np.ndarray) -> float:
        before = float(first[some].mean())
        return float(last[some].mean()) / before if before else float("nan")

    return resampling.interval(ratio)


def _kernel_sums(span: Rows, real: Rows) -> KernelSums:
    groups = tuple(torch.arange(len(side)).repeat_interleave(torch.tensor([len(rows) for rows in side])) for side in (span, real))
    return KernelSums.of(np.concatenate(span), np.concatenate(real), (groups[0], groups[1]))


def _merged(sums: Sequence[GaussianSums], rows: np.ndarray) -> GaussianSums:
    merge: Callable[[GaussianSums, GaussianSums], GaussianSums] = GaussianSums.merge
    return reduce(merge, (sums[row] for row in rows))


def _check(first: Rows, last: Rows, real: Rows, of: Resampling) -> None:
    if not (len(first) == len(last) == len(of.clips) and len(real) == len(of.drives) and first and real):
        spans = f"{len(first)} and {len(last)} spans of {len(of.clips)} clips"
        raise UsageError(f"{spans}, {len(real)} lists of {len(of.drives)} drives: give one of each")
