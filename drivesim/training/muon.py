"""Muon: steps in which every direction of a weight matrix moves equally far (Jordan et al. 2024); AdamW for all other weights.

The momentum of a matrix is replaced by the nearest matrix whose singular values are all one, so what the gradient says faintly is learned
as fast as what it says loudly. Steps are scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", Eq. 4), so
the same learning rate serves both. ``torch.optim.Muon`` takes matrices alone; networks here are mostly kernels. Knows parameters only;
every process of several takes the same step by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalized", "split_groups"]

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al.: singular values between 0.01 and 1 end near one (0.7 to 1.2) after five rounds."""
ROUNDS = 5
SMALLEST = 16
"""Matrices with fewer rows or columns (outputs of a few channels) are AdamW's: they have hardly any directions to balance."""
ADAM_SIZE = 0.2
"""Root mean square of AdamW's usual steps, in learning rates."""


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices (..., m, n) -> about U V^T of their singular value decompositions U S V^T. Zero stays zero.

    Newton-Schulz rounds act on the smaller Gram matrix, which for wide matrices is a third of the work of acting on the matrix itself.
    """
    a, b, c = QUINTIC
    x = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    gram = x @ x.mT
    product = eye = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    for _ in range(ROUNDS):
        change = a * eye + gram @ (b * eye + c * gram)
        product, gram = change @ product, change @ gram @ change
    x = product @ x
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT


def split_groups(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups -> the same, split into those that Muon moves (``orthogonal``) and AdamW's. Empty groups are left out."""
    halves = []
    for group in groups:
        for orthogonal in (True, False):
            params = [weight for weight in group["params"] if _is_matrix(weight) == orthogonal]
            if params:
                halves.append({**group, "params": params, "orthogonal": orthogonal})
    return halves


def _is_matrix(weight: Tensor) -> bool:
    return weight.ndim >= 2 and min(weight.flatten(1).shape) >= SMALLEST


class Muon(torch.optim.AdamW):
    """See the file's docstring. Kernels (o, i, ...) count as matrices (o, i * ...).

    Args:
        groups: parameter groups as ``split_groups`` makes them.
        momentum: of Muon's gradients, looked ahead as in Nesterov's method.
        lr, betas: as AdamW's; weight decay stands in the groups.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float = 3e-4, betas: tuple[float, float] = (0.9, 0.99), momentum: float = 0.95
    ) -> None:
        super().__init__(groups, lr=lr, betas=betas)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a closure is called first and its value returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if not group["orthogonal"]]
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            if group["orthogonal"]:
                self._move(group)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"], state["step"] = torch.zeros_like(weight), torch.zeros(())  # AdamW reads states back by their step
            state["step"] += 1
            mean = state["momentum"].lerp_(weight.grad, 1 - self.momentum)
            ahead = weight.grad.lerp(mean, self.momentum).flatten(1)
            size = ADAM_SIZE * max(ahead.shape) ** 0.5
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.sub_(orthogonalized(ahead).view_as(weight), alpha=group["lr"] * size)
