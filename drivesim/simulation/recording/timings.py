"""How long one rollout took, over all the processes that worked on it. This file knows clocks that never run backwards, and no other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from drivesim.simulation.device import Stopwatch

__all__ = ["Timings"]

TOTALS = ("elapsed_s", "first_second_s")


class Timings:
    """Seconds of work from now on, and what an interrupted rollout had spent before.

    stopwatch: counts the passes; what it has counted so far belongs to other work.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch, self.first_second_s = stopwatch, 0.0
        self._begin, self._other = time.perf_counter(), dict(stopwatch.seconds)
        self._before: dict[str, float] = {}

    @property
    def session_s(self) -> float:
        """Seconds since this process began."""
        return time.perf_counter() - self._begin

    @property
    def elapsed_s(self) -> float:
        """Seconds of all processes."""
        return self._before.get("elapsed_s", 0.0) + self.session_s

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per pass, of all processes."""
        new = {name: seconds - self._other.get(name, 0.0) for name, seconds in self.stopwatch.seconds.items()}
        before = {name.removesuffix("_s"): seconds for name, seconds in self._before.items() if name not in TOTALS}
        return {name: before.get(name, 0.0) + new.get(name, 0.0) for name in {**before, **new} if name in before or new[name]}

    def take_over(self, told: Mapping[str, Any]) -> None:
        """Count on from ``told``, which is what ``as_json`` said in the process before."""
        self._before = {name: float(seconds) for name, seconds in told.items()}
        self.first_second_s = self._before.get("first_second_s", 0.0)

    def played(self) -> None:
        """A first second of video is there: note when, once."""
        self.first_second_s = self.first_second_s or self.elapsed_s

    def as_json(self) -> dict[str, float]:
        passes = {f"{name}_s": round(seconds, 3) for name, seconds in self.seconds.items()}
        return {"elapsed_s": round(self.elapsed_s, 3), "first_second_s": round(self.first_second_s, 3), **passes}
