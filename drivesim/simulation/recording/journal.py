"""Keyframe latents on disk as they are made, so that a rollout that was killed goes on from the very numbers it had.

One small safetensors file per keyframe window, written whole or not at all, with the hash of its numbers. A file that is missing or
damaged costs time only: the window is made again, to the same bits. This file does not know windows, networks or videos.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from drivesim.errors import DrivesimError
from drivesim.io.atomic import replacing
from drivesim.simulation.recording.folder import STATE

__all__ = ["Journal", "JournalError"]

FORMAT = "drivesim-latents-1"


class JournalError(DrivesimError):
    """The disk refuses latents."""


class Journal:
    """Latents by number, under ``<rollout>/state/``."""

    def __init__(self, out: Path) -> None:
        self.folder = out / STATE

    def load(self, number: int) -> Tensor | None:
        """Latents ``number`` on the CPU, to the bit as they were saved; None where there are none or they are damaged."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                told, latents = file.metadata() or {}, file.get_tensor("latents")
        except (SafetensorError, OSError):
            return None
        return latents if told == _described(number, latents) else None

    def save(self, number: int, latents: Tensor) -> None:
        """Keep latents; they are on the disk when this returns.

        Raises:
            JournalError: the disk is full or read-only.
        """
        path, kept = self._path(number), latents.detach().cpu().clone(memory_format=torch.contiguous_format)
        try:
            with replacing(path) as part:
                part.write_bytes(save({"latents": kept}, metadata=_described(number, kept)))
        except OSError as error:
            raise JournalError(f"cannot write {path}: {error.strerror or error}; free space") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


def _described(number: int, latents: Tensor) -> dict[str, str]:
    digest = hashlib.sha256(latents.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    return {"format": FORMAT, "number": str(number), "sha256": digest}
