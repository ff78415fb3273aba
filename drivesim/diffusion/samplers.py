"""Samplers: pure functions that carry x from the first sigma of a grid to its last through a denoiser.

    sampler(denoiser, x (b, t, c, h, w), sigmas (n + 1,) falling) -> x (b, t, c, h, w)

Coefficients are float64 numbers written so that sigma = 1 (alpha = 0) and sigma = 0 are ordinary. One denoiser call a step. This file does
not know networks, guidance, known frames or where noise comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from drivesim.diffusion.denoiser import Denoiser
from drivesim.diffusion.noise import alpha_of
from drivesim.errors import DrivesimError, UsageError

__all__ = ["SAMPLERS", "NonFiniteError", "ddim", "dpmpp_2m", "leading_to", "renoise"]

Level = tuple[float, float]
"""(alpha, sigma)."""


class NonFiniteError(DrivesimError):
    """A denoiser answered with NaN or infinity."""


def ddim(denoiser: Denoiser, x: Tensor, sigmas: Tensor, eta: float = 0.0, noise: Callable[[int], Tensor] | None = None) -> Tensor:
    """DDIM (Song et al. 2021, Eqs. 12 and 16). First order.

    Args:
        eta: 0 follows the probability flow; 1 renews as much noise as the reverse of the forward process does.
        noise: step index -> standard normal tensor like x; asked for only when eta > 0.

    Raises:
        UsageError: eta > 0 without ``noise``, or a grid that does not fall within 1..0.
        NonFiniteError: the denoiser's x0 is not finite.
    """
    if eta > 0 and noise is None:
        raise UsageError("ddim with eta > 0 needs a source of noise")
    levels = _levels(sigmas)
    for step, (here, there) in enumerate(pairwise(levels)):
        (alpha, sigma), (alpha_next, sigma_next) = here, there
        x0 = _denoised(denoiser, x, sigma, step, len(levels) - 1)
        eps = (x - alpha * x0) / sigma
        fresh = eta * sigma_next / sigma * math.sqrt(1 - (alpha / alpha_next) ** 2)  # Eq. 16
        x = alpha_next * x0 + math.sqrt(max(sigma_next**2 - fresh**2, 0.0)) * eps  # Eq. 12
        if fresh > 0 and noise is not None:
            x = x + fresh * noise(step)
    return x


def dpmpp_2m(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2). Second order at one call a step; follows the probability flow.

    With lambda = log(alpha / sigma), x0 is extrapolated linearly in lambda to the middle of the step. Where lambda is infinite, at
    sigma = 1 and sigma = 0, there is no middle and the step is DDIM's; near them the error is h^2 log(1 / h).

    Raises:
        UsageError: a grid that does not fall within 1..0.
        NonFiniteError: the denoiser's x0 is not finite.
    """
    levels = _levels(sigmas)
    last_x0, last_width = x, math.inf
    for step, (here, there) in enumerate(pairwise(levels)):
        (alpha, sigma), (alpha_next, sigma_next) = here, there
        x0 = _denoised(denoiser, x, sigma, step, len(levels) - 1)
        width = _half_log_snr(there) - _half_log_snr(here)
        push = width / (2 * last_width) if math.isfinite(width) else 0.0  # 1 / (2 r), r = h_{i-1} / h_i
        middle = x0 + push * (x0 - last_x0)
        x = sigma_next / sigma * x + (alpha_next - sigma_next * alpha / sigma) * middle  # = -alpha_next (exp(-h) - 1) middle
        last_x0, last_width = x0, width
    return x


def renoise(denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
    """Few-step sampling of distilled networks (Song et al. 2023, Algorithm 1): each answer is noised afresh to the next level.

    What an ordinary denoiser answers at high noise is a mean; only a network that was taught to answer with a finished picture makes
    sharp ones here.

    Args:
        noise: step index -> standard normal tensor like x; asked for after every step but the last.

    Raises:
        UsageError: a grid that does not fall within 1..0.
        NonFiniteError: the denoiser's x0 is not finite.
    """
    levels = _levels(sigmas)
    for step, ((_, sigma), (alpha_next, sigma_next)) in enumerate(pairwise(levels)):
        x = alpha_next * _denoised(denoiser, x, sigma, step, len(levels) - 1)
        x = x + sigma_next * noise(step) if sigma_next > 0 else x
    return x


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}
"""Those that follow a denoiser of many calls and draw nothing; ``renoise`` is for networks of few calls and needs noise."""


def leading_to(reached: Tensor, noised: Tensor, path: Tensor) -> Tensor:
    """The x0 whose one DDIM step from ``noised`` at the first sigma of ``path`` ends in ``reached`` at its last one: like ``reached``."""
    (alpha, alpha_next), (sigma, sigma_next) = alpha_of(path[[0, -1]]).tolist(), path[[0, -1]].tolist()
    share = sigma_next / sigma
    return (reached - share * noised) / (alpha_next - share * alpha)


def _levels(sigmas: Tensor) -> list[Level]:
    sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
    falling = sigmas.ndim == 1 and len(sigmas) >= 2 and bool((sigmas.diff() < 0).all())
    if not falling or sigmas[0] > 1 or sigmas[-1] < 0:
        raise UsageError("a sampling grid needs two or more strictly falling sigmas within 1..0")
    return list(zip(alpha_of(sigmas).tolist(), sigmas.tolist(), strict=True))


def _half_log_snr(level: Level) -> float:
    """lambda = log(alpha / sigma); -inf at sigma = 1, +inf at sigma = 0."""
    alpha, sigma = level
    if alpha == 0 or sigma == 0:
        return -math.inf if alpha == 0 else math.inf
    return math.log(alpha / sigma)


def _denoised(denoiser: Denoiser, x: Tensor, sigma: float, step: int, steps: int) -> Tensor:
    x0 = denoiser(x, x.new_full((len(x),), sigma))
    if not torch.isfinite(x0).all():
        raise NonFiniteError(f"the network's answer is not finite at sampling step {step + 1} of {steps} (sigma {sigma:.4g})")
    return x0
