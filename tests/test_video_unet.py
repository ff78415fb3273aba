"""Insertion of temporal layers: the identity at first, spatial weights left alone, and what copies, checkpoints and compilation keep."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from drivesim.errors import DrivesimError
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.recipes import build

B, T, C, H, W = 2, 4, 3, 4, 8
KINDS = [("slots", "frame"), ("encoder", "scalar"), ("carried", "frame")]


def shaken(network: Any, seed: int = 0) -> Any:
    """Every weight random, zero-initialised ones included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15, generator=generator)
    return network


def image(seed: int = 0) -> ImageUNet:
    return shaken(ImageUNet(C, base=8, multipliers=(1, 2), attention=(2,), head_channels=8, embedding=16), seed)


def video(context: str = "slots", alpha: str = "frame", **changes: Any) -> VideoUNet:
    arguments: dict[str, Any] = {"frames": T, "context": context, "alpha": alpha, "context_channels": 4, "head_channels": 8}
    return VideoUNet(image(), C, embedding=16, **{**arguments, **changes})


def inputs(frames: int = T) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    scalars = {name: torch.rand(B, frames, generator=generator) for name in ("time_of_day", "crowdedness", "ego_speed_mps", "fps")}
    boxes = torch.tensor([0, 0.1, 0.2, 0.6, 0.8, 4]).expand(B, frames, 2, 6)
    labels = {**scalars, "boxes": boxes, "boxes_known": torch.ones(B, frames, dtype=torch.bool)}
    return torch.randn(B, frames, C, H, W, generator=generator), torch.rand(B, frames, generator=generator), labels


def context_of(x: Tensor, known: int) -> Tensor:
    """c_S with the first ``known`` frames given as they are."""
    mask = (torch.arange(x.shape[1]) < known).float()[None, :, None, None, None].expand_as(x[:, :, :1])
    return torch.cat([mask * x, mask, 0 * mask], dim=2)


def by_frame(network: nn.Module, x: Tensor, sigma: Tensor, labels: dict[str, Tensor]) -> Tensor:
    folded = {name: value.flatten(0, 1) for name, value in labels.items()}
    return network(x.flatten(0, 1), sigma.flatten(), folded).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(("context", "alpha"), KINDS)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0, "per frame"])
def test_new_it_is_the_image_network_exactly(context: str, alpha: str, level: float | str) -> None:
    network, (x, sigma, labels) = video(context, alpha), inputs()
    sigma = sigma if level == "per frame" else torch.full_like(sigma, float(level))
    output = network(x, sigma, labels, context_of(x, 2) if context != "slots" else None)
    assert torch.equal(output, by_frame(image(), x, sigma, labels))
    assert output.is_contiguous()


def test_temporal_layers_stand_behind_every_site() -> None:
    network = video()
    assert len(network.temporal.layers) == len(network.image.sites()) + len(network.image.attention_sites())
    few = video(attention_sites=["middle.0.attention"])
    assert len(few.temporal.layers) == len(few.image.sites()) + 1
    with pytest.raises(ValueError, match=r"no attention site 'nowhere'"):
        video(attention_sites=["nowhere"])
    with pytest.raises(ValueError, match=r"no convolution site 'middle.0.attention'"):
        video(conv_sites=["middle.0.attention"])


def test_attention_may_stand_where_no_convolution_does() -> None:
    everywhere = [*image().sites(), *image().attention_sites()]
    network, (x, sigma, labels) = video(conv_sites=[], attention_sites=everywhere), inputs()
    assert len(network.temporal.layers) == len(everywhere)
    assert {type(layer).__name__ for layer in network.temporal.layers.values()} == {"TemporalAttention"}
    assert torch.equal(network(x, sigma, labels), by_frame(image(), x, sigma, labels)), "new, it changes nothing"
    moved = shaken(network)(x + torch.eye(T)[0].view(1, T, 1, 1, 1), sigma, labels) - network(x, sigma, labels)
    assert (moved[:, -1].abs().amax(dim=(1, 2, 3)) > 1e-6).all(), "the last frame sees the first"
    with pytest.raises(ValueError, match="comes in through temporal convolutions"):
        video("encoder", conv_sites=[])


def test_one_level_for_all_frames_or_one_each() -> None:
    network, (x, sigma, labels) = shaken(video()), inputs()
    one = sigma[:, 0]
    torch.testing.assert_close(network(x, one, labels), network(x, one[:, None].expand(B, T), labels))


@pytest.mark.parametrize(("context", "alpha"), KINDS)
def test_a_single_frame_skips_the_temporal_layers(context: str, alpha: str) -> None:
    network, (x, sigma, labels) = shaken(video(context, alpha)), inputs(1)
    assert torch.equal(network(x, sigma, labels), by_frame(network.image, x, sigma, labels))


def test_the_image_network_alone_is_unchanged_after_a_video() -> None:
    network, (x, sigma, labels) = video(), inputs()
    before = by_frame(network.image, x, sigma, labels)
    shaken(network.temporal)
    assert not torch.equal(network(x, sigma, labels), before)
    assert torch.equal(by_frame(network.image, x, sigma, labels), before)


def test_windows_do_not_see_each_other_but_frames_do() -> None:
    network, (x, sigma, labels) = shaken(video()), inputs()
    output = network(x, sigma, labels)
    swapped = network(x.flip(0), sigma.flip(0), {name: value.flip(0) for name, value in labels.items()})
    torch.testing.assert_close(swapped, output.flip(0), atol=1e-5, rtol=1e-4)
    x = x.clone()
    x[0, 0] += 1
    moved = (network(x, sigma, labels) - output).abs().amax(dim=(2, 3, 4))
    assert (moved[0] > 1e-6).all()
    assert (moved[1] == 0).all()


@pytest.mark.parametrize("name", ["ego_speed_mps", "fps"])
def test_temporal_labels_are_heard_and_their_nulls_are_none(name: str) -> None:
    network, (x, sigma, labels) = shaken(video()), inputs()
    without = {key: value for key, value in labels.items() if key != name}
    assert not torch.equal(network(x, sigma, labels), network(x, sigma, without))
    nulls = {key: torch.full_like(v, float("nan")) if v.is_floating_point() else v & False for key, v in labels.items()}
    torch.testing.assert_close(network(x, sigma, nulls), network(x, sigma, None), atol=1e-6, rtol=0)


def test_encoded_context_is_heard_and_none_means_nothing_known() -> None:
    network, (x, sigma, labels) = shaken(video("encoder", "scalar")), inputs()
    nothing, first = context_of(x, 0), context_of(x, 1)
    assert torch.equal(network(x, sigma, labels, None), network(x, sigma, labels, nothing))
    assert (network(x, sigma, labels, first) - network(x, sigma, labels, nothing)).abs().max() > 1e-4


def test_other_lengths_need_a_scalar_mix() -> None:
    x, sigma, labels = inputs(6)
    assert video(alpha="scalar")(x, sigma, labels).shape == x.shape
    with pytest.raises(DrivesimError, match="exactly 4 frames, not 6"):
        video(alpha="frame")(x, sigma, labels)
    with pytest.raises(ValueError, match="alpha must be one of frame, scalar"):
        video(alpha="learned")


def test_training_temporal_weights_leaves_spatial_weights_alone() -> None:
    network, (x, sigma, labels) = video(), inputs()
    for parameter in network.spatial_parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.temporal_parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        network(x, sigma, labels).square().mean().backward()
        optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("temporal.") for name in changed)
    assert all(parameter.grad is not None for name, parameter in network.temporal.named_parameters() if "null" not in name)
    count = sum(1 for _ in network.spatial_parameters()) + sum(1 for _ in network.temporal_parameters())
    assert count == sum(1 for _ in network.parameters())


def test_another_fine_tune_of_the_image_network_drops_in() -> None:
    network, other, (x, sigma, labels) = video(), image(seed=5), inputs()
    assert {name for name in network.state_dict() if name.startswith("image.")} == {f"image.{name}" for name in other.state_dict()}
    network.image.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(network(x, sigma, labels), by_frame(other, x, sigma, labels))


def test_a_deep_copy_is_whole_and_apart() -> None:
    network, (x, sigma, labels) = shaken(video()), inputs()
    before = network(x, sigma, labels)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(x, sigma, labels), before)
    shaken(twin.temporal, seed=7)
    assert not torch.equal(twin(x, sigma, labels), before)
    assert torch.equal(network(x, sigma, labels), before)


def gradients(network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
    network.zero_grad()
    loss(network).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("context", "alpha"), KINDS)
def test_checkpointing_gives_the_same_gradients(context: str, alpha: str) -> None:
    """Also when two passes, told different things, share one backward: nothing may be left from the last call."""
    network, (x, sigma, labels) = shaken(video(context, alpha)), inputs()

    def two_passes(net: nn.Module) -> Tensor:
        first = net(x, sigma, labels, context_of(x, 2))
        return first.square().mean() + (net(2 * x, 1 - sigma, None, context_of(x, 1)) * first).mean()

    expected = gradients(network, two_passes)
    network.enable_checkpointing()
    thrifty = gradients(copy.deepcopy(network), two_passes)
    assert thrifty.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(thrifty[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("backend", "checkpointing"), [("eager", True), ("aot_eager", False)])
def test_compiled_it_says_the_same(backend: str, checkpointing: bool) -> None:
    """Tracing takes a second per layer: one scale, and attention in the middle only."""
    torch._dynamo.reset()
    small = shaken(ImageUNet(C, base=8, multipliers=(1,), attention=(), head_channels=8, embedding=16))
    network = shaken(VideoUNet(small, C, T, "encoder", "scalar", context_channels=4, head_channels=8, embedding=16))
    x, sigma, labels = inputs()
    expected = gradients(network, lambda net: net(x, sigma, labels, context_of(x, 2)).square().mean())
    if checkpointing:
        network.enable_checkpointing()
    compiled = torch.compile(network, backend=backend)
    got = gradients(network, lambda _: compiled(x, sigma, labels, context_of(x, 2)).square().mean())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-3)
    assert all(layer.call is None for layer in network.temporal.layers.values())


@pytest.mark.parametrize(("context", "alpha"), KINDS)
def test_a_recipe_rebuilds_it(context: str, alpha: str) -> None:
    network, (x, sigma, labels) = shaken(video(context, alpha)), inputs()
    twin = build(json.loads(json.dumps(network.recipe)))
    twin.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(twin(x, sigma, labels), network(x, sigma, labels))
    assert twin.context == context


def test_frame_by_frame_is_the_image_network_in_video_clothes() -> None:
    network, (x, sigma, labels) = FrameByFrame(image()), inputs()
    assert torch.equal(network(x, sigma, labels), by_frame(image(), x, sigma, labels))
    assert network.context == "none"
    assert list(network.temporal_parameters()) == []
    twin = build(json.loads(json.dumps(network.recipe)))
    twin.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(twin(x, sigma[:, 0]), network(x, sigma[:, 0]))


def test_mini_stays_within_its_budget() -> None:
    """DESIGN's figures for base 64 on 16x32 latents: about 10M parameters and 1.6 GFLOP a frame. Counted without computing."""
    with torch.device("meta"):
        network, x = VideoUNet(ImageUNet(8), 8), torch.empty(1, 10, 8, 16, 32)
        with FlopCounterMode(display=False) as counter:
            network(x, torch.empty(1))
    assert sum(parameter.numel() for parameter in network.parameters()) < 12e6
    assert counter.get_total_flops() / 10 < 1.7e9
