"""Shots made from other shots: what a number is put beside. Reconstructions (nothing a generator makes can be better) and stills.

Their keys follow from the key of the shot they come from, so their features are kept like any other. This file does not know distances.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from drivesim.io.checkpoints import Checkpoint, file_hash
from drivesim.shapes import as_bytes, as_floats, fold_time, unfold_time

from .codec import resized
from .footage import Shot

__all__ = ["frozen", "reconstructed"]


def frozen(shots: Sequence[Shot]) -> list[Shot]:
    """The first frame of each shot, held: what a generator that knows pictures but no motion makes."""
    return [replace(shot, key=_key("frozen", shot), read=partial(_still, shot)) for shot in shots]


def reconstructed(shots: Sequence[Shot], checkpoint: Checkpoint) -> list[Shot]:
    """Each shot through the checkpoint's autoencoder, at the checkpoint's size: all frames of a shot are decoded together.

    Raises:
        CheckpointError: reading the autoencoder.
    """
    autoencoder = checkpoint.network("autoencoder")
    size = (int(checkpoint.settings["height"]), int(checkpoint.settings["width"]))
    name = f"reconstruction {file_hash(checkpoint.folder / 'autoencoder.safetensors')} {size}"
    return [replace(shot, key=_key(name, shot), read=partial(_reconstruct, shot, autoencoder, size)) for shot in shots]


def _key(name: str, shot: Shot) -> str:
    return hashlib.sha256(f"{name} {shot.key}".encode()).hexdigest()


def _still(shot: Shot) -> np.ndarray:
    frames = shot.read()
    return np.broadcast_to(frames[:1], frames.shape).copy()


def _reconstruct(shot: Shot, autoencoder: nn.Module, size: tuple[int, int]) -> np.ndarray:
    frames = torch.from_numpy(resized(shot.read(), size)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        latents = autoencoder.encode(as_floats(frames))  # type: ignore[operator]
        made = fold_time(autoencoder.decode(unfold_time(latents, len(frames))))  # type: ignore[operator]
        return as_bytes(made).permute(0, 2, 3, 1).contiguous().numpy()
