"""Samplers against closed forms: they converge to the exact probability flow at their order, and eta renews the right amount of noise."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import Gaussian, GaussianMixture, angles, draw
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.diffusion.noise import gaussian, linear_schedule, sigma_of_log_snr, zero_terminal_cosine
from drivesim.diffusion.samplers import SAMPLERS, NonFiniteError, ddim, dpmpp_2m, renoise
from drivesim.errors import UsageError

DATA = Gaussian(mean=0.7, deviation=0.4)
MIXTURE = GaussianMixture([-1.5, 0.5], [0.4, 0.7], [1, 2])
ORDERS = [(ddim, 1), (dpmpp_2m, 2)]


def even_in_log_snr(steps: int) -> torch.Tensor:
    return sigma_of_log_snr(torch.linspace(-5, 5, steps + 1, dtype=torch.float64))


def order(errors: list[float]) -> float:
    """How many factors of two the error loses when the number of steps doubles, at the finest pair."""
    return math.log2(errors[-2] / errors[-1])


def flow_errors(sampler, grid, counts: tuple[int, ...]) -> list[float]:
    """Largest distance from the exact probability flow of DATA, for each number of steps."""
    x, errors = draw(0, 1, 1, 1, 4, 8), []
    for steps in counts:
        sigmas = grid(steps)
        exact = DATA.flow(x, sigmas[0].item(), sigmas[-1].item())
        errors.append((sampler(DATA, x, sigmas) - exact).abs().max().item())
    return errors


@pytest.mark.parametrize(("sampler", "expected"), ORDERS)
def test_order_of_convergence_on_a_gaussian(sampler, expected: int) -> None:
    errors = flow_errors(sampler, even_in_log_snr, (16, 32, 64, 128))
    assert order(errors) == pytest.approx(expected, abs=0.15)
    assert errors[-1] < 0.03


@pytest.mark.parametrize(("sampler", "low", "high"), [(ddim, 0.95, 1.05), (dpmpp_2m, 1.7, 2.0)])
def test_order_of_convergence_from_pure_noise_to_clean(sampler, low: float, high: float) -> None:
    """Near sigma = 1 and 0 no grid makes the steps in logSNR small: 2M's error is h^2 log(1 / h) there, just under second order."""
    assert low < order(flow_errors(sampler, angles, (512, 1024))) < high


@pytest.mark.parametrize(("sampler", "expected"), ORDERS)
def test_order_of_convergence_on_a_mixture(sampler, expected: int) -> None:
    x = draw(0, 1, 1, 1, 4, 8)
    exact = dpmpp_2m(MIXTURE, x, even_in_log_snr(4096))
    errors = [(sampler(MIXTURE, x, even_in_log_snr(steps)) - exact).abs().max().item() for steps in (64, 128, 256)]
    assert order(errors) == pytest.approx(expected, abs=0.2)


def test_second_order_beats_first_at_few_steps() -> None:
    x, sigmas = draw(0, 1, 1, 1, 8, 8), zero_terminal_cosine().grid(16)
    exact = DATA.flow(x, 1.0, 0.0)
    assert (dpmpp_2m(DATA, x, sigmas) - exact).abs().max() < 0.5 * (ddim(DATA, x, sigmas) - exact).abs().max()


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("schedule", [linear_schedule(), zero_terminal_cosine()])
@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 40), value=st.floats(-2, 2))
def test_a_known_answer_is_reached_in_any_number_of_steps(sampler, schedule, steps: int, value: float) -> None:
    """A point mass: its flow is a straight line in (alpha, sigma), which both solvers follow exactly."""
    x = draw(steps, 2, 1, 1, 2, 2).float()
    made = sampler(lambda x, sigma: torch.full_like(x, value), x, schedule.grid(steps))
    assert made.dtype == torch.float32
    assert torch.allclose(made, torch.full_like(x, value), atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_from_pure_noise_and_to_clean_are_finite(eta: float, steps: int) -> None:
    x, sigmas = draw(0, 1, 2, 1, 4, 4), zero_terminal_cosine().grid(steps)
    assert sigmas[0] == 1
    assert torch.isfinite(ddim(DATA, x, sigmas, eta, lambda step: draw(step + 1, *x.shape))).all()
    assert torch.isfinite(dpmpp_2m(DATA, x, sigmas)).all()


def ddim_deviation(steps: int, eta: float) -> float:
    """Exact deviation of what ddim samples from N(0, 0.4^2): it is linear in its start and its noises, so add up their squared weights."""
    sources = torch.eye(steps + 1, dtype=torch.float64).reshape(steps + 1, 1, 1, 1, steps + 1)
    weights = ddim(Gaussian(0.0, 0.4), sources[0:1], angles(steps), eta, lambda step: sources[step + 1 : step + 2])
    return weights.norm().item()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_samples_the_right_variance(eta: float) -> None:
    errors = [abs(ddim_deviation(steps, eta) - 0.4) for steps in (100, 200, 400)]
    assert errors[-1] < 0.012 * 0.4
    assert order(errors) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_samples_a_mixture(eta: float) -> None:
    """Mean and variance of a two-humped density, from draws: mean = sum w m, variance = sum w (v + m^2) - mean^2."""
    generator = torch.Generator().manual_seed(0)
    x = gaussian(torch.zeros(1, 1, 1, 100, 200, dtype=torch.float64), generator)
    made = ddim(MIXTURE, x, angles(200), eta, lambda step: gaussian(x, generator))
    mean = (-1.5 + 2 * 0.5) / 3
    variance = (0.4**2 + 1.5**2 + 2 * (0.7**2 + 0.5**2)) / 3 - mean**2
    assert made.mean().item() == pytest.approx(mean, abs=0.03)
    assert made.var().item() == pytest.approx(variance, rel=0.04)
    assert (made < -0.7).double().mean().item() == pytest.approx(0.3546, abs=0.015)  # 1/3 Phi(2) + 2/3 Phi(-1.714)


def test_eta_one_forgets_where_it_started_and_eta_zero_does_not() -> None:
    x, generator = draw(0, 1, 1, 1, 50, 50), torch.Generator().manual_seed(1)
    kept = ddim(DATA, x, angles(50))
    renewed = ddim(DATA, x, angles(50), 1.0, lambda step: gaussian(x, generator))
    assert torch.corrcoef(torch.stack([x.flatten(), kept.flatten()]))[0, 1] > 0.999
    assert torch.corrcoef(torch.stack([x.flatten(), renewed.flatten()]))[0, 1].abs() < 0.1


def test_one_ancestral_step_is_the_reverse_of_the_forward_process() -> None:
    """With x0 known, eta = 1 draws q(x_s | x_t, x0) (Ho et al. 2020, Eqs. 6 and 7)."""
    (a, s), (b, r) = (0.6, 0.8), (0.8, 0.6)  # (alpha, sigma) before and after
    beta = 1 - (a / b) ** 2
    mean = b * beta / s**2 * 0.5 + (a / b) * r**2 / s**2 * 1.3  # x0 = 0.5, x = 1.3
    deviation = math.sqrt(r**2 / s**2 * beta)
    grid, x = torch.tensor([s, r], dtype=torch.float64), torch.full((1, 1, 1, 1, 1), 1.3, dtype=torch.float64)
    for z in (0.0, 1.0):
        made = ddim(lambda x, sigma: torch.full_like(x, 0.5), x, grid, 1.0, lambda step, z=z: torch.full_like(x, z))
        assert made.item() == pytest.approx(mean + z * deviation)


def test_one_denoiser_call_a_step_each_told_its_sigma() -> None:
    for sampler in SAMPLERS.values():
        seen: list[float] = []

        def denoise(x: torch.Tensor, sigma: torch.Tensor, seen: list[float] = seen) -> torch.Tensor:
            assert sigma.shape == (2,)
            seen.append(sigma[0].item())
            return 0 * x

        sampler(denoise, draw(0, 2, 1, 1, 1, 1), torch.tensor([1.0, 0.6, 0.2, 0.0]))
        assert seen == pytest.approx([1.0, 0.6, 0.2])


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_a_sampler_can_be_split_at_any_level_of_its_flow(sampler) -> None:
    x, sigmas = draw(0, 1, 1, 1, 4, 4), angles(400)
    halfway = sampler(DATA, x, sigmas[:201])
    assert torch.allclose(sampler(DATA, halfway, sigmas[200:]), sampler(DATA, x, sigmas), atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_answer_stops_naming_the_step(sampler, bad: float) -> None:
    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.where(sigma[0] < 0.5, bad, 0.0) + x

    with pytest.raises(NonFiniteError, match="step 3 of 4"):
        sampler(denoise, draw(0, 1, 1, 1, 2, 2), torch.tensor([1.0, 0.8, 0.4, 0.2, 0.0]))


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("grid", [[0.5], [0.1, 0.5], [0.5, 0.5, 0.0], [1.2, 0.0], [0.5, -0.1]])
def test_impossible_grids_are_refused(sampler, grid: list[float]) -> None:
    with pytest.raises(UsageError, match="falling"):
        sampler(DATA, draw(0, 1, 1, 1, 1, 1), torch.tensor(grid))


def test_noise_must_come_from_somewhere() -> None:
    with pytest.raises(UsageError, match="noise"):
        ddim(DATA, draw(0, 1, 1, 1, 1, 1), angles(4), eta=1.0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_renoise_with_an_exact_consistency_function_draws_from_the_data(steps: int) -> None:
    """A function that carries every level to the end of its probability flow keeps the distribution through any number of steps."""
    x = draw(3, 1, 1, 1, 200, 200)
    grid = zero_terminal_cosine().grid(steps)
    made = renoise(lambda x, sigma: DATA.flow(x, sigma[0].item(), 0.0), x, grid, lambda step: draw(10 + step, 1, 1, 1, 200, 200))
    assert made.mean().item() == pytest.approx(DATA.mean, abs=0.01)
    assert made.std().item() == pytest.approx(DATA.deviation, abs=0.01)


def test_renoise_asks_for_noise_after_every_step_but_the_last() -> None:
    asked: list[int] = []

    def noise(step: int) -> torch.Tensor:
        asked.append(step)
        return torch.zeros(1, 1, 1, 2, 2)

    made = renoise(lambda x, sigma: torch.full_like(x, 0.5), torch.ones(1, 1, 1, 2, 2), zero_terminal_cosine().grid(4), noise)
    assert asked == [0, 1, 2]
    assert torch.equal(made, torch.full_like(made, 0.5))
