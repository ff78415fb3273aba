"""What a figure was measured on, and the most memory that this process has had."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import torch

__all__ = ["describe", "peak_memory", "processor"]


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


def peak_memory() -> int:
    """Bytes of this process's largest resident set. Linux's getrusage would count what its parent had when it was started."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
