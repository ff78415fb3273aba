"""How fast a device computes, in a second: what predictions of times are counted from. This file does not know networks."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as nnf

__all__ = ["measured_rate"]


def measured_rate(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seconds: float = 0.7) -> float:
    """Operations a second of the kind that networks here mostly do, 3x3 convolutions of 256 channels; the best of many short runs.

    seconds: about how long it takes.
    """
    device = torch.device(device)
    pictures = 8 if device.type == "cpu" else 256
    x = torch.ones(pictures, 256, 16, 32, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.full((256, 256, 3, 3), 1e-3, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < 3 or sum(times) < seconds:
            begin = time.perf_counter()
            nnf.conv2d(x, weight, padding=1)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
    return 2.0 * x.numel() * 256 * 9 / min(times)
