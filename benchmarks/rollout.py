"""How fast a rollout is, pass by pass, what it costs, and whether its memory stays flat.

    python benchmarks/rollout.py --checkpoint mini --minutes 1 5

Every length runs in a process of its own, whose peak resident memory is what the operating system says it was. Prints Markdown. This
file measures; it asserts nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.labels import Scenario
from drivesim.simulation.recorder import record
from drivesim.simulation.scenarios import TrackBank, sample_scenario
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator, Stopwatch, pick_device

SHOWN = ("image", "keyframes", "interpolation", "decode", "encode", "preview")


def main() -> None:
    arguments = parse()
    if arguments.one is not None:
        print(json.dumps(measure(arguments, arguments.one)))
        return
    results = {minutes: in_a_process(minutes) for minutes in arguments.minutes}
    gflop = count_gflop(arguments)
    print(f"Rollout of `{arguments.checkpoint}` at {results[arguments.minutes[0]]['fps']:g} fps; {machine(arguments)}, "
          f"{datetime.date.today()}.\n\nCommand: `{shlex.join(['python', *sys.argv])}`\n")  # fmt: skip
    print(table_of_passes(results[max(results)], gflop))
    print(table_of_lengths(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="mini", help="a preset inside the package or a checkpoint folder")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 5.0], help="lengths to roll out, each in its own process")
    parser.add_argument("--fps", type=float, default=None, help="frame rate; default: the checkpoint's")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all")
    parser.add_argument("--one", type=float, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(minutes: float) -> dict[str, Any]:
    """Measure one length in a fresh interpreter."""
    done = subprocess.run([sys.executable, *sys.argv, "--one", str(minutes)], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def prepared(arguments: argparse.Namespace, minutes: float) -> tuple[Simulator, Scenario]:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    checkpoint = load_checkpoint(arguments.checkpoint)
    settings = RolloutSettings.of(checkpoint.settings.get("rollout", {}), fps=arguments.fps)
    return Simulator(checkpoint, settings, pick_device(arguments.device)), drive(checkpoint, minutes * 60)


def drive(checkpoint: Checkpoint, duration_s: float) -> Scenario:
    """A drive through traffic from the checkpoint's track bank, where it has one."""
    if not checkpoint.tracks.is_file():
        return Scenario(duration_s, time_of_day="day")
    return sample_scenario(TrackBank.load(checkpoint.tracks), duration_s, time_of_day="day", crowdedness=4.0)


def measure(arguments: argparse.Namespace, minutes: float) -> dict[str, Any]:
    """One rollout to disk: seconds per pass, first playable second, peak memory in MiB."""
    simulator, scenario = prepared(arguments, minutes)
    with tempfile.TemporaryDirectory() as folder:
        done = record(simulator, scenario, Path(folder) / "rollout")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    device_peak = torch.cuda.max_memory_allocated() / 2**20 if simulator.device.type == "cuda" else 0.0
    return {"frames": done.frames, "fps": done.fps, "elapsed_s": done.elapsed_s, "first_second_s": done.first_second_s,
            "seconds": done.seconds, "peak_mib": peak, "device_peak_mib": device_peak}  # fmt: skip


@dataclass
class FlopWatch(Stopwatch):
    """A stopwatch that counts floating-point operations instead of seconds."""

    flops: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        self.flops[name] = self.flops.get(name, 0.0) + counter.get_total_flops()


def count_gflop(arguments: argparse.Namespace) -> dict[str, float]:
    """GFLOP per output frame and pass (a multiplication and an addition are two), over half a minute without the disk."""
    simulator, scenario = prepared(arguments, 0.5)
    watch = simulator.stopwatch = FlopWatch()
    frames = sum(len(step.frames) for step in simulator.run(scenario))
    return {name: total / frames / 1e9 for name, total in watch.flops.items()}


def table_of_passes(result: dict[str, Any], gflop: dict[str, float]) -> str:
    video_s = result["frames"] / result["fps"]
    lines = ["| pass | seconds | share of the run | seconds of video per second | GFLOP a frame |", "|---|---|---|---|---|"]
    for name in SHOWN:
        seconds = result["seconds"].get(name, 0.0)
        cost = f"{gflop[name]:.2f}" if name in gflop else ""
        if seconds:
            lines.append(f"| {name} | {seconds:.1f} | {seconds / result['elapsed_s']:.0%} | {video_s / seconds:.2f} | {cost} |")
    lines.append(f"| all | {result['elapsed_s']:.1f} | 100% | {video_s / result['elapsed_s']:.2f} | {sum(gflop.values()):.2f} |")
    return "\n".join(lines) + "\n"


def table_of_lengths(results: dict[float, dict[str, Any]]) -> str:
    base = results[min(results)]
    head = "| minutes | frames | seconds | first playable second after | peak memory | of the shortest | device memory |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for minutes, one in sorted(results.items()):
        device = f"{one['device_peak_mib']:.0f} MiB" if one["device_peak_mib"] else ""
        lines.append(
            f"| {minutes:g} | {one['frames']} | {one['elapsed_s']:.1f} | {one['first_second_s']:.1f} s | {one['peak_mib']:.0f} MiB | "
            f"{one['peak_mib'] / base['peak_mib']:.2f} | {device} |"
        )
    return "\n".join(lines)


def machine(arguments: argparse.Namespace) -> str:
    device = pick_device(arguments.device)
    threads = arguments.threads or torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {threads} threads"
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
