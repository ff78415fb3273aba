"""The kernel distance against a sum over every pair, torchmetrics, and its own expectation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from drivesim.errors import DrivesimError
from drivesim.eval import kernel
from drivesim.eval.kernel import KernelSums, kernel_distance


def features(seed: int, n: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def by_pairs(first: np.ndarray, second: np.ndarray) -> float:
    """Every pair by itself."""

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    inside = [np.mean([k(x, y) for x, y in itertools.permutations(side, 2)]) for side in (first, second)]
    return float(sum(inside) - 2 * np.mean([k(x, y) for x in first for y in second]))


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 5), (30, 20)])
def test_equals_the_sum_over_pairs(n: int, m: int):
    one, two = features(0, n), features(1, m) + 0.5
    assert kernel_distance(one, two) == pytest.approx(by_pairs(one, two), rel=1e-10)
    assert kernel_distance(two, one) == pytest.approx(by_pairs(one, two), rel=1e-10)


def test_equals_torchmetrics():
    one, two = torch.from_numpy(features(0, 40)), torch.from_numpy(features(1, 40) + 0.5)
    assert kernel_distance(one, two) == pytest.approx(float(poly_mmd(one, two)), rel=1e-10)


def test_blocks_do_not_change_it(monkeypatch: pytest.MonkeyPatch):
    one, two = features(0, 33), features(1, 20)
    whole = kernel_distance(one, two)
    monkeypatch.setattr(kernel, "BLOCK", 7)
    assert kernel_distance(one, two) == pytest.approx(whole, rel=1e-10)


def test_expectation_is_zero_for_equal_distributions_at_any_number():
    """Unbiased: the mean over draws is within its error of 0, and half of the values are negative."""
    for n in (5, 40):
        values = [kernel_distance(features(2 * seed, n), features(2 * seed + 1, n)) for seed in range(200)]
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
        assert min(values) < 0


def test_grows_with_the_shift():
    values = [kernel_distance(features(0, 200), features(1, 200) + shift) for shift in (0, 0.3, 1, 3)]
    assert values == sorted(values)


# groups


def test_groups_add_up():
    one, two = features(0, 12), features(1, 9)
    groups = (torch.arange(12) % 4, torch.arange(9) // 3)
    assert KernelSums.of(one, two, groups).distance() == pytest.approx(kernel_distance(one, two), rel=1e-10)


def test_weights_leave_out_groups():
    one, two = features(0, 12), features(1, 9)
    groups = (torch.arange(12) % 4, torch.arange(9) // 3)
    found = KernelSums.of(one, two, groups).distances(torch.tensor([[1, 0, 1, 0]]), torch.tensor([[0, 1, 1]]))
    assert float(found) == pytest.approx(kernel_distance(one[[0, 2, 4, 6, 8, 10]], two[3:]), rel=1e-10)


def test_a_row_is_no_pair_with_its_copy():
    """Weights (2, 1): every pair of different rows as often as the copies say, none of a row with itself."""
    one, two = features(0, 3), features(1, 4)
    copies = np.array([0, 0, 1, 1, 2])
    found = KernelSums.of(one, two, (torch.tensor([0, 0, 1]), torch.zeros(4, dtype=torch.long))).distances(
        torch.tensor([[2, 1]]), torch.tensor([[1]])
    )
    k = (one @ one.T / 6 + 1) ** 3
    inside = np.mean([k[i, j] for i, j in itertools.product(copies, copies) if i != j])
    kk = (two @ two.T / 6 + 1) ** 3
    other = (kk.sum() - np.trace(kk)) / 12
    across = ((one[copies] @ two.T / 6 + 1) ** 3).mean()
    assert float(found) == pytest.approx(inside + other - 2 * across, rel=1e-10)


def test_one_row_repeated_has_no_distance():
    sums = KernelSums.of(features(0, 2), features(1, 4), (torch.tensor([0, 1]), torch.zeros(4, dtype=torch.long)))
    assert torch.isnan(sums.distances(torch.tensor([[2, 0]]), torch.tensor([[1]]))).all()


# bad input


def test_too_few_rows():
    with pytest.raises(DrivesimError, match="at least 2 rows of features on each side, got 1"):
        kernel_distance(features(0, 1), features(1, 5))
    with pytest.raises(DrivesimError, match="got 0"):
        kernel_distance(features(0, 5), np.zeros((0, 6)))


def test_different_widths_and_nan():
    with pytest.raises(DrivesimError, match="6 and 5 features"):
        kernel_distance(features(0, 5), features(1, 5, 5))
    with pytest.raises(DrivesimError, match="1 of 5 feature rows are not finite"):
        kernel_distance(features(0, 5), np.vstack([features(1, 4), np.full((1, 6), np.nan)]))
