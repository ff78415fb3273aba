"""What a network's output means: coefficients, functions of sigma alone, that lead from (output, x) to x0.

With x = alpha x0 + sigma eps, a network may predict the noise (epsilon) or the velocity alpha eps - sigma x0. Given x, either determines
x0. Every sigma is (b,) or (b, t) and broadcasts from the left against x (b, t, c, h, w). This file does not know networks or schedules.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from drivesim.diffusion.noise import alpha_of
from drivesim.errors import UsageError
from drivesim.shapes import expand_to

__all__ = ["PARAMETERIZATIONS", "Epsilon", "Parameterization", "Velocity", "add_noise", "parameterization_named"]

SMALLEST_ALPHA = 1e-4
"""Below this signal scale the noise says nothing about x0 in float32; dividing by it keeps Epsilon finite, not right."""


def _coefficients(sigma: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma), shaped to broadcast against ``like``."""
    return expand_to(alpha_of(sigma), like), expand_to(sigma, like)


def add_noise(x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """x = alpha x0 + sigma eps: a draw of q(x | x0) (Ho et al. 2020, Eq. 4)."""
    alpha, scale = _coefficients(sigma, x0)
    return alpha * x0 + scale * eps


class Parameterization(Protocol):
    """The two directions between a network's output and x0."""

    def x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean estimate that the network's output stands for; all (b, t, c, h, w)."""
        ...

    def target(self, x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
        """What the network should have put out for x = alpha x0 + sigma eps."""
        ...


class Epsilon:
    """The network predicts eps (Ho et al. 2020, Eq. 14). Undetermined at sigma = 1, so not for zero-terminal schedules."""

    def x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """x0 = (x - sigma eps) / alpha."""
        alpha, scale = _coefficients(sigma, x)
        return (x - scale * output) / alpha.clamp_min(SMALLEST_ALPHA)

    def target(self, x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
        """eps itself."""
        return eps


class Velocity:
    """The network predicts v = alpha eps - sigma x0 (Salimans and Ho 2022, Appendix D). Well posed at every sigma."""

    def x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """x0 = alpha x - sigma v."""
        alpha, scale = _coefficients(sigma, x)
        return alpha * x - scale * output

    def target(self, x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
        """v = alpha eps - sigma x0."""
        alpha, scale = _coefficients(sigma, x0)
        return alpha * eps - scale * x0


PARAMETERIZATIONS: dict[str, Parameterization] = {"epsilon": Epsilon(), "velocity": Velocity()}


def parameterization_named(choice: str | Parameterization) -> Parameterization:
    """A name of PARAMETERIZATIONS -> the parameterization; one already made is returned as it is.

    Raises:
        UsageError: no such name.
    """
    if not isinstance(choice, str):
        return choice
    if choice not in PARAMETERIZATIONS:
        raise UsageError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, not {choice!r}")
    return PARAMETERIZATIONS[choice]
