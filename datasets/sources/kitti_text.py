"""The text files that KITTI's tracking benchmark and raw drives share: space-separated rows, GPS/IMU packets, numbered pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drivesim.io.records import DatasetError

__all__ = ["OCCLUSION", "fields", "motion", "numbers"]

OCCLUSION = {0: 0.0, 1: 0.3, 2: 0.7}
"""Fully visible, partly, largely hidden, as shares: KITTI names the steps, the shares are ours. Other codes mean unknown."""
FORWARD, LEFTWARD, UPWARD_TURN = 8, 9, 22
"""Places in a GPS/IMU packet of 30: vf, vl (m/s, along and across the car) and wu (rad/s about the upward axis, left positive)."""


def fields(path: Path) -> list[list[str]]:
    """The words of every line that has any."""
    try:
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable text file ({error}); extract it again") from error


def numbers(path: Path, line: int, words: Sequence[str]) -> list[float]:
    """Words as finite numbers.

    Raises:
        DatasetError: one is none; names file and line.
    """
    try:
        found = [float(word) for word in words]
    except ValueError as error:
        raise DatasetError(f"{path}: line {line}: {error}; extract it again") from None
    if not np.isfinite(found).all():
        raise DatasetError(f"{path}: line {line}: a number is not finite; extract it again")
    return found


def motion(path: Path, packets: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Speed over ground (m/s) and turn rate (rad/s, left positive) of every packet.

    Raises:
        DatasetError: a packet without its 30 values.
    """
    values = []
    for line, row in enumerate(packets, 1):
        if len(row) != 30:
            raise DatasetError(f"{path}: line {line}: {len(row)} values where a GPS/IMU packet has 30; extract it again")
        values.append(numbers(path, line, row[: UPWARD_TURN + 1]))
    table = np.array(values).reshape(-1, UPWARD_TURN + 1)
    return np.hypot(table[:, FORWARD], table[:, LEFTWARD]), table[:, UPWARD_TURN]
