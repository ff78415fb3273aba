"""Whole strides: rates that real recordings have, the tolerance's edge, and rates that cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.rates import whole_stride, whole_strides

RATES = st.floats(0.5, 240, allow_nan=False)


@pytest.mark.parametrize(
    ("source", "fps", "stride"),
    [(30, 7.5, 4), (29.97, 7.5, 4), (7.5, 7.5, 1), (7.5, 1.875, 4), (25, 7.5, None), (10, 7.5, None), (5, 7.5, None), (12, 10, None)],
)
def test_known_rates(source: float, fps: float, stride: int | None) -> None:
    assert whole_stride(source, fps) == stride


def test_the_tolerance_counts() -> None:
    assert whole_stride(25, 7.5, tolerance=0.12) == 3
    assert whole_stride(7.0, 7.5) == 1 and whole_stride(6.7, 7.5) is None


@pytest.mark.parametrize("source", [0.0, -5.0, math.nan, math.inf])
def test_what_is_no_rate_has_no_stride(source: float) -> None:
    assert whole_stride(source, 7.5) is None


@settings(deadline=None)
@given(RATES, RATES)
def test_the_rate_that_results_is_near_the_one_asked_for(source: float, fps: float) -> None:
    stride = whole_stride(source, fps)
    if stride is None:
        assert all(abs(source / candidate / fps - 1) > 0.1 for candidate in range(1, int(source / fps) + 2))
    else:
        assert stride >= 1 and abs(source / stride / fps - 1) <= 0.1


@settings(deadline=None)
@given(st.lists(RATES, min_size=1, max_size=8), RATES)
def test_many_rates_are_one_at_a_time(sources: list[float], fps: float) -> None:
    assert whole_strides(np.array(sources), fps).tolist() == [whole_stride(source, fps) or 0 for source in sources]
