"""Pictures brought to the size a feature network was trained with, by the two rules in use; and the check of what comes in.

A Frechet distance depends on the rule (without antialiasing, 512x1024 pictures alias), so the rule is part of every protocol. This file
does not know networks.

Legend: N pictures   H height   W width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from drivesim.errors import DrivesimError

__all__ = ["RESIZES", "NetworkInputError", "antialiased_bilinear", "check_bytes", "one_by_one", "tf1_bilinear"]


class NetworkInputError(DrivesimError, ValueError):
    """Frames that a feature network must not be given: wrong type, shape, range or number."""


def check_bytes(frames: Tensor, ndim: int) -> None:
    """Refuse all but uint8 (n, 3, h, w) for ``ndim`` 4, or uint8 (b, t, 3, h, w) for 5, without an empty axis.

    Raises:
        NetworkInputError: another type or shape.
    """
    wanted = "(n, 3, h, w)" if ndim == 4 else "(b, t, 3, h, w)"
    if frames.dtype != torch.uint8:
        kind = str(frames.dtype).removeprefix("torch.")
        raise NetworkInputError(f"frames must be uint8 0..255, got {kind}; scale and round floats yourself, their range is not guessed")
    if frames.ndim != ndim or frames.shape[-3] != 3 or 0 in frames.shape:
        raise NetworkInputError(f"frames must have shape {wanted} with three colours and no empty axis, got {tuple(frames.shape)}")


def one_by_one(frames: Tensor, network: str) -> Tensor:
    """uint8 (b, 1, 3, h, w) -> (b, 3, h, w), for a network of single frames that is called ``network``.

    Raises:
        NetworkInputError: another type or shape, or several frames at once.
    """
    check_bytes(frames, 5)
    if frames.shape[1] != 1:
        raise NetworkInputError(f"{network} sees frames one by one, got {frames.shape[1]} at once; fold time into the batch")
    return frames[:, 0]


def tf1_bilinear(pictures: Tensor, height: int, width: int) -> Tensor:
    """TensorFlow 1's ``resize_bilinear(align_corners=False)``: (n, c, h, w) of any type -> float32 (n, c, height, width).

    The legacy rule: output pixel i looks at i * (in / out), not at pixel centres, and nothing is smoothed before shrinking. In float32
    and in the original's order of operations (tensorflow/core/kernels/image/resize_bilinear_op.cc), so that equal bytes give equal floats.
    """
    top, bottom, down = _neighbours(pictures.shape[-2], height, pictures.device)
    left, right, across = _neighbours(pictures.shape[-1], width, pictures.device)
    rows = [pictures[..., index, :].float() for index in (top, bottom)]
    upper, lower = (row[..., left] + (row[..., right] - row[..., left]) * across for row in rows)
    return upper + (lower - upper) * down[:, None]


def _neighbours(size_in: int, size_out: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each output pixel: the input pixel at or before it, the next (the last again at the edge), and the fraction between."""
    scale = torch.tensor(size_in, dtype=torch.float32) / size_out  # rounded to float32, as in the original
    position = torch.arange(size_out, dtype=torch.float32) * scale
    before = position.floor()
    fraction = position - before
    index = before.long().clamp(max=size_in - 1)
    return index.to(device), (index + 1).clamp(max=size_in - 1).to(device), fraction.to(device)


def antialiased_bilinear(pictures: Tensor, height: int, width: int) -> Tensor:
    """Pixel centres, and a triangle filter as wide as the shrinking asks: (n, c, h, w) of any type -> float32 (n, c, height, width)."""
    return nnf.interpolate(pictures.float(), (height, width), mode="bilinear", align_corners=False, antialias=True)


RESIZES: dict[str, Callable[[Tensor, int, int], Tensor]] = {"tf1": tf1_bilinear, "antialias": antialiased_bilinear}
