"""Intervals over drives: the fast paths are the slow one, they hold their value, and they are as wide as drives differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import DrivesimError
from drivesim.eval import intervals
from drivesim.eval.frechet import frechet_distance
from drivesim.eval.intervals import Interval, frechet_over_drives, kernel_over_drives, over_drives
from drivesim.eval.kernel import kernel_distance


def side(seed: int, drives: int = 8, rows: int = 6, d: int = 4, between: float = 0.0) -> tuple[np.ndarray, list[str]]:
    """Rows of some drives, each drive moved by ``between``."""
    rng = np.random.default_rng(seed)
    moved = rng.normal(size=(drives, 1, d)) * between
    values = (rng.normal(size=(drives, rows, d)) + moved).reshape(-1, d)
    return values, [f"drive {seed} {number}" for number in range(drives) for _ in range(rows)]


def numbers(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]


# fast paths


@pytest.mark.parametrize("d", [4, 30, 60])
@pytest.mark.parametrize("max_sums", [0, 2**23])
def test_frechet_path_is_the_plain_bootstrap(d: int, max_sums: int, monkeypatch: pytest.MonkeyPatch):
    """More rows than features, about as many, and fewer; from sums over drives and from rows."""
    monkeypatch.setattr(intervals, "MAX_SUMS", max_sums)
    (one, drives), (two, others) = side(0, d=d), side(1, d=d)
    fast = frechet_over_drives(one, drives, two, others, resamples=25, seed=3)
    plain = over_drives(lambda i, j: frechet_distance(one[i], two[j]), drives, others, resamples=25, seed=3)
    assert numbers(fast) == pytest.approx([plain.value, max(plain.low, 0), plain.high], rel=1e-6)  # a Frechet distance is never negative
    assert fast.resamples == 25


def test_kernel_path_is_the_plain_bootstrap_without_a_row_s_own_copies():
    (one, drives), (two, others) = side(0), side(1)

    def statistic(i: np.ndarray, j: np.ndarray) -> float:
        inside = []
        for rows, chosen in ((one, i), (two, j)):
            k = (rows[chosen] @ rows[chosen].T / 4 + 1) ** 3
            inside.append(k[chosen[:, None] != chosen].mean())
        return float(sum(inside) - 2 * ((one[i] @ two[j].T / 4 + 1) ** 3).mean())

    fast = kernel_over_drives(one, drives, two, others, resamples=25, seed=3)
    plain = over_drives(statistic, drives, others, resamples=25, seed=3)
    assert numbers(fast) == pytest.approx(numbers(plain), rel=1e-9)
    assert fast.value == pytest.approx(kernel_distance(one, two), rel=1e-9)


# what they mean


@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_value_lies_inside(drives: int, others: int, rows: int, seed: int):
    (one, names), (two, other_names) = side(seed, drives, rows), side(seed + 1, others, rows)
    for path in (frechet_over_drives, kernel_over_drives):
        found = path(one, names, two, other_names, resamples=20, seed=seed)
        assert not found.known or found.low <= found.value <= found.high
    assert frechet_over_drives(one, names, two, other_names, resamples=20).low >= 0


def test_same_seed_same_interval_and_order_of_rows_is_nothing():
    (one, drives), (two, others) = side(0), side(1)
    first = frechet_over_drives(one, drives, two, others, resamples=20, seed=1)
    assert first == frechet_over_drives(one, drives, two, others, resamples=20, seed=1)
    assert numbers(first) != numbers(frechet_over_drives(one, drives, two, others, resamples=20, seed=2))
    order = np.random.default_rng(0).permutation(len(one))
    mixed = frechet_over_drives(one[order], [drives[row] for row in order], two, others, resamples=20, seed=1)
    assert numbers(mixed) == pytest.approx(numbers(first), rel=1e-9)


def test_drives_that_differ_widen_it():
    """The same number of rows says less when it comes in fewer kinds: that is why rows are not what is drawn."""
    def width(between: float) -> float:
        (one, drives), (two, others) = side(0, between=between), side(1, between=between)
        found = over_drives(lambda i, j: float(one[i].mean() - two[j].mean()), drives, others, resamples=300)
        return found.high - found.low

    assert width(3.0) > 5 * width(0.0)


def test_spread_of_a_mean_is_the_standard_error():
    """One row a drive and a statistic whose bootstrap is known: 95% of a normal is 3.92 standard errors wide."""
    rows = np.random.default_rng(0).normal(size=(400, 1))
    names = [str(number) for number in range(400)]
    found = over_drives(lambda i, j: float(rows[i].mean()), names, ["x", "y"], resamples=2000)
    assert found.high - found.low == pytest.approx(3.92 * rows.std() / 20, rel=0.1)


def test_about_as_many_intervals_hold_the_truth_as_they_say():
    """Kernel distance of distributions whose distance is 0: of 95% intervals, most hold it."""
    held = 0
    for seed in range(60):
        (one, drives), (two, others) = side(2 * seed, 20, between=0.5), side(2 * seed + 1, 20, between=0.5)
        found = kernel_over_drives(one, drives, two, others, resamples=200, seed=seed)
        held += found.low <= 0 <= found.high
    assert held >= 48


def test_pairs_are_drawn_together():
    """A side against itself: nothing varies when the pairs are kept, much when they are torn apart."""
    rows, drives = side(0, between=1.0)
    kept = frechet_over_drives(rows, drives, rows + 1, drives, resamples=50, paired=True)
    torn = frechet_over_drives(rows, drives, rows + 1, drives, resamples=50)
    assert kept.high - kept.low < 1e-6 < torn.high - torn.low
    with pytest.raises(DrivesimError, match="same drives"):
        kernel_over_drives(rows, drives, rows, [f"{name}!" for name in drives], paired=True)


# where there is none


def test_one_drive_on_a_side_is_marked():
    (one, drives), (two, others) = side(0), side(1, drives=1)
    for path in (frechet_over_drives, kernel_over_drives):
        found = path(one, drives, two, others)
        assert not found.known and math.isnan(found.low) and math.isnan(found.high) and found.resamples == 0
        assert math.isfinite(found.value) and "unknown" in str(found)
    assert not over_drives(lambda i, j: 1.0, drives, others).known


def test_resamples_without_two_rows_do_not_count():
    """Two drives of one row each: half of the draws hold one row twice, which is no pair."""
    (one, drives), (two, others) = side(0, drives=2, rows=1), side(1)
    assert 20 < kernel_over_drives(one, drives, two, others, resamples=100).resamples < 80


def test_names_must_fit_the_rows():
    (one, drives), (two, others) = side(0), side(1)
    with pytest.raises(DrivesimError, match="48 rows and 47 names"):
        frechet_over_drives(one, drives[1:], two, others)
    with pytest.raises(DrivesimError, match="0 rows"):
        over_drives(lambda i, j: 0.0, [], others)


@pytest.mark.parametrize(("d", "resamples"), [(128, 1000), (129, 100), (2048, 20)])
def test_how_many_resamples_are_affordable(d: int, resamples: int):
    assert intervals._affordable(d) == resamples
