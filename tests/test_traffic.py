"""Made traffic: boxes follow from similar triangles, nobody drives through anybody, and as many vehicles are there as asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import UsageError
from drivesim.labels import LabelError, count_vehicles
from drivesim.simulation.scenes import traffic
from drivesim.simulation.scenes.traffic import MANOEUVRES, Ego, Pinhole, Vehicle, make_traffic, tracks_of, visible

CAMERA = Pinhole()


def parked(z: float, x: float = 0.0, category: str = "car", instants: int = 3) -> Vehicle:
    return Vehicle(category, np.full(instants, z), np.full(instants, x), np.ones(instants, bool))


def test_a_box_follows_from_similar_triangles() -> None:
    length, width, height = traffic.SIZES["car"]
    seen, xyxy = parked(20.0).boxes(CAMERA)
    assert seen.all()
    wide, high = CAMERA.focal * width / 20, CAMERA.focal * CAMERA.aspect * height / 20
    assert xyxy[0, 2] - xyxy[0, 0] == pytest.approx(wide, abs=1e-6) and xyxy[0, 0] + xyxy[0, 2] == pytest.approx(1.0, abs=1e-6)
    top = min(CAMERA.horizon + CAMERA.focal * CAMERA.aspect * (CAMERA.eye - height) / z for z in (20.0, 20.0 + length))
    assert xyxy[0, 1] == pytest.approx(top, abs=1e-6) and xyxy[0, 3] - xyxy[0, 1] == pytest.approx(high, rel=0.01)


def test_twice_as_far_is_half_as_large_and_what_is_behind_is_not_seen() -> None:
    near, far = (parked(z).boxes(CAMERA)[1][0] for z in (20.0, 40.0))
    assert near[2] - near[0] == pytest.approx(2 * (far[2] - far[0]), rel=1e-5)
    assert not parked(-8.0).boxes(CAMERA)[0].any() and not parked(20.0, x=60.0).boxes(CAMERA)[0].any()
    assert not replace(parked(20.0), there=np.zeros(3, bool)).boxes(CAMERA)[0].any()


def test_a_vehicle_across_the_road_shows_its_length() -> None:
    along, across = (replace(parked(25.0, category="truck"), across=flag).boxes(CAMERA)[1][0] for flag in (False, True))
    assert (across[2] - across[0]) / (along[2] - along[0]) == pytest.approx(8.5 / 2.5, rel=0.1)


def test_what_nearer_vehicles_hide_is_not_in_the_tracks() -> None:
    behind = Vehicle("car", np.full(4, 30.0), np.array([0.0, 0.0, 12.0, 12.0]), np.ones(4, bool))
    vehicles = [parked(9.0, category="truck", instants=4), behind]
    assert [shown.tolist() for shown in visible(vehicles, CAMERA)] == [[True] * 4, [False, False, True, True]]
    truck, car = tracks_of(vehicles, CAMERA, np.arange(4) / 7.5)
    assert (truck.track_id, truck.category, len(truck.timestamp_s)) == (1, "truck", 4)
    assert (car.track_id, len(car.timestamp_s)) == (2, 2) and car.timestamp_s[0] == pytest.approx(2 / 7.5)
    assert visible([], CAMERA) == [] and tracks_of([], CAMERA, np.arange(4.0)) == ()


def test_a_vehicle_that_is_hidden_for_a_while_keeps_its_id() -> None:
    passing = Vehicle("car", np.full(6, 30.0), np.array([12.0, 12.0, 0.0, 0.0, -12.0, -12.0]), np.ones(6, bool))
    tracks = tracks_of([parked(9.0, category="truck", instants=6), passing], CAMERA, np.arange(6) / 7.5)
    assert [track.track_id for track in tracks] == [1, 2, 2]


@pytest.mark.parametrize("name", MANOEUVRES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_manoeuvre_moves_as_a_car_does(name: str, seed: int) -> None:
    """No jump along the road faster than two cars that meet, none across faster than one that crosses; seen by others as by the camera."""
    random = np.random.default_rng(seed)
    ego = Ego.drawn(random, 60.0)
    z, x, across = MANOEUVRES[name][1](random, ego, 5.0)
    there = np.isfinite(z) & (np.abs(z) <= traffic.SIGHT)
    assert there.any() and len(z) == len(x) == len(ego.time) and across == (name == "cross")
    pace = np.abs(np.diff(z))[there[1:] & there[:-1]] * traffic.GRID_FPS
    assert pace.max() < 45 and np.abs(np.diff(x)).max() * traffic.GRID_FPS < 13


def test_who_cuts_in_ends_in_the_own_lane_and_who_brakes_comes_nearer() -> None:
    random = np.random.default_rng(0)
    ego = Ego.drawn(random, 60.0, 10.0)
    z, x, _ = MANOEUVRES["cut_in"][1](random, ego, 0.0)
    assert abs(x[0]) == pytest.approx(traffic.LANE) and x[z > 60][-1] == 0 and z[np.flatnonzero(np.abs(x) < 1)[0]] > traffic.GAP
    same = np.random.default_rng(3)
    same.uniform(0.35, 0.5)  # how hard it brakes, which is drawn first
    braking, steady = MANOEUVRES["brake"][1](np.random.default_rng(3), ego, 0.0)[0], MANOEUVRES["follow"][1](same, ego, 0.0)[0]
    assert 0.5 <= np.nanmin(braking / steady) <= 0.65


def test_distance_is_the_integral_of_speed() -> None:
    ego = Ego.drawn(np.random.default_rng(0), 10.0, 12.0)
    assert ego.travelled[-1] == pytest.approx(12 * ego.time[-1]) and ego.since(4.0)[-1] == pytest.approx(12 * (ego.time[-1] - 4))
    assert ego.since(-2.0)[0] == pytest.approx(24)


@pytest.mark.parametrize("crowdedness", [0.0, 2.0, 6.0])
def test_as_many_vehicles_as_asked_for(crowdedness: float) -> None:
    found = []
    for seed in range(3):
        scenario = make_traffic(20.0, crowdedness=crowdedness, seed=seed)
        labels = scenario.label_track(150, 7.5)
        found.append(float(count_vehicles(labels.boxes, 150).mean()))
        assert scenario.crowdedness == crowdedness and labels.boxes_known.all()
    assert np.mean(found) == pytest.approx(crowdedness, abs=0.6 + 0.1 * crowdedness)


def test_nobody_drives_through_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Vehicle] = []
    monkeypatch.setattr(traffic, "tracks_of", lambda vehicles, *_: kept.extend(vehicles) or ())
    make_traffic(15.0, crowdedness=6.0, seed=4)
    assert len(kept) > 5
    for one, other in combinations(kept, 2):
        both = one.there & other.there
        along = (one.z < other.z + other.ground[0]) & (other.z < one.z + one.ground[0])
        beside = np.abs(one.x - other.x) < (one.ground[1] + other.ground[1]) / 2
        assert not (both & along & beside).any()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), duration=st.floats(0.5, 6.0), crowdedness=st.floats(0, 6))
def test_tracks_are_what_scenarios_take(seed: int, duration: float, crowdedness: float) -> None:
    scenario = make_traffic(duration, crowdedness=crowdedness, seed=seed)
    assert scenario.tracks is not None
    for track in scenario.tracks:
        assert (np.diff(track.timestamp_s) > 0).all() and track.xyxy.shape == (len(track.timestamp_s), 4)
        assert (track.xyxy >= 0).all() and (track.xyxy <= 1).all() and (track.xyxy[:, :2] < track.xyxy[:, 2:]).all()
    same = make_traffic(duration, crowdedness=crowdedness, seed=seed)
    assert same.tracks is not None and len(same.tracks) == len(scenario.tracks)
    assert all(np.array_equal(a.xyxy, b.xyxy) for a, b in zip(scenario.tracks, same.tracks, strict=True))


def test_a_given_speed_is_kept_and_a_drawn_one_is_told() -> None:
    held, free = make_traffic(5.0, ego_speed_mps=7.0), make_traffic(5.0)
    assert "ego_speed_mps" not in held.profiles and held.ego_speed_mps == 7.0
    assert free.profiles["ego_speed_mps"][1].min() > 0


def test_a_bend_moves_what_is_far_and_is_told_as_a_turn() -> None:
    bent = replace(CAMERA, bend=0.01)
    for z in (20.0, 40.0):
        (straight, turned) = (parked(z).boxes(camera)[1][0] for camera in (CAMERA, bent))
        assert turned[0] - straight[0] == pytest.approx(CAMERA.focal * 0.01 * z / 2, abs=1e-6) and turned[1] == straight[1]
    ego = Ego.drawn(np.random.default_rng(0), 10.0, 12.0)
    assert ego.yaw_rate == pytest.approx(-12.0 * ego.bend), "a road that bends to the right is a turn to the right, which is negative"


def test_what_lies_mostly_outside_the_picture_is_not_seen() -> None:
    length, width, _ = traffic.SIZES["car"]
    found = []
    for x in np.linspace(13, 19, 25):
        left, right = 0.5 + CAMERA.focal * (x - width / 2) / (20 + length), 0.5 + CAMERA.focal * (x + width / 2) / 20
        found.append((1 - left) / (right - left) >= 0.3)
        assert parked(20.0, x=x).boxes(CAMERA)[0].all() == found[-1]
    assert found[0] and not found[-1]


def test_only_manoeuvres_that_there_are() -> None:
    with pytest.raises(UsageError, match="not fly"):
        make_traffic(5.0, manoeuvres=["follow", "fly"])
    with pytest.raises(UsageError, match="not none"):
        make_traffic(5.0, manoeuvres=[])
    with pytest.raises(LabelError):
        make_traffic(-1.0)
    with pytest.raises(LabelError):
        make_traffic(5.0, crowdedness=-2.0)
