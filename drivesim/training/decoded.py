"""Distance of latents as they will be seen: one frame of every window is decoded, and so is the recording's.

A squared error in latents is smallest for the mean of all answers, which decodes to a blur; people and judges look at frames. Decoding one
frame of a window, drawn anew each time, costs a fifth of decoding all. The decoder stays as it is, gradients go through it. This file does
not know diffusion, networks that make latents, or configuration.

Legend: B batch   T frames   C channels   H, W height and width of latents
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DecodedDistance"]


class DecodedDistance(nn.Module):
    """L1 and perceptual distance of decoded frames.

    Args:
        perceptual: distance of frames (f, 3, H, W) in [-1, 1], or None.
        weight: of the L1 distance of frames.   perceptual_weight: of the perceptual one.
        pool: the L1 distance is one of means over pool x pool pixels. It then holds colour and light, to which a perceptual distance is
            blind, and leaves sharpness to that; with 1 it draws to the blur of all answers itself.
    """

    def __init__(
        self, perceptual: nn.Module | None = None, weight: float = 1.0, perceptual_weight: float = 1.0, pool: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        self.perceptual, self.weight, self.perceptual_weight, self.pool = perceptual, weight, perceptual_weight, pool

    def forward(
        self, autoencoder: Any, made: Tensor, wanted: Tensor, unknown: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:  # fmt: skip
        """Weighted distances by name.

        Args:
            autoencoder: decodes normalised latents (b, t, c, h, w).   made, wanted: such latents.
            unknown: bool (b, t), the frames that were made; each window has one at least, and one of them is drawn from ``generator``.
        """
        drawn = torch.multinomial(unknown.cpu().float(), 1, generator=generator).to(made.device)
        rows = torch.arange(len(made), device=made.device)[:, None]
        frames = autoencoder.decode(made[rows, drawn])[:, 0].float()
        with torch.no_grad():
            targets = autoencoder.decode(wanted[rows, drawn])[:, 0].float()
        terms = {"frames": self.weight * F.l1_loss(F.avg_pool2d(frames, self.pool), F.avg_pool2d(targets, self.pool))}
        if self.perceptual is not None and self.perceptual_weight > 0:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(frames, targets).float()
        return terms
