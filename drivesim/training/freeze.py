"""Holding weights still: freezing, and the proof afterwards that nothing moved.

The paper trains the temporal layers alone, over a frozen image network (Video LDM, section 3.1); other image networks can then be swapped
in. ``fingerprint`` makes that checkable to the last bit. Knows parameters only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError

__all__ = ["FrozenWeightsError", "assert_unchanged", "fingerprint", "set_trainable", "weight_groups"]


class FrozenWeightsError(DrivesimError):
    """Weights that were to be held still have changed."""


def set_trainable(parameters: Iterable[nn.Parameter], trainable: bool) -> None:
    """Turn gradients on or off; weights that are switched off lose the gradient they had."""
    for parameter in parameters:
        parameter.requires_grad_(trainable)
        if not trainable:
            parameter.grad = None


def fingerprint(parameters: Iterable[Tensor]) -> str:
    """SHA-256 over the bytes of all parameters, in order: equal only where every bit is."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def assert_unchanged(before: str, parameters: Iterable[Tensor], what: str) -> None:
    """Compare with an earlier fingerprint.

    Raises:
        FrozenWeightsError: at least one bit differs.
    """
    if fingerprint(parameters) != before:
        raise FrozenWeightsError(f"the {what} weights were to stay frozen, but training has changed them")


def weight_groups(parameters: Iterable[nn.Parameter], weight_decay: float, **settings: object) -> list[dict[str, object]]:
    """AdamW parameter groups: matrices and kernels are decayed; biases, norms and scalars are not. Empty groups are left out."""
    kept = list(parameters)
    decayed = [parameter for parameter in kept if parameter.ndim >= 2]
    plain = [parameter for parameter in kept if parameter.ndim < 2]
    groups = [(decayed, weight_decay), (plain, 0.0)]
    return [{"params": members, "weight_decay": decay, **settings} for members, decay in groups if members]
