"""What happens beside the training loop: resumable checkpoints, exports for rollouts, pictures to look at.

This file does not know what is learned; the stage modules say what they export and what there is to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from torch import Tensor
from tqdm import tqdm

from drivesim.shapes import as_bytes
from drivesim.training.export import export_parts
from drivesim.training.stage_module import Batch, StageModule, time_left_s

__all__ = ["Export", "LastCheckpoint", "Pictures", "Progress", "first_windows", "grid"]


class Progress(ProgressBar):
    """One bar over all optimizer steps of the stage, restarts included: rate, time left, newest losses."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._shown = True

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._bar = tqdm(
            desc="training", total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True, disable=not self._shown
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._bar is None or trainer.global_step == self._bar.n:
            return
        metrics = {name: f"{float(value):.4f}" for name, value in trainer.progress_bar_metrics.items()}
        left = time_left_s(trainer)
        if left is not None:
            metrics["time box"] = f"{left / 60:.1f} min left"
        self._bar.set_postfix(metrics, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``folder/last.ckpt``: replaced every so many steps and when training ends, whole or not at all. The command resumes from it."""

    def __init__(self, folder: str | Path, every_n_steps: int = 200) -> None:
        super().__init__(dirpath=str(folder), filename="last", every_n_train_steps=every_n_steps, enable_version_counter=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._last_global_step_saved != trainer.global_step:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))


class Export(L.Callback):
    """Writes the averaged network into the checkpoint folder whenever a checkpoint is saved: the folder is always ready for a rollout.

    Args:
        folder: the checkpoint folder.
        preset: its name and sizes, merged into model.json: "preset", "height", "width", "keyframe_fps", "rollout".
        data: what was trained on, kept in the network's metadata.
    """

    def __init__(self, folder: str | Path, preset: Mapping[str, Any], data: list[str] | str = ()) -> None:  # type: ignore[assignment]
        self.folder, self.preset = Path(folder), dict(preset)
        self.data = [data] if isinstance(data, str) else list(data)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero and isinstance(pl_module, StageModule):
            self.write(pl_module, checkpoint["state_dict"], {"steps": trainer.global_step})

    def write(self, module: StageModule, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Export the module's parts with weights from ``state`` (a state_dict of the module, gathered from all processes)."""
        export_parts(self.folder, module, state, {**self.preset, **module.settings()}, {"data": self.data, **metadata})


class Pictures(L.Callback):
    """After a validation, PNGs of what the averaged network does with the first validation batch: ``folder/<name>_<step>.png``.

    Args:
        every_n_validations: how often. windows: windows shown. frames: frames shown of each.
    """

    def __init__(self, folder: str | Path, every_n_validations: int = 1, windows: int = 4, frames: int = 10) -> None:
        self.folder, self.every, self.windows, self.frames = Path(folder), every_n_validations, windows, frames
        self._validations = 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or trainer.sanity_checking or not isinstance(pl_module, StageModule):
            return
        self._validations += 1
        if (self._validations - 1) % self.every == 0:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                pictures = pl_module.pictures(first_windows(batch, self.windows))
            if trainer.is_global_zero:
                self._write(pictures, trainer.global_step)

    def _write(self, pictures: Mapping[str, Tensor], step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, rows in pictures.items():
            image = grid(as_bytes(rows[:, : self.frames].float().cpu()).numpy())
            cv2.imwrite(str(self.folder / f"{name}_{step:07d}.png"), np.ascontiguousarray(image[..., ::-1]))


def grid(frames: np.ndarray, gap: int = 2) -> np.ndarray:
    """uint8 (rows, columns, 3, H, W) -> one picture (h, w, 3), RGB, tiles in white frames. Single columns are laid out several to a row."""
    rows, columns = frames.shape[:2]
    if columns == 1:
        wide = min(8, rows)
        padding = np.full(((-rows) % wide, *frames.shape[1:]), 255, np.uint8)
        frames = np.concatenate([frames, padding]).reshape(-1, wide, *frames.shape[2:])
        rows, columns = frames.shape[:2]
    tiles = np.pad(frames.transpose(0, 1, 3, 4, 2), ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    height, width = tiles.shape[2:4]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def first_windows(batch: Batch, count: int) -> Batch:
    """The first ``count`` windows of a batch."""
    return {
        name: {key: part[:count] for key, part in value.items()} if isinstance(value, Mapping) else value[:count]
        for name, value in batch.items()
    }
