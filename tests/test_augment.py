"""Pictures and labels change together: a box drawn into the picture is found where the changed label says it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.datasets.augment import PLAIN, Augment, View, centre_crop
from drivesim.errors import UsageError
from drivesim.labels import Boxes, LabelTrack

HEIGHT, WIDTH = 48, 96


def marked(x1: int, y1: int, x2: int, y2: int) -> tuple[np.ndarray, LabelTrack]:
    """One frame with a white rectangle, and the label that says so."""
    frames = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    frames[0, y1:y2, x1:x2] = 255
    xyxy = np.array([[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]], np.float32)
    zero = np.zeros(1, np.int64)
    track = LabelTrack.unknown(1, 7.5)
    values = {**track.values, "ego_yaw_rate_radps": np.array([0.2], np.float32), "crowdedness": np.array([3.0], np.float32)}
    boxes = Boxes(zero, zero, zero, xyxy, np.zeros(1, bool))
    return frames, replace(track, boxes=boxes, values=values, boxes_known=np.ones(1, bool))


@given(st.integers(0, 2**31), st.sampled_from([(HEIGHT, WIDTH), (24, 48), (32, 32), (20, 96)]))
@settings(max_examples=60, deadline=None)
def test_boxes_follow_the_picture(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    frames, track = marked(30, 18, 62, 36)
    view = Augment(mirror=0.5, crop=0.3).draw(rng)
    picture = view.picture(frames, *size)
    seen = view.labels(track, HEIGHT, WIDTH, *size)
    assert picture.shape == (1, *size, 3)
    if not len(seen.boxes):
        return
    rows, columns = np.nonzero(picture[0, :, :, 0] > 127)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    said = seen.boxes.xyxy[0] * [size[1], size[0], size[1], size[0]]
    np.testing.assert_allclose(found, said, atol=1.0)


def test_plain_view_changes_nothing() -> None:
    frames, track = marked(10, 10, 20, 20)
    assert PLAIN.picture(frames, HEIGHT, WIDTH) is frames or np.shares_memory(PLAIN.picture(frames, HEIGHT, WIDTH), frames)
    assert PLAIN.labels(track, HEIGHT, WIDTH, HEIGHT, WIDTH) is track
    assert Augment().draw(np.random.default_rng(0)) == PLAIN


def test_mirroring_turns_the_other_way() -> None:
    frames, track = marked(10, 10, 20, 20)
    view = View(mirrored=True)
    np.testing.assert_array_equal(view.picture(frames, HEIGHT, WIDTH), frames[:, :, ::-1])
    assert view.labels(track, HEIGHT, WIDTH, HEIGHT, WIDTH).values["ego_yaw_rate_radps"][0] == pytest.approx(-0.2)


def test_crowdedness_loses_who_is_cropped_away() -> None:
    _, track = marked(2, 10, 12, 30)
    right_half = View(crop=(0.5, 0.0, 1.0, 1.0))
    seen = right_half.labels(track, HEIGHT, WIDTH, HEIGHT, WIDTH)
    assert len(seen.boxes) == 0
    assert seen.values["crowdedness"].tolist() == [2.0]


def test_centre_crop_keeps_the_aspect() -> None:
    assert centre_crop(256, 512, 128, 256) == (0, 0, 512, 256)
    assert centre_crop(100, 100, 50, 100) == (0, 25, 100, 75)
    assert centre_crop(100, 400, 100, 200) == (100, 0, 300, 100)


def test_shrinking_averages_areas() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    means = frames.reshape(2, 16, 4, 32, 4, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(PLAIN.picture(frames, 16, 32), means, atol=0.5001)


def test_colour_is_a_gain_and_a_lift() -> None:
    frames = np.full((1, 4, 8, 3), 100, np.uint8)
    assert View(gain=(1.1, 1.0, 0.5), lift=5.0).picture(frames, 4, 8)[0, 0, 0].tolist() == [115, 105, 55]
    assert View(gain=(3.0, 3.0, 3.0)).picture(frames, 4, 8).max() == 255


def test_settings_do_not_shift_each_others_randomness() -> None:
    a, b = (Augment(0.5, crop, colour).draw(np.random.default_rng(4)) for crop, colour in ((0.0, 0.2), (0.3, 0.2)))
    assert a.mirrored == b.mirrored
    assert a.gain == b.gain


@pytest.mark.parametrize("bad", [{"mirror": 1.5}, {"crop": -0.1}, {"colour": 2}, {"speed": float("nan")}])
def test_augment_refuses(bad: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Augment(**bad)
