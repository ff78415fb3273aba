"""What a figure was measured on, in one line."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

__all__ = ["describe", "processor"]


def describe(device: torch.device | str = "cpu") -> str:
    """Processor or GPU, threads, cores, versions."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """The processor's name, with the widest vectors that it has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
