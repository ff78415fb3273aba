"""Denoisers: a network's answer read right, and guidance that samples the tilted Gaussian that theory names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gaussians import Gaussian, angles, draw, tweedie
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drivesim.diffusion.denoiser import guided, hold_known, network_denoiser, pushed, window_denoiser
from drivesim.diffusion.frame_mask import Known, first_frames
from drivesim.diffusion.noise import alpha_of
from drivesim.diffusion.parameterization import PARAMETERIZATIONS
from drivesim.diffusion.samplers import dpmpp_2m
from drivesim.errors import DrivesimError
from drivesim.shapes import expand_to

SCALES = st.floats(0, 4)


class Recorder:
    """A network that remembers how it was called and answers with a fixed multiple of x."""

    def __init__(self, context: str = "none", factor: float = 0.5) -> None:
        self.context, self.factor = context, factor
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor] | None, Tensor | None]] = []

    def __call__(self, x: Tensor, sigma: Tensor, labels: dict[str, Tensor] | None, context: Tensor | None) -> Tensor:
        self.calls.append((x, sigma, labels, context))
        return self.factor * x


def known_pair(level: float = 0.1) -> Known:
    """Windows of 3 frames, the first known in one, the first two in the other."""
    values, noise = draw(5, 2, 3, 1, 2, 2), draw(6, 2, 3, 1, 2, 2)
    return Known(values, first_frames(2, 3, [1, 2]), torch.full((2,), level, dtype=torch.float64), noise)


@given(scale=SCALES, means=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
@settings(max_examples=20, deadline=None)
def test_context_guidance_moves_the_mean_and_keeps_the_variance(scale: float, means: tuple[float, float]) -> None:
    """Equal variances: N(c)^s N(u)^(1 - s) is N(u + s (c - u)) at every sigma, so Eq. 4 must be that Gaussian's own denoiser."""
    context, without = means
    tilted = Gaussian(without + scale * (context - without), 0.5)
    bound = guided(Gaussian(context, 0.5), Gaussian(without, 0.5), scale)
    x, sigma = draw(0, 3, 1, 1, 2, 2), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    assert torch.allclose(bound(x, sigma), tilted(x, sigma), atol=1e-9)
    start = draw(1, 1, 1, 1, 2, 2)
    assert torch.allclose(dpmpp_2m(bound, start, angles(256)), tilted.flow(start, 1.0, 0.0), atol=2e-4)


@given(scale=SCALES, deviations=st.tuples(st.floats(0.2, 1), st.floats(0.2, 1)))
@settings(max_examples=20, deadline=None)
def test_guidance_is_the_denoiser_of_the_tilted_density(scale: float, deviations: tuple[float, float]) -> None:
    """Any variances: at each sigma, Eq. 4 follows the score of p(x | c)^s p(x)^(1 - s)."""
    context, without = Gaussian(1.0, deviations[0]), Gaussian(-0.5, deviations[1])

    def tilted(x: Tensor, sigma: Tensor) -> Tensor:
        return scale * context.log_density(x, sigma) + (1 - scale) * without.log_density(x, sigma)

    x, sigma = draw(0, 2, 1, 1, 2, 2), torch.tensor([0.3, 0.9], dtype=torch.float64)
    assert torch.allclose(guided(context, without, scale)(x, sigma), tweedie(tilted, x, sigma), atol=1e-8)


@given(context_scale=SCALES, label_scale=SCALES)
@settings(max_examples=20, deadline=None)
def test_two_scales_move_the_mean_along_two_directions(context_scale: float, label_scale: float) -> None:
    both, without_context, without_labels = Gaussian(1.0, 0.5), Gaussian(0.2, 0.5), Gaussian(0.7, 0.5)
    mean = 0.2 + context_scale * (1.0 - 0.2) + (label_scale - 1) * (1.0 - 0.7)
    bound = pushed(both, (without_context, context_scale), (without_labels, label_scale))
    x, sigma = draw(0, 2, 1, 1, 2, 2), torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert torch.allclose(bound(x, sigma), Gaussian(mean, 0.5)(x, sigma), atol=1e-9)


@given(scale=SCALES, label_scale=SCALES)
@settings(max_examples=20, deadline=None)
def test_autoguidance_goes_on_from_a_worse_network_through_the_network(scale: float, label_scale: float) -> None:
    """The worse network is told the same labels; what label guidance adds is the better one's own."""

    def network(mean: float, told: float) -> Callable[..., Tensor]:
        def velocity(x: Tensor, sigma: Tensor, labels: object, context: object) -> Tensor:
            x0 = Gaussian(mean + (told if labels else 0.0), 0.5)(x, sigma)
            return PARAMETERIZATIONS["velocity"].target(x0, (x - expand_to(alpha_of(sigma), x) * x0) / expand_to(sigma, x), sigma)

        return velocity

    labels = {"fps": torch.ones(2, 1)}
    denoiser = window_denoiser(
        network(1.0, 0.3), "velocity", labels, label_scale=label_scale, worse=network(0.4, 0.2), autoguidance=scale
    )  # fmt: skip
    mean = 1.3 + (scale - 1) * (1.3 - 0.6) + (label_scale - 1) * 0.3
    x, sigma = draw(0, 2, 1, 1, 2, 2), torch.tensor([0.3, 0.9], dtype=torch.float64)
    assert torch.allclose(denoiser(x, sigma), Gaussian(mean, 0.5)(x, sigma), atol=1e-8)


@given(parallel=st.floats(0.0, 1.0), scale=SCALES)
@settings(max_examples=20, deadline=None)
def test_what_guidance_only_strengthens_is_kept_by_its_share(parallel: float, scale: float) -> None:
    """Two frames apart: what is orthogonal to a frame's x0 stays whole, the rest is scaled, and at 1 nothing is touched."""
    x0, lesser = draw(1, 1, 2, 3, 2, 2), draw(2, 1, 2, 3, 2, 2)
    sigma = torch.tensor([0.5], dtype=torch.float64)
    bound = pushed(lambda x, sigma: x0, (lambda x, sigma: lesser, scale), parallel=parallel)
    push, whole = bound(x0, sigma) - x0, (scale - 1) * (x0 - lesser)
    for frame in range(2):
        unit = x0[0, frame].flatten() / x0[0, frame].norm()
        kept, given = push[0, frame].flatten(), whole[0, frame].flatten()
        assert torch.allclose(kept @ unit, parallel * (given @ unit), atol=1e-9)
        assert torch.allclose(kept - (kept @ unit) * unit, given - (given @ unit) * unit, atol=1e-9)


def test_a_frame_of_zeros_has_no_direction() -> None:
    x, sigma = draw(0, 1, 1, 1, 2, 2), torch.tensor([0.5], dtype=torch.float64)
    bound = pushed(lambda x, sigma: torch.zeros_like(x), (lambda x, sigma: torch.ones_like(x), 3.0), parallel=0.0)
    assert torch.equal(bound(x, sigma), torch.full_like(x, -2.0))


def test_scale_one_is_no_guidance_and_no_call() -> None:
    def never(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError("asked for nothing")

    full = Gaussian()
    assert guided(full, never, 1.0) is full
    assert pushed(full, (never, 1.0), (never, 1.0)) is full


def test_scale_zero_is_the_denoiser_told_less() -> None:
    x, sigma = draw(0, 1, 1, 1, 2, 2), torch.tensor([0.5], dtype=torch.float64)
    assert torch.allclose(guided(Gaussian(1.0), Gaussian(-1.0), 0.0)(x, sigma), Gaussian(-1.0)(x, sigma))


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_network_that_is_exact_is_the_exact_denoiser(name: str) -> None:
    data, meaning = Gaussian(0.3, 0.6), PARAMETERIZATIONS[name]

    def network(x: Tensor, sigma: Tensor, labels: object, context: object) -> Tensor:
        x0 = data(x, sigma)
        return meaning.target(x0, (x - expand_to(alpha_of(sigma), x) * x0) / expand_to(sigma, x), sigma)

    x, sigma = draw(0, 2, 2, 1, 2, 2), torch.tensor([0.2, 0.8], dtype=torch.float64)
    assert torch.allclose(network_denoiser(network, name, None)(x, sigma), data(x, sigma))


def test_slots_hold_the_noised_values_at_their_own_level() -> None:
    network, known = Recorder("slots"), known_pair()
    x, sigma = draw(0, 2, 3, 1, 2, 2), torch.tensor([0.5, 0.9], dtype=torch.float64)
    x0 = network_denoiser(network, "velocity", None, known)(x, sigma)
    seen, sigmas, _, context = network.calls[0]
    assert context is None
    assert sigmas.tolist() == [[0.1, 0.5, 0.5], [0.1, 0.1, 0.9]]
    assert torch.equal(seen[0, 0], known.noised()[0, 0])
    assert torch.equal(seen[0, 1:], x[0, 1:])
    assert torch.equal(x0[1, :2], known.values[1, :2])
    alpha, level = alpha_of(sigma)[1], sigma[1]
    assert torch.allclose(x0[1, 2], (alpha - 0.5 * level) * x[1, 2])


def test_the_encoder_gets_the_context_and_x_untouched() -> None:
    network, known = Recorder("encoder"), known_pair()
    x, sigma = draw(0, 2, 3, 1, 2, 2), torch.tensor([0.5, 0.9], dtype=torch.float64)
    x0 = network_denoiser(network, "velocity", None, known)(x, sigma)
    seen, sigmas, _, context = network.calls[0]
    assert torch.equal(seen, x)
    assert torch.equal(sigmas, sigma)
    assert context is not None
    assert torch.equal(context, known.tensor())
    assert torch.equal(x0[1, :2], known.values[1, :2])


def test_carried_context_comes_on_top_of_slots() -> None:
    network, known = Recorder("carried"), known_pair()
    x, sigma = draw(0, 2, 3, 1, 2, 2), torch.tensor([0.5, 0.9], dtype=torch.float64)
    network_denoiser(network, "velocity", None, known)(x, sigma)
    seen, sigmas, _, context = network.calls[0]
    assert torch.equal(seen, known.insert(x, sigma)[0])
    assert torch.equal(sigmas, known.insert(x, sigma)[1])
    assert context is not None
    assert torch.equal(context, known.carried())


@pytest.mark.parametrize("way", ["slots", "encoder", "carried", "none"])
def test_nothing_known_is_told_as_nothing(way: str) -> None:
    network = Recorder(way)
    x, sigma = draw(0, 2, 3, 1, 2, 2), torch.tensor([0.5, 0.9], dtype=torch.float64)
    network_denoiser(network, "velocity", None)(x, sigma)
    seen, sigmas, labels, context = network.calls[0]
    assert torch.equal(seen, x)
    assert torch.equal(sigmas, sigma)
    assert labels is None
    assert context is None


def test_an_unknown_way_of_being_told_is_an_error() -> None:
    with pytest.raises(DrivesimError, match="'telepathy'"):
        network_denoiser(Recorder("telepathy"), "velocity", None)(draw(0, 1, 1, 1, 1, 1), torch.ones(1))


@pytest.mark.parametrize(("context_scale", "label_scale", "calls"), [(1.0, 1.0, 1), (2.0, 1.0, 2), (1.0, 2.0, 2), (2.0, 2.0, 3)])
def test_a_window_is_told_everything_then_less(context_scale: float, label_scale: float, calls: int) -> None:
    network, known, labels = Recorder("slots"), known_pair(), {"fps": torch.ones(2, 3)}
    denoise = window_denoiser(network, "velocity", labels, known, context_scale=context_scale, label_scale=label_scale)
    x, sigma = draw(0, 2, 3, 1, 2, 2), torch.tensor([0.5, 0.9], dtype=torch.float64)
    assert torch.equal(denoise(x, sigma)[0, 0], known.values[0, 0])
    told = [(call[2] is not None, call[1].ndim == 2) for call in network.calls]  # (labels, context)
    expected = [(True, True)] + [(True, False)] * (context_scale != 1) + [(False, True)] * (label_scale != 1)
    assert told == expected
    assert len(told) == calls


def test_without_known_frames_the_context_scale_costs_nothing() -> None:
    network, null = Recorder("slots"), {"fps": torch.zeros(2, 3)}
    denoise = window_denoiser(network, "velocity", {}, None, context_scale=3.0, label_scale=2.0, null_labels=null)
    denoise(draw(0, 2, 3, 1, 2, 2), torch.ones(2, dtype=torch.float64))
    assert [call[2] for call in network.calls] == [{}, null]


def test_held_frames_stay_and_the_rest_is_left_alone() -> None:
    known, data = known_pair(), Gaussian()
    x, sigma = draw(0, 2, 3, 1, 2, 2), torch.tensor([0.5, 0.9], dtype=torch.float64)
    held = hold_known(data, known)(x, sigma)
    assert torch.equal(held[known.mask], known.values[known.mask])
    assert torch.equal(held[~known.mask], data(x, sigma)[~known.mask])
    assert hold_known(data, None) is data


def test_a_sampler_carries_known_frames_to_their_values() -> None:
    known = known_pair()
    made = dpmpp_2m(window_denoiser(Recorder("slots"), "velocity", None, known, context_scale=2.0), draw(0, 2, 3, 1, 2, 2), angles(8))
    assert torch.allclose(made[known.mask], known.values[known.mask])


def test_prediction_from_a_context_frame_samples_the_conditional() -> None:
    """Two frames with correlation rho: a network told frame 0 by slots must make frame 1 ~ N(rho c, 1 - rho^2)."""
    rho, context = 0.8, 1.5

    def network(x: Tensor, sigma: Tensor, labels: object, context: object) -> Tensor:
        """Exact velocity of the joint Gaussian for per-frame sigma (b, 2): x0 = S A (A S A + diag sigma^2)^-1 x."""
        alpha, cov = alpha_of(sigma), torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
        total = alpha[:, :, None] * cov * alpha[:, None, :] + torch.diag_embed(sigma**2)
        solved = torch.linalg.solve(total, x.flatten(2))
        x0 = (cov @ (alpha[:, :, None] * solved)).reshape(x.shape)
        # v = (alpha x - x0) / sigma; a clean slot (sigma = 0) has none, and none is read
        return (expand_to(alpha, x) * x - x0) / expand_to(sigma, x).clamp_min(1e-9)

    network.context = "slots"  # type: ignore[attr-defined]
    shape = (1, 2, 1, 40, 40)
    values = torch.full(shape, context, dtype=torch.float64)
    known = Known(values, first_frames(1, 2, 1), torch.full((1,), 0.0, dtype=torch.float64), draw(1, *shape))
    made = dpmpp_2m(network_denoiser(network, "velocity", None, known), draw(2, *shape), angles(32))
    start = draw(2, *shape)[:, 1]
    expected = Gaussian(rho * context, (1 - rho**2) ** 0.5).flow(start, 1.0, 0.0)
    assert torch.allclose(made[:, 1], expected, atol=0.01)
    assert torch.allclose(made[:, 0], values[:, 0])
