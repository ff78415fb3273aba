"""Boxes in space -> boxes in the picture of a pinhole camera.

Camera axes are right, down, ahead, in metres. A box's corners behind the camera cannot be projected, so the box is first cut at ``NEAR``
metres before it; the hull of what is left is then cut at the picture's borders. Cutting the hull, not its bounding box, matters for large
near boxes: the bounding box of the part that is seen is smaller. This file knows geometry, no release and no label.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["NEAR", "Seen", "corners_of", "rotation_of", "see"]

NEAR = 0.1
BITS = np.array([[number >> bit & 1 for bit in range(3)] for number in range(8)])
EDGES = [(a, b) for a in range(8) for b in range(a) if (BITS[a] != BITS[b]).sum() == 1]


@dataclass(frozen=True)
class Seen:
    """xyxy: x1, y1, x2, y2 in 0..1 of the picture, inside it.   share: how much of the projected hull lies inside the picture, 0..1.

    depth_m: distance along the optical axis of the nearest corner before the camera.
    """

    xyxy: tuple[float, float, float, float]
    share: float
    depth_m: float


def rotation_of(quaternion: np.ndarray | list[float]) -> np.ndarray:
    """(w, x, y, z) of any length but 0 -> rotation matrix (3, 3)."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def corners_of(centre: np.ndarray, size: tuple[float, float, float], rotation: np.ndarray) -> np.ndarray:
    """(8, 3) corners. size: extent along the box's own first, second and third axis; rotation (3, 3) turns those into the centre's axes."""
    return np.asarray(centre) + ((BITS - 0.5) * np.asarray(size)) @ np.asarray(rotation).T


def see(corners: np.ndarray, intrinsics: np.ndarray, height: int, width: int) -> Seen | None:
    """What a camera (3, 3) of ``height`` x ``width`` pixels sees of a box given by its corners (8, 3); None = nothing of it.

    Pixel coordinates are as in the intrinsics; the picture is 0..width, 0..height.
    """
    before = _cut_near(corners)
    if len(before) < 3:
        return None
    projected = before @ np.asarray(intrinsics).T
    hull = cv2.convexHull((projected[:, :2] / projected[:, 2:]).astype(np.float32))[:, 0].astype(np.float64)
    inside = hull
    for axis, limit in ((0, width), (1, height)):
        inside = _cut(_cut(inside, axis, 0, 1), axis, limit, -1)
    area = _area(inside)
    if area <= 0:
        return None
    (x1, y1), (x2, y2) = inside.min(0), inside.max(0)
    return Seen((x1 / width, y1 / height, x2 / width, y2 / height), min(1.0, area / _area(hull)), float(before[:, 2].min()))


def _cut_near(corners: np.ndarray) -> np.ndarray:
    """Corners of the part of the box that lies at least NEAR ahead."""
    points = [corner for corner in corners if corner[2] >= NEAR]
    for a, b in EDGES:
        first, second = corners[a], corners[b]
        if (first[2] - NEAR) * (second[2] - NEAR) < 0:
            points.append(first + (NEAR - first[2]) / (second[2] - first[2]) * (second - first))
    return np.array(points).reshape(-1, 3)


def _cut(polygon: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """The part of a convex polygon (n, 2) where sign * (coordinate - limit) >= 0."""
    inside = sign * (polygon[:, axis] - limit)
    points = []
    for here, there, a, b in zip(polygon, np.roll(polygon, -1, 0), inside, np.roll(inside, -1), strict=True):
        if a >= 0:
            points.append(here)
        if a * b < 0:
            points.append(here + a / (a - b) * (there - here))
    return np.array(points).reshape(-1, 2)


def _area(polygon: np.ndarray) -> float:
    if len(polygon) < 3:
        return 0.0
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
