"""Leading windows back to the look of the first: closed forms of the drift that is left, and what must not change."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drivesim.labels import Scenario
from drivesim.simulation.anchor import led_back, look_of
from drivesim.simulation.fill import Context, Labels
from drivesim.simulation.keyframes import KeyframePass
from drivesim.simulation.lane import Lane, NoJournal
from drivesim.simulation.plan import plan_rollout
from drivesim.simulation.scenes.sampling import ScenarioLabels

SHAPE = (3, 4, 6)
BIAS = 0.1
MINUTES = 5


def latents(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(frames, *SHAPE, generator=torch.Generator().manual_seed(seed))


@given(share=st.floats(0, 1), frames=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_looks_as_the_anchor_does_is_left_alone(share: float, frames: int, seed: int) -> None:
    made = latents(frames, seed)
    assert torch.allclose(led_back(made, look_of(made), share), made, atol=1e-6)
    assert torch.equal(led_back(made, look_of(made) + 1, 0.0), made)


@given(share=st.floats(0, 1), frames=st.integers(1, 9))
def test_the_last_frame_is_led_back_by_the_share_and_pictures_are_moved_as_a_whole(share: float, frames: int) -> None:
    made, anchor = latents(frames), look_of(latents(5, seed=1)) + 1
    moved = led_back(made, anchor, share) - made
    assert torch.allclose(moved[-1], -share * (look_of(made) - anchor).expand(SHAPE), atol=1e-5)
    assert torch.allclose(moved, moved.mean(3, keepdim=True).expand_as(moved), atol=1e-5)


def test_a_look_is_light_and_how_it_changes_from_top_to_bottom() -> None:
    sky, road = torch.tensor([1.0, 0.0, -3.0]), torch.tensor([5.0, 0.0, 3.0])
    shares = torch.linspace(0, 1, SHAPE[1])
    straight = (sky[:, None] + (road - sky)[:, None] * shares)[..., None]
    assert torch.allclose(look_of(straight.expand(2, *SHAPE)), straight, atol=1e-6)
    things = latents(9)
    things -= things.mean((0, 3), keepdim=True)
    assert torch.allclose(look_of(straight + things), straight, atol=1e-5), "what is where does not matter"
    assert torch.allclose(look_of(straight[:, :1].expand(2, 3, 1, 6)), straight[:, :1]), "one row has no slope"
    assert torch.allclose(look_of(straight[:, :2].expand(2, 3, 2, 6)), straight[:, :2]), "two have one"


def brighter(
    stage: str, seeds: list[int], windows: list[int], shape: tuple[int, ...], labels: Labels, context: Context | None
) -> Tensor:
    """A network that makes all frames of a window by BIAS brighter than the last one that it knows, first ones as bright as their seed."""
    if context is None:
        return torch.tensor(seeds, dtype=torch.float32)[:, None, None, None, None].expand(-1, *shape)
    known = int(context.mask[0].sum())
    made = context.values[:, known - 1 : known].expand(-1, shape[0], *shape[1:]) + BIAS
    return torch.where(context.mask[:, :, None, None, None], context.values, made)


def lane(seed: int) -> Lane:
    scenario = Scenario(60.0 * MINUTES, "night", 0.0, 8.0, 0.0, (), seed)
    plan = plan_rollout(scenario.duration_s, 1.875, 1.875, 8)
    return Lane(scenario, plan, ScenarioLabels(scenario, last_s=scenario.duration_s), None, NoJournal(), 4)


def drifted(share: float, *seeds: int) -> list[Tensor]:
    """Mean of each keyframe of one rollout a seed, made side by side."""

    def encode(shots: np.ndarray) -> Tensor:
        raise AssertionError("nothing to encode")

    lanes = [lane(seed) for seed in seeds]
    made = KeyframePass(lanes, brighter, encode, SHAPE, torch.device("cpu"), lambda name: nullcontext(), anchor=share)
    return [torch.cat(list(made.pieces(row))).mean((1, 2, 3)) for row in range(len(seeds))]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_deviation_is_held_to_what_a_window_adds_over_the_share(share: float) -> None:
    (level,) = drifted(share, 0)
    opening, ends = level[:8].mean(), level[7::6]  # the last keyframe of every window
    assert ends[-1] - opening == pytest.approx(BIAS * (1 - share) / share, abs=1e-3)
    assert (level - opening).abs().max() < BIAS / share + BIAS


def test_without_it_deviation_grows_with_every_window() -> None:
    (level,) = drifted(0.0, 0)
    assert level[-1] == pytest.approx(BIAS * (1 + (len(level) - 8) // 6), abs=2 * BIAS)


def test_each_rollout_is_led_back_to_its_own_look() -> None:
    dark, bright = drifted(0.25, 0, 5)
    assert torch.allclose(bright, dark + 5, atol=1e-4)
