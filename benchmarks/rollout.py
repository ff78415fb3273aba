"""How fast a rollout is, pass by pass, what it costs, and whether its memory stays flat.

    python benchmarks/rollout.py --checkpoint mini --minutes 1 5
    python benchmarks/rollout.py --preset rds --upsample --steps paper few --device cuda --precision bfloat16 --minutes 0.1
    python benchmarks/rollout.py --preset rds --flops --out docs/rds.md

Every length runs in a process of its own, whose peak resident memory is what the operating system says it was. ``--preset`` takes weights
that nobody trained where the package has none: speed does not depend on them. ``--flops`` runs nothing and predicts. Prints Markdown. This
file measures; it asserts nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import describe, peak_memory
from prediction import STEPS, UPSAMPLING, page, settings_of
from untrained import write_untrained

from drivesim.io.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from drivesim.labels import Scenario
from drivesim.simulation.accelerate import COMPILE, PRECISIONS
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.recording.recorder import record
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.settings import QUALITIES, RolloutSettings
from drivesim.simulation.simulator import Simulator, pick_device
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

SHOWN = ("image", "keyframes", "interpolation", "decode", "refinement", "upsampling", "encode", "preview")


def main() -> None:
    arguments = parse()
    if arguments.one is not None:
        print(json.dumps(measure(arguments, arguments.one)))
        return
    command = shlex.join(["python", *sys.argv])
    if arguments.flops:
        text = page(arguments.preset or arguments.checkpoint, arguments.minutes[-1], arguments.fps or 30.0, command)
    else:
        with tempfile.TemporaryDirectory() as folder:
            text = measured(arguments, folder, command)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", default="mini", help="a preset inside the package or a checkpoint folder")
    parser.add_argument("--preset", default=None, help="a preset, with untrained weights where the package holds none")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the preset's sizes")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 5.0], help="lengths to roll out, each in its own process")
    parser.add_argument("--fps", type=float, default=None, help="frame rate; default: the checkpoint's")
    parser.add_argument("--steps", nargs="+", choices=tuple(STEPS), default=[None], help="sampling steps; default: the checkpoint's")
    parser.add_argument("--quality", choices=QUALITIES, default=None, help="without --steps; default: as `drivesim rollout`")
    parser.add_argument("--upsample", action="store_true", help="enlarge, too")
    parser.add_argument("--tile", type=int, default=None, help="upsampling by tiles of so many small pixels; 0 = whole frames")
    parser.add_argument("--batch", type=int, default=None, help="interpolation windows a call; default: the checkpoint's")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default=None)
    parser.add_argument("--compile", choices=COMPILE, default=None)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: all")
    parser.add_argument("--flops", action="store_true", help="run nothing: count operations and predict a GPU's time")
    parser.add_argument("--out", type=Path, default=None, help="Markdown to write, too")
    parser.add_argument("--one", type=float, default=None, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def measured(arguments: argparse.Namespace, folder: str, command: str) -> str:
    """Tables of everything that was asked for. folder: for weights that have to be made up."""
    if arguments.preset is not None:
        arguments.checkpoint = weights(arguments.preset, arguments.set, Path(folder))
    parts = []
    for steps in arguments.steps:
        more = ["--checkpoint", str(arguments.checkpoint), *(["--steps", steps] if steps else [])]
        results = {minutes: in_a_process(minutes, more) for minutes in arguments.minutes}
        arguments.steps = [steps]
        gflop = predicted_gflop(arguments)
        parts += [f"{heading(arguments, results[arguments.minutes[0]])}, {datetime.date.today()}.\n\nCommand: `{command}`\n",
                  table_of_passes(results[max(results)], gflop), table_of_lengths(results) + "\n"]  # fmt: skip
    return "\n".join(parts)


def weights(preset: str, words: Sequence[str], folder: Path) -> str:
    """Where the preset's weights are: in the package, or made up in ``folder``."""
    try:
        load_checkpoint(preset)
        return preset
    except CheckpointError:
        return str(write_untrained(preset, folder / preset, words, torch.bfloat16).folder)


def heading(arguments: argparse.Namespace, result: dict[str, Any]) -> str:
    made_up = f"`{arguments.preset}` ({result['weights']} weights)" if arguments.preset else f"`{arguments.checkpoint}`"
    counts = result["settings"]
    steps = f"{counts['steps_image']} / {counts['steps_keyframes']} / {counts['steps_interpolation']}"
    enlarged = f" / {result['upsampling']['steps']}" if result["upsampling"] else ""
    return (
        f"Rollout of {made_up}, {counts['quality']}, at {result['fps']:g} fps, {result['height']}x{result['width']}, {steps}{enlarged} "
        f"steps (first frame / keyframes / interpolation{' / upsampling' if enlarged else ''}), guidance {counts['guidance']:g} and "
        f"{counts['label_guidance']:g}, {counts['precision']}, compile {counts['compile']}; "
        f"{describe(pick_device(arguments.device))}"
    )


def in_a_process(minutes: float, more: Sequence[str] = ()) -> dict[str, Any]:
    """Measure one length in a fresh interpreter."""
    words = [sys.executable, *sys.argv, *more, "--one", str(minutes)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def chosen(arguments: argparse.Namespace, checkpoint: Checkpoint) -> tuple[RolloutSettings, UpsamplerSettings | None]:
    steps = arguments.steps[0]
    wishes = dict(fps=arguments.fps, batch=arguments.batch, precision=arguments.precision, compile=arguments.compile)
    settings = settings_of(checkpoint, steps, arguments.quality, **{name: value for name, value in wishes.items() if value is not None})
    if not arguments.upsample:
        return settings, None
    asked = {**UPSAMPLING.get(steps or "", {}), "tile": arguments.tile, "precision": settings.precision, "compile": settings.compile}
    return settings, UpsamplerSettings.of(checkpoint.settings.get("upsampling", {}), **asked)


def prepared(arguments: argparse.Namespace, minutes: float) -> tuple[Simulator, Scenario, Upsampler | None]:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    checkpoint = load_checkpoint(arguments.checkpoint)
    settings, enlarging = chosen(arguments, checkpoint)
    simulator = Simulator(checkpoint, settings, pick_device(arguments.device))
    stage = None if enlarging is None else Upsampler(checkpoint, enlarging, simulator.device, stopwatch=simulator.stopwatch)
    return simulator, drive(checkpoint, minutes * 60), stage


def drive(checkpoint: Checkpoint, duration_s: float) -> Scenario:
    """A drive through traffic from the checkpoint's track bank, where it has one."""
    if not checkpoint.tracks.is_file():
        return Scenario(duration_s, time_of_day="day")
    return sample_scenario(TrackBank.load(checkpoint.tracks), duration_s, time_of_day="day", crowdedness=4.0)


def measure(arguments: argparse.Namespace, minutes: float) -> dict[str, Any]:
    """One rollout to disk: seconds per pass, first playable second, peak memory in MiB."""
    simulator, scenario, stage = prepared(arguments, minutes)
    with tempfile.TemporaryDirectory() as folder:
        done = record(simulator, scenario, Path(folder) / "rollout", stage=stage)
    peak = peak_memory() / 2**20
    device_peak = torch.cuda.max_memory_allocated() / 2**20 if simulator.device.type == "cuda" else 0.0
    factor = 1 if stage is None else stage.factor
    return {"frames": done.frames, "fps": done.fps, "elapsed_s": done.elapsed_s, "first_second_s": done.first_second_s,
            "seconds": done.seconds, "peak_mib": peak, "device_peak_mib": device_peak, "settings": asdict(simulator.settings),
            "upsampling": None if stage is None else asdict(stage.settings), "height": simulator.height * factor,
            "width": simulator.width * factor, "weights": "untrained" if Path(arguments.checkpoint).is_dir() else "trained"}  # fmt: skip


def predicted_gflop(arguments: argparse.Namespace) -> dict[str, float]:
    """GFLOP per output frame and pass (a multiplication and an addition are two), over a minute, labels apart."""
    checkpoint = load_checkpoint(arguments.checkpoint)
    settings, enlarging = chosen(arguments, checkpoint)
    flop = Costs(described(checkpoint), checkpoint.settings, settings, enlarging).flop(60.0)
    return {name: total / (60 * settings.fps) / 1e9 for name, total in flop.items()}


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


if __name__ == "__main__":
    main()
