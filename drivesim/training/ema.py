"""Exponential moving average of a network's weights, with a warm-up so that the first steps are forgotten soon.

The average is a network of its own (a frozen copy), so it can be sampled from, validated and exported at any moment without swapping
weights in and out, and any strategy that shards or wraps modules treats it like every other module.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["averaged_copy", "decay_at", "update_average"]

Network = TypeVar("Network", bound=nn.Module)


def decay_at(updates: int, decay: float) -> float:
    """Decay for the update number ``updates`` (0 = the first): min(decay, (1 + n) / (10 + n))."""
    return min(decay, (1 + updates) / (10 + updates))


def averaged_copy(network: Network) -> Network:
    """A frozen copy in eval mode, to be kept up to date by ``update_average``."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, in place. Buffers (counts, statistics) are copied.

    Frozen weights of ``network`` are equal on both sides already; averaging equal numbers is skipped, so they stay bit-identical.
    """
    pairs = [(ours, theirs) for ours, theirs in zip(average.parameters(), network.parameters(), strict=True) if theirs.requires_grad]
    if pairs:
        ours, theirs = ([pair[side].detach() for pair in pairs] for side in (0, 1))
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
    _copy_all(list(average.buffers()), list(network.buffers()))


def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
