"""``drivesim doctor``: what this machine has, which weights are found, what each preset needs, and how fast it will be here.

Times and memory are predictions: operations counted, over a rate that is measured in a second. Nothing is downloaded or written. This file
looks and prints; it does not know how costs are counted.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from drivesim import __version__
from drivesim.commands.config import as_override, compose
from drivesim.commands.presets import untrained
from drivesim.errors import DrivesimError
from drivesim.io.checkpoints import NETWORKS, WEIGHTS, Checkpoint, CheckpointError, file_hash, load_checkpoint
from drivesim.io.fetching import cache_folder
from drivesim.io.video import write_video
from drivesim.simulation.budget import EFFICIENCY, MEASURED, peak, shown
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.device import pick_device
from drivesim.simulation.quality import qualities_of, rollout_settings
from drivesim.simulation.speed import measured_rate
from drivesim.simulation.upsample import CHOICES, UpsamplerSettings

__all__ = ["run"]

GIB = 2**30


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Look and print; returns the exit code.

    Args:
        flags: by the names of ``configs/command/doctor.yaml``, None = not given. words: ``key=value`` overrides, applied after them.

    Raises:
        UsageError: a value that cannot be.   DrivesimError: a checkpoint that cannot be read.
    """
    config = compose("command/doctor", [*(as_override(name, value) for name, value in flags.items() if value is not None), *words])
    device = pick_device(str(config.device))
    for heading, lines in (("machine", machine(device)), ("weights", weights(config)), ("judges", judges(config))):
        _print(heading, lines)
    rate = measured_rate(device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    print(f"\nneeds and speed: a prediction, from {rate / 1e9:,.0f} GFLOP/s measured just now and {EFFICIENCY:.0%} of that")
    for line in needs(config, device, rate):
        print(f"  {line}", flush=True)
    return 0


def _print(heading: str, lines: Iterator[tuple[str, str]]) -> None:
    print(f"\n{heading}")
    for name, text in lines:
        print(f"  {name:<22}{text}", flush=True)


# what there is


def machine(device: torch.device) -> Iterator[tuple[str, str]]:
    yield "drivesim", f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}, PyAV {version('av')}"
    yield "processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    total, free = memory()
    yield "memory", f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free" if total else "unknown"
    if not torch.cuda.device_count():
        yield "gpu", "none that torch sees"
    for number in range(torch.cuda.device_count()):
        room, whole = torch.cuda.mem_get_info(number)
        yield f"gpu {number}", f"{torch.cuda.get_device_name(number)}, {whole / GIB:.1f} GiB, {room / GIB:.1f} GiB free"
    yield "used here", str(device)
    yield "disk", f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB free in {Path.cwd()}"
    yield "fetched datasets", fetched(cache_folder())
    yield "h264 (x264)", encodes()


def fetched(folder: Path) -> str:
    """What copies of datasets that lie elsewhere take of the disk; nothing removes them but their owner."""
    held = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return f"{sum(held) / GIB:.1f} GiB in {folder}, which may be removed to free it" if held else "none are kept"


def memory() -> tuple[int, int]:
    """Bytes of main memory: all, and what a new process could have; zeros where the system does not say."""
    path = Path("/proc/meminfo")
    rows = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    told = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}
    return told.get("MemTotal", 0), told.get("MemAvailable", 0)


def encodes() -> str:
    """Whether a video can be written here: by writing one."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_video(Path(folder) / "test.mp4", [np.zeros((64, 64, 3), np.uint8)], 7.5)
    except (DrivesimError, OSError, ValueError) as error:
        return f"does not work: {error}"
    return "works"


def weights(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Every network that is found, with the start of its file's SHA-256."""
    for name in [*config.presets, *([config.checkpoint] if config.checkpoint else [])]:
        try:
            checkpoint = load_checkpoint(str(name), need=())
        except CheckpointError:
            yield str(name), f"not in the package; train it: drivesim train experiment={name}/{NETWORKS['autoencoder']} ..."
            continue
        found = sorted(checkpoint.networks)
        missing = [network for network in NETWORKS if not {network, f"{network}_fast"} & set(found)]
        where = "in the package" if checkpoint.folder.parent == WEIGHTS else str(checkpoint.folder)
        yield str(name), where + (f"; missing: {', '.join(missing)}" if missing else "")
        for network in found:
            path = checkpoint.folder / f"{network}.safetensors"
            yield "", f"{network:<22}{file_hash(path)[:12]}  {path.stat().st_size / 2**20:.1f} MiB"


def judges(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Feature networks that `drivesim evaluate` would find."""
    make = hydra.utils.get_method(str(config.judges["_target_"]))
    for name in config.judges.names:
        try:
            make(name)
            yield name, "found"
        except DrivesimError as error:
            yield name, str(error)


# what it takes


@dataclass(frozen=True)
class Plan:
    """Rollouts that somebody may want: networks on the meta device, and what model.json says."""

    name: str
    networks: dict[str, nn.Module]
    settings: dict[str, Any]
    trained: bool


def needs(config: DictConfig, device: torch.device, rate: float) -> Iterator[str]:
    """A line for each preset and quality, plain and upsampled."""
    total, free = torch.cuda.mem_get_info(device)[::-1] if device.type == "cuda" else memory()
    precision = "float32" if device.type == "cpu" else "bfloat16"
    for plan in plans(config):
        enlargers = [name for name in CHOICES if name in plan.networks and name in plan.settings]
        enlarging = UpsamplerSettings.of(plan.settings.get("upsampling", {})) if enlargers else None
        for quality in qualities_of(plan.networks):
            costs = Costs(plan.networks, plan.settings, rollout_settings(plan, quality, precision=precision), enlarging)
            for one in (costs.resized(costs.settings, None), *([costs] if enlarging else [])):
                yield _need(plan, one, 60 * float(config.minutes), device, rate, total)
    if total:
        yield f"(of {shown(total)} there are {shown(free)} free; --fit {shown(free)} chooses sizes for that)"
    if device.type not in MEASURED:
        yield f"(memory on {device.type} has not been measured: the overhead is the CPU's)"


def plans(config: DictConfig) -> Iterator[Plan]:
    for name in [*config.presets, *([config.checkpoint] if config.checkpoint else [])]:
        checkpoint = _whole(str(name))
        if checkpoint is not None:
            yield Plan(str(name), described(checkpoint), checkpoint.settings, True)
        elif name in config.presets:
            made = untrained(str(name))
            yield Plan(str(name), made.networks, made.settings, False)


def _whole(name: str) -> Checkpoint | None:
    try:
        return load_checkpoint(name)
    except CheckpointError:
        return None


def _need(plan: Plan, costs: Costs, duration_s: float, device: torch.device, rate: float, total: int) -> str:
    settings, factor = costs.settings, 1 if costs.upsampling is None else 4
    size = "x".join(str(factor * side) for side in costs.frame_shape)
    seconds, wanted = sum(costs.flop(duration_s).values()) / (rate * EFFICIENCY), peak(costs, device.type)
    steps = f"{settings.steps_keyframes}/{settings.steps_interpolation}" + (f"/{costs.upsampling.steps}" if costs.upsampling else "")
    name = f"{plan.name} {settings.quality}" if len(qualities_of(plan.networks)) > 1 else plan.name
    ready = "" if plan.trained else ", if it were trained"
    fits = "" if not total or wanted <= total else ", more than there is"
    return (
        f"{name:<10} {size:>9} {settings.fps:g} fps, {steps} steps: {shown(wanted)}{fits}; "
        f"{duration_s / 60:g} min of video in {_long(seconds)}{ready}"
    )


def _long(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} s"
