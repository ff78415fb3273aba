"""How fast a stage trains: windows and operations a second, and what share that is of what the device can do; and torch.compile for it.

Operations are those of the first batch, counted as it runs (forward, backward and all helpers; a multiplication and an addition are two).
The peak is that of a large matrix product in the trainer's precision, measured before training. This file does not know what is learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

from drivesim.errors import UsageError
from drivesim.training.stage_module import Batch, StageModule

__all__ = ["Compile", "Throughput", "matrix_peak"]

MODES = ("default", "reduce-overhead", "max-autotune")


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Operations a second of a square matrix product, the best of many."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begin = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return 2.0 * side**3 / min(times)


class Throughput(L.Callback):
    """Logs ``speed/windows_per_s``, ``speed/gflop_per_s`` and ``speed/share_of_peak`` of one process every ``every_n_batches`` batches,
    validation and pictures left out, and prints the last at the end.

    peak, clock: how the device's peak and the time are measured.
    """

    def __init__(
        self, every_n_batches: int = 50, peak: Callable[[torch.device, torch.dtype], float] = matrix_peak,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self.every, self._measured_peak, self._clock = every_n_batches, peak, clock
        self.flops = 0
        """Operations of one batch; 0 before the first."""
        self.told = ""
        self._counter: FlopCounterMode | None = None
        self._begun = self._seconds = 0.0
        self._windows = self._batches = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
        self._peak = self._measured_peak(pl_module.device, dtype)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        if not self.flops:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()
        self._begun = self._now(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._counter is not None:  # the batch that is counted is slower, so it is not timed
            self._counter.__exit__(None, None, None)
            self.flops, self._counter = max(self._counter.get_total_flops(), 1), None
            return
        self._seconds += self._now(pl_module) - self._begun
        self._windows += len(next(value for value in batch.values() if isinstance(value, torch.Tensor)))
        self._batches += 1
        if self._batches == self.every:
            self._tell(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.told and trainer.is_global_zero:
            print(self.told)

    def _tell(self, module: L.LightningModule) -> None:
        rate, work = self._windows / self._seconds, self.flops * self._batches / self._seconds
        module.log_dict({"speed/windows_per_s": rate, "speed/gflop_per_s": work / 1e9, "speed/share_of_peak": work / self._peak})
        self.told = (
            f"{rate:.3g} windows/s, {work / 1e9:.0f} GFLOP/s, {work / self._peak:.0%} of the {self._peak / 1e9:.0f} of a matrix product"
        )
        self._seconds, self._windows, self._batches = 0.0, 0, 0

    def _now(self, module: L.LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return self._clock()


class Compile(L.Callback):
    """Compiles the trained network after the first batch, which Throughput counts. mode: of torch.compile; None = do nothing.

    Raises:
        UsageError: no mode of torch.compile.
    """

    def __init__(self, mode: str | None = None) -> None:
        if mode is not None and mode not in MODES:
            raise UsageError(f"compile must be null or one of {', '.join(MODES)}, not {mode!r}")
        self.mode, self._done = mode, False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.mode is not None and not self._done and isinstance(pl_module, StageModule):
            pl_module.network.compile(mode=self.mode)
            self._done = True
