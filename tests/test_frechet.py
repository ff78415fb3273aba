"""Frechet distances against closed forms, against scipy's root, and against themselves in every other way to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import DrivesimError
from drivesim.eval.frechet import Gaussian, GaussianSums, distance_between, frechet_distance


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def features(seed: int, n: int, d: int = 12, shift: float = 0.0) -> np.ndarray:
    """Correlated rows."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def by_scipy(first: np.ndarray, second: np.ndarray, ddof: int = 1) -> float:
    """The textbook formula."""
    one, two = (np.cov(rows, rowvar=False, ddof=ddof) for rows in (first, second))
    root = scipy.linalg.sqrtm(one @ two)
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + two) - 2 * np.trace(root).real)


def exact(mean: float, deviations: list[float], rotation: np.ndarray | None = None) -> Gaussian:
    """N(mean, diag(deviations^2)), turned."""
    spread = np.diag(np.square(deviations)).astype(float)
    if rotation is not None:
        spread = rotation @ spread @ rotation.T
    return Gaussian(torch.full((len(deviations),), mean, dtype=torch.float64), len(deviations), torch.from_numpy(spread))


# closed forms


@given(st.lists(st.floats(0.01, 100), min_size=4, max_size=4), st.lists(st.floats(0.01, 100), min_size=4, max_size=4), st.floats(-10, 10))
@settings(max_examples=50, deadline=None)
def test_commuting_covariances(one: list[float], two: list[float], shift: float):
    """sqrt(S1 S2) = diag(a b): the distance is |shift|^2 + |a - b|^2, in any common rotation."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    wanted = 4 * shift**2 + sum((a - b) ** 2 for a, b in zip(one, two, strict=True))
    found = distance_between(exact(0.0, one, rotation), exact(shift, two, rotation))
    assert found == pytest.approx(wanted, rel=1e-9, abs=4e-9 * max(one + two) ** 2)


def test_one_feature_is_the_distance_of_means_and_deviations():
    one, two = features(0, 50, 1), 3 * features(1, 80, 1) + 2
    wanted = (one.mean() - two.mean()) ** 2 + (one.std(ddof=1) - two.std(ddof=1)) ** 2
    assert frechet_distance(one, two) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize("as_sums", [False, True])
def test_distance_to_itself_is_zero(n: int, as_sums: bool):
    rows = features(0, n)
    side = GaussianSums.of(rows) if as_sums else rows
    assert 0 <= frechet_distance(side, side) < 1e-6 * rows.var(0).sum()


def test_a_constant_feature_and_a_doubled_one_do_no_harm():
    """Both make the covariance singular although there are rows enough."""
    rows = features(0, 40)
    rows[:, 3], rows[:, 4] = 7.0, rows[:, 5]
    assert 0 <= frechet_distance(rows, rows) < 1e-6 * rows.var(0).sum()
    wanted = (rows.mean(0) ** 2).sum() + rows.var(0, ddof=1).sum()  # S2 = 4 S1, so the root of their product is 2 S1
    assert frechet_distance(rows, 2 * rows) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("n", [40, 8])
def test_shift_and_scale(n: int):
    one, two = features(0, n), features(1, n)
    base = frechet_distance(one, two)
    assert frechet_distance(one + 5, two + 5) == pytest.approx(base, rel=1e-9)
    assert frechet_distance(3 * one, 3 * two) == pytest.approx(9 * base, rel=1e-9)
    assert frechet_distance(one, one + 5) == pytest.approx(12 * 25, rel=1e-6)
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one), rel=1e-7)


# other ways to the same number


@pytest.mark.parametrize(("n", "m"), [(60, 90), (14, 16), (200, 30)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_equals_scipy(n: int, m: int, ddof: int):
    one, two = features(0, n), features(1, m, shift=1)
    assert frechet_distance(one, two, ddof) == pytest.approx(by_scipy(one, two, ddof), rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(5, 7), (5, 60), (60, 5), (2, 2), (12, 12), (11, 13), (60, 60)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_rows_and_sums_agree_however_few_they_are(n: int, m: int, ddof: int):
    """The nuclear norm, the mixed form and the eigenvalues are one quantity."""
    one, two = features(0, n), features(1, m, shift=1)
    wanted = frechet_distance(GaussianSums.of(one), GaussianSums.of(two), ddof)
    for first in (one, GaussianSums.of(one)):
        for second in (two, GaussianSums.of(two)):
            assert frechet_distance(first, second, ddof) == pytest.approx(wanted, rel=1e-7)


def test_two_rows_each_in_closed_form():
    """Rank one on both sides: tr sqrt(S1 S2) = |u . v| with S = u u^T."""
    one, two = features(0, 2), features(1, 2)
    u, v = (one[0] - one[1]) / math.sqrt(2), (two[0] - two[1]) / math.sqrt(2)
    wanted = ((one.mean(0) - two.mean(0)) ** 2).sum() + u @ u + v @ v - 2 * abs(u @ v)
    assert frechet_distance(one, two) == pytest.approx(wanted, rel=1e-12)


def test_weights_are_repetitions():
    rows, weights = torch.from_numpy(features(0, 20)), torch.tensor([0, 1, 2, 3] * 5)
    repeated = Gaussian.of(rows.repeat_interleave(weights, 0))
    other = Gaussian.of(features(1, 30))
    assert distance_between(Gaussian.weighted(rows, weights), other) == pytest.approx(distance_between(repeated, other), rel=1e-9)


def test_torch_float32_and_numpy_are_the_same():
    one, two = features(0, 30).astype(np.float32), features(1, 30).astype(np.float32)
    assert frechet_distance(torch.from_numpy(one), two) == frechet_distance(one.astype(np.float64), two)


# sums


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.randoms())
@settings(max_examples=50, deadline=None)
def test_merged_shards_are_the_whole(sizes: list[int], offset: float, order):
    """In any order, also far from the origin, where sums of squares would lose every digit."""
    rows = features(3, sum(sizes), 5, offset)
    shards = [GaussianSums.of(part) for part in np.split(rows, np.cumsum(sizes)[:-1])]
    order.shuffle(shards)
    total = GaussianSums.empty(5)
    for shard in shards:
        total = total.merge(shard)
    whole = GaussianSums.of(rows)
    assert total.n == whole.n == len(rows)
    scale = float(whole.scatter.diagonal().max()) if total.n else 0.0
    # a mean is known to its own last digit, which is what offset allows
    slack = 1e-12 * scale + 1e-14 * abs(offset) * (math.sqrt(scale * total.n) + abs(offset) * 1e-14)
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total.scatter, whole.scatter, rtol=1e-12, atol=max(slack, 1e-12))


def test_streaming_is_the_whole():
    rows = features(0, 100)
    stream = GaussianSums.empty(12)
    for batch in np.array_split(rows, 7):
        stream.update(batch)
    np.testing.assert_allclose(stream.covariance().numpy(), np.cov(rows, rowvar=False), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(stream.covariance(ddof=0).numpy(), np.cov(rows, rowvar=False, ddof=0), rtol=1e-11, atol=1e-12)
    assert stream.n == 100 and stream.width == 12


def test_merging_leaves_its_parts_alone():
    one, two = GaussianSums.of(features(0, 10)), GaussianSums.of(features(1, 10))
    before = one.scatter.clone()
    one.merge(two)
    assert one.n == 10 and torch.equal(one.scatter, before)


# bad input


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_counted(bad: float):
    rows = features(0, 10)
    rows[[2, 5], 1] = bad
    with pytest.raises(DrivesimError, match="2 of 10 feature rows are not finite"):
        frechet_distance(rows, features(1, 10))
    with pytest.raises(DrivesimError, match="not finite"):
        GaussianSums.empty(12).update(rows)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows(n: int):
    rows = np.zeros((n, 12))
    for side in (rows, GaussianSums.of(rows)):
        with pytest.raises(DrivesimError, match=f"at least 2 rows of features on each side, got {n}"):
            frechet_distance(side, features(1, 10))


def test_different_widths():
    with pytest.raises(DrivesimError, match="12 and 5 features"):
        frechet_distance(features(0, 20), features(1, 20, 5))
    with pytest.raises(DrivesimError, match="12 and 5 features"):
        GaussianSums.empty(12).update(features(1, 20, 5))


def test_shape_that_is_no_table():
    with pytest.raises(DrivesimError, match=r"rows \(n, d\), not in shape \(4,\)"):
        frechet_distance(np.zeros(4), np.zeros((4, 4)))
