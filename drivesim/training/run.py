"""One stage of training, from built objects to an exported network. The configuration was turned into objects by the caller.

The same call again goes on where it was stopped: ``<out>/runs/<stage>/last.ckpt``. This file does not know what is trained.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from drivesim.errors import DrivesimError, UsageError
from drivesim.training.callbacks import Export, LastCheckpoint
from drivesim.training.stage_module import StageModule

__all__ = ["fit", "train"]

Kind = TypeVar("Kind", bound=L.Callback)

EXPECTED = (
    "Checkpoint directory .* exists and is not empty",  # that is where it resumes from
    "Found .* module.* in eval mode",  # averages and frozen helpers
    "You're resuming from a checkpoint that ended before the epoch ended",  # samples are counted, not shuffled
    "The number of training batches",
    "The .*dataloader.* does not have many workers",
    ".*LeafSpec",
)
"""Warnings of Lightning about what is meant to be so."""


def train(
    *, module: StageModule, datamodule: L.LightningDataModule, trainer: Callable[..., L.Trainer], callbacks: Mapping[str, L.Callback],
    loggers: Mapping[str, Logger], max_minutes: float | None = None,
) -> Path:  # fmt: skip
    """Train one stage, or what is left of it, and export it.

    Args:
        module: what is trained. Its weights were initialised when it was built: seed before (``lightning.seed_everything``).
        datamodule: where batches come from.
        trainer: makes the trainer from ``callbacks``, ``logger`` and, with a time box, ``max_time``.
        callbacks: by name; LastCheckpoint and Export among them.
        loggers: by name.
        max_minutes: time box over all restarts: training stops cleanly, with a checkpoint and an export.

    Returns: the checkpoint folder.

    Raises:
        UsageError: a time box that is not positive.
        DrivesimError: the loss is not finite, or a file cannot be read or written.
    """
    if max_minutes is not None and not max_minutes > 0:
        raise UsageError(f"max_minutes must be positive, not {max_minutes}")
    _quiet()
    export = _only(callbacks, Export)
    if not any(True for _ in module.network.parameters()):
        export.write(module, module.state_dict(), {"steps": 0})
        print(f"first_stage=pixel: nothing to train in this stage; wrote the identity autoencoder to {export.folder}")
        return export.folder
    box = {} if max_minutes is None else {"max_time": timedelta(minutes=max_minutes)}
    fit(module, datamodule, trainer(callbacks=list(callbacks.values()), logger=list(loggers.values()), **box))
    return export.folder


def fit(module: StageModule, datamodule: L.LightningDataModule, trainer: L.Trainer) -> None:
    """Run the trainer, from its LastCheckpoint's file if that exists. Checkpoints are read as tensors and plain containers only.

    Raises:
        DrivesimError: the checkpoint is damaged or belongs to another network.
    """
    last = Path(str(_only({str(number): part for number, part in enumerate(_callbacks(trainer))}, LastCheckpoint).dirpath)) / "last.ckpt"
    begun = _steps_of(last) if last.exists() else 0
    if begun:
        print(f"going on from step {begun} ({last})")
    trainer.fit(module, datamodule=datamodule, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    if last.exists() and begun == trainer.global_step:
        print(f"nothing left to train: {begun} steps are done; raise trainer.max_steps or max_minutes to go on")


def _quiet() -> None:
    """Lightning's advice and notices on hardware off; its warnings stay, but for the expected ones."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)


def _steps_of(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:
        raise DrivesimError(f"{checkpoint} cannot be read ({type(error).__name__}); remove it to start the stage anew") from error


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _only(callbacks: Mapping[str, L.Callback], kind: type[Kind]) -> Kind:
    """The callback of a kind.

    Raises:
        UsageError: there is none, or there are several.
    """
    found = [callback for callback in callbacks.values() if isinstance(callback, kind)]
    if len(found) != 1:
        raise UsageError(f"training needs exactly one {kind.__name__} callback, not {len(found)}")
    return found[0]
