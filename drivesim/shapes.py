"""Axis letters and the folds between them.

Legend, used in every docstring of the package:

    B batch   T frames   C channels   H height   W width   F = B * T   N boxes

Video tensors are ``b t c h w`` everywhere outside ``models/temporal.py``. Frames are uint8 on disk and in data loaders, and floats in
[-1, 1] inside networks. This file knows tensors only: no network, no label, no file.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["as_bytes", "as_floats", "expand_to", "fold_time", "unfold_time"]


def fold_time(x: Tensor) -> Tensor:
    """(b, t, ...) -> (b * t, ...)."""
    return x.flatten(0, 1)


def unfold_time(x: Tensor, frames: int) -> Tensor:
    """(b * t, ...) -> (b, t, ...)."""
    return rearrange(x, "(b t) ... -> b t ...", t=frames)


def expand_to(x: Tensor, like: Tensor) -> Tensor:
    """Append singleton axes to x until it broadcasts from the left against ``like``: (b,) or (b, t) -> (b, 1, 1, ...)."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def as_floats(frames: Tensor) -> Tensor:
    """uint8 frames 0..255 -> float32 in [-1, 1]; any shape."""
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {frames.dtype}")
    return frames.float().div_(127.5).sub_(1.0)


def as_bytes(frames: Tensor) -> Tensor:
    """Float frames in [-1, 1] -> uint8 0..255, rounded to nearest and clipped; any shape."""
    return frames.float().add(1.0).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
