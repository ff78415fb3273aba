"""Known frames: masks, levels, and the identities of the context tensor and of insertion."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.diffusion.frame_mask import (
    Known,
    LowResolution,
    carry_weights,
    draw_first_frames,
    draw_level,
    endpoints,
    first_frames,
    none_known,
)
from drivesim.diffusion.parameterization import add_noise

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3))
"""(b, t, c)."""


@st.composite
def knowns(draws: st.DrawFn, kind: type[Known] = Known) -> Known:
    b, t, c = draws(SIZES)
    mask = torch.tensor(draws(st.lists(st.lists(st.booleans(), min_size=t, max_size=t), min_size=b, max_size=b)))
    level = torch.tensor(draws(st.lists(st.floats(0, 1), min_size=b, max_size=b)), dtype=torch.float64)
    seed = draws(st.integers(0, 1000))
    return kind(draw(seed, b, t, c, 2, 3), mask, level, draw(seed + 1, b, t, c, 2, 3))


def test_masks() -> None:
    assert none_known(2, 3).tolist() == [[False] * 3] * 2
    assert first_frames(2, 3, 1).tolist() == [[True, False, False]] * 2
    assert first_frames(3, 3, [0, 1, 2]).tolist() == [[False] * 3, [True, False, False], [True, True, False]]
    assert first_frames(2, 3, torch.tensor([3, 0])).sum(1).tolist() == [3, 0]
    assert endpoints(1, 5).tolist() == [[True, False, False, False, True]]
    assert all(mask.dtype == torch.bool for mask in (none_known(1, 1), first_frames(1, 2, 1), endpoints(1, 3)))


def test_first_frames_are_drawn_with_their_probabilities_and_reproducibly() -> None:
    mask = draw_first_frames(20000, 10, (0.15, 0.25, 0.6), torch.Generator().manual_seed(0))
    shares = torch.bincount(mask.sum(1), minlength=3) / len(mask)
    assert shares.tolist() == pytest.approx([0.15, 0.25, 0.6], abs=0.02)
    assert torch.equal(mask, draw_first_frames(20000, 10, (0.15, 0.25, 0.6), torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("t", [1, 2, 3])
def test_one_frame_is_always_left_to_make(t: int) -> None:
    assert not draw_first_frames(50, t, (0.0, 0.0, 1.0), torch.Generator().manual_seed(0)).all(dim=1).any()


def test_levels_are_clean_or_log_uniform() -> None:
    level = draw_level(20000, torch.Generator().manual_seed(0), clean_share=0.3, low=0.02, high=0.5)
    noised = level[level > 0]
    assert len(noised) / len(level) == pytest.approx(0.7, abs=0.02)
    assert 0.02 <= noised.min() < 0.021
    assert 0.48 < noised.max() <= 0.5
    assert noised.log().mean().item() == pytest.approx((math.log(0.02) + math.log(0.5)) / 2, abs=0.03)
    assert torch.equal(level, draw_level(20000, torch.Generator().manual_seed(0)))
    assert draw_level(9, torch.Generator(), clean_share=1.0).tolist() == [0.0] * 9


@given(knowns())
@settings(max_examples=30, deadline=None)
def test_the_context_tensor_holds_noised_values_mask_and_level(known: Known) -> None:
    context, mask, c = known.tensor(), known.mask, known.values.shape[2]
    assert context.shape == (*known.values.shape[:2], c + 2, *known.values.shape[3:])
    assert torch.equal(context[:, :, :c][mask], known.noised()[mask])
    assert torch.equal(context[:, :, c], mask[..., None, None].expand_as(context[:, :, c]).double())
    assert torch.equal(context[:, :, c + 1], (mask * known.level[:, None])[..., None, None].expand_as(context[:, :, c]))
    assert not context[~mask].any()


@given(knowns(), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_insertion_replaces_known_slots_only(known: Known, sigma: float) -> None:
    b, t = known.mask.shape
    x, level = draw(7, *known.values.shape), torch.full((b,), sigma, dtype=torch.float64)
    inserted, sigmas = known.insert(x, level)
    assert sigmas.shape == (b, t)
    assert torch.equal(inserted[known.mask], known.noised()[known.mask])
    assert torch.equal(inserted[~known.mask], x[~known.mask])
    assert torch.equal(sigmas, torch.where(known.mask, known.level[:, None], level[:, None]))
    twice, again = known.insert(inserted, sigmas)  # idempotent, and (b, t) is as good as (b,)
    assert torch.equal(twice, inserted)
    assert torch.equal(again, sigmas)
    assert torch.equal(known.keep(known.keep(x)), known.keep(x))
    assert torch.equal(known.keep(x)[known.mask], known.values[known.mask])


def test_a_clean_level_shows_the_values_themselves() -> None:
    values = draw(0, 2, 3, 1, 2, 2)
    known = Known(values, endpoints(2, 3), torch.zeros(2, dtype=torch.float64), draw(1, *values.shape))
    assert torch.equal(known.noised(), values)
    half = Known(values, endpoints(2, 3), torch.tensor([0.0, 0.6], dtype=torch.float64), draw(1, *values.shape))
    assert torch.allclose(half.noised()[1], 0.8 * values[1] + 0.6 * half.noise[1])
    assert torch.equal(half.noised(), add_noise(values, half.noise, half.level))


def test_what_stands_in_unknown_slots_is_never_read() -> None:
    values = draw(0, 1, 3, 1, 2, 2)
    values[:, 1] = math.nan
    known = Known(values, endpoints(1, 3), torch.zeros(1, dtype=torch.float64), torch.zeros_like(values))
    x = draw(1, 1, 3, 1, 2, 2)
    for made in (known.tensor(), known.insert(x, torch.ones(1))[0], known.keep(x)):
        assert torch.isfinite(made).all()


@given(knowns(LowResolution), st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_low_resolution_guides_but_stands_in_no_slot(known: LowResolution, sigma: float) -> None:
    x, level = draw(7, *known.values.shape), torch.full((len(known.mask),), sigma, dtype=torch.float64)
    inserted, sigmas = known.insert(x, level)
    assert torch.equal(inserted, x)
    assert torch.equal(sigmas, level[:, None].expand_as(known.mask))
    assert torch.equal(known.keep(x), x)
    assert known.unknown.all()
    assert torch.equal(known.tensor(), Known(known.values, known.mask, known.level, known.noise).tensor())


def test_between_two_known_frames_the_context_is_carried_linearly() -> None:
    assert carry_weights(endpoints(1, 5))[0, :, 4].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert carry_weights(endpoints(1, 5))[0, :, 0].tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_beyond_the_last_known_frame_it_is_held() -> None:
    assert carry_weights(first_frames(1, 4, 2))[0, 1:, 1].tolist() == [1, 1, 1]
    assert not carry_weights(first_frames(1, 4, 2))[0, 1:, [0, 2, 3]].any()


@given(knowns())
def test_carried_context_agrees_with_the_plain_one_on_known_frames(known: Known) -> None:
    plain, carried = known.tensor(), known.carried()
    assert torch.allclose(plain[known.mask], carried[known.mask].to(plain))
    assert torch.equal(carried[:, :, -2] > 0, plain[:, :, -2] > 0)


@given(knowns())
def test_carried_shares_are_an_average_of_known_frames_or_nothing(known: Known) -> None:
    shares = carry_weights(known.mask)
    assert torch.allclose(shares.sum(2), known.mask.any(1, keepdim=True).float().expand(known.mask.shape))
    assert (shares >= 0).all()
    assert not shares.transpose(1, 2)[~known.mask].any()


def low_frames(level: float, size: tuple[int, int] = (3, 4)) -> LowResolution:
    values = draw(0, 2, 3, 3, *size)
    mask = torch.ones(2, 3, dtype=torch.bool)
    return LowResolution(values, mask, torch.full((2,), level, dtype=torch.float64), draw(1, *values.shape), 0.1)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_detail_and_frames_are_inverses(level: float) -> None:
    known, frames = low_frames(level), draw(2, 2, 3, 3, 12, 16)
    assert torch.allclose(known.outward(known.inward(frames)), frames)
    assert torch.allclose(known.inward(known.outward(frames)), frames)


def test_no_detail_is_the_enlarged_noised_frames_whose_noise_the_deviation_knows() -> None:
    flat = torch.full((1, 1, 1, 2, 2), 0.25, dtype=torch.float64)
    level = torch.tensor([0.6], dtype=torch.float64)
    known = LowResolution(flat, torch.ones(1, 1, dtype=torch.bool), level, torch.zeros_like(flat), 0.8)
    nothing = torch.zeros(1, 1, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(known.outward(nothing), torch.full_like(nothing, 0.8 * 0.25))  # alpha = 0.8 of what is known
    assert torch.allclose(known.outward(nothing + 1) - known.outward(nothing), torch.ones_like(nothing))  # sqrt(0.8^2 + 0.6^2)


def test_windows_of_whole_frames_are_diffused_as_they_are() -> None:
    known = Known(draw(0, 1, 3, 1, 2, 2), endpoints(1, 3), torch.zeros(1), draw(1, 1, 3, 1, 2, 2))
    assert known.inward(known.values) is known.values and known.outward(known.values) is known.values
