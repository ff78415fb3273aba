"""Patch critics: is this patch of a frame (2-D) or of a clip (3-D) real? (PatchGAN, Isola et al. 2017; Video LDM, section 3.1.1.)

They return one logit per patch. Losses and schedules are the training package's business.

Legend: B batch   T frames   F = B * T   H, W frame size
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.conditioning import RASTER_CHANNELS, raster_boxes
from drivesim.recipes import recipe
from drivesim.shapes import fold_time

__all__ = ["ClipDiscriminator", "FeatureDiscriminator", "PatchDiscriminator2d", "PatchDiscriminator3d"]


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


class FeatureDiscriminator(nn.Module):
    """Does this place of a frame look filmed, with these boxes in it? Judged from features that a frozen, pretrained network finds at
    several scales, which a small critic neither learns too slowly nor learns by heart (Sauer et al. 2021, "Projected GANs").

    Args:
        features: (f, 3, H, W) in [-1, 1] -> feature maps, one a scale; stays as it is.
        channels: of the maps that are looked at, the last ones.
        width: of the towers on them.
    """

    def __init__(self, features: nn.Module, channels: Sequence[int] = (40, 80), width: int = 64) -> None:
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        self.towers = nn.ModuleList(
            nn.Sequential(
                _spectral(nn.Conv2d(count + RASTER_CHANNELS, width, 3, padding=1)), nn.LeakyReLU(0.2),
                _spectral(nn.Conv2d(width, width, 3, padding=1)), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1),
            ) for count in channels
        )  # fmt: skip

    def train(self, mode: bool = True) -> FeatureDiscriminator:
        """The towers alone: statistics belong to the pretrained network."""
        super().train(mode)
        self.features.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> FeatureDiscriminator:
        """Of the towers alone."""
        self.towers.requires_grad_(requires_grad)
        return self

    def forward(self, frames: Tensor, boxes: Tensor, boxes_known: Tensor) -> list[Tensor]:
        """Frames (f, 3, H, W), boxes (f, n, 6), boxes_known (f,) -> logits (f, 1, h, w), one map a scale."""
        maps = self.features(frames)[-len(self.towers) :]
        beside = [raster_boxes(boxes, boxes_known, *found.shape[-2:]).to(found) for found in maps]
        return [tower(torch.cat([found, raster], dim=1)) for tower, found, raster in zip(self.towers, maps, beside, strict=True)]


class ClipDiscriminator(nn.Module):
    """A critic of clips and of what is in their frames: patches over time, and features beside the boxes asked for.

    sight: what becomes of frames (f, 3, H, W) before features are looked for; None = nothing.
    """

    def __init__(
        self, clips: PatchDiscriminator3d, frames: FeatureDiscriminator, sight: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.clips, self.frames, self.sight = clips, frames, sight or nn.Identity()

    def requires_grad_(self, requires_grad: bool = True) -> ClipDiscriminator:
        """Of what learns."""
        self.clips.requires_grad_(requires_grad)
        self.frames.requires_grad_(requires_grad)
        return self

    def forward(self, frames: Tensor, labels: Mapping[str, Tensor], picked: Tensor) -> list[Tensor]:
        """Clips (b, t, 3, H, W), their labels (b, t, ...), and which of their frames are looked at one by one (n,) -> maps of logits."""
        one_by_one, boxes, known = (fold_time(value[:, picked]) for value in (frames, labels["boxes"], labels["boxes_known"]))
        return [self.clips(frames), *self.frames(self.sight(one_by_one), boxes, known)]
