"""The look of a long rollout: every window is led back towards that of the first one.

A keyframe network that makes each window a little brighter than its context makes a white night in minutes, as every window is the context
of the next. Led back, the deviation is held to what a window adds over ``share`` instead of growing with their number. The mean alone
would not do: a white road under a black sky has the mean of a grey one. The paper has nothing like it. This file does not
know networks, samplers or time.

    t keyframes   c latent channels   h, w latent size
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["led_back", "look_of"]


def look_of(latents: Tensor) -> Tensor:
    """(t, c, h, w) -> (c, h, 1): the straight line from top to bottom that fits each channel best (least squares), wherever things are."""
    rows = latents.mean(dim=(0, 3))
    height = torch.arange(rows.shape[-1], dtype=rows.dtype, device=rows.device) - (rows.shape[-1] - 1) / 2
    slope = (rows * height).sum(-1, keepdim=True) / height.square().sum().clamp(min=0.5)  # 0.5: of two rows; one row has no slope
    return (rows.mean(-1, keepdim=True) + slope * height)[..., None]


def led_back(made: Tensor, anchor: Tensor, share: float) -> Tensor:
    """Keyframes with ``share`` of their look's way from ``anchor`` taken back, more and more from the first to the last of them, so that
    light does not jump where a window begins.

    Args:
        made: (t, c, h, w), all that a window adds to its context.   anchor: a look, (c, h, 1).   share: 0 (nothing) to 1.

    Returns: (t, c, h, w); where their look is the anchor, what they were.
    """
    ramp = torch.arange(1, len(made) + 1, dtype=made.dtype, device=made.device)[:, None, None, None] / len(made)
    return made - share * ramp * (look_of(made) - anchor)
