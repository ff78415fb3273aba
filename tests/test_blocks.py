"""What parts compute by a shorter way is what the plain way gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given
from hypothesis import strategies as st

from drivesim.models.blocks import Norm, channels_last, filtered, group_normed, mean_around


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(height=st.integers(1, 12), width=st.integers(1, 12), size=st.sampled_from([1, 3, 5, 9]))
def test_a_mean_around_is_a_pooling_of_repeated_borders(height: int, width: int, size: int) -> None:
    pixels = random(2, 3, height, width)
    pooled = nnf.avg_pool2d(nnf.pad(pixels, (size // 2,) * 4, mode="replicate"), size, stride=1)
    assert torch.allclose(mean_around(pixels, size), pooled, atol=1e-5)


def test_filtering_is_a_convolution_of_each_channel_and_learns_as_one() -> None:
    taps, pixels = torch.tensor([-0.1, 0.3, 0.6, 0.15, 0.05]), random(2, 3, 8, 10).requires_grad_()
    kernel = (taps[:, None] * taps).expand(3, 1, 5, 5)
    convolved = nnf.conv2d(nnf.pad(pixels, (2,) * 4, mode="replicate"), kernel, groups=3)
    short = filtered(pixels, taps.tolist())
    assert torch.allclose(short, convolved, atol=1e-5)
    gradients = [torch.autograd.grad(values.square().sum(), pixels)[0] for values in (short, convolved)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


@pytest.mark.parametrize(("channels", "height", "width"), [(64, 16, 32), (128, 8, 16), (8, 8, 8)])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_norm_without_gradients_is_norm_with_them(channels: int, height: int, width: int, offset: float) -> None:
    """Sizes for which there is a shorter way; groups far from zero as well."""
    norm, x = Norm(channels), channels_last(random(3, channels, height, width) + offset)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    assert norm._slow_for(x)
    with torch.no_grad():
        short = norm(x)
    assert torch.allclose(short, norm(x.requires_grad_()), atol=1e-3 if offset else 1e-5)
    assert short.is_contiguous(memory_format=torch.channels_last)


def test_a_constant_picture_is_normed_to_the_bias() -> None:
    x = channels_last(torch.full((1, 8, 8, 8), 3.0))
    assert torch.allclose(group_normed(x, 2, torch.ones(8), torch.full((8,), 0.5), 1e-5), torch.full_like(x, 0.5), atol=1e-2)
