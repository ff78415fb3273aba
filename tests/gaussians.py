"""Data whose exact denoiser is known: what the mathematics is tested against. Not a test itself.

Every element of a tensor is drawn alone from a mixture of Gaussians, so x = alpha x0 + sigma eps has a closed-form posterior mean and, for
one Gaussian, a closed-form probability flow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drivesim.diffusion.denoiser import Denoiser
from drivesim.diffusion.noise import alpha_of
from drivesim.shapes import expand_to


class GaussianMixture:
    """Elements x0 ~ sum_k weight_k N(mean_k, deviation_k^2). An instance is its exact denoiser E[x0 | x]."""

    def __init__(self, means: list[float], deviations: list[float], weights: list[float]) -> None:
        self.means, self.deviations = torch.tensor(means, dtype=torch.float64), torch.tensor(deviations, dtype=torch.float64)
        self.weights = torch.tensor(weights, dtype=torch.float64) / sum(weights)

    def _noised(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x, alpha, total variance alpha^2 v + sigma^2), with a last axis over components."""
        x, sigma = x[..., None], expand_to(sigma, x)[..., None]
        alpha = alpha_of(sigma)
        return x, alpha, alpha**2 * self.deviations**2 + sigma**2

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p_sigma(x), element by element, up to a constant."""
        x, alpha, total = self._noised(x, sigma)
        return torch.logsumexp(self.weights.log() - total.log() / 2 - (x - alpha * self.means) ** 2 / (2 * total), dim=-1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """sum_k p(k | x) E[x0 | x, k], by Bayes' rule for Gaussians."""
        wide, alpha, total = self._noised(x, sigma)
        share = torch.softmax(self.weights.log() - total.log() / 2 - (wide - alpha * self.means) ** 2 / (2 * total), dim=-1)
        variance = self.deviations**2
        posterior = (expand_to(sigma, x)[..., None] ** 2 * self.means + alpha * variance * wide) / total
        return (share * posterior).sum(-1)


class Gaussian(GaussianMixture):
    """One component, with its probability flow."""

    def __init__(self, mean: float = 0.0, deviation: float = 1.0) -> None:
        super().__init__([mean], [deviation], [1.0])
        self.mean, self.deviation = mean, deviation

    def flow(self, x: Tensor, start: float, end: float) -> Tensor:
        """The exact probability-flow solution from sigma = start to sigma = end: (x - alpha mean) keeps its rank under the marginals."""

        def marginal(sigma: float) -> tuple[float, float]:
            alpha = math.sqrt(1 - sigma**2)
            return alpha * self.mean, math.sqrt(alpha**2 * self.deviation**2 + sigma**2)

        (mean, deviation), (mean_end, deviation_end) = marginal(start), marginal(end)
        return mean_end + deviation_end / deviation * (x - mean)


def tweedie(log_density: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] = (x + sigma^2 d log p_sigma(x) / dx) / alpha, by automatic differentiation."""
    x = x.clone().requires_grad_(True)
    (score,) = torch.autograd.grad(log_density(x, sigma).sum(), x)
    return ((x + expand_to(sigma, x) ** 2 * score) / expand_to(alpha_of(sigma), x)).detach()


def angles(steps: int, start: float = 1.0) -> Tensor:
    """A grid sigma = sin(angle) with evenly spaced angles from sigma = start down to 0: (steps + 1,) float64."""
    grid = torch.linspace(math.asin(start), 0.0, steps + 1, dtype=torch.float64).sin()
    return torch.cat([torch.tensor([start], dtype=torch.float64), grid[1:]])


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal float64 numbers of that seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
