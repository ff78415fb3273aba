"""A recording's labels become a scenario and come back as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drivesim.labels import Boxes, LabelTrack
from drivesim.simulation.scenes.replay import replay

FPS = 7.5


def recorded(frames: int = 16) -> LabelTrack:
    """Two cars: one throughout, one that is hidden from frame 5 to 9."""
    seen = [(frame, 7) for frame in range(frames)] + [(frame, 9) for frame in range(frames) if not 5 <= frame < 10]
    frame, track_id = (np.array(column, np.int64) for column in zip(*sorted(seen), strict=True))
    left = (0.1 + 0.02 * frame + 0.3 * (track_id == 9)).astype(np.float32)
    xyxy = np.stack([left, np.full_like(left, 0.4), left + 0.2, np.full_like(left, 0.6)], axis=1)
    boxes = Boxes(frame, track_id, np.zeros(len(frame), np.int64), xyxy, np.zeros(len(frame), bool))
    blank = LabelTrack.unknown(frames, FPS)
    values = {**blank.values, "time_of_day": np.ones(frames, np.float32), "ego_speed_mps": np.linspace(3, 9, frames, dtype=np.float32)}
    return LabelTrack(FPS, values, boxes, np.ones(frames, bool))


def test_labels_come_back() -> None:
    labels = recorded()
    scenario = replay(labels, seed=3)
    again = scenario.label_track(len(labels), FPS)
    assert scenario.seed == 3 and scenario.time_of_day == "night"
    np.testing.assert_allclose(again.values["ego_speed_mps"], labels.values["ego_speed_mps"], rtol=1e-6)
    order, order_again = (np.lexsort((b.xyxy[:, 0], b.frame)) for b in (labels.boxes, again.boxes))
    np.testing.assert_array_equal(again.boxes.frame[order_again], labels.boxes.frame[order])
    np.testing.assert_allclose(again.boxes.xyxy[order_again], labels.boxes.xyxy[order], atol=1e-6)


def test_what_was_hidden_is_not_drawn_in_between() -> None:
    again = replay(recorded()).label_track(16, FPS)
    assert np.bincount(again.boxes.frame, minlength=16).tolist() == [2] * 5 + [1] * 5 + [2] * 6


def test_what_is_unknown_stays_unknown() -> None:
    labels = recorded()
    known = labels.boxes_known.copy()
    known[4] = False
    scenario = replay(replace(labels, boxes_known=known))
    assert scenario.tracks is None and scenario.crowdedness is None and scenario.ego_yaw_rate_radps is None
    assert "ego_yaw_rate_radps" not in scenario.profiles
