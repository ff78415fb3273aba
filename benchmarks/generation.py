"""Many scenarios made by one command, against as many rollouts one after the other; every run in processes of its own, import included.

    python benchmarks/generation.py --scenarios 64 --seconds 10 --rollouts 8 --out benchmarks/results/generation.json

Ways: ``--workers 1`` (side by side in one process that has all threads), ``--workers N`` (one for each processor). The rollouts are the
first ``--rollouts`` of the same scenarios; all have equally many frames, so their mean stands for the rest. Peak memory is that of the
largest process. This file measures; it asserts nothing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import describe

from drivesim.io.atomic import write_json
from drivesim.io.records import read_records

DRIVESIM = [sys.executable, "-m", "drivesim.cli"]


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "scenarios.parquet"
        seconds = f"{arguments.seconds:g}"
        called(["scenario", "sample", "--count", str(arguments.scenarios), "--seconds", seconds, "--out", str(table)])
        ways = {f"generate, {workers} worker{'s' * (workers > 1)}": generated(table, folder / str(workers), workers, arguments.words)
                for workers in arguments.workers}  # fmt: skip
        alone = rollouts(arguments.rollouts, arguments.seconds, folder, arguments.words)
    base = alone["frames_per_s"]
    result = {
        "command": shlex.join(["python", *sys.argv]), "date": str(datetime.date.today()), "machine": describe(),
        "scenarios": arguments.scenarios, "seconds": arguments.seconds, "rollouts": alone,
        "ways": {name: {**way, "over_rollouts": round(way["frames_per_s"] / base, 2)} for name, way in ways.items()},
    }  # fmt: skip
    if arguments.out is not None:
        write_json(arguments.out, result)
    print(page(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each scenario")
    parser.add_argument("--rollouts", type=int, default=8, help="how many are made one after the other")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings of both commands")
    return parser.parse_args()


def called(words: Sequence[str]) -> float:
    """Seconds that one command took."""
    begin = time.perf_counter()
    subprocess.run([*DRIVESIM, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def generated(table: Path, out: Path, workers: int, words: Sequence[str]) -> dict[str, Any]:
    took = called(["generate", str(table), "--out", str(out), "--workers", str(workers), *words])
    clips = read_records(out).clips
    frames = int(clips["frames"].sum())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    speed = {"wall_s": round(took, 1), "frames_per_s": round(frames / took, 2)}
    return {"clips": len(clips), "frames": frames, **speed, "peak_mib": round(peak)}


def rollouts(count: int, seconds: float, folder: Path, words: Sequence[str]) -> dict[str, Any]:
    times, frames = [], 0
    for seed in range(count):
        out = folder / f"rollout_{seed}"
        times.append(called(["rollout", "--minutes", str(seconds / 60), "--seed", str(seed), "--out", str(out), *words]))
        frames += int(read_records(out).clips["frames"].sum())
    told = {"made": count, "frames": frames, "wall_s": round(sum(times), 1), "each_s": [round(took, 1) for took in times]}
    return {**told, "frames_per_s": round(frames / sum(times), 2)}


def page(result: dict[str, Any]) -> str:
    """Markdown."""
    columns = ("clips", "wall_s", "frames_per_s", "over_rollouts", "peak_mib")
    alone = {**result["rollouts"], "clips": result["rollouts"]["made"], "over_rollouts": 1, "peak_mib": ""}
    lines = [f"{result['machine']}, {result['date']}: `{result['command']}`", "",
             "| way | clips | wall s | frames a second | over rollouts | peak MiB of a process |", "|---|---|---|---|---|---|"]  # fmt: skip
    for name, way in {"rollout, one after the other": alone, **result["ways"]}.items():
        lines.append(f"| `drivesim {name}` | {' | '.join(str(way[column]) for column in columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
