"""Where the work is done and how long it takes. This file does not know what the work is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from drivesim.errors import UsageError

__all__ = ["Stopwatch", "pick_device"]


@dataclass
class Stopwatch:
    """Seconds of work per pass."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def pick_device(name: str = "auto") -> torch.device:
    """"auto" = CUDA where there is one, else the CPU.

    Raises:
        UsageError: the named device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device must be auto, cpu or cuda, not {name!r}") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device {name} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; "
                         "use --device cpu")  # fmt: skip
    return device
