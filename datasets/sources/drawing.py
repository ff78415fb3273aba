"""Draws the toy road world: sky, hills, ground, lane lines, roadside, road users, lights; numpy for the ground, OpenCV for shapes.

Pictures are drawn at twice the size and area-averaged. This file knows the geometry of ``road``; it does not know files or labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from .road import NEAR, SIGHT, SIZES, Actor, Camera, World

__all__ = ["Painter"]

SPACING = 7.0
"""Metres between roadside objects."""
DASH, PERIOD = 3.0, 9.0


@dataclass
class Painter:
    """Draws the frames of one world at ``height`` x ``width``."""

    world: World
    height: int
    width: int
    camera: Camera = field(init=False)

    def __post_init__(self) -> None:
        self.camera = camera = Camera(2 * self.height, 2 * self.width)
        rng = np.random.default_rng(self.world.seed)
        rows = np.arange(int(np.ceil(camera.horizon)) + 1, camera.height)
        self._z = (camera.focal * camera.eye / (rows + 0.5 - camera.horizon)).astype(np.float32)[:, None]
        self._x = (np.arange(camera.width) + 0.5 - camera.centre).astype(np.float32) * self._z / camera.focal
        self._texture = rng.normal(0, 1, (256, 256)).astype(np.float32)
        self._roadside = rng.uniform(0, 1, (61, 4))
        self._hills = _hills(rng, 4096, camera.height)
        self._sky = _sky(rng, camera, self.world.night)
        self._beam = self._light_on_ground()

    def frame(self, index: int) -> np.ndarray:
        """uint8 (height, width, 3) RGB."""
        canvas: np.ndarray = np.empty((self.camera.height, self.camera.width, 3), np.uint8)
        top = self.camera.height - len(self._z)
        canvas[:top] = self._background(index, top)
        canvas[top:] = self._ground(index)
        glow = np.zeros_like(canvas)
        for _, draw, thing in sorted(self._things(index), key=lambda item: -item[0]):
            draw(canvas, glow, index, thing)
        if self.world.night:
            blurred = cv2.GaussianBlur(glow, (0, 0), self.camera.width / 110)
            canvas = cv2.add(cv2.add(canvas, glow), blurred)
        return cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def _light(self, z: float, x: float) -> float:
        """What reaches a surface at (x, z): daylight, or ambient light and the head lights' cone."""
        if not self.world.night:
            return 1.0
        return float(0.10 + 0.75 * np.exp(-((x / (1.5 + 0.16 * z)) ** 2)) * np.exp(-z / 28.0))

    def _light_on_ground(self) -> np.ndarray | float:
        if not self.world.night:
            return 1.0
        cone = np.exp(-((self._x / (1.5 + 0.16 * self._z)) ** 2)) * np.exp(-self._z / 28.0)
        return (0.10 + 0.75 * cone)[..., None].astype(np.float32)

    def _background(self, index: int, top: int) -> np.ndarray:
        """Sky with a row of hills that turns with the heading."""
        shift = int(-self.world.heading[index] * self.camera.focal)
        outline = self._hills[(np.arange(self.camera.width) + shift) % len(self._hills)]
        rows = np.arange(top)[:, None]
        hill = (20, 22, 26) if self.world.night else (96, 118, 112)
        return np.where((rows > self.camera.horizon - outline)[..., None], np.array(hill, np.uint8), self._sky[:top])

    def _ground(self, index: int) -> np.ndarray:
        world, z = self.world, self._z
        along = z + np.float32(world.travelled[index])
        x = self._x + np.float32(world.road.camera_x) + np.float32(0.5 * world.curvature[index]) * z * z
        rough = self._texture[(along * 3).astype(np.int64) & 255, (x * 3).astype(np.int64) & 255] / (1 + 0.12 * z)
        left, right = world.road.edges
        on_road = _soft((right - left) / 2 - np.abs(x - (left + right) / 2), z / self.camera.focal)[..., None]
        asphalt = (92 + 7 * rough)[..., None] * np.array([1, 1, 1.03], np.float32)
        grass = (84 + 16 * rough)[..., None] * np.array([0.85, 1.05, 0.6], np.float32)
        paint = self._paint(x, along)[..., None]
        colour = (grass + (asphalt - grass) * on_road) * (1 - paint) + 225 * paint
        return np.clip(colour * self._beam, 0, 255).astype(np.uint8)

    def _paint(self, x: np.ndarray, along: np.ndarray) -> np.ndarray:
        """How much of each pixel is lane line, 0..1. Dashes fade to their mean where a pixel is longer than they are."""
        wide, long = self._z / self.camera.focal, self._z**2 / (self.camera.focal * self.camera.eye)
        dashes = _soft(DASH / 2 - np.abs((along % PERIOD) - PERIOD / 2), long)
        dashes += (DASH / PERIOD - dashes) * np.clip(long / PERIOD, 0, 1)
        paint = np.zeros_like(x)
        for line, dashed in self.world.road.lines():
            stripe = _soft(0.09 - np.abs(x - line), wide) * np.minimum(1, 0.18 / wide)
            paint = np.maximum(paint, stripe * dashes if dashed else stripe)
        return paint

    def _things(self, index: int) -> list[tuple]:
        """(distance, how to draw it, what): road users and roadside objects in sight."""
        travelled = self.world.travelled[index]
        posts = range(int((travelled + NEAR) // SPACING) + 1, int((travelled + SIGHT) // SPACING))
        seen = [(max(float(a.z[index]), NEAR), self._actor, a) for a in self.world.actors if a.z[index] > NEAR - SIZES[a.category][0]]
        return seen + [(k * SPACING - travelled, self._post, k) for k in posts]

    def _post(self, canvas: np.ndarray, glow: np.ndarray, index: int, number: int) -> None:
        """A tree, a house or a street lamp, the same one whenever its place is passed."""
        kind, side, offset, size = self._roadside[number % len(self._roadside)]
        z = number * SPACING - self.world.travelled[index]
        edge = self.world.road.edges[int(side > 0.5)]
        x = self.world.sideways(index, edge + (1 if side > 0.5 else -1) * (2.5 + 7 * offset), z)
        light, scale = self._light(z, x), self.camera.focal / z
        foot, column = self.camera.row(0, z), self.camera.column(x, z)
        if kind < 0.2:
            self._house(canvas, glow, (column, foot), scale, size, light)
        elif kind < 0.35:
            _line(canvas, (column, foot), (column, foot - 6 * scale), _tint((120, 120, 120), light), scale * 0.15)
            _disc(glow if self.world.night else canvas, (column, foot - 6 * scale), 0.25 * scale, (255, 220, 150))
        else:
            _line(canvas, (column, foot), (column, foot - 2 * scale), _tint((90, 66, 44), light), scale * 0.3)
            _disc(canvas, (column, foot - (2.5 + size) * scale), (0.9 + size) * scale, _tint((50 + 30 * offset, 96, 44), light))

    def _house(self, canvas: np.ndarray, glow: np.ndarray, foot: tuple[float, float], scale: float, size: float, light: float) -> None:
        column, row = foot
        half, high = (2 + 2 * size) * scale, (3.5 + 6 * size) * scale
        wall = _tint((150 + 60 * size, 130, 110), light)
        _block(canvas, (column - half, row - high, column + half, row), wall)
        _block(glow, (column - half, row - high, column + half, row), (0, 0, 0))
        for k in (-0.5, 0.5):
            pane = (column + k * half - 0.2 * half, row - 0.75 * high, column + k * half + 0.2 * half, row - 0.45 * high)
            _block(canvas, pane, _tint((70, 80, 95), light))
            if self.world.night:
                _block(glow, pane, (90, 75, 40))

    def _actor(self, canvas: np.ndarray, glow: np.ndarray, index: int, actor: Actor) -> None:
        z, (length, width, height) = float(actor.z[index]), SIZES[actor.category]
        near, far = max(z, NEAR), z + length
        faces = []
        for depth in (far, near):
            x = self.world.sideways(index, actor.x[index], depth)
            left, right = (self.camera.column(x + side * width / 2, depth) for side in (-1, 1))
            faces.append((left, self.camera.row(height, depth), right, self.camera.row(0, depth)))
        light = self._light(near, self.world.sideways(index, actor.x[index], near))
        if actor.category in ("person", "bicycle", "motorcycle"):
            _rider(canvas, glow, faces[1], actor, light)
        else:
            _body(canvas, glow, faces, actor.paint, light)
        if self.world.night and actor.category != "person":
            _lamps(glow, faces[1], actor.facing)


def _sky(rng: np.random.Generator, camera: Camera, night: bool) -> np.ndarray:
    top, bottom = ((6, 8, 18), (18, 20, 32)) if night else ((96 + rng.uniform(0, 40), 150, 215), (205, 218, 230))
    mix = np.linspace(0, 1, int(camera.horizon) + 2)[:, None, None] ** 0.8
    sky = np.array(top) * (1 - mix) + np.array(bottom) * mix
    return np.broadcast_to(np.clip(sky, 0, 255).astype(np.uint8), (len(mix), camera.width, 3)).copy()


def _hills(rng: np.random.Generator, length: int, height: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, length, endpoint=False)
    waves = sum(rng.uniform(0.2, 1) / k * np.sin(5 * k * angle + rng.uniform(0, 6.3)) for k in range(1, 8))
    return height * 0.025 * (1.5 + np.asarray(waves))


def _soft(inside: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Coverage of a pixel ``footprint`` metres wide whose centre lies ``inside`` metres within an edge."""
    return np.clip(inside / footprint + 0.5, 0, 1)


def _tint(colour: tuple[float, float, float], light: float) -> tuple[float, ...]:
    return tuple(min(255.0, channel * light) for channel in colour)


def _block(canvas: np.ndarray, box: tuple[float, float, float, float], colour: tuple[float, ...]) -> None:
    x1, y1, x2, y2 = (round(min(max(value, -4096), 8192)) for value in box)
    cv2.rectangle(canvas, (x1, y1), (max(x2 - 1, x1), max(y2 - 1, y1)), colour, -1)


def _disc(canvas: np.ndarray, centre: tuple[float, float], radius: float, colour: tuple[float, ...]) -> None:
    if abs(centre[0]) < 8192:
        cv2.circle(canvas, (round(centre[0]), round(centre[1])), max(1, round(radius)), colour, -1)


def _line(canvas: np.ndarray, start: tuple[float, float], end: tuple[float, float], colour: tuple[float, ...], thick: float) -> None:
    if abs(start[0]) < 8192:
        cv2.line(canvas, (round(start[0]), round(start[1])), (round(end[0]), round(end[1])), colour, max(1, round(thick)))


def _body(canvas: np.ndarray, glow: np.ndarray, faces: list[tuple], paint: tuple[int, int, int], light: float) -> None:
    """A box in perspective, back face over the hull, with a shadow, a window and wheels."""
    near = faces[1]
    corners = np.array([(face[i], face[j]) for face in faces for i in (0, 2) for j in (1, 3)])
    hull = cv2.convexHull(np.clip(np.round(corners), -4096, 8192).astype(np.int32))
    cv2.fillConvexPoly(canvas, hull, _tint(paint, 0.62 * light))
    cv2.fillConvexPoly(glow, hull, (0, 0, 0))
    x1, y1, x2, y2 = near
    wide, high = x2 - x1, y2 - y1
    _block(canvas, near, _tint(paint, light))
    _block(canvas, (x1 + 0.1 * wide, y1 + 0.1 * high, x2 - 0.1 * wide, y1 + 0.42 * high), _tint((50, 60, 72), light))
    _block(canvas, (x1, y2 - 0.2 * high, x2, y2 - 0.12 * high), _tint((30, 30, 30), light))
    for left in (x1 + 0.04 * wide, x2 - 0.2 * wide):
        _block(canvas, (left, y2 - 0.14 * high, left + 0.16 * wide, y2), (12, 12, 12))
    _block(canvas, (x1 + 0.2 * wide, y2 - 0.06 * high, x2 - 0.2 * wide, y2), _tint((28, 28, 30), light))


def _rider(canvas: np.ndarray, glow: np.ndarray, face: tuple, actor: Actor, light: float) -> None:
    """A person, on foot or on two wheels."""
    x1, y1, x2, y2 = face
    wide, high, middle = x2 - x1, y2 - y1, (x1 + x2) / 2
    _block(glow, face, (0, 0, 0))
    _block(canvas, (x1, y1 + 0.2 * high, x2, y1 + 0.62 * high), _tint(actor.paint, light))
    legs = _tint((35, 35, 60), light) if actor.category == "person" else _tint((20, 20, 20), light)
    _block(canvas, (middle - 0.28 * wide, y1 + 0.6 * high, middle + 0.28 * wide, y2), legs)
    _disc(canvas, (middle, y1 + 0.1 * high), 0.1 * high, _tint((205, 165, 140), light))


def _lamps(glow: np.ndarray, face: tuple, facing: int) -> None:
    """Red behind, white before."""
    x1, y1, x2, y2 = face
    colour = (225, 25, 15) if facing > 0 else (255, 250, 225)
    for column in (x1 + 0.14 * (x2 - x1), x2 - 0.14 * (x2 - x1)):
        _disc(glow, (column, y2 - 0.36 * min(y2 - y1, x2 - x1)), 0.075 * (x2 - x1), colour)
