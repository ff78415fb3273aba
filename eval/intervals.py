"""How sure a distance is: bootstrap intervals over drives.

Frames and windows of one drive look alike, so drives are drawn with replacement, never rows (a cluster bootstrap: Field and Welsh, JRSS-B
2007). A resample holds some drives twice and others not at all, which moves a distance upwards; only its spread is used: an interval is
value + (quantile - median) of the resamples, so low <= value <= high by construction. This file does not know what a drive is beyond its
name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drivesim.errors import DrivesimError

from .frechet import Gaussian, as_rows, distance_between, frechet_distance
from .kernel import KernelSums

__all__ = ["Interval", "frechet_over_drives", "kernel_over_drives", "over_drives"]

Rows = np.ndarray | Tensor
Weights = tuple[np.ndarray, np.ndarray]
"""How often each drive of either side is drawn: whole numbers (R, G1) and (R, G2)."""

NAN = float("nan")
MAX_SUMS = 2**23
"""Float64 numbers (64 MiB) that the sums of a side's drives may take; more, and each resample is summed up from its rows."""
CHUNK = 32
"""Resamples summed up at once."""


@dataclass(frozen=True)
class Interval:
    """A value and where it would lie, with probability ``level``, had other drives of the same kind been judged.

    low and high are NaN where a side has one drive only: its spread is unknown (``known`` is then False).   resamples: that counted.
    """

    value: float
    low: float
    high: float
    resamples: int
    level: float = 0.95

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not (np.isnan(self.low) or np.isnan(self.high))

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]" if self.known else f"{self.value:.4g} [interval unknown]"


def over_drives(
    statistic: Callable[[np.ndarray, np.ndarray], float], first_drives: Sequence[str], second_drives: Sequence[str], *,
    resamples: int = 1000, seed: int = 0, level: float = 0.95, paired: bool = False,
) -> Interval:  # fmt: skip
    """Interval of any statistic of two sides.

    Args:
        statistic: of row numbers of the first and of the second side; a row stands as often as its drive was drawn. What it gives for a
            resample that is too poor for it may be NaN: such resamples do not count.
        first_drives, second_drives: the drive of each row.   resamples, seed: how many, drawn from what.
        paired: both sides show the same drives (a clip and its reconstruction), which are then drawn together.

    Raises:
        DrivesimError: no rows on a side, or paired sides of different drives.
    """
    draws = _Draws.of(first_drives, second_drives, resamples, seed, paired)
    value = float(statistic(np.arange(len(first_drives)), np.arange(len(second_drives))))

    def values() -> Iterator[float]:
        for first, second in zip(*draws.weights, strict=True):
            yield float(statistic(_repeated(draws.first, first), _repeated(draws.second, second)))

    return _interval(value, values() if draws.known else (), level)


def frechet_over_drives(
    first: Rows, first_drives: Sequence[str], second: Rows, second_drives: Sequence[str], *,
    resamples: int | None = None, seed: int = 0, level: float = 0.95, ddof: int = 1, paired: bool = False,
) -> Interval:  # fmt: skip
    """Interval of the Frechet distance between features (n, d) and (m, d); ``low`` is not below 0.

    resamples: None = 1000 up to d = 128, 100 up to 512, 20 beyond, where one takes seconds.   The rest as in ``over_drives``.

    Raises:
        DrivesimError: what ``frechet_distance`` raises, or as many drive names as there are rows are not given.
    """
    one, two = as_rows(first), as_rows(second)
    value = frechet_distance(one, two, ddof)
    number = resamples if resamples is not None else _affordable(one.shape[1])
    draws = _Draws.of(first_drives, second_drives, number, seed, paired, (len(one), len(two)))
    if not draws.known:
        return _interval(value, (), level)
    sides = (_resampled(one, draws.first, draws.weights[0], ddof), _resampled(two, draws.second, draws.weights[1], ddof))
    return _interval(value, map(distance_between, *sides), level, least=0.0)


def kernel_over_drives(
    first: Rows, first_drives: Sequence[str], second: Rows, second_drives: Sequence[str], *,
    resamples: int = 1000, seed: int = 0, level: float = 0.95, paired: bool = False,
) -> Interval:  # fmt: skip
    """Interval of the kernel distance between features (n, d) and (m, d).

    The kernel is summed up once over pairs of drives, so resamples cost next to nothing. A row drawn twice is no pair with its own copy
    (see ``KernelSums.distances``). The rest as in ``over_drives``.

    Raises:
        DrivesimError: what ``kernel_distance`` raises, or as many drive names as there are rows are not given.
    """
    draws = _Draws.of(first_drives, second_drives, resamples, seed, paired, (len(first), len(second)))
    groups = (torch.from_numpy(draws.first), torch.from_numpy(draws.second))
    sums = KernelSums.of(torch.as_tensor(first).cpu(), torch.as_tensor(second).cpu(), groups)
    values = sums.distances(*map(torch.from_numpy, draws.weights)).tolist() if draws.known else ()
    return _interval(sums.distance(), values, level)


@dataclass(frozen=True)
class _Draws:
    """first, second: the number of each row's drive.   weights: of the drives in each resample."""

    first: np.ndarray
    second: np.ndarray
    weights: Weights

    @classmethod
    def of(
        cls, first: Sequence[str], second: Sequence[str], resamples: int, seed: int, paired: bool, rows: tuple[int, int] | None = None
    ) -> _Draws:
        """Raises DrivesimError for a side without rows, for names that do not fit the ``rows``, and for pairs that are none."""
        for names, number in zip((first, second), rows or (len(first), len(second)), strict=True):
            if len(names) != number or not number:
                raise DrivesimError(f"an interval needs the drive of every row: got {number} rows and {len(names)} names of drives")
        (drives, codes), (others, other_codes) = (np.unique(np.asarray(names, object), return_inverse=True) for names in (first, second))
        if paired and list(drives) != list(others):
            raise DrivesimError("sides are paired only where they show the same drives; leave paired off")
        rng = np.random.default_rng(seed)
        weights = _multinomial(rng, len(drives), resamples)
        return cls(codes, other_codes, (weights, weights if paired else _multinomial(rng, len(others), resamples)))

    @property
    def known(self) -> bool:
        """Both sides have drives to choose from."""
        return min(weights.shape[1] for weights in self.weights) > 1


def _multinomial(rng: np.random.Generator, drives: int, resamples: int) -> np.ndarray:
    return rng.multinomial(drives, np.full(drives, 1 / drives), resamples)


def _repeated(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(codes)), weights[codes])


def _affordable(width: int) -> int:
    return 1000 if width <= 128 else 100 if width <= 512 else 20


def _interval(value: float, resampled: Iterator[float] | Sequence[float], level: float, least: float = -np.inf) -> Interval:
    """The spread of the resamples about their median, put about the value; unknown where fewer than two resamples are numbers."""
    found = np.fromiter(resampled, np.float64)
    found = found[np.isfinite(found)]
    if len(found) < 2 or not np.isfinite(value):
        return Interval(value, NAN, NAN, 0, level)
    low, middle, high = np.quantile(found, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Interval(value, max(value + float(low - middle), min(least, value)), value + float(high - middle), len(found), level)


def _resampled(rows: Tensor, codes: np.ndarray, weights: np.ndarray, ddof: int) -> Iterator[Gaussian]:
    """One Gaussian for each resample: from sums over drives where these are small, else from the rows."""
    drives, width = weights.shape[1], rows.shape[1]
    of_row = torch.from_numpy(codes).to(rows.device)
    if len(rows) > width and drives * width * width <= MAX_SUMS:
        yield from _from_sums(rows, of_row, weights, ddof)
        return
    for drawn in torch.from_numpy(weights).to(rows.device):
        yield Gaussian.weighted(rows, drawn[of_row], ddof)


def _from_sums(rows: Tensor, codes: Tensor, weights: np.ndarray, ddof: int) -> Iterator[Gaussian]:
    """First and second moments of each drive about the common mean, weighted and put together."""
    centre, (_, width) = rows.mean(dim=0), rows.shape
    parts = [rows[codes == drive] - centre for drive in range(weights.shape[1])]
    counts = torch.tensor([len(part) for part in parts]).to(rows)
    first = torch.stack([part.sum(0) for part in parts])
    second = torch.stack([(part.T @ part).flatten() for part in parts])
    for drawn in torch.from_numpy(weights).to(rows).split(CHUNK):
        totals, different = drawn @ counts, (drawn > 0).to(rows) @ counts
        means = (drawn @ first) / totals[:, None]
        scatters = (drawn @ second).unflatten(1, (width, width))
        for total, rank, mean, scatter in zip(totals, different - 1, means, scatters, strict=True):
            covariance = (scatter - total * torch.outer(mean, mean)) / (total - ddof)
            yield Gaussian(centre + mean, min(int(rank), width), covariance)
