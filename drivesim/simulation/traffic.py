"""Traffic that nobody recorded: vehicles that follow, overtake, fall behind, cut in, brake, come towards, cross and park.

A straight road, seen by a pinhole camera above the own lane. Every vehicle is a manoeuvre in closed form, placed so that nobody drives
through anybody, until the picture holds as many vehicles on average as were asked for. What nearer vehicles hide by more than HIDDEN is not
in the tracks. This file does not know curves, networks, pictures or files.

    n instants of a grid of GRID_FPS frames a second; x metres to the right of the own lane's middle, z metres ahead of the camera
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drivesim.errors import UsageError
from drivesim.labels import MIN_VEHICLE_HEIGHT, BoxTrack, Scenario

__all__ = ["MANOEUVRES", "SIZES", "Ego", "Pinhole", "Vehicle", "make_traffic", "tracks_of", "visible"]

GRID_FPS = 7.5
SIGHT, BEHIND, NEAR = 110.0, 14.0, 1.5
"""Metres: how far ahead and behind there are vehicles, and what is nearer than a camera sees."""
LANE = 3.5
HIDDEN = 0.7
LEAST = 3 / 128
"""Height of a box below which a vehicle is not in the tracks, share of the picture's."""
GAP, BESIDE = 3.0, 0.4
"""Metres that vehicles keep from each other along and across the road."""
SIZES = {"car": (4.5, 1.85, 1.5), "truck": (8.5, 2.5, 3.2), "bus": (11.0, 2.55, 3.1), "motorcycle": (2.1, 0.8, 1.5)}
"""Category -> (length, width, height) in metres."""
SHARES = {"car": 0.82, "truck": 0.12, "bus": 0.03, "motorcycle": 0.03}
TRIES = 60
"""Vehicles that are proposed for each one that is wanted, at most."""


@dataclass(frozen=True)
class Pinhole:
    """A camera that looks straight ahead. focal: in widths of the picture.   horizon: share of its height.   eye: metres above the road.
    aspect: width over height. The defaults are those of the simulated clips that ``mini`` was trained on."""

    focal: float = 0.6725
    horizon: float = 0.4886
    eye: float = 1.35
    aspect: float = 2.0

    def column(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Share of the width."""
        return 0.5 + self.focal * x / z

    def row(self, above: np.ndarray | float, z: np.ndarray) -> np.ndarray:
        """Share of the height, from the top."""
        return self.horizon + self.focal * self.aspect * (self.eye - above) / z


@dataclass(frozen=True)
class Ego:
    """How the camera moves: time s, speed m/s and metres travelled, all (n,)."""

    time: np.ndarray
    speed: np.ndarray
    travelled: np.ndarray

    @classmethod
    def drawn(cls, random: np.random.Generator, duration_s: float, speed_mps: float | None = None) -> Ego:
        """``speed_mps`` all the time, or a speed that swings about one drawn from 6 to 18 m/s."""
        time = np.arange(int(np.ceil(duration_s * GRID_FPS)) + 1) / GRID_FPS
        base, swing, pace, phase = random.uniform(6, 18), random.uniform(0.5, 3), random.uniform(0.1, 0.35), random.uniform(0, 2 * np.pi)
        speed = base + swing * np.sin(pace * time + phase) if speed_mps is None else np.full(len(time), float(speed_mps))
        return cls(time, speed, np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2) / GRID_FPS]))

    def since(self, start_s: float) -> np.ndarray:
        """Metres travelled since a time, which may lie before the beginning (at the first speed); (n,)."""
        return self.travelled - (np.interp(start_s, self.time, self.travelled) + min(start_s, 0.0) * self.speed[0])


@dataclass(frozen=True)
class Vehicle:
    """One vehicle at every instant: z of its near end, x of its middle (n,), where it is there at all (bool, n).

    across: it stands across the road, so that its length is seen.
    """

    category: str
    z: np.ndarray
    x: np.ndarray
    there: np.ndarray
    across: bool = False

    @property
    def ground(self) -> tuple[float, float]:
        """(along z, along x) in metres."""
        length, width, _ = SIZES[self.category]
        return (width, length) if self.across else (length, width)

    def boxes(self, camera: Pinhole) -> tuple[np.ndarray, np.ndarray]:
        """(in the picture bool (n,), xyxy (n, 4) in shares of it, clipped): the hull of the eight corners."""
        deep, wide = self.ground
        near, far = np.maximum(self.z, NEAR), np.maximum(self.z + deep, NEAR)
        sides = [camera.column(self.x + side, z) for z in (near, far) for side in (-wide / 2, wide / 2)]
        rows = [camera.row(above, z) for z in (near, far) for above in (0.0, SIZES[self.category][2])]
        xyxy = np.stack([np.min(sides, axis=0), np.min(rows, axis=0), np.max(sides, axis=0), np.max(rows, axis=0)], axis=1)
        clipped = np.clip(xyxy, 0.0, 1.0)
        seen = self.there & (self.z + deep > NEAR + 0.5) & (clipped[:, 2] - clipped[:, 0] > 1e-3)
        return seen & (clipped[:, 3] - clipped[:, 1] >= LEAST), clipped.astype(np.float32)


# manoeuvres: (random, ego, since when) -> z, x, and whether it is across the road

Motion = tuple[np.ndarray, np.ndarray, bool]


def _follow(random: np.random.Generator, ego: Ego, start_s: float, dip: float = 0.0) -> Motion:
    """Ahead in the own lane: comes into sight, keeps a gap that breathes, and drives away. dip: share of the gap that braking takes."""
    t, gap, stay = ego.time - start_s, random.uniform(9, 32), random.uniform(8, 40)
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
    """Slower than the own car, in a lane beside."""
    return SIGHT - random.uniform(2, 7) * (ego.time - start_s), _lane(random, ego, int(random.choice([-1, 1]))), False


def _cut_in(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Overtakes and changes into the own lane some metres ahead."""
    t, pace, side = ego.time - start_s, random.uniform(3, 6), random.choice([-1.0, 1.0])
    begin = (BEHIND + random.uniform(6, 12)) / pace
    return -BEHIND + pace * t, side * LANE * (1 - _smooth((t - begin) / random.uniform(2, 3.5))), False


def _oncoming(random: np.random.Generator, ego: Ego, start_s: float) -> Motion:
    """Comes towards the camera, one or two lanes to the left."""
    return SIGHT - ego.since(start_s) - random.uniform(6, 18) * (ego.time - start_s), _lane(random, ego, -int(random.integers(1, 3))), False


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
    return SIGHT - ego.since(start_s), np.full(len(ego.time), random.choice([-2.0, 1.0]) * LANE * random.uniform(1.35, 1.6)), False


MANOEUVRES: dict[str, tuple[float, Callable[[np.random.Generator, Ego, float], Motion]]] = {
    "follow": (0.2, _follow), "brake": (0.1, _brake), "overtake": (0.15, _overtake), "fall_behind": (0.15, _fall_behind),
    "cut_in": (0.1, _cut_in), "oncoming": (0.2, _oncoming), "cross": (0.03, _cross), "park": (0.07, _park),
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
        ego_speed_mps: None = drawn, and swinging.   manoeuvres: names of MANOEUVRES that may occur.

    Raises:
        UsageError: an unknown manoeuvre, or none.   LabelError: a label out of range, a duration that is none.
    """
    unknown = [one for one in manoeuvres if one not in MANOEUVRES]
    if unknown or not manoeuvres:
        raise UsageError(f"manoeuvres must be some of {', '.join(MANOEUVRES)}, not {', '.join(unknown) or 'none'}")
    random, camera = np.random.default_rng([seed, 0x7AF]), camera or Pinhole()
    asked = Scenario(duration_s, time_of_day, crowdedness, ego_speed_mps, 0.0, (), seed, name)
    ego = Ego.drawn(random, duration_s, ego_speed_mps)
    vehicles = _populated(random, ego, camera, crowdedness, manoeuvres)
    return Scenario(duration_s, time_of_day, asked.crowdedness, ego_speed_mps, 0.0, tracks_of(vehicles, camera, ego.time), seed, name,
                    {} if ego_speed_mps is not None else {"ego_speed_mps": (ego.time, ego.speed)})  # fmt: skip


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
    there = np.isfinite(z) & (z <= SIGHT) & (z >= -BEHIND - 1) & (np.abs(x) < 40)
    return Vehicle(category, np.where(np.isfinite(z), z, SIGHT), x, there, across)


def _meet(one: Vehicle, other: Vehicle) -> bool:
    """Would they touch at any instant, or keep less than GAP along and BESIDE across the road?"""
    (deep, wide), (deep_other, wide_other) = one.ground, other.ground
    along = np.maximum(one.z - other.z - deep_other, other.z - one.z - deep)
    beside = np.abs(one.x - other.x) - (wide + wide_other) / 2
    return bool((one.there & other.there & (along < GAP) & (beside < BESIDE)).any())


def visible(vehicles: Sequence[Vehicle], camera: Pinhole, cells: tuple[int, int] = (48, 96)) -> list[np.ndarray]:
    """Bool (n,) for each vehicle: in the picture, and hidden by nearer ones by no more than HIDDEN.

    cells: rows and columns of the grid on which areas are compared.
    """
    boxes = [vehicle.boxes(camera) for vehicle in vehicles]
    shown = [seen.copy() for seen, _ in boxes]
    for instant in np.flatnonzero(np.any([seen for seen, _ in boxes], axis=0)) if boxes else ():
        covered = np.zeros(cells, bool)
        there = [place for place, (seen, _) in enumerate(boxes) if seen[instant]]
        for place in sorted(there, key=lambda place: float(vehicles[place].z[instant])):
            x1, y1, x2, y2 = boxes[place][1][instant]
            rows = slice(int(y1 * cells[0]), max(int(np.ceil(y2 * cells[0])), int(y1 * cells[0]) + 1))
            columns = slice(int(x1 * cells[1]), max(int(np.ceil(x2 * cells[1])), int(x1 * cells[1]) + 1))
            shown[place][instant] = covered[rows, columns].mean() <= HIDDEN
            covered[rows, columns] = True
    return shown


def tracks_of(vehicles: Sequence[Vehicle], camera: Pinhole, time: np.ndarray) -> tuple[BoxTrack, ...]:
    """A track for every unbroken stretch in which a vehicle is visible at two instants or more; stretches of one vehicle share its id."""
    tracks = []
    for number, (vehicle, shown) in enumerate(zip(vehicles, visible(vehicles, camera), strict=True), start=1):
        _, xyxy = vehicle.boxes(camera)
        for stretch in np.split(np.flatnonzero(shown), np.flatnonzero(np.diff(np.flatnonzero(shown)) > 1) + 1):
            if len(stretch) >= 2:
                tracks.append(BoxTrack(number, vehicle.category, time[stretch], xyxy[stretch]))
    return tuple(tracks)
