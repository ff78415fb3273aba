"""Small generations for tests: a toy checkpoint, a table of scenarios, and the command that works on them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from toys import write_toy_checkpoint

from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation.scenes.table import Request, write_scenarios

COMMAND = [sys.executable, "-m", "drivesim.cli", "generate"]


def car(number: int = 1) -> BoxTrack:
    xyxy = np.array([[0.2, 0.4, 0.5, 0.7], [0.4, 0.4, 0.7, 0.7]], np.float32)
    return BoxTrack(number, "car", np.array([0.0, 2.0]), xyxy)


def requests(count: int = 6) -> list[Request]:
    """Day and night, two lengths, given and sampled boxes."""
    found = []
    for number in range(count):
        tracks = None if number % 3 else (car(),)
        scenario = Scenario(1.0 + number % 2, "night" if number % 2 else "day", tracks=tracks, seed=number)
        found.append(Request(f"scene_{number:02d}", scenario))
    return found


def with_duration(request: Request, duration_s: float) -> Request:
    return replace(request, scenario=replace(request.scenario, duration_s=duration_s))


def table(folder: Path, some: Sequence[Request]) -> Path:
    write_scenarios(str(folder / "scenarios.parquet"), some)
    return folder / "scenarios.parquet"


def words(scenarios: Path | str, checkpoint: Path, out: Path | str, *more: str) -> list[str]:
    """Arguments of ``drivesim generate`` at toy size, two scenarios side by side, one thread."""
    flags = ["--checkpoint", str(checkpoint), "--out", str(out), *more]
    return [str(scenarios), *flags, "generation.batch=2", "generation.threads=1"]


def toy(folder: Path) -> Path:
    return write_toy_checkpoint(folder / "toy")


def started(arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(parts: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many clips are finished, or the process has ended."""
    while len(list(parts.glob("[!.]*.json"))) < count and process.poll() is None:
        time.sleep(0.01)


def files_of(out: Path) -> dict[str, bytes]:
    """Everything that a generation leaves, hidden files included."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
