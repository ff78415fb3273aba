"""The door to the samplers: counted noise, kept context, guidance that costs what it must."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.samplers import NonFiniteError
from drivesim.errors import UsageError
from drivesim.models.conditioning import null_labels
from drivesim.simulation.fill import PASSES, Context, Filler, PassSettings, draw_noise, with_shared
from drivesim.simulation.settings import RolloutSettings

SHAPE = (5, 2, 3, 4)


class Recording(nn.Module):
    """A network that remembers what it was told, and answers with a constant velocity."""

    context = "slots"

    def __init__(self, answer: float = 0.1) -> None:
        super().__init__()
        self.answer = answer
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def forward(self, x: Tensor, sigma: Tensor, labels: dict[str, Tensor], context: Tensor | None = None) -> Tensor:
        self.calls.append((x.clone(), sigma.clone(), labels))
        return torch.full_like(x, self.answer)


def filler() -> Filler:
    return Filler(zero_terminal_cosine(), "velocity", torch.device("cpu"))


def told(windows: int = 2, frames: int = 5) -> dict[str, Tensor]:
    return {
        "time_of_day": torch.zeros(windows, frames), "fps": torch.full((windows, frames), 7.5),
        "boxes": torch.zeros(windows, frames, 3, 6), "boxes_known": torch.ones(windows, frames, dtype=torch.bool),
    }  # fmt: skip


def ends(windows: int = 2) -> Context:
    mask = torch.zeros(windows, 5, dtype=torch.bool)
    mask[:, [0, -1]] = True
    return Context(torch.randn(windows, *SHAPE, generator=torch.Generator().manual_seed(1)), mask)


def test_noise_is_a_function_of_seed_pass_window_and_part_alone() -> None:
    rows = draw_noise([3, 3, 3], "keyframes", [4, 5, 6], SHAPE)
    assert torch.equal(rows[1:2], draw_noise([3], "keyframes", [5], SHAPE)), "the batch it is drawn in does not matter"
    others = [draw_noise([4], "keyframes", [4], SHAPE), draw_noise([3], "image", [4], SHAPE)]
    others.append(draw_noise([3], "keyframes", [4], SHAPE, part=1))
    assert all(not torch.equal(rows[:1], other) for other in (*others, rows[1:2]))
    assert abs(float(draw_noise([0], "image", [0], (64, 8, 8, 8)).std()) - 1) < 0.02


def test_the_order_of_passes_never_changes() -> None:
    assert PASSES[:4] == ("image", "keyframes", "interpolation_1", "interpolation_2"), "it is part of the noise counter"


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_known_frames_come_back_as_they_were(sampler: str) -> None:
    context = ends()
    latents = filler()(Recording(), "interpolation_1", [0, 0], [0, 1], SHAPE, told(), PassSettings(sampler, 3, guidance=2.0), context)
    assert torch.allclose(latents[:, [0, -1]], context.values[:, [0, -1]], atol=1e-5)
    assert torch.isfinite(latents).all()


def test_known_frames_are_shown_at_their_own_level() -> None:
    network, context = Recording(), ends()
    filler()(network, "keyframes", [0, 0], [0, 1], SHAPE, told(), PassSettings("ddim", 2, context_level=0.3), context)
    for x, sigma, _ in network.calls:
        assert torch.allclose(sigma[:, [0, -1]], torch.tensor(0.3))
        noise = (x[:, 0] - math.sqrt(1 - 0.09) * context.values[:, 0]) / 0.3
        drawn = draw_noise([0, 0], "keyframes", [0, 1], SHAPE, part=1)[:, 0]
        assert torch.allclose(noise, drawn, atol=1e-4), "the same noise at every step"


@pytest.mark.parametrize(("guidance", "label_guidance", "calls"), [(1, 1, 1), (2, 1, 2), (1, 2, 2), (2, 2, 3)])
def test_guidance_costs_calls_only_where_it_is_asked_for(guidance: float, label_guidance: float, calls: int) -> None:
    network = Recording()
    filler()(network, "keyframes", [0, 0], [0, 1], SHAPE, told(), PassSettings("ddim", 4, guidance, label_guidance), ends())
    assert len(network.calls) == 4 * calls


def test_null_labels_keep_the_frame_rate() -> None:
    null = null_labels(told())
    assert null["time_of_day"].isnan().all() and not null["boxes_known"].any()
    assert (null["fps"] == 7.5).all()


def test_guidance_is_about_the_labels_that_are_named() -> None:
    """The call that guidance leads away from keeps the others."""
    null = null_labels(told(), "boxes")
    assert torch.equal(null["time_of_day"], told()["time_of_day"]) and not null["boxes_known"].any()
    assert null_labels(told(), "time_of_day+boxes")["time_of_day"].isnan().all()
    network = Recording()
    filler()(network, "keyframes", [0, 0], [0, 1], SHAPE, told(), PassSettings("ddim", 1, 1.0, 2.0, guided_labels="boxes"), ends())
    assert [bool(labels["boxes_known"].any()) for _, _, labels in network.calls] == [True, False]
    assert all(torch.equal(labels["time_of_day"], told()["time_of_day"]) for _, _, labels in network.calls)
    for wrong in ("weather", "", "boxes,crowdedness"):
        with pytest.raises(UsageError, match=r"there is no label .*; give all, or some of time_of_day, crowdedness, .* joined by \+"):
            RolloutSettings(guided_labels=wrong)


@pytest.mark.parametrize("name", ["guidance_parallel", "anchor"])
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_lie_in_0_to_1(name: str, share: float) -> None:
    with pytest.raises(UsageError, match=rf"rollout.{name} is a share in 0..1, not {share}"):
        RolloutSettings.of({}, **{name: share})


def test_shared_noise_is_the_same_in_all_frames_and_of_its_deviation() -> None:
    noise = draw_noise(range(400), "keyframes", [0] * 400, (6, 2, 16, 32))
    added = with_shared(noise, 0.3) - noise
    assert torch.allclose(added, added[:, :1].expand_as(added), atol=1e-6)
    middle = added[:, 0, :, 4::8, 4::8]  # bilinear in space: of full deviation at the middle of cells alone, or nearly so
    assert middle.std().item() == pytest.approx(0.3, rel=0.1) and abs(middle.mean().item()) < 0.01
    held = torch.nn.functional.avg_pool2d(noise.mean(1), 8)
    assert torch.corrcoef(torch.stack([held.flatten(), middle.flatten()]))[0, 1] > 0.95  # stronger, not another
    assert with_shared(noise, 0.0) is noise
    assert with_shared(noise[..., :3, :5], 0.1).shape == (400, 6, 2, 3, 5)


def test_keyframes_begin_with_shared_noise_and_frames_between_do_not() -> None:
    settings = RolloutSettings(shared_noise=0.2)
    assert [settings.of_pass(stage).shared_noise for stage in ("image", "keyframes", "interpolation_1")] == [0.2, 0.2, 0.0]
    network = Recording()
    filler()(network, "keyframes", [3], [0], SHAPE, told(1), PassSettings("ddim", 1, shared_noise=0.2))
    begun = with_shared(draw_noise([3], "keyframes", [0], SHAPE), 0.2)
    assert torch.allclose(network.calls[0][0], begun)
    with pytest.raises(UsageError, match=r"rollout.shared_noise must be a number from 0, not -0.1"):
        RolloutSettings(shared_noise=-0.1)


def test_a_network_gone_wrong_is_named() -> None:
    with pytest.raises(NonFiniteError, match=r"pass interpolation_1, windows 7 to 8: .* step 1 of 2"):
        filler()(Recording(math.nan), "interpolation_1", [0, 0], [7, 8], SHAPE, told(), PassSettings("ddim", 2), ends())
