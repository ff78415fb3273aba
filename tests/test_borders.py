"""Borders of windows and tiles, in pictures where it is known whether they show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark

from drivesim.simulation.upsample import spans

borders = benchmark("borders")


def ramp(values: list[int], axis: int) -> np.ndarray:
    """Frames (len, len, len, 3) that change along one axis only."""
    shape = [1, 1, 1, 1]
    shape[axis] = len(values)
    return np.broadcast_to(np.array(values, np.uint8).reshape(shape), (len(values),) * 3 + (3,)).copy()


@pytest.mark.parametrize("axis", borders.AXES.values())
def test_steps_are_differences_along_one_axis(axis: int) -> None:
    frames = ramp([0, 51, 0, 255], axis)
    assert borders.steps(frames, axis) == pytest.approx([0.2, 0.2, 1])
    for other in set(borders.AXES.values()) - {axis}:
        assert borders.steps(frames, other) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize(("length", "size", "overlap"), [(20, 8, 2), (16, 8, 2), (14, 8, 2), (20, 8, 0), (8, 8, 2), (9, 8, 2), (9, 0, 0)])
def test_border_steps_are_where_the_upsampler_mixes(length: int, size: int, overlap: int) -> None:
    windows = torch.stack([torch.tensor([span.first <= t < span.last for t in range(length)]) for span in spans(length, size, overlap)])
    shared = (windows.sum(0) > 1).numpy()
    handed_over = (windows[:, 1:] != windows[:, :-1]).any(0).numpy() if overlap == 0 else np.zeros(length - 1, bool)
    expected = shared[1:] | shared[:-1] | handed_over
    assert borders.border_steps(length, size, overlap).tolist() == expected.tolist()


def test_a_jump_at_a_border_is_seen_and_an_even_change_is_not() -> None:
    at = borders.border_steps(12, 4, 0)
    assert np.flatnonzero(at).tolist() == [3, 7]
    true = ramp(list(range(0, 120, 10)), 0)
    jumps = true + np.repeat(np.arange(3, dtype=np.uint8) * 5, 4)[:, None, None, None]
    for made, expected in ((true, 1.0), (jumps, 1.5)):
        border = borders.Border()
        for drive in "ab":
            border.see(made, true, 0, at, drive)
        found = border.ratio(beside_recorded=False, resamples=20)
        assert (found.value, found.low, found.high) == pytest.approx((expected,) * 3)


def test_what_the_recording_does_at_borders_is_taken_out() -> None:
    at = borders.border_steps(4, 2, 0)
    border = borders.Border()
    border.see(ramp([0, 10, 40, 50], 2), ramp([0, 20, 80, 100], 2), 2, at, "a")
    assert border.ratio(False).value == pytest.approx(3)
    assert border.ratio(True).value == pytest.approx(1)


def test_no_border_has_no_ratio() -> None:
    border = borders.Border()
    border.see(ramp([0, 10, 40, 50], 0), ramp([0, 20, 80, 100], 0), 0, borders.border_steps(4, 8, 2), "a")
    assert np.isnan(border.ratio(False).value)
