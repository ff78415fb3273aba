"""Starts known by what they show: a scenario is another one when its picture is, and the same wherever the picture lies.

This file reads bytes; it does not know pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from drivesim.errors import DrivesimError
from drivesim.io.checkpoints import file_hash
from drivesim.io.places import fetched
from drivesim.simulation.scenes.table import Request

__all__ = ["require_same_start", "with_start_hashes"]


def with_start_hashes(requests: Sequence[Request]) -> list[Request]:
    """The same requests, each with the hash of its start if it has one.

    Raises:
        UsageError: there is no such file.   OSError: it cannot be read.
    """
    known = {start: _hash_of(start) for start in dict.fromkeys(request.start for request in requests) if start is not None}
    return [request if request.start is None else replace(request, start_hash=known[request.start]) for request in requests]


def require_same_start(request: Request) -> None:
    """Raises DrivesimError where another process finds another start than the one that the clip is known by."""
    if request.start is not None and request.start_hash is not None and _hash_of(request.start) != request.start_hash:
        raise DrivesimError(f"scenario {request.scenario_id}: {request.start} is not what it was when the command began; begin it again")


def _hash_of(start: str) -> str:
    with fetched(start) as path:
        return file_hash(path)
