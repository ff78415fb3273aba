"""Training on patches: a network that is a convolution learns on pieces of frames what it will say of whole ones.

Every window of a batch is cut several times, each cut at one place for all its frames. This file does not know what is learned.

Legend: B windows   P patches   T frames   H, W height and width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drivesim.errors import UsageError

__all__ = ["Patches"]


@dataclass(frozen=True)
class Patches:
    """How windows are cut: ``count`` patches of each, ``size`` pixels high and wide, at places that are multiples of ``align`` pixels.

    Raises:
        UsageError: fewer than one patch, or a size that is no positive multiple of ``align``.
    """

    size: int
    count: int = 1
    align: int = 4

    def __post_init__(self) -> None:
        if self.count < 1 or self.align < 1 or self.size < 1 or self.size % self.align:
            raise UsageError(f"patches need count >= 1 and a size that {self.align} divides, not {self.count} of {self.size} pixels")

    def cut(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """{"frames": (b, t, 3, H, W)} -> {"frames": (b * count, t, 3, size, size), "labels": {}}: labels of a whole frame say nothing
        that is true of a patch.

        Raises:
            UsageError: frames smaller than a patch.
        """
        frames = batch["frames"]
        return {"frames": torch.cat([self._patches(window, generator) for window in frames]), "labels": {}}

    def _patches(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """(t, 3, H, W) -> (count, t, 3, size, size)."""
        height, width = window.shape[-2:]
        if min(height, width) < self.size:
            raise UsageError(f"frames of {height}x{width} hold no patch of {self.size} pixels; set a smaller module.patches.size")
        cuts = []
        for _ in range(self.count):
            top, left = (self.align * int(torch.randint((room - self.size) // self.align + 1, (), generator=generator))
                         for room in (height, width))  # fmt: skip
            cuts.append(window[..., top : top + self.size, left : left + self.size])
        return torch.stack(cuts)
