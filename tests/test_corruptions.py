"""Corruptions: shapes and types kept, the same draw the same damage, more damage with each grade, order changes that are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import UsageError
from drivesim.eval.corruptions import CORRUPTIONS, OrderCorruption, PictureCorruption, corrupt

PICTURES = [name for name, corruption in CORRUPTIONS.items() if isinstance(corruption, PictureCorruption)]
ORDERS = [name for name, corruption in CORRUPTIONS.items() if isinstance(corruption, OrderCorruption)]
GRADED = [name for name, corruption in CORRUPTIONS.items() if len(corruption.grades) == 3]
CASES = [(name, grade) for name, corruption in CORRUPTIONS.items() for grade in range(1, len(corruption.grades) + 1)]


def road(frames: int = 16, height: int = 128, width: int = 48, speed: float = 1.0, seed: int = 0) -> np.ndarray:
    """A smooth pattern that moves ``speed`` pixels a frame: far frames differ more than near ones."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, 3)
    x = np.arange(width)[None, None, :, None] - speed * np.arange(frames)[:, None, None, None]
    y = np.arange(height)[None, :, None, None]
    levels = 127 + 60 * np.sin(2 * np.pi * x / 64 + phase) + 40 * np.sin(y / 9 + x / 9)
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def order_of(name: str, grade: int, frames: int = 16, seed: int = 0) -> np.ndarray:
    corruption = CORRUPTIONS[name]
    assert isinstance(corruption, OrderCorruption)
    return corruption.indices(frames, grade, np.random.default_rng(seed))


def damage(name: str, grade: int, frames: np.ndarray, seed: int = 0) -> np.ndarray:
    return corrupt(name, frames, grade, np.random.default_rng(seed), other=road(len(frames), seed=9))


@pytest.mark.parametrize(("name", "grade"), CASES)
def test_shape_and_type_are_kept_and_the_source_is_not_touched(name: str, grade: int) -> None:
    frames = road()
    before = frames.copy()
    damaged = damage(name, grade, frames)
    assert damaged.dtype == np.uint8
    length = 15 // CORRUPTIONS[name].at(grade) + 1 if name == "timelapse" else 16
    assert damaged.shape == (length, *frames.shape[1:])
    assert np.array_equal(frames, before)
    assert not np.array_equal(damaged, frames)


@pytest.mark.parametrize(("name", "grade"), CASES)
def test_the_same_generator_gives_the_same_damage(name: str, grade: int) -> None:
    assert np.array_equal(damage(name, grade, road(), seed=3), damage(name, grade, road(), seed=3))


@pytest.mark.parametrize("name", ["noise", "jitter", "shuffle", "splice"])
def test_another_seed_gives_other_damage(name: str) -> None:
    assert not np.array_equal(damage(name, 3, road(), seed=3), damage(name, 3, road(), seed=4))


@pytest.mark.parametrize("name", [name for name in GRADED if name not in ("timelapse", "splice")])
def test_each_grade_is_further_from_the_clip(name: str) -> None:
    frames = road(speed=0.5)
    far = [np.mean([np.abs(damage(name, grade, frames, seed) - frames.astype(float)).mean() for seed in range(2)]) for grade in (1, 2, 3)]
    assert 0 < far[0] < far[1] < far[2]


def test_a_time_lapse_shows_every_kth_frame_and_says_what_it_needs() -> None:
    frames = road(31)
    assert np.array_equal(damage("timelapse", 1, frames), frames[::2])
    corruption = CORRUPTIONS["timelapse"]
    assert isinstance(corruption, OrderCorruption)
    assert [corruption.source_frames(16, grade) for grade in (1, 2, 3)] == [31, 46, 61]
    assert order_of("timelapse", 3).max() == 60


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "timelapse"])
def test_other_orders_need_no_more_frames_than_they_show(name: str) -> None:
    corruption = CORRUPTIONS[name]
    assert isinstance(corruption, OrderCorruption)
    for grade in range(1, len(corruption.grades) + 1):
        assert corruption.source_frames(16, grade) == 16
        assert order_of(name, grade).max() < 16 * corruption.clips


@given(frames=st.integers(1, 40), grade=st.integers(1, 3), seed=st.integers(0, 99))
@settings(deadline=None)
def test_shuffle_shows_every_frame_once_and_stays_in_its_group(frames: int, grade: int, seed: int) -> None:
    order = order_of("shuffle", grade, frames, seed)
    assert sorted(order) == list(range(frames))
    group = CORRUPTIONS["shuffle"].at(grade) or frames
    assert np.array_equal(order // group, np.arange(frames) // group)


def test_orders_by_hand() -> None:
    assert order_of("freeze", 2, 8).tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert order_of("freeze", 3, 8).tolist() == [0] * 8
    assert order_of("hold", 1, 6).tolist() == [0, 0, 2, 2, 4, 4]
    assert order_of("reversal", 1, 4).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("grade", [1, 2, 3])
def test_a_splice_has_its_number_of_cuts_and_keeps_time_going(grade: int) -> None:
    order = order_of("splice", grade)
    assert np.abs(np.diff(order // 16)).sum() == CORRUPTIONS["splice"].at(grade)
    assert np.array_equal(order % 16, np.arange(16))
    assert order[0] == 0


def test_jitter_moves_whole_pixels() -> None:
    frames = road(1).repeat(8, 0)
    for moved in damage("jitter", 1, frames):
        inner = moved[8:-8, 8:-8]
        shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        assert any(np.array_equal(inner, np.roll(frames[0], shift, (0, 1))[8:-8, 8:-8]) for shift in shifts)


def test_pixel_lengths_grow_with_the_picture() -> None:
    small, large = road(2, 64, 64), road(2, 128, 128)
    change = [np.abs(damage("blur", 3, frames) - frames.astype(float)).mean() for frames in (small, large)]
    assert change[1] > change[0]


def test_bad_input_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="no corruption named smear"):
        corrupt("smear", road(), 1, rng)
    with pytest.raises(UsageError, match="blur has grades 1 to 3, not 4"):
        corrupt("blur", road(), 4, rng)
    with pytest.raises(UsageError, match="reversal has grades 1 to 1, not 2"):
        corrupt("reversal", road(), 2, rng)
    with pytest.raises(UsageError, match=r"frames must be uint8 \(t, h, w, 3\), not float64"):
        corrupt("blur", road() / 255, 1, rng)
    with pytest.raises(UsageError, match="splice needs a second clip of type and shape uint8"):
        corrupt("splice", road(), 1, rng)
