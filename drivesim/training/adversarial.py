"""The game against a critic, as one loss: what the maker wants and what the critic wants, each blind to the other's weights.

Hinge losses (Lim and Ye 2017). Both sides in one backward pass let one optimizer, accumulation, mixed precision and strategies work as
everywhere else. This file does not know who makes the frames.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.models.discriminator import PatchDiscriminator3d
from drivesim.shapes import fold_time

__all__ = ["adversarial"]


def adversarial(critic: nn.Module, made: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """(how little ``made`` pleases the critic, the critic's hinge loss): scalars; frames (b, t, 3, H, W), in pieces for a 2-D critic."""
    critic.requires_grad_(False)
    displeased = -_judged(critic, made).mean()
    critic.requires_grad_(True)
    hinge = F.relu(1.0 - _judged(critic, frames)).mean() + F.relu(1.0 + _judged(critic, made.detach())).mean()
    return displeased, hinge


def _judged(critic: nn.Module, frames: Tensor) -> Tensor:
    return critic(frames if isinstance(critic, PatchDiscriminator3d) else fold_time(frames)).float()
