"""Labels: the registry's codes, boxes through crops and mirrors, tracks laid out over time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivesim.labels import CATEGORIES, LABELS, Boxes, BoxTrack, LabelError, LabelTrack, Scenario, boxes_of, count_vehicles


def boxes(*rows: tuple[int, str, float, float, float, float]) -> Boxes:
    """Boxes from (frame, category, x1, y1, x2, y2)."""
    return Boxes(
        np.array([row[0] for row in rows], np.int64),
        np.arange(len(rows)),
        np.array([CATEGORIES.index(row[1]) for row in rows], np.int64),
        np.array([row[2:] for row in rows], np.float32).reshape(-1, 4),
        np.zeros(len(rows), bool),
    )


corner = st.floats(0, 0.875, width=32)
box_rows = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(CATEGORIES), corner, corner).map(lambda r: (*r, r[2] + 0.1, r[3] + 0.1)), max_size=8
)


@pytest.mark.parametrize("label", LABELS.values(), ids=str)
def test_every_label_decodes_what_it_encoded(label) -> None:
    for value in (*label.values, None) if label.values else (label.low, label.high, None):
        assert label.decode(label.encode(value)) == value


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("time_of_day", "dusk", "time_of_day must be one of day, night or null, not 'dusk'"),
        ("crowdedness", -1, "crowdedness must lie in 0..100 vehicles, not -1"),
        ("ego_speed_mps", "fast", "ego_speed_mps must be a number"),
        ("crowdedness", math.inf, "must lie in"),
    ],
)
def test_impossible_labels_are_named(name: str, value: object, says: str) -> None:
    with pytest.raises(LabelError, match=says):
        LABELS[name].encode(value)  # type: ignore[arg-type]


@given(box_rows)
def test_mirroring_twice_changes_nothing(rows: list) -> None:
    before = boxes(*rows)
    assert np.allclose(before.mirrored().mirrored().xyxy, before.xyxy, atol=1e-6)
    assert (before.mirrored().xyxy[:, 0] < before.mirrored().xyxy[:, 2]).all()


@given(box_rows)
def test_cropping_to_the_whole_picture_changes_nothing(rows: list) -> None:
    assert np.allclose(boxes(*rows).cropped(0, 0, 1, 1).xyxy, boxes(*rows).xyxy, atol=1e-6)


def test_cropping_rescales_clips_and_drops_what_is_mostly_outside() -> None:
    rows = boxes((0, "car", 0.5, 0.5, 0.75, 0.75), (0, "car", 0.0, 0.5, 0.3, 0.75), (0, "car", 0.2, 0.5, 0.4, 0.75))
    seen = rows.cropped(0.25, 0.0, 1.25, 1.0)
    assert np.allclose(seen.xyxy, [[0.25, 0.5, 0.5, 0.75], [0.0, 0.5, 0.15, 0.75]])


def test_padding_keeps_the_largest_and_paints_the_nearest_last() -> None:
    rows = boxes((0, "car", 0, 0, 0.1, 0.1), (0, "bus", 0, 0, 0.5, 0.9), (0, "truck", 0, 0, 0.9, 0.8), (2, "person", 0, 0, 0.1, 0.2))
    table = rows.padded(frames=3, limit=2)
    assert table[0, :, 0].tolist() == [CATEGORIES.index("truck"), CATEGORIES.index("bus")]
    assert (table[1, :, 0] == -1).all()
    assert table[2, :, 0].tolist() == [CATEGORIES.index("person"), -1]


def test_crowdedness_counts_tall_vehicles_only() -> None:
    sized = ((0, "car", 0.031), (0, "person", 0.5), (0, "bus", 0.029), (2, "motorcycle", 0.2))
    rows = boxes(*((frame, category, 0, 0, 0.1, height) for frame, category, height in sized))
    assert count_vehicles(rows, 4).tolist() == [1, 0, 1, 0]


def test_a_track_lost_for_longer_is_two() -> None:
    rows = boxes(*((frame, "car", 0, 0, 0.1, 0.1) for frame in (7, 0, 1, 1, 3, 0)))
    rows = replace(rows, track_id=np.array([5, 5, 5, 5, 5, 2]))
    assert [(part.track_id[0], part.frame.tolist()) for part in rows.unbroken(2)] == [(2, [0]), (5, [0, 1, 3]), (5, [7])]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), box_rows)
def test_taking_frames_takes_their_boxes(frames: list[int], rows: list) -> None:
    track = LabelTrack(10.0, {name: np.arange(5, dtype=np.float32) for name in LABELS}, boxes(*rows), np.ones(5, bool))
    taken = track.take(frames, 5.0)
    assert taken.values["crowdedness"].tolist() == frames
    for new, old in enumerate(frames):
        assert (taken.boxes.frame == new).sum() == sum(row[0] == old for row in rows)


def test_mirrored_track_turns_the_other_way() -> None:
    track = LabelTrack.unknown(2, 7.5)
    track.values["ego_yaw_rate_radps"][:] = [0.2, np.nan]
    mirrored = track.mirrored().values["ego_yaw_rate_radps"]
    assert mirrored[0] == np.float32(-0.2)
    assert np.isnan(mirrored[1])


def test_arrays_hold_every_label_and_the_rate() -> None:
    arrays = LabelTrack.unknown(3, 7.5).arrays(max_boxes=4)
    assert set(arrays) == {*LABELS, "fps", "boxes", "boxes_known"}
    assert arrays["boxes"].shape == (3, 4, 6)
    assert arrays["fps"].tolist() == [7.5] * 3
    assert not arrays["boxes_known"].any()


def test_tracks_move_linearly_and_are_absent_outside_their_life() -> None:
    track = BoxTrack(1, "car", np.array([1.0, 2.0]), np.array([[0, 0, 0.2, 0.2], [0.4, 0, 0.6, 0.2]], np.float32))
    present, xyxy = track.at(np.array([0.5, 1.0, 1.5, 2.0, 2.1]))
    assert present.tolist() == [False, True, True, True, False]
    assert np.allclose(xyxy[2], [0.2, 0, 0.4, 0.2])


def test_boxes_of_tracks_are_clipped_to_the_picture_and_sorted_by_frame() -> None:
    leaving = BoxTrack(1, "car", np.array([0.0, 1.0]), np.array([[0.9, 0.4, 1.1, 0.6], [1.9, 0.4, 2.1, 0.6]], np.float32))
    tiny = BoxTrack(2, "bus", np.array([0.0, 1.0]), np.array([[0.1, 0.5, 0.2, 0.52]] * 2, np.float32))
    rows = boxes_of((leaving, tiny), np.array([0.0, 1.0]))
    assert rows.frame.tolist() == [0, 0, 1]
    assert rows.ignore.tolist() == [False, True, True]
    assert rows.xyxy.max() <= 1


def test_a_scenario_with_tracks_counts_its_own_vehicles() -> None:
    track = BoxTrack(1, "car", np.array([0.0, 1.0]), np.array([[0.1, 0.4, 0.3, 0.6]] * 2, np.float32))
    labels = Scenario(2.0, time_of_day="night", crowdedness=9, tracks=(track,)).label_track(frames=4, fps=2)
    assert labels.values["crowdedness"].tolist() == [1, 1, 1, 0]
    assert labels.values["time_of_day"].tolist() == [1] * 4
    assert labels.boxes_known.all()


def test_a_scenario_without_tracks_knows_no_boxes() -> None:
    labels = Scenario(1.0, crowdedness=9).label_track(frames=2, fps=2)
    assert not labels.boxes_known.any()
    assert labels.values["crowdedness"].tolist() == [9, 9]


@pytest.mark.parametrize("duration", [0, -1, math.nan, math.inf])
def test_a_scenario_needs_a_duration(duration: float) -> None:
    with pytest.raises(LabelError, match="duration must be a positive number"):
        Scenario(duration)
