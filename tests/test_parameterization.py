"""Epsilon and velocity: each inverts itself, they agree with each other, and the exact output gives the exact posterior mean."""

from __future__ import annotations

import pytest
import torch
from gaussians import GaussianMixture, draw, tweedie
from hypothesis import given
from hypothesis import strategies as st

from drivesim.diffusion.noise import alpha_of
from drivesim.diffusion.parameterization import PARAMETERIZATIONS, Epsilon, Velocity, add_noise, parameterization_named
from drivesim.errors import UsageError
from drivesim.shapes import expand_to

SIGMAS = st.floats(0.0, 0.999)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@given(sigmas=st.tuples(SIGMAS, SIGMAS), seed=st.integers(0, 100))
def test_the_target_gives_x0_back(name: str, sigmas: tuple[float, float], seed: int) -> None:
    meaning, sigma = PARAMETERIZATIONS[name], torch.tensor(sigmas, dtype=torch.float64)
    x0, eps = draw(seed, 2, 3, 1, 2, 2), draw(seed + 1, 2, 3, 1, 2, 2)
    assert torch.allclose(meaning.x0(meaning.target(x0, eps, sigma), add_noise(x0, eps, sigma), sigma), x0, atol=1e-9)


@given(sigma=SIGMAS, seed=st.integers(0, 100))
def test_epsilon_and_velocity_agree_on_any_output(sigma: float, seed: int) -> None:
    """A wrong velocity and the epsilon it implies, eps = alpha v + sigma x, must mean the same x0."""
    x, velocity, level = draw(seed, 1, 2, 1, 2, 2), draw(seed + 1, 1, 2, 1, 2, 2), torch.tensor([sigma], dtype=torch.float64)
    eps = expand_to(alpha_of(level), x) * velocity + expand_to(level, x) * x
    assert torch.allclose(Epsilon().x0(eps, x, level), Velocity().x0(velocity, x, level), atol=1e-8)


def test_sigma_may_differ_from_frame_to_frame() -> None:
    sigma = torch.tensor([[0.0, 0.3, 0.9]], dtype=torch.float64)
    x0, eps = draw(0, 1, 3, 2, 2, 2), draw(1, 1, 3, 2, 2, 2)
    x = add_noise(x0, eps, sigma)
    assert torch.equal(x[:, 0], x0[:, 0])
    for meaning in PARAMETERIZATIONS.values():
        assert torch.allclose(meaning.x0(meaning.target(x0, eps, sigma), x, sigma), x0)


def test_velocity_at_the_ends() -> None:
    x0, eps, ends = draw(0, 2, 1, 1, 2, 2), draw(1, 2, 1, 1, 2, 2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    target = Velocity().target(x0, eps, ends)
    assert torch.equal(target[0], eps[0])
    assert torch.equal(target[1], -x0[1])


def test_pure_noise_is_finite_for_both() -> None:
    x, level = draw(0, 1, 1, 1, 2, 2).float(), torch.ones(1)
    for meaning in PARAMETERIZATIONS.values():
        assert torch.isfinite(meaning.x0(x, x, level)).all()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_the_best_output_means_the_posterior_mean(name: str) -> None:
    """The output that minimises the squared error is E[target | x]: linear in E[x0 | x], so x0() must return the mixture's denoiser."""
    mixture, meaning = GaussianMixture([-1.0, 2.0], [0.3, 0.5], [1, 2]), PARAMETERIZATIONS[name]
    x, sigma = draw(0, 3, 1, 1, 4, 4), torch.tensor([0.1, 0.6, 0.95], dtype=torch.float64)
    best = mixture(x, sigma)
    eps = (x - expand_to(alpha_of(sigma), x) * best) / expand_to(sigma, x)
    assert torch.allclose(meaning.x0(meaning.target(best, eps, sigma), x, sigma), best)


def test_the_mixtures_denoiser_obeys_tweedie() -> None:
    mixture = GaussianMixture([-1.0, 2.0], [0.3, 0.5], [1, 2])
    x, sigma = 2 * draw(0, 3, 1, 1, 4, 4), torch.tensor([0.1, 0.6, 0.95], dtype=torch.float64)
    assert torch.allclose(mixture(x, sigma), tweedie(mixture.log_density, x, sigma))


def test_names() -> None:
    assert isinstance(parameterization_named("velocity"), Velocity)
    own = Epsilon()
    assert parameterization_named(own) is own
    with pytest.raises(UsageError, match="epsilon, velocity"):
        parameterization_named("v")
