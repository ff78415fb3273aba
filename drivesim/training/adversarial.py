"""The game against a critic, as one loss: what the maker wants and what the critic wants, each blind to the other's weights.

Hinge losses (Lim and Ye 2017). Both sides in one backward pass let one optimizer, accumulation, mixed precision and strategies work as
everywhere else. This file does not know who makes the frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.models.discriminator import PatchDiscriminator2d
from drivesim.shapes import fold_time

__all__ = ["adversarial"]


def adversarial(critic: nn.Module, made: Tensor, frames: Tensor, *beside: Any) -> tuple[Tensor, Tensor]:
    """(how little ``made`` pleases the critic, the critic's hinge loss): scalars; frames (b, t, 3, H, W), in pieces for a 2-D critic.

    beside: what else the critic is told, of both sides the same. It may answer with several maps of logits, which count alike.
    """
    critic.requires_grad_(False)
    displeased = _judged(critic, made, beside, lambda logits: -logits)
    critic.requires_grad_(True)
    right = _judged(critic, frames, beside, lambda logits: F.relu(1.0 - logits))
    wrong = _judged(critic, made.detach(), beside, lambda logits: F.relu(1.0 + logits))
    return displeased, right + wrong


def _judged(critic: nn.Module, frames: Tensor, beside: tuple[Any, ...], loss: Callable[[Tensor], Tensor]) -> Tensor:
    answer = critic(fold_time(frames) if isinstance(critic, PatchDiscriminator2d) else frames, *beside)
    maps = [answer] if isinstance(answer, Tensor) else answer
    return torch.stack([loss(logits.float()).mean() for logits in maps]).mean()
