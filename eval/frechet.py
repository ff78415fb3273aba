"""The Frechet distance of two sets of feature vectors, each taken for a Gaussian (Heusel et al., NeurIPS 2017; Dowson and Landau 1982).

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2)

All in float64, nothing is added to a diagonal. Moments are gathered about the running mean (Chan, Golub and LeVeque 1979), so they can be
streamed and merged without losing digits to a large mean. The trace of the root is

    the sum of the roots of eigvalsh(F S2 F^T) with F^T F = S1, clamped at 0          where a side has at least as many rows as features;
    |Xc Yc^T|_* / sqrt((n - 1)(m - 1)), the nuclear norm                              where both have fewer rows than features.

F is S1's Cholesky factor (F S2 F^T has the eigenvalues of S1^.5 S2 S1^.5, and the factor costs an eighth of S1's eigenvectors); where
S1 is singular it comes from eigh(S1), or is the centred rows themselves where these are few. n rows span n - 1 directions about their mean:
eigenvalues beyond these are rounding and are left out. This file does not know where features come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from drivesim.errors import DrivesimError

__all__ = ["Gaussian", "GaussianSums", "as_rows", "distance_between", "frechet_distance"]

Rows = np.ndarray | Tensor


def as_rows(features: Rows) -> Tensor:
    """Features (n, d) as float64, on the device they are on.

    Raises:
        DrivesimError: not two axes, or a row is not finite.
    """
    rows = torch.as_tensor(features).detach().to(torch.float64)
    if rows.ndim != 2:
        raise DrivesimError(f"features come as rows (n, d), not in shape {tuple(rows.shape)}; use one row for each clip or frame")
    bad = int((~torch.isfinite(rows)).any(dim=1).sum())
    if bad:
        raise DrivesimError(f"{bad} of {len(rows)} feature rows are not finite; leave those clips out or mend the frames they come from")
    return rows


class GaussianSums:
    """Count, mean and scatter of rows seen so far; in constant memory, mergeable in any order.

    n: rows.   mean: float64 (d,).   scatter: float64 (d, d), the sum of outer products about the mean.
    """

    def __init__(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        self.n, self.mean, self.scatter = n, mean, scatter

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> GaussianSums:
        """No rows of ``width`` features."""
        zeros = torch.zeros(width + 1, width, dtype=torch.float64, device=device)
        return cls(0, zeros[0], zeros[1:])

    @classmethod
    def of(cls, features: Rows) -> GaussianSums:
        """The sums of features (n, d).

        Raises:
            DrivesimError: not two axes, or a row is not finite.
        """
        rows = as_rows(features)
        mean = rows.mean(dim=0) if len(rows) else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    @property
    def width(self) -> int:
        """Features of a row, d."""
        return len(self.mean)

    def update(self, features: Rows) -> None:
        """Take in features (n, d).

        Raises:
            DrivesimError: not two axes, another d, or a row is not finite.
        """
        merged = self.merge(GaussianSums.of(features))
        self.n, self.mean, self.scatter = merged.n, merged.mean, merged.scatter

    def merge(self, other: GaussianSums) -> GaussianSums:
        """The sums of both sets of rows together (Chan et al. 1979, Eq. 1.5).

        Raises:
            DrivesimError: different numbers of features.
        """
        _same_width(self.width, other.width)
        n = self.n + other.n
        if not self.n or not other.n:
            return other if other.n else self
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(shift, shift * (self.n * other.n / n))
        return GaussianSums(n, self.mean + shift * (other.n / n), scatter)

    def covariance(self, ddof: int = 1) -> Tensor:
        """Float64 (d, d), the scatter over n - ddof.

        Raises:
            DrivesimError: fewer than two rows.
        """
        return self.scatter / (_enough(self.n) - ddof)


@dataclass(frozen=True)
class Gaussian:
    """One side of a distance: mean (d,), and its covariance (d, d) as it is or as a factor F (k, d) with F^T F = covariance.

    rank: what the covariance's rank cannot exceed, because of the rows it was made from.
    """

    mean: Tensor
    rank: int
    covariance: Tensor | None = None
    factor: Tensor | None = None

    @classmethod
    def of(cls, side: GaussianSums | Rows, ddof: int = 1) -> Gaussian:
        """From sums, or from rows (n, d): these stay rows where they are fewer than features.

        Raises:
            DrivesimError: fewer than two rows, or one that is not finite.
        """
        if not isinstance(side, GaussianSums):
            rows = as_rows(side)
            if len(rows) < rows.shape[1]:
                return cls.weighted(rows, rows.new_ones(len(rows)), ddof)
            side = GaussianSums.of(rows)
        return cls(side.mean, min(side.n - 1, side.width), covariance=side.covariance(ddof))

    @classmethod
    def weighted(cls, rows: Tensor, weights: Tensor, ddof: int = 1) -> Gaussian:
        """From float64 rows (n, d), each counted ``weights`` (n,) times, whole numbers."""
        rows, weights = rows[weights > 0], weights[weights > 0].to(rows)
        total = _enough(int(weights.sum()))
        mean = (weights @ rows) / total
        factor = (rows - mean) * (weights / (total - ddof)).sqrt()[:, None]
        if len(rows) < rows.shape[1]:
            return cls(mean, len(rows) - 1, factor=factor)
        return cls(mean, rows.shape[1], covariance=factor.T @ factor)

    @property
    def trace(self) -> Tensor:
        """Of the covariance."""
        if self.covariance is not None:
            return self.covariance.trace()
        assert self.factor is not None
        return self.factor.square().sum()

    def factored(self) -> Tensor:
        """F (k, d) with F^T F = covariance: the rows themselves, Cholesky's, or from eigenvectors where the covariance is singular."""
        if self.factor is not None:
            return self.factor
        assert self.covariance is not None
        if self.rank == len(self.mean):
            lower, failed = torch.linalg.cholesky_ex(self.covariance)
            if not failed:
                return lower.T
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = slice(len(values) - self.rank, None)
        return (vectors[:, kept] * values[kept].clamp_min(0).sqrt()).T


def frechet_distance(first: GaussianSums | Rows, second: GaussianSums | Rows, ddof: int = 1) -> float:
    """Squared Frechet distance between two sets of features, each as sums or as rows (n, d); in squared units of the features, >= 0.

    ddof: 1 divides the scatter by n - 1, as the FID's and FVD's first implementations do; 0 by n. From N rows of one distribution the
    value is not 0 but about proportional to 1/N: compare values at one N only.

    Raises:
        DrivesimError: fewer than two rows on a side, different numbers of features, or a row that is not finite.
    """
    return distance_between(Gaussian.of(first, ddof), Gaussian.of(second, ddof))


def distance_between(first: Gaussian, second: Gaussian) -> float:
    """Squared Frechet distance between two Gaussians, >= 0 (rounding below 0 is cut).

    Raises:
        DrivesimError: different numbers of features.
    """
    _same_width(len(first.mean), len(second.mean))
    shift = (first.mean - second.mean).square().sum()
    return max(0.0, float(shift + first.trace + second.trace - 2 * _trace_of_root(first, second)))


def _trace_of_root(first: Gaussian, second: Gaussian) -> Tensor:
    """tr sqrt(S1 S2): the sum of the roots of the eigenvalues of F1 S2 F1^T, which are the squared singular values of F1 F2^T."""
    if first.factor is not None and second.factor is not None:
        return torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    if second.factor is not None or (first.factor is None and second.rank < first.rank):
        first, second = second, first
    factor, covariance = first.factored(), second.covariance
    assert covariance is not None
    values = torch.linalg.eigvalsh(factor @ covariance @ factor.T)
    rank = min(first.rank, second.rank, len(values))
    return values[len(values) - rank :].clamp_min(0).sqrt().sum()


def _enough(n: int) -> int:
    if n < 2:
        raise DrivesimError(f"a Frechet distance needs at least 2 rows of features on each side, got {n}; judge more clips")
    return n


def _same_width(first: int, second: int) -> None:
    if first != second:
        raise DrivesimError(f"the sides have {first} and {second} features in a row; take both from the same network")
