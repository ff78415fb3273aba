"""Noise levels: the three names of one level agree, schedules are what their papers say, draws and grids cover them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim import recipes
from drivesim.diffusion.noise import (
    NoiseSchedule,
    alpha_of,
    cosine_schedule,
    gaussian,
    linear_schedule,
    log_snr,
    sigma_of_log_snr,
    zero_terminal_cosine,
    zero_terminal_snr,
)
from drivesim.errors import UsageError

SCHEDULES = [linear_schedule, cosine_schedule, zero_terminal_cosine, lambda: zero_terminal_snr(linear_schedule(steps=100))]


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


@given(st.floats(0.01, 0.9999))
def test_sigma_alpha_and_log_snr_are_one_level(sigma: float) -> None:
    level = double(sigma)
    assert (alpha_of(level) ** 2 + level**2).item() == pytest.approx(1)
    assert alpha_of(alpha_of(level)).item() == pytest.approx(sigma, abs=1e-9)
    assert sigma_of_log_snr(log_snr(level)).item() == pytest.approx(sigma)
    assert log_snr(level).item() == pytest.approx(-log_snr(alpha_of(level)).item(), abs=1e-6)


def test_the_ends_are_ordinary() -> None:
    ends = torch.tensor([0.0, 1.0])
    assert alpha_of(ends).tolist() == [1, 0]
    assert log_snr(ends).tolist() == [math.inf, -math.inf]
    assert sigma_of_log_snr(log_snr(ends)).tolist() == [0, 1]


def test_linear_is_the_product_of_the_papers_betas() -> None:
    schedule, signal = linear_schedule(), 1.0
    for step in range(1000):
        signal *= 1 - (0.0015 + (0.0195 - 0.0015) * step / 999)
    assert schedule.sigmas[0].item() == pytest.approx(math.sqrt(0.0015))
    assert schedule.sigmas[-1].item() == pytest.approx(math.sqrt(1 - signal))
    assert not schedule.zero_terminal


def test_cosine_is_the_cosine_until_its_betas_are_clipped() -> None:
    def f(step: int) -> float:
        return math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    signal = alpha_of(cosine_schedule().sigmas) ** 2
    assert [signal[step - 1].item() for step in (1, 500, 999)] == pytest.approx([f(step) / f(0) for step in (1, 500, 999)])
    assert signal[-1].item() == pytest.approx(f(999) / f(0) * 0.001)


def test_zero_terminal_ends_in_pure_noise_and_starts_where_it_did() -> None:
    before, after = linear_schedule(), zero_terminal_snr(linear_schedule())
    assert after.sigmas[-1].item() == 1.0
    assert after.zero_terminal
    assert after.sigmas[0].item() == pytest.approx(before.sigmas[0].item())
    alpha, was = alpha_of(after.sigmas), alpha_of(before.sigmas)
    assert torch.allclose(alpha.diff() / alpha.diff()[0], was.diff() / was.diff()[0], rtol=1e-6)  # shifted and scaled, nothing else


@pytest.mark.parametrize("make", SCHEDULES)
def test_schedules_rebuild_from_their_recipe(make) -> None:
    schedule = make()
    assert torch.equal(recipes.build(schedule.recipe).sigmas, schedule.sigmas)


def test_a_table_rebuilds_from_its_recipe() -> None:
    schedule = NoiseSchedule([0.1, 0.4, 0.9])
    assert torch.equal(recipes.build(schedule.recipe).sigmas, schedule.sigmas)
    assert schedule.at(torch.tensor([0.0, 0.5, 2.0])).tolist() == pytest.approx([0.1, 0.25, 0.9])


@pytest.mark.parametrize("table", [[0.5], [0.5, 0.4], [0.0, 0.5], [0.5, 1.5], [[0.1, 0.2]]])
def test_impossible_tables_are_refused(table) -> None:
    with pytest.raises(UsageError, match="rising"):
        NoiseSchedule(table)


@pytest.mark.parametrize("make", SCHEDULES)
@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.01, 1), spacing=st.sampled_from(["trailing", "leading"]))
def test_grids_fall_strictly_to_zero(make, share: float, spacing: str) -> None:
    schedule = make()
    steps = max(1, round(share * len(schedule)))
    grid = schedule.grid(steps, spacing)
    assert grid.shape == (steps + 1,)
    assert grid.dtype == torch.float64
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
    assert grid[0] <= schedule.sigmas[-1]
    if spacing == "trailing":
        assert grid[0] == schedule.sigmas[-1]


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_a_full_grid_is_the_whole_table(spacing: str) -> None:
    schedule = cosine_schedule(50)
    assert torch.allclose(schedule.grid(50, spacing), torch.cat([schedule.sigmas.flip(0), torch.zeros(1, dtype=torch.float64)]))


@pytest.mark.parametrize("arguments", [(0,), (-1,), (1001,), (10, "middle")])
def test_impossible_grids_are_refused(arguments) -> None:
    with pytest.raises(UsageError):
        linear_schedule().grid(*arguments)


def test_draws_are_uniform_over_the_table_and_reproducible() -> None:
    schedule = cosine_schedule(100)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([schedule.draw((8,), generator) for _ in range(2000)]).double().sort().values
    expected = schedule.at(torch.linspace(0, 99, len(drawn)))
    assert (drawn - expected).abs().max() < 0.02
    again = torch.Generator().manual_seed(0)
    assert torch.equal(schedule.draw((8,), again), schedule.draw((8,), torch.Generator().manual_seed(0)))


def test_one_call_spreads_its_draws() -> None:
    schedule = NoiseSchedule(torch.linspace(0.001, 1, 1000))  # sigma is the position
    for seed in range(20):
        drawn = schedule.draw((4,), torch.Generator().manual_seed(seed))
        assert sorted((drawn * 3.9999).long().tolist()) == [0, 1, 2, 3]
    assert schedule.draw((3, 5), torch.Generator()).shape == (3, 5)
    assert schedule.draw((0,), torch.Generator()).shape == (0,)


def test_gaussian_noise_is_its_generators() -> None:
    like = torch.zeros(2, 3, dtype=torch.float16)
    noise = gaussian(like, torch.Generator().manual_seed(1))
    assert noise.dtype == like.dtype
    assert torch.equal(noise, gaussian(like, torch.Generator().manual_seed(1)))
