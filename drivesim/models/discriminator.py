"""Patch critics: is this patch of a frame (2-D) or of a clip (3-D) real? (PatchGAN, Isola et al. 2017; Video LDM, section 3.1.1.)

They return one logit per patch. Losses and schedules are the training package's business.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor, nn

from drivesim.recipes import recipe

__all__ = ["PatchDiscriminator2d", "PatchDiscriminator3d"]


def _spectral(layer: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(layer)


def _tower(conv: Any, kernel: Any, stride: Any, padding: Any, width: int, levels: int, channels: int) -> nn.Sequential:
    """Strided convolutions that double the width per level. Spectral norm instead of batch norm: a logit depends on its own patch alone."""
    layers: list[nn.Module] = [conv(channels, width, kernel, stride, padding), nn.LeakyReLU(0.2)]
    for level in range(1, levels):
        layers += [_spectral(conv(width * 2 ** (level - 1), width * 2**level, kernel, stride, padding)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, conv(width * 2 ** (levels - 1), 1, 3, 1, 1))


class PatchDiscriminator2d(nn.Module):
    """Frames (f, 3, H, W) in [-1, 1], or whatever else has ``channels`` -> logits (f, 1, H / 2**levels, W / 2**levels)."""

    def __init__(self, width: int = 32, levels: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.recipe = recipe(self, width=width, levels=levels, channels=channels)
        self.tower = _tower(nn.Conv2d, 4, 2, 1, width, levels, channels)

    def forward(self, frames: Tensor) -> Tensor:
        return self.tower(frames)


class PatchDiscriminator3d(nn.Module):
    """Clips (b, t, 3, H, W) in [-1, 1], or whatever else has ``channels`` -> logits (b, 1, t, H / 2**levels, W / 2**levels); time keeps
    its length."""

    def __init__(self, width: int = 32, levels: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.recipe = recipe(self, width=width, levels=levels, channels=channels)
        self.tower = _tower(nn.Conv3d, (3, 4, 4), (1, 2, 2), (1, 1, 1), width, levels, channels)

    def forward(self, frames: Tensor) -> Tensor:
        return self.tower(rearrange(frames, "b t c h w -> b c t h w"))
