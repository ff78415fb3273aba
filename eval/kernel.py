"""The kernel distance of two sets of feature vectors: unbiased squared MMD (Gretton et al., JMLR 2012, Eq. 3) with the kernel of the KID.

    k(x, y) = (x . y / d + 1)^3                                   (Binkowski et al., ICLR 2018)
    mean of k over pairs i != j of the first + the same of the second - 2 * mean of k over pairs across

Its expectation does not depend on the number of rows, and it is 0 where the distributions are equal; a single value may be below 0. Sums
are taken in blocks of rows, so memory does not grow with the square of their number. This file does not know where features come from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from drivesim.errors import DrivesimError

from .frechet import as_rows

__all__ = ["KernelSums", "kernel_distance", "polynomial_kernel"]

Rows = np.ndarray | Tensor

BLOCK = 1024
"""Rows of either side whose kernel is held at once: 8 MiB."""


def polynomial_kernel(first: Tensor, second: Tensor) -> Tensor:
    """(x . y / d + 1)^3 between rows (n, d) and (m, d) -> (n, m)."""
    inner = first @ second.T / first.shape[1] + 1
    return inner * inner * inner


def kernel_distance(first: Rows, second: Rows) -> float:
    """Unbiased squared MMD between features (n, d) and (m, d), without unit; in the KID's and KVD's own scale (often told times 1000).

    Raises:
        DrivesimError: fewer than two rows on a side, different numbers of features, or a row that is not finite.
    """
    return KernelSums.of(first, second).distance()


class KernelSums:
    """Kernel sums over blocks of pairs of groups (drives); the distance of any re-weighting of the groups follows without the rows.

    within: for each side (G, G) sums of k over pairs of two different rows, by the groups of the two.   pairs: how many these are.
    across: (G1, G2).   pairs_across: likewise. All float64.
    """

    def __init__(self, within: tuple[Tensor, Tensor], across: Tensor, sizes: tuple[Tensor, Tensor]) -> None:
        self.within, self.across, self.sizes = within, across, sizes
        self.pairs = (_pairs(sizes[0]), _pairs(sizes[1]))
        self.pairs_across = torch.outer(*sizes)

    @classmethod
    def of(cls, first: Rows, second: Rows, groups: tuple[Tensor, Tensor] | None = None) -> KernelSums:
        """Sums for features (n, d) and (m, d).

        groups: for each side the group of each row, integers (n,) and (m,) from 0; None = all rows of a side are one group.

        Raises:
            DrivesimError: fewer than two rows on a side, different numbers of features, or a row that is not finite.
        """
        one, two = as_rows(first), as_rows(second)
        _check(one, two)
        of_one, of_two = groups or (torch.zeros(len(rows), dtype=torch.long, device=rows.device) for rows in (one, two))
        sizes = (torch.bincount(of_one).double(), torch.bincount(of_two).double())
        within = (_sums_within(one, of_one), _sums_within(two, of_two))
        return cls(within, _sums_across(one, of_one, two, of_two), sizes)

    def distance(self) -> float:
        """Of the rows as they are."""
        return float(self.distances(*(torch.ones_like(size)[None] for size in self.sizes)))

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (R,) where group g counts ``first[r, g]`` times (R, G1), and of the other side ``second[r, g]`` times (R, G2).

        A row that is counted twice is not compared with its own copy: k(x, x) is large, and no independent draw would bring that pair.
        NaN where a weighting leaves no two different rows on a side.
        """
        first, second = first.to(self.across), second.to(self.across)
        inside = (_mean(first, first, self.within[0], self.pairs[0]), _mean(second, second, self.within[1], self.pairs[1]))
        return inside[0] + inside[1] - 2 * _mean(first, second, self.across, self.pairs_across)


def _mean(first: Tensor, second: Tensor, sums: Tensor, pairs: Tensor) -> Tensor:
    """Weighted mean of the kernel (R,) for weights (R, G1) and (R, G2)."""
    return ((first @ sums) * second).sum(1) / ((first @ pairs) * second).sum(1)


def _pairs(sizes: Tensor) -> Tensor:
    """Ordered pairs of two different rows, by their groups (G, G)."""
    return torch.outer(sizes, sizes) - torch.diag(sizes)


def _blocks(rows: Tensor, groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(rows.split(BLOCK), groups.split(BLOCK), strict=True)


def _sums_across(one: Tensor, of_one: Tensor, two: Tensor, of_two: Tensor) -> Tensor:
    total = one.new_zeros(int(of_one.max()) + 1, int(of_two.max()) + 1)
    for rows, mine in _blocks(one, of_one):
        for others, theirs in _blocks(two, of_two):
            total += _by_groups(polynomial_kernel(rows, others), mine, theirs, total)
    return total


def _sums_within(rows: Tensor, groups: Tensor) -> Tensor:
    """Blocks above the diagonal stand for their mirror images, too."""
    count = int(groups.max()) + 1
    total = rows.new_zeros(count, count)
    blocks = list(_blocks(rows, groups))
    for number, (some, mine) in enumerate(blocks):
        own = polynomial_kernel(some, some).fill_diagonal_(0)
        total += _by_groups(own, mine, mine, total)
        for others, theirs in blocks[number + 1 :]:
            part = _by_groups(polynomial_kernel(some, others), mine, theirs, total)
            total += part + part.T
    return total


def _by_groups(kernel: Tensor, mine: Tensor, theirs: Tensor, like: Tensor) -> Tensor:
    """Kernel values (n, m) added up by the groups of their rows and columns, in the shape of ``like``."""
    by_row = kernel.new_zeros(like.shape[0], kernel.shape[1]).index_add_(0, mine, kernel)
    return torch.zeros_like(like).index_add_(1, theirs, by_row)


def _check(one: Tensor, two: Tensor) -> None:
    if one.shape[1] != two.shape[1]:
        raise DrivesimError(f"the sides have {one.shape[1]} and {two.shape[1]} features in a row; take both from the same network")
    few = min(len(one), len(two))
    if few < 2:
        raise DrivesimError(f"a kernel distance needs at least 2 rows of features on each side, got {few}; judge more clips")
