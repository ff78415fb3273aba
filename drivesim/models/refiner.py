"""The last look at a frame before it leaves: what generated frames lack beside filmed ones, in one call.

Latents are learned by squared errors, so what they leave open comes out as a blur. A refiner (Shrivastava et al. 2017, "Learning from
simulated and unsupervised images through adversarial training") takes each frame with its labels and boxes and adds what is missing, in
light alone: given colours, it learned to please a detector with magenta where vehicles were to be. It looks at single frames: what it makes
depends on nothing but the frame, so a rollout may begin anywhere. This file does not know latents, noise, critics or where frames are from.

    F frames   H, W frame size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.models.blocks import channels_last, filtered, mean_around, zeroed
from drivesim.models.conditioning import covered, within_rows
from drivesim.models.unet import ImageUNet
from drivesim.recipes import recipe

__all__ = ["Refiner", "luminance", "without_alternation"]

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601)."""

HALF_BAND = (-1 / 16, 4 / 16, 10 / 16, 4 / 16, -1 / 16)
"""Five taps that pass waves of 8 pixels (0.98) and most of those of 4 (0.75), and nothing that alternates from pixel to pixel."""
MARGIN, SOFT, AROUND = 3, 5, 16
"""Pixels that belong to a box around it, over which it ends, and that are seen above and below it when it is looked at again."""


class Refiner(nn.Module):
    """Frames -> frames, labels -> the same scene as if it had been filmed. New, it changes nothing; ever, no colour.

    Args:
        base, multipliers, blocks, attention, head_channels, embedding: of the U-Net, see ``ImageUNet``.
        stem: space-to-depth before it; boxes are painted into cells of ``stem`` x ``stem`` pixels.
        labels: scalar labels that it is told.
    """

    def __init__(
        self, base: int = 40, multipliers: Sequence[int] = (1, 2, 4), blocks: int = 1, attention: Sequence[int] = (4,),
        head_channels: int = 40, embedding: int = 128, stem: int = 4, labels: Sequence[str] = ("time_of_day",),
    ) -> None:  # fmt: skip
        super().__init__()
        self.recipe = recipe(
            self, base=base, multipliers=multipliers, blocks=blocks, attention=attention, head_channels=head_channels, embedding=embedding,
            stem=stem, labels=labels,
        )  # fmt: skip
        self.unet = ImageUNet(3, base, multipliers, blocks, attention, head_channels, embedding, labels, boxes=True, stem=stem)
        # a U-Net of cells leaves their grid in the picture; this sees across their borders
        self.seams = nn.Sequential(nn.Conv2d(6, 16, 3, padding=1), nn.SiLU(), zeroed(nn.Conv2d(16, 3, 3, padding=1)))

    def forward(self, frames: Tensor, labels: Mapping[str, Tensor] | None = None) -> Tensor:
        """frames (F, 3, H, W), about [-1, 1]; labels of F frames, or None -> (F, 3, H, W), not clipped, float32.

        Raises:
            ValueError: H or W not divisible as the U-Net needs it.
        """
        nothing = torch.zeros(len(frames), device=frames.device)  # there is no noise here
        before = frames.float()
        change = self.unet(frames, nothing, labels).float()
        change = change + self.seams(channels_last(torch.cat([before, before + change], dim=1))).float()
        return before + without_alternation(luminance(change))

    def looked(self, frames: Tensor, labels: Mapping[str, Tensor] | None = None, looks: int = 1) -> Tensor:
        """As ``forward``, ``looks`` times. From the second look on, only what is in boxes changes: vehicles come out clearer, and the rest
        of the picture is not sharpened twice. So only the rows around a frame's boxes are looked at again."""
        refined: Tensor = self(frames, labels)
        if looks > 1 and labels is not None and "boxes" in labels:
            inside = _inside(labels, frames.shape[-2:])
            for (top, bottom), places in _bands(inside, self.unet.multiple).items():
                band = refined[places, :, top:bottom]
                told = {name: value[places] for name, value in labels.items()}
                told["boxes"] = within_rows(told["boxes"], top / frames.shape[-2], bottom / frames.shape[-2])
                for _ in range(looks - 1):
                    band = torch.lerp(band, self(band.clamp(-1, 1), told), inside[places, :, top:bottom])
                refined[places, :, top:bottom] = band
        return refined


def _inside(labels: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
    """(F, 1, H, W): 1 in boxes, 0 outside, with soft edges."""
    boxes = covered(labels["boxes"], labels["boxes_known"], *size)
    return mean_around(F.max_pool2d(boxes, 2 * MARGIN + 1, stride=1, padding=MARGIN), SOFT)


def _bands(inside: Tensor, multiple: int) -> dict[tuple[int, int], list[int]]:
    """(F, 1, H, W) -> (first row, row after the last), multiples of ``multiple`` -> the frames whose boxes, and AROUND them, it holds."""
    found: dict[tuple[int, int], list[int]] = {}
    height = inside.shape[-2]
    for place, rows in enumerate(inside.amax(dim=(1, 3)) > 0):
        where = rows.nonzero()
        if len(where):
            top, bottom = int(where[0]) - AROUND, int(where[-1]) + 1 + AROUND
            band = max(top // multiple * multiple, 0), min(-(-bottom // multiple) * multiple, height)
            found.setdefault(band, []).append(place)
    return found


def luminance(pixels: Tensor) -> Tensor:
    """(f, 3, H, W), red, green, blue -> (f, 1, H, W)."""
    return (pixels * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def without_alternation(pixels: Tensor) -> Tensor:
    """(f, 1, H, W) -> the same without what alternates from one row or column to the next.

    Gradients of critics and detectors with strides leave such a pattern; no road has it.
    """
    return filtered(pixels, HALF_BAND)
