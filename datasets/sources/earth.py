"""Where on earth, and where the sun: level axes at a place, GPS time, and the sun's height.

Places are ECEF: metres from the earth's middle, x through Greenwich on the equator, z through the north pole. The sun's place is the
Astronomical Almanac's low-precision formula (0.01 degrees from 1950 to 2050); refraction (half a degree at the horizon) is left out. This
file knows no release and no label.
"""

from __future__ import annotations

import numpy as np

__all__ = ["east_north_up", "sun_elevation", "utc_of_gps"]

EQUATOR_M, POLE_M = 6378137.0, 6356752.314245
GPS_EPOCH_S = 315964800
"""1980-01-06 in Unix seconds."""
LEAP_S = 18
"""By which GPS is ahead of UTC since 2017; a second or two matter to nobody here."""
J2000_S = 946728000
"""2000-01-01 12:00 in Unix seconds."""


def utc_of_gps(week: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """GPS week and seconds of it (n,) -> Unix seconds (n,)."""
    return GPS_EPOCH_S + np.asarray(week, np.float64) * 604800 + np.asarray(seconds, np.float64) - LEAP_S


def east_north_up(places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ECEF (n, 3) -> unit vectors (n, 3) of the level ground there. NaN at the poles."""
    up = np.asarray(places, np.float64) / [EQUATOR_M**2, EQUATOR_M**2, POLE_M**2]
    up = up / np.linalg.norm(up, axis=1, keepdims=True)
    east = np.cross([0.0, 0.0, 1.0], up)
    east = east / np.linalg.norm(east, axis=1, keepdims=True)
    return east, np.cross(up, east), up


def sun_elevation(unix_s: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Radians of the sun's middle above the level at ECEF ``places`` (n, 3), at Unix seconds (n,)."""
    days = (np.asarray(unix_s, np.float64) - J2000_S) / 86400
    anomaly, mean = np.deg2rad(357.529 + 0.98560028 * days), np.deg2rad(280.459 + 0.98564736 * days)
    longitude = mean + np.deg2rad(1.915) * np.sin(anomaly) + np.deg2rad(0.020) * np.sin(2 * anomaly)
    tilt = np.deg2rad(23.439 - 3.6e-7 * days)
    turned = 2 * np.pi * (18.697374558 + 24.06570982441908 * days) / 24  # Greenwich sidereal time
    x, y, z = np.cos(longitude), np.cos(tilt) * np.sin(longitude), np.sin(tilt) * np.sin(longitude)
    sun = np.stack([x * np.cos(turned) + y * np.sin(turned), y * np.cos(turned) - x * np.sin(turned), z], axis=1)
    return np.arcsin(np.clip((sun * east_north_up(places)[2]).sum(axis=1), -1, 1))
