"""Traffic that nobody recorded: vehicles that follow, overtake, fall behind, cut in, brake, come towards, cross and park.

A road that bends as a whole is seen by a pinhole camera above the own lane (road.py). Every vehicle is a manoeuvre in closed form, placed
so that nobody drives through anybody, until the picture holds as many vehicles on average as were asked for. What nearer vehicles hide by
more than road.HIDDEN is not in the tracks. Speeds, gaps, lanes and how often each manoeuvre is proposed are set so that the tracks are like
recorded ones (docs/scenarios.md). This file does not know cameras, networks, pictures or files.

    n instants of a grid of GRID_FPS frames a second; x metres to the right of the own lane's middle, z metres ahead of the camera
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from drivesim.errors import UsageError
from drivesim.labels import MIN_VEHICLE_HEIGHT, BoxTrack, Scenario
from drivesim.simulation.scenes.road import BEHIND, GRID_FPS, LANE, SIGHT, SIZES, Ego, Pinhole, Vehicle, drawn_size, visible

__all__ = ["GRID_FPS", "LANE", "MANOEUVRES", "SIGHT", "SIZES", "Ego", "Pinhole", "Vehicle", "make_traffic", "tracks_of", "visible"]

GAP, BESIDE = 3.0, 0.4
"""Metres that vehicles keep from each other along and across the road."""
SHARES = {"car": 0.75, "truck": 0.21, "bus": 0.02, "motorcycle": 0.02}
TRIES = 60
"""Vehicles that are proposed for each one that is wanted, at most."""

# manoeuvres: (random, ego, since when) -> z, x, and whether it is across the road

Motion = tuple[np.ndarray, np.ndarray, bool]


def _follow(random: np.random.Generator, ego: Ego, start_s: float, dip: float = 0.0) -> Motion:
    """Ahead in the own lane: comes into sight, keeps a gap that breathes, and drives away. dip: share of the gap that braking takes."""
    t, gap, stay = ego.time - start_s, random.uniform(18, 80), random.uniform(8, 40)
    coming, going = random.uniform(5, 9), random.uniform(6, 12)
    away = 1 - _smooth(t / coming) + _smooth((t - coming - stay) / going)
    breath = 1 + 0.1 * np.sin(random.uniform(0.2, 0.5) * t + random.uniform(0, 6.3))
    braking = 1 - dip * np.exp(-(((t - coming - stay / 2) / 1.6) ** 2))
    return np.where((t >= 0) & (away < 1), gap * breath * braking + (SIGHT - gap) * away, np.nan), np.zeros(len(t)), False


def _brake(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Follows, and brakes once so that the gap shrinks by a third to a half."""
    return _follow(random, ego, start_s, random.uniform(0.35, 0.5))


def _overtake(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """From behind in the lane to the left, and away."""
    return -BEHIND + random.uniform(2.5, 8) * (ego.time - start_s), _lane(random, ego, -1), False


def _fall_behind(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Slower than the own car, in one of the lanes beside."""
    return SIGHT - random.uniform(1, 6) * (ego.time - start_s), _lane(random, ego, int(random.choice([-3, -2, -1, 1]))), False


def _cut_in(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Overtakes and changes into the own lane some metres ahead."""
    t, pace, side = ego.time - start_s, random.uniform(3, 6), random.choice([-1.0, 1.0])
    begin = (BEHIND + random.uniform(6, 12)) / pace
    return -BEHIND + pace * t, side * LANE * (1 - _smooth((t - begin) / random.uniform(2, 3.5))), False


def _oncoming(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Comes towards the camera, one to four lanes to the left."""
    return SIGHT - ego.since(start_s) - random.uniform(6, 18) * (ego.time - start_s), _lane(random, ego, -int(random.integers(1, 5))), False


def _cross(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Crosses the road ahead; gone before the own car is there."""
    side, pace = random.choice([-1.0, 1.0]), random.uniform(6, 12)
    needed = 60 / pace
    begin, end = np.interp([start_s, start_s + needed], ego.time, ego.travelled)
    ahead = random.uniform(12, 30) + float(end - begin)
    t = ego.time - start_s
    return np.where((t >= 0) & (t <= needed), ahead - ego.since(start_s), np.nan), side * (30 - pace * t), True


def _park(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Stands beside the road."""
    return SIGHT - ego.since(start_s), np.full(len(ego.time), random.choice([-2.0, 1.0]) * LANE * random.uniform(1.35, 2.5)), False


MANOEUVRES: dict[str, tuple[float, Callable[[np.random.Generator, Ego, float], Motion]]] = {
    "follow": (0.22, _follow), "brake": (0.06, _brake), "overtake": (0.06, _overtake), "fall_behind": (0.26, _fall_behind),
    "cut_in": (0.05, _cut_in), "oncoming": (0.22, _oncoming), "cross": (0.03, _cross), "park": (0.1, _park),
}  # fmt: skip
"""Name -> (how often it is proposed, how it moves)."""


def _smooth(share: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    held = np.clip(share, 0.0, 1.0)
    return held * held * (3 - 2 * held)


def _lane(random: np.random.Generator, ego: Ego, lane: int) -> np.ndarray:
    return np.full(len(ego.time), lane * LANE + random.uniform(-0.25, 0.25))


def make_traffic(
    duration_s: float, *, crowdedness: float = 4.0, time_of_day: str | None = None, ego_speed_mps: float | None = None, seed: int = 0,
    manoeuvres: Sequence[str] = tuple(MANOEUVRES), camera: Pinhole | None = None, name: str = "traffic",
) -> Scenario:  # fmt: skip
    """A scenario of made traffic.

    Args:
        crowdedness: vehicles that count in a frame (``labels.count_vehicles``), on average; it is reached as closely as single vehicles
            and the room on the road allow.
        camera: None = one like those of the simulated clips. The road's bends are drawn in any case.
        ego_speed_mps: None = drawn, and swinging.   manoeuvres: names of MANOEUVRES that may occur.

    Raises:
        UsageError: an unknown manoeuvre, or none.   LabelError: a label out of range, a duration that is none.
    """
    unknown = [one for one in manoeuvres if one not in MANOEUVRES]
    if unknown or not manoeuvres:
        raise UsageError(f"manoeuvres must be some of {', '.join(MANOEUVRES)}, not {', '.join(unknown) or 'none'}")
    random = np.random.default_rng([seed, 0x7AF])
    asked = Scenario(duration_s, time_of_day, crowdedness, ego_speed_mps, None, (), seed, name)
    ego = Ego.drawn(random, duration_s, ego_speed_mps)
    camera = replace(camera or Pinhole.drawn(random), bend=ego.bend)
    vehicles = _populated(random, ego, camera, crowdedness, manoeuvres)
    profiles = {"ego_yaw_rate_radps": (ego.time, ego.yaw_rate)}
    profiles |= {"ego_speed_mps": (ego.time, ego.speed)} if ego_speed_mps is None else {}
    return replace(asked, tracks=tracks_of(vehicles, camera, ego.time), profiles=profiles)


def _populated(random: np.random.Generator, ego: Ego, camera: Pinhole, target: float, names: Sequence[str]) -> list[Vehicle]:
    """Vehicles, one after the other, while each brings the mean number in the picture nearer to ``target``."""
    vehicles: list[Vehicle] = []
    odds = np.array([MANOEUVRES[name][0] for name in names])
    count = 0.0
    for _ in range(int(TRIES * (1 + target * max(ego.time[-1] / 10, 1)))):
        vehicle = _proposed(random, ego, str(random.choice(list(names), p=odds / odds.sum())))
        seen, xyxy = vehicle.boxes(camera)
        brings = float((seen & (xyxy[:, 3] - xyxy[:, 1] >= MIN_VEHICLE_HEIGHT)).mean())
        if brings > 0 and abs(count + brings - target) < abs(count - target) and not any(_meet(vehicle, other) for other in vehicles):
            vehicles.append(vehicle)
            count += brings
            if count > target - 0.5:  # who hides whom takes long to find out, and matters only now
                count = _counted(vehicles, camera)
    return vehicles


def _counted(vehicles: Sequence[Vehicle], camera: Pinhole) -> float:
    """Vehicles that count, the hidden ones left out: mean over the instants."""
    heights = [xyxy[:, 3] - xyxy[:, 1] for xyxy in (vehicle.boxes(camera)[1] for vehicle in vehicles)]
    shown = visible(vehicles, camera)
    return float(sum((seen & (height >= MIN_VEHICLE_HEIGHT)).mean() for seen, height in zip(shown, heights, strict=True)))


def _proposed(random: np.random.Generator, ego: Ego, manoeuvre: str) -> Vehicle:
    """One vehicle that begins at some time, perhaps before the scenario does."""
    start = random.uniform(-30.0, ego.time[-1])
    z, x, across = MANOEUVRES[manoeuvre][1](random, ego, start)
    category = str(random.choice(list(SHARES), p=list(SHARES.values())))
    size = drawn_size(random, category)
    there = np.isfinite(z) & (z <= SIGHT) & (z >= -BEHIND - 1) & (np.abs(x) < 40)
    return Vehicle(category, np.where(np.isfinite(z), z, SIGHT), x, there, across, size)


def _meet(one: Vehicle, other: Vehicle) -> bool:
    """Would they touch at any instant, or keep less than GAP along and BESIDE across the road?"""
    (deep, wide), (deep_other, wide_other) = one.ground, other.ground
    along = np.maximum(one.z - other.z - deep_other, other.z - one.z - deep)
    beside = np.abs(one.x - other.x) - (wide + wide_other) / 2
    return bool((one.there & other.there & (along < GAP) & (beside < BESIDE)).any())


def tracks_of(vehicles: Sequence[Vehicle], camera: Pinhole, time: np.ndarray) -> tuple[BoxTrack, ...]:
    """A track for every unbroken stretch in which a vehicle is visible at two instants or more; stretches of one vehicle share its id."""
    tracks = []
    for number, (vehicle, shown) in enumerate(zip(vehicles, visible(vehicles, camera), strict=True), start=1):
        _, xyxy = vehicle.boxes(camera)
        for stretch in np.split(np.flatnonzero(shown), np.flatnonzero(np.diff(np.flatnonzero(shown)) > 1) + 1):
            if len(stretch) >= 2:
                tracks.append(BoxTrack(number, vehicle.category, time[stretch], xyxy[stretch]))
    return tuple(tracks)
