"""Hashes that tell whether two scenarios are the same to the last bit, whatever their names are.

This file knows scenarios and bytes. It does not know where scenarios come from or what is made of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from drivesim.labels import Scenario

__all__ = ["hash_of", "hash_of_profiles", "hash_of_tracks"]


def hash_of_tracks(scenario: Scenario) -> str | None:
    """Over every box track in its order; None where boxes are unknown."""
    if scenario.tracks is None:
        return None
    names = [f"{track.track_id} {track.category}" for track in scenario.tracks]
    return hash_of([array for track in scenario.tracks for array in (track.timestamp_s, track.xyxy)], names)


def hash_of_profiles(scenario: Scenario) -> str:
    """Over every profile, in the order of their labels' names."""
    names = sorted(scenario.profiles)
    return hash_of([np.asarray(array) for name in names for array in scenario.profiles[name]], names)


def hash_of(arrays: Sequence[np.ndarray], names: Sequence[str] | None = None) -> str:
    """SHA-256 over names and arrays: their values, types and shapes."""
    digest = hashlib.sha256(json.dumps(None if names is None else list(names)).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
