"""What traffic is made of: a pinhole camera above the own lane, how the camera's car moves, vehicles, and who hides whom.

The road is flat and bends as a whole: x and z are measured along it, and a bend shifts what is seen at a distance to the side. This file
does not know manoeuvres, how many vehicles there are, networks, pictures or files.

    n instants of a grid of GRID_FPS frames a second; x metres to the right of the own lane's middle, z metres ahead of the camera
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BEHIND", "GRID_FPS", "LANE", "SIGHT", "SIZES", "Ego", "Pinhole", "Vehicle", "drawn_size", "visible"]

GRID_FPS = 7.5
SIGHT, BEHIND, NEAR = 95.0, 14.0, 1.5
"""Metres: how far ahead and behind there are vehicles, and what is nearer than a camera sees."""
LANE = 3.5
HIDDEN, CUT_OFF = 0.7, 0.7
"""Shares of a vehicle that nearer ones may hide, and that may lie outside the picture, before it counts as not seen."""
LEAST = 3 / 128
"""Height of a box below which a vehicle is not in the tracks, share of the picture's."""
SIZES = {"car": (4.5, 1.85, 1.5), "truck": (8.5, 2.5, 3.1), "bus": (11.0, 2.55, 3.1), "motorcycle": (2.1, 0.8, 1.5)}
"""Category -> (length, width, height) in metres."""
CARS = ((0.45, (4.5, 1.85, 1.47)), (0.15, (4.6, 1.9, 1.65)), (0.2, (4.8, 2.0, 1.85)), (0.2, (5.2, 2.05, 2.02)))
"""How often cars are of a kind, from saloons to pick-ups, and its size."""


@dataclass(frozen=True)
class Pinhole:
    """A camera that looks straight ahead. focal: in widths of the picture.   horizon: share of its height.   eye: metres above the road.
    aspect: width over height.   bend: of the road, 1 / m, right positive, a number or (n,). The defaults are those of one of the simulated
    clips that ``mini`` was trained on."""

    focal: float = 0.6725
    horizon: float = 0.4886
    eye: float = 1.35
    aspect: float = 2.0
    bend: float | np.ndarray = 0.0

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Pinhole:
        """A camera as those of the simulated clips were: its lens, its height and how far it looks up or down."""
        focal, pitch = random.uniform(0.655, 0.78), np.radians(random.uniform(-3.3, 0.5))
        return cls(float(focal), float(0.5 + np.tan(pitch) * focal * cls.aspect), float(random.uniform(1.3, 1.65)))

    def column(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Share of the width."""
        return 0.5 + self.focal * (x / z + self.bend * z / 2)

    def row(self, above: np.ndarray | float, z: np.ndarray) -> np.ndarray:
        """Share of the height, from the top."""
        return self.horizon + self.focal * self.aspect * (self.eye - above) / z


@dataclass(frozen=True)
class Ego:
    """How the camera moves: time s, speed m/s, metres travelled, and the road's bend where it is (1 / m, right positive), all (n,)."""

    time: np.ndarray
    speed: np.ndarray
    travelled: np.ndarray
    bend: np.ndarray

    @classmethod
    def drawn(cls, random: np.random.Generator, duration_s: float, speed_mps: float | None = None) -> Ego:
        """``speed_mps`` all the time, or a speed that swings about one of 1.5 to 17 m/s, low ones more often. Bends come and go."""
        time = np.arange(int(np.ceil(duration_s * GRID_FPS)) + 1) / GRID_FPS
        base, pace, phase = random.triangular(1.5, 3.5, 17), random.uniform(0.1, 0.35), random.uniform(0, 2 * np.pi)
        swing = min(random.uniform(0.5, 3), 0.5 * base)
        speed = base + swing * np.sin(pace * time + phase) if speed_mps is None else np.full(len(time), float(speed_mps))
        travelled = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2) / GRID_FPS])
        return cls(time, speed, travelled, _bends(random, time))

    @property
    def yaw_rate(self) -> np.ndarray:
        """rad/s, left positive, (n,)."""
        return -self.speed * self.bend

    def since(self, start_s: float) -> np.ndarray:
        """Metres travelled since a time, which may lie before the beginning (at the first speed); (n,)."""
        return self.travelled - (np.interp(start_s, self.time, self.travelled) + min(start_s, 0.0) * self.speed[0])


@dataclass(frozen=True)
class Vehicle:
    """One vehicle at every instant: z of its near end, x of its middle (n,), where it is there at all (bool, n).

    across: it stands across the road, so that its length is seen.   own_size: (length, width, height) in metres, None = its category's.
    """

    category: str
    z: np.ndarray
    x: np.ndarray
    there: np.ndarray
    across: bool = False
    own_size: tuple[float, float, float] | None = None

    @property
    def size(self) -> tuple[float, float, float]:
        """(length, width, height) in metres."""
        return self.own_size or SIZES[self.category]

    @property
    def ground(self) -> tuple[float, float]:
        """(along z, along x) in metres."""
        length, width, _ = self.size
        return (width, length) if self.across else (length, width)

    def boxes(self, camera: Pinhole) -> tuple[np.ndarray, np.ndarray]:
        """(in the picture bool (n,), xyxy (n, 4) in shares of it, clipped): the hull of the eight corners.

        What lies outside by more than CUT_OFF is not in the picture.
        """
        deep, wide = self.ground
        near, far = np.maximum(self.z, NEAR), np.maximum(self.z + deep, NEAR)
        sides = [camera.column(self.x + side, z) for z in (near, far) for side in (-wide / 2, wide / 2)]
        rows = [camera.row(above, z) for z in (near, far) for above in (0.0, self.size[2])]
        xyxy = np.stack([np.min(sides, axis=0), np.min(rows, axis=0), np.max(sides, axis=0), np.max(rows, axis=0)], axis=1)
        clipped = np.clip(xyxy, 0.0, 1.0)
        seen = self.there & (self.z + deep > NEAR + 0.5) & (clipped[:, 2] - clipped[:, 0] > 1e-3)
        seen &= _area(clipped) >= (1 - CUT_OFF) * _area(xyxy)
        return seen & (clipped[:, 3] - clipped[:, 1] >= LEAST), clipped.astype(np.float32)


def drawn_size(random: np.random.Generator, category: str) -> tuple[float, float, float]:
    """(length, width, height) in metres of one vehicle: cars are of several kinds, others of one, and all vary a little."""
    kind = SIZES[category]
    if category == "car":
        kind = CARS[int(random.choice(len(CARS), p=[share for share, _ in CARS]))][1]
    varied = [metres * random.uniform(0.97, 1.03) for metres in kind]
    return varied[0], varied[1], varied[2]


def _bends(random: np.random.Generator, time: np.ndarray, apart_s: float = 10.0) -> np.ndarray:
    """Bends along the way, one in ``apart_s`` seconds on average, most of them slight, and a hand that is never still; 1 / m, (n,)."""
    bend = 0.001 * np.sin(random.uniform(0.3, 0.9) * time + random.uniform(0, 2 * np.pi))
    for _ in range(random.poisson((time[-1] + 10) / apart_s)):
        middle, length = random.uniform(-5, time[-1] + 5), random.uniform(2, 5)
        bend += random.choice([-1.0, 1.0]) * 0.04 * random.uniform(0, 1) ** 2 * np.exp(-(((time - middle) / length) ** 2))
    return bend


def _area(xyxy: np.ndarray) -> np.ndarray:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])


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
