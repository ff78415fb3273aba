"""The image U-Net: shapes, nulls, symmetry, rebuilding, and what it publishes for temporal layers."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn

from drivesim.models.blocks import NoiseEmbedding, Norm
from drivesim.models.unet import ImageUNet
from drivesim.recipes import build


def tiny(**changes: object) -> ImageUNet:
    """A small U-Net whose zero-initialised parts were given random weights."""
    torch.manual_seed(0)
    arguments = {"channels": 3, "base": 8, "multipliers": (1, 2), "attention": (2,), "head_channels": 8, "embedding": 16}
    network = ImageUNet(**{**arguments, **changes})  # type: ignore[arg-type]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15)
    return network.eval()


def labels_of(frames: int) -> dict[str, Tensor]:
    boxes = torch.tensor([0, 0.1, 0.2, 0.6, 0.8, 4]).expand(frames, 2, 6)
    known = torch.ones(frames, dtype=torch.bool)
    return {"time_of_day": torch.ones(frames), "crowdedness": 3 * torch.ones(frames), "boxes": boxes, "boxes_known": known}


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 8), (6, 10), (16, 2)])
def test_any_height_and_width_that_the_levels_divide(height: int, width: int) -> None:
    x = torch.randn(3, 3, height, width)
    assert tiny()(x, torch.rand(3), labels_of(3)).shape == x.shape


def test_other_sizes_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="divisible by 2"):
        tiny()(torch.randn(1, 3, 5, 4), torch.rand(1))


def test_a_new_network_says_zero() -> None:
    assert ImageUNet(3, base=8, embedding=16)(torch.randn(2, 3, 8, 8), torch.rand(2)).abs().max() == 0


def test_null_labels_are_no_labels() -> None:
    network, x, sigma = tiny(), torch.randn(2, 3, 4, 8), torch.rand(2)
    nulls = {name: torch.full_like(value, math.nan) for name, value in labels_of(2).items() if not name.startswith("boxes")}
    nulls |= {"boxes": labels_of(2)["boxes"], "boxes_known": torch.zeros(2, dtype=torch.bool)}
    torch.testing.assert_close(network(x, sigma, nulls), network(x, sigma, None), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["time_of_day", "crowdedness", "boxes"])
def test_every_label_is_heard(name: str) -> None:
    network, x, sigma, labels = tiny(), torch.randn(2, 3, 4, 8), torch.rand(2), labels_of(2)
    without = {key: value for key, value in labels.items() if not key.startswith(name)}
    assert (network(x, sigma, labels) - network(x, sigma, without)).abs().max() > 1e-4


def test_frames_do_not_see_each_other() -> None:
    network, x, sigma, labels = tiny(), torch.randn(4, 3, 4, 8), torch.rand(4), labels_of(4)
    labels["crowdedness"] = torch.arange(4.0)
    order = torch.tensor([2, 0, 3, 1])
    moved = network(x[order], sigma[order], {name: value[order] for name, value in labels.items()})
    torch.testing.assert_close(moved, network(x, sigma, labels)[order], atol=1e-5, rtol=1e-4)


def test_finite_at_both_ends_of_the_noise() -> None:
    embedding = NoiseEmbedding(8)(torch.tensor([0.0, 1e-4, 1 - 1e-6, 1.0]))
    assert embedding.isfinite().all()
    assert tiny()(torch.randn(2, 3, 4, 4), torch.tensor([0.0, 1.0])).isfinite().all()


def test_norm_groups_hold_at_least_four_channels_and_always_divide() -> None:
    for channels in range(1, 400):
        groups = Norm(channels).num_groups
        assert channels % groups == 0
        assert groups <= 32
        assert groups == 1 or channels // groups >= 4


def test_a_recipe_rebuilds_it() -> None:
    network = tiny()
    twin = build(json.loads(json.dumps(network.recipe)))
    twin.load_state_dict(network.state_dict(), strict=True)
    x, sigma = torch.randn(2, 3, 4, 8), torch.rand(2)
    assert torch.equal(twin(x, sigma, labels_of(2)), network(x, sigma, labels_of(2)))


def test_sites_name_submodules_and_their_channels_in_calling_order() -> None:
    network = tiny(blocks=2)
    called: list[tuple[str, int]] = []
    expected = {**network.sites(), **network.attention_sites()}
    for path in expected:
        network.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: called.append((path, out.shape[1])))
    network(torch.randn(1, 3, 4, 4), torch.rand(1))
    assert dict(called) == expected
    assert [path for path, _ in called if path in network.sites()] == list(network.sites())
    assert set(network.attention_sites()) == {"middle.0.attention"} | {p for p in network.attention_sites() if "middle" not in p}


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    plain, x, sigma = tiny(), torch.randn(2, 3, 4, 8), torch.rand(2)
    thrifty = copy.deepcopy(plain)
    thrifty.enable_checkpointing()
    thrifty = copy.deepcopy(thrifty)
    for network in (plain, thrifty):
        network(x, sigma, labels_of(2)).square().mean().backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in thrifty.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad)


def test_pictures_stay_in_channels_last_memory() -> None:
    network, seen = tiny(), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last)))
    network(torch.randn(2, 3, 4, 8), torch.rand(2), labels_of(2))
    assert len(seen) > 10
    assert all(seen)


def test_half_precision_is_close() -> None:
    network, x, sigma = tiny(), torch.randn(2, 3, 4, 8), torch.rand(2)
    exact = network(x, sigma, labels_of(2))
    with torch.autocast("cpu", torch.bfloat16):
        near = network(x, sigma, labels_of(2)).float()
    assert (near - exact).norm() < 0.05 * exact.norm()


def upsampling(**changes: object) -> ImageUNet:
    """A network that takes in small frames: no attention, normalisation of single positions."""
    told = {"attention": (), "labels": (), "boxes": False, "stem": 4, "context_channels": 5, "norm": "pixel"}
    return tiny(**{**told, **changes})


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 40)])
def test_a_stem_works_on_cells_and_hears_small_frames(height: int, width: int) -> None:
    network, x, sigma = upsampling(), torch.randn(2, 3, height, width), torch.rand(2)
    context = torch.randn(2, 5, height // 4, width // 4)
    out = network(x, sigma, {}, context)
    assert out.shape == x.shape
    assert not torch.allclose(out, network(x, sigma, {}, None))
    assert torch.equal(network(x, sigma, {}, None), network(x, sigma, {}, torch.zeros_like(context)))


def test_small_frames_are_enlarged_to_a_network_without_a_stem() -> None:
    network, x = upsampling(stem=1), torch.randn(1, 3, 8, 16)
    assert network(x, torch.rand(1), {}, torch.randn(1, 5, 2, 4)).shape == x.shape


def test_without_attention_it_is_a_convolution_of_any_size() -> None:
    """Far from the borders a piece becomes what it becomes within the whole: trained on patches, applied to frames."""
    network, x, context = upsampling(), torch.randn(1, 3, 16, 512), torch.randn(1, 5, 4, 128)
    whole = network(x, torch.tensor([0.5]), {}, context)
    piece = network(x[..., 64:448], torch.tensor([0.5]), {}, context[..., 16:112])
    inner = slice(31 * 4, 384 - 31 * 4)
    torch.testing.assert_close(piece[..., inner], whole[..., 64:448][..., inner], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(piece[..., :16], whole[..., 64:80]), "at the borders its surroundings are missing"


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm must be one of group, pixel"):
        ImageUNet(3, base=8, embedding=16, norm="batch")
