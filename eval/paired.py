"""Is one condition above another, over pairs that differ in nothing else? For tables over a handful of seeds, where means mislead.

This file knows numbers; it does not know what they measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Of ``pairs`` pairs that differ, in ``wins`` the first is greater. p_value: of the one-sided sign test; mean: of first - second."""

    wins: int
    pairs: int
    p_value: float
    mean: float

    def __str__(self) -> str:
        return f"{self.wins}/{self.pairs}, mean {self.mean:+.3g}, p = {self.p_value:.2g} (sign test)"


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Sign test that ``first`` is greater than ``second``, pair by pair; ties and pairs with NaN are left out, as the test asks.

    Raises:
        ValueError: not equally many.
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != other.shape:
        raise ValueError(f"pairs need equally many values, not {len(one)} and {len(other)}")
    difference = one - other
    difference = difference[np.isfinite(difference) & (difference != 0)]
    wins, pairs = int((difference > 0).sum()), len(difference)
    p_value = float(binomtest(wins, pairs, alternative="greater").pvalue) if pairs else 1.0
    return Comparison(wins, pairs, p_value, float(difference.mean()) if pairs else 0.0)
