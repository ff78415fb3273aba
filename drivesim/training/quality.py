"""Offline metrics during training: held-out windows against what the averaged network makes of their labels and known frames.

The metrics are objects from the configuration; this file knows of them only that frames go in and a number comes out. Every validation
that counts uses the same windows and the same noise, so that a curve shows the network and not the draw.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError
from drivesim.shapes import as_bytes
from drivesim.training.callbacks import first_windows
from drivesim.training.stage_module import Batch, StageModule

__all__ = ["OfflineMetrics", "WindowMetric"]

log = logging.getLogger(__name__)


class WindowMetric(Protocol):
    """Compares two sides; one that is to be right over several processes merges them in ``compute``, as torchmetrics objects do."""

    def reset(self) -> None: ...

    def update(self, frames: Tensor, real: bool) -> None:
        """Take in frames of one side, uint8 (b, t, 3, h, w)."""

    def compute(self) -> Any:
        """A number, from all processes' windows. Raises DrivesimError where there are too few."""


class OfflineMetrics(L.Callback):
    """Logs ``val/<name>`` for every metric.

    Args:
        metrics: by name.
        every_n_validations: how often, beginning with the first after a start or restart.
        windows: at most so many on either side, over all processes; the first of the validation set.
    """

    def __init__(self, metrics: Mapping[str, WindowMetric], every_n_validations: int = 1, windows: int = 64) -> None:
        self.metrics, self.every, self.windows = dict(metrics), every_n_validations, windows
        self._validations = self._left = 0

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._left = 0
        if trainer.sanity_checking:
            return
        if self._validations % self.every == 0:
            self._left = math.ceil(self.windows / trainer.world_size)
        self._validations += 1
        for metric in self.metrics.values():
            metric.reset()
            if isinstance(metric, nn.Module):
                metric.to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not self._left or not isinstance(pl_module, StageModule):
            return
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            recorded, made = pl_module.windows(first_windows(batch, self._left), batch_idx)
        self._left -= len(recorded)
        for metric in self.metrics.values():
            metric.update(as_bytes(recorded), real=True)
            metric.update(as_bytes(made), real=False)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or (self._validations - 1) % self.every:
            return
        for name, metric in self.metrics.items():
            try:
                pl_module.log(f"val/{name}", float(metric.compute()), sync_dist=True)
            except DrivesimError as error:  # too few windows are no reason to lose a training run
                log.warning("val/%s is left out: %s", name, error)
