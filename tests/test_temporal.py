"""Temporal layers against slow, obvious twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError
from drivesim.models.blocks import sinusoid
from drivesim.models.temporal import AlphaMix, Call, ContextEncoder, TemporalAttention, TemporalConv, TemporalConvBlock

B, T, C, H, W, D = 2, 5, 8, 4, 6, 12


def pictures(channels: int = C) -> Tensor:
    return torch.randn(B * T, channels, H, W).contiguous(memory_format=torch.channels_last)


def shaken(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def call(*context: Tensor) -> Call:
    return Call(T, torch.randn(B * T, D), context)


def test_the_fast_convolution_equals_conv3d() -> None:
    fast, slow = TemporalConv(C, 12), nn.Conv3d(C, 12, (3, 1, 1), padding=(1, 0, 0))
    slow.load_state_dict({"weight": fast.weight[..., None], "bias": fast.bias})
    x = pictures()
    expected = slow(x.unflatten(0, (B, T)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(fast(x, T), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast(x.contiguous(), T), expected, atol=1e-5, rtol=1e-5)


def test_the_fast_convolution_moves_no_memory() -> None:
    seen: list[Tensor] = []
    layer, x = TemporalConv(C, C), pictures()
    layer._conv_forward = lambda rows, weight, bias: seen.append(rows) or rows.clone()  # type: ignore[method-assign]
    assert layer(x, T).is_contiguous(memory_format=torch.channels_last)
    assert seen[0].shape == (B, C, T, H * W)
    assert seen[0].data_ptr() == x.data_ptr()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def slow_attention(layer: TemporalAttention, z: Tensor) -> Tensor:
    """Pixel by pixel, head by head, with the softmax written out."""
    normed = layer.norm(z).unflatten(0, (B, T)) + layer.position(sinusoid(torch.arange(T), C))[None, :, :, None, None]
    out, heads = torch.zeros(B, T, C, H, W), layer.attention.heads
    for b, y, x in torch.cartesian_prod(torch.arange(B), torch.arange(H), torch.arange(W)).tolist():
        query, key, value = layer.attention.qkv(normed[b, :, :, y, x]).chunk(3, dim=-1)
        mixed = []
        for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
            mixed.append(torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v)
        out[b, :, :, y, x] = layer.attention.proj(torch.cat(mixed, dim=-1))
    return out.flatten(0, 1)


def test_the_fast_attention_equals_the_slow_one() -> None:
    layer, z = shaken(TemporalAttention(C, head_channels=4)), pictures()
    assert isinstance(layer, TemporalAttention)
    torch.testing.assert_close(layer.change(z, call()), slow_attention(layer, z), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [TemporalConvBlock(C, D, frames=T), TemporalAttention(C, 4, frames=T)], ids=["conv", "attention"])
class TestEveryLayer:
    def test_new_it_is_the_identity(self, layer: nn.Module) -> None:
        z = pictures()
        assert torch.equal(layer(z, call()), z)
        assert torch.sigmoid(layer.mix.raw).eq(0.5).all()

    def test_it_learns_from_the_first_step(self, layer: nn.Module) -> None:
        layer(pictures(), call()).square().sum().backward()
        assert sum(float(p.grad.norm()) > 0 for p in layer.parameters() if p.grad is not None) >= 1

    def test_it_stands_aside_without_a_call(self, layer: nn.Module) -> None:
        assert layer.hook(layer, (), pictures()) is None

    def test_frames_are_ordered_and_windows_apart(self, layer: nn.Module) -> None:
        shaken(layer)
        z, told = pictures(), Call(T, torch.ones(B * T, D))
        whole = layer(z, told)
        alone = torch.cat([layer(part, Call(T, told.embedding[:T])) for part in z.split(T)])
        torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)
        backwards = layer(z.unflatten(0, (B, T)).flip(1).flatten(0, 1), told).unflatten(0, (B, T)).flip(1).flatten(0, 1)
        assert (backwards - whole).abs().max() > 1e-3
        assert whole.is_contiguous(memory_format=torch.channels_last)


def test_the_mix_is_the_paper_s() -> None:
    mix, z, other = AlphaMix(T), pictures(), pictures()
    nn.init.normal_(mix.raw)
    a = torch.sigmoid(mix.raw).repeat(B)[:, None, None, None]
    torch.testing.assert_close(mix(z, other - z, T), a * z + (1 - a) * other)
    nn.init.constant_(mix.raw, 200.0)
    assert torch.equal(mix(z, other - z, T), z), "a = 1 is the image network"


def test_a_mix_per_frame_refuses_other_lengths_and_a_scalar_takes_any() -> None:
    z = pictures()
    with pytest.raises(DrivesimError, match=r"exactly 4 frames, not 5.*alpha='scalar'"):
        AlphaMix(4)(z, z, T)
    for frames in (1, 2, 5, 10):
        assert AlphaMix(None)(z, z, frames).shape == z.shape


def test_context_joins_the_convolution_at_its_own_scale() -> None:
    encoder, layer = ContextEncoder(5, 7, levels=3), shaken(TemporalConvBlock(C, D, context_channels=7))
    features = encoder(torch.randn(B * T, 5, 2 * H, 2 * W))
    assert [tuple(part.shape[1:]) for part in features] == [(7, 2 * H, 2 * W), (7, H, W), (7, H // 2, W // 2)]
    z, told = pictures(), call(*features)
    other = Call(T, told.embedding, [features[0], features[1] + 1, features[2]])
    elsewhere = Call(T, told.embedding, [features[0] + 1, features[1], features[2]])
    assert not torch.equal(layer(z, told), layer(z, other))
    assert torch.equal(layer(z, told), layer(z, elsewhere))
