"""The integers of a rollout: every frame is made once, from frames that exist."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivesim.errors import UsageError
from drivesim.simulation.plan import FACTOR, decode_chunks, keyframe_windows, levels_between, plan_rollout

RATES = st.sampled_from([1.875, 7.5, 30.0])


@given(st.integers(1, 400), st.integers(4, 12), st.integers(1, 2))
def test_every_keyframe_is_made_once_from_frames_that_exist(keyframes: int, window: int, given_frames: int) -> None:
    exists = set(range(1 - given_frames, 1))
    for index, one in enumerate(keyframe_windows(keyframes, window, given_frames)):
        assert (one.index, one.size) == (index, window)
        assert one.known == (given_frames if index == 0 else 2)
        assert set(range(one.first, one.first + one.known)) <= exists
        assert one.made and exists.isdisjoint(one.made)
        assert one.made.start == max(exists) + 1, "in order, without gaps"
        exists |= set(one.made)
        assert one.known + one.kept <= window
        assert one.known + one.kept == window or one.made.stop == keyframes, "only the last window is cut"
    assert exists == set(range(1 - given_frames, keyframes))


@given(st.floats(0.2, 4000), RATES, st.integers(1, 2))
def test_a_plan_covers_the_duration(duration_s: float, fps: float, given_frames: int) -> None:
    if round(duration_s * fps) < 1:
        return
    plan = plan_rollout(duration_s, fps, given=given_frames)
    assert plan.frames == round(duration_s * fps)
    assert plan.level_frames(0) == plan.keyframes and plan.level_frames(plan.levels) == plan.frames
    stride = FACTOR**plan.levels
    assert (plan.keyframes - 1) * stride + 1 >= plan.frames, "enough keyframes"
    assert plan.keyframes == 1 or plan.frames > (plan.keyframes - 2) * stride + 1, "and none too many"
    assert plan.level_fps(plan.levels) == fps
    for level in range(plan.levels):
        assert (plan.level_frames(level) - 1) * FACTOR + 1 >= plan.level_frames(level + 1)


@given(st.integers(1, 5000), RATES)
def test_frames_complete_in_order(frames: int, fps: float) -> None:
    plan = plan_rollout(frames / fps, fps)
    complete = [plan.complete_after(None), *(plan.complete_after(window) for window in plan.windows())]
    assert complete[0] == 1 and complete[-1] == plan.frames == frames
    assert all(before < after for before, after in pairwise(complete))


def test_the_paper_window_sizes() -> None:
    windows = list(plan_rollout(60, 7.5).windows())
    assert [(one.first, one.known, len(one.made)) for one in windows[:3]] == [(0, 1, 9), (8, 2, 8), (16, 2, 8)]
    assert math.isclose(plan_rollout(300, 7.5).frames, 2250)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 9))
def test_decode_chunks_cover_every_frame_once_with_their_overlap(frames: int, size: int, overlap: int) -> None:
    position = 0
    for chunk in decode_chunks(frames, size, overlap):
        assert chunk.first == position and chunk.first % size == 0, "absolute positions"
        assert chunk.first_in == max(chunk.first - overlap, 0) and chunk.last_in == min(chunk.last + overlap, frames)
        assert list(range(chunk.first_in, chunk.last_in))[chunk.kept] == list(range(chunk.first, chunk.last))
        position = chunk.last
    assert position == frames


@given(st.integers(1, 3000), RATES, st.integers(0, 1000))
def test_a_rollout_begins_anew_at_the_end_of_a_window(frames: int, fps: float, share: int) -> None:
    plan = plan_rollout(frames / fps, fps)
    frame, step = min(frames * share // 1000, frames - 1), FACTOR**plan.levels
    ends = [0, *(window.made.stop - 1 for window in plan.windows())]
    assert plan.restart(frame) == max(end for end in ends if end * step <= frame)


@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 9), st.integers(0, 499))
def test_later_chunks_are_the_same_chunks(frames: int, size: int, overlap: int, first: int) -> None:
    chunks, first = list(decode_chunks(frames, size, overlap)), min(first, frames - 1)
    assert list(decode_chunks(frames, size, overlap, first)) == [chunk for chunk in chunks if chunk.last > first]


def test_rates_off_the_ladder_and_empty_rollouts_are_refused() -> None:
    assert [levels_between(1.875, fps) for fps in (1.875, 7.5, 30)] == [0, 1, 2]
    with pytest.raises(UsageError, match=r"1\.875, 7\.5, 30, not 10"):
        levels_between(1.875, 10)
    with pytest.raises(UsageError, match="no frame"):
        plan_rollout(0.01, 7.5)
    with pytest.raises(UsageError, match="known"):
        plan_rollout(1, 7.5, window=2, given=2)
