"""A toy road and its traffic in numbers: what is where at every frame, and where it falls in the picture.

Lengths are metres, x to the right of the road's axis, z ahead of the camera, angles radians, left positive. This file knows geometry and
labels; it does not draw (``drawing``) and does not write (``synthetic``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivesim.labels import CATEGORIES, Boxes

__all__ = ["Actor", "Camera", "Road", "World", "box_of", "boxes_of_world", "draw_world"]

SIZES = {
    "car": (4.4, 1.85, 1.5),
    "truck": (9.0, 2.5, 3.4),
    "bus": (11.0, 2.55, 3.1),
    "motorcycle": (2.1, 0.8, 1.5),
    "bicycle": (1.8, 0.6, 1.6),
    "person": (0.4, 0.55, 1.75),
}
"""Category -> (length, width, height)."""
PAINTS = ((190, 30, 30), (30, 60, 160), (225, 225, 225), (40, 40, 45), (150, 150, 155), (200, 160, 40), (30, 110, 70), (120, 70, 40))
SIGHT, BEHIND, NEAR = 90.0, 12.0, 1.2


@dataclass(frozen=True)
class Camera:
    """A pinhole ``eye`` metres above the road that looks straight ahead: focal length, centre column and horizon row in pixels."""

    height: int
    width: int
    eye: float = 1.45

    @property
    def focal(self) -> float:
        return 0.62 * self.width

    @property
    def centre(self) -> float:
        return self.width / 2

    @property
    def horizon(self) -> float:
        return 0.46 * self.height

    def column(self, x: float, z: float) -> float:
        return self.centre + self.focal * x / z

    def row(self, above: float, z: float) -> float:
        return self.horizon + self.focal * (self.eye - above) / z


@dataclass(frozen=True)
class Road:
    """Lanes of one width: ``oncoming`` to the left of the axis, ``own`` to the right; the camera keeps to the own lane next to the axis."""

    own: int
    oncoming: int
    lane: float = 3.5

    @property
    def camera_x(self) -> float:
        return self.lane / 2

    @property
    def edges(self) -> tuple[float, float]:
        return -self.oncoming * self.lane, self.own * self.lane

    def lines(self) -> list[tuple[float, bool]]:
        """Painted lines: (x, dashed)."""
        left, right = self.edges
        inner = [(k * self.lane, k != 0) for k in range(1 - self.oncoming, self.own)]
        return [(left + 0.15, False), (right - 0.15, False), *inner]


@dataclass(frozen=True)
class Actor:
    """One road user over T frames: distance z of its near face, x in road coordinates, and its track number (new when it comes again)."""

    category: str
    paint: tuple[int, int, int]
    facing: int
    """1 = we see its back, -1 = it comes towards us."""
    z: np.ndarray
    x: np.ndarray
    number: np.ndarray


@dataclass(frozen=True)
class World:
    """Everything that happens in a clip of T frames; all arrays are (T,)."""

    road: Road
    night: bool
    seed: int
    fps: float
    speed: np.ndarray
    curvature: np.ndarray
    """1 / radius of the road ahead, left positive."""
    actors: tuple[Actor, ...]

    @property
    def yaw_rate(self) -> np.ndarray:
        return self.speed * self.curvature

    @property
    def travelled(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum((self.speed[1:] + self.speed[:-1]) / 2) / self.fps])

    @property
    def heading(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.yaw_rate[1:]) / self.fps])

    def sideways(self, frame: int, x: float, z: float) -> float:
        """Road coordinate x at distance z -> metres to the right of the camera's axis; the road bends away by z^2 / (2 radius)."""
        return float(x - self.road.camera_x - 0.5 * self.curvature[frame] * z * z)


def draw_world(rng: np.random.Generator, frames: int, fps: float, night: bool, vehicles: int) -> World:
    """A random road with ``vehicles`` road users on it (about; each may leave and come again)."""
    road = Road(own=int(rng.integers(1, 3)), oncoming=int(rng.integers(1, 3)))
    time = np.arange(frames) / fps
    base, swing = rng.uniform(6, 18), rng.uniform(0.5, 3.0)
    speed = base + swing * np.sin(rng.uniform(0.2, 0.5) * time + rng.uniform(0, 6.3))
    curvature = rng.uniform(0, 0.006) * np.sin(rng.uniform(0.1, 0.4) * time + rng.uniform(0, 6.3))
    world = World(road, night, int(rng.integers(2**31)), fps, speed, curvature, ())
    lanes = [(k + 0.5) * road.lane for k in range(-road.oncoming, road.own)]
    pace = {lane: float(rng.uniform(-4, 4) + base) if lane > 0 else float(-rng.uniform(7, 15)) for lane in lanes}
    actors = [_actor(rng, world, time, index, lanes, pace) for index in range(vehicles)]
    walkers = [_walker(rng, world, time, vehicles + index) for index in range(int(rng.integers(0, 3)))]
    return World(road, night, world.seed, fps, speed, curvature, tuple(actors + walkers))


def _actor(rng: np.random.Generator, world: World, time: np.ndarray, index: int, lanes: list[float], pace: dict[float, float]) -> Actor:
    lane = lanes[index % len(lanes)]
    category = str(rng.choice(CATEGORIES[:4], p=[0.7, 0.12, 0.1, 0.08]))
    slot = 10.0 + 18.0 * (index // len(lanes)) + rng.uniform(0, 5)
    if lane == world.road.camera_x:  # never run into from behind: it keeps its gap
        z = slot + 6 + 3.0 * np.sin(0.4 * time + rng.uniform(0, 6.3))
        laps = np.zeros(len(time), np.int64)
    else:
        z, laps = _laps(slot + pace[lane] * time - world.travelled)
    x = np.full(len(time), lane + rng.uniform(-0.3, 0.3))
    return Actor(category, PAINTS[rng.integers(len(PAINTS))], 1 if lane > 0 else -1, z, x, 1 + index + 64 * laps)


def _walker(rng: np.random.Generator, world: World, time: np.ndarray, index: int) -> Actor:
    side = int(rng.choice([-1, 1]))
    category = str(rng.choice(["person", "bicycle"]))
    pace = rng.uniform(0.8, 1.6) if category == "person" else rng.uniform(3, 5)
    z, laps = _laps(rng.uniform(15, 60) + side * pace * time - world.travelled)
    edge = world.road.edges[side > 0]
    return Actor(category, PAINTS[rng.integers(len(PAINTS))], side, z, np.full(len(time), edge + side * 1.2), 1 + index + 64 * laps)


def _laps(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who leaves the stretch of road around the camera comes in at its other end, as somebody else."""
    span = SIGHT + BEHIND
    laps = np.floor((z + BEHIND) / span).astype(np.int64)
    return z - laps * span, laps - laps.min()


def box_of(world: World, camera: Camera, actor: Actor, frame: int) -> tuple[float, float, float, float] | None:
    """The hull of the road user's eight corners in pixels, not clipped; None when it is behind the camera."""
    length, width, height = SIZES[actor.category]
    far = float(actor.z[frame]) + length
    if far <= NEAR + 0.3:
        return None
    near = max(float(actor.z[frame]), NEAR)
    corners = [
        (camera.column(world.sideways(frame, actor.x[frame] + side, z), z), camera.row(above, z))
        for z in (near, far)
        for side in (-width / 2, width / 2)
        for above in (0.0, height)
    ]
    columns, rows = zip(*corners, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


def boxes_of_world(world: World, camera: Camera, min_height: float = 6 / 128) -> tuple[Boxes, np.ndarray, np.ndarray]:
    """Exact boxes of every frame, with occlusion (share of a box covered by nearer boxes) and depth_m; both float32 (N,)."""
    rows = [row for frame in range(len(world.speed)) for row in _frame_boxes(world, camera, frame)]
    if not rows:
        return Boxes.empty(), np.zeros(0, np.float32), np.zeros(0, np.float32)
    frame, track, category, xyxy, occlusion, depth = (np.array(column) for column in zip(*rows, strict=True))
    xyxy = xyxy.astype(np.float32)
    ignore = (xyxy[:, 3] - xyxy[:, 1] < min_height) | (occlusion > 0.7)
    return Boxes(frame, track, category, xyxy, ignore), occlusion.astype(np.float32), depth.astype(np.float32)


def _frame_boxes(world: World, camera: Camera, frame: int) -> list[tuple]:
    """Nearest first, so that each box knows what stands before it."""
    covered = np.zeros((camera.height, camera.width), bool)
    rows = []
    for actor in sorted(world.actors, key=lambda actor: float(actor.z[frame])):
        box = box_of(world, camera, actor, frame)
        clipped = None if box is None else np.clip(np.array(box) / ([camera.width, camera.height] * 2), 0, 1)
        if clipped is None or (clipped[2] - clipped[0]) * camera.width < 1 or (clipped[3] - clipped[1]) * camera.height < 1:
            continue
        x1, y1, x2, y2 = np.round(clipped * ([camera.width, camera.height] * 2)).astype(int)
        seen = covered[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
        occlusion = float(seen.mean()) if seen.size else 0.0
        seen[:] = True
        number, category = int(actor.number[frame]), CATEGORIES.index(actor.category)
        rows.append((frame, number, category, clipped, occlusion, max(float(actor.z[frame]), 0.0)))
    return rows
