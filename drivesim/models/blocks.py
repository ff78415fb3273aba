"""The parts that image U-Nets are made of: noise embedding, residual block, spatial attention, resampling.

Everything runs in channels-last memory, where an image is already a table of tokens and a convolution needs no relayout.
This file does not know what the parts are assembled into, what a label is, or that frames have an order.

Legend: F frames   C channels   H height   W width   N = H * W tokens   D embedding
"""

from __future__ import annotations

import math
import types
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drivesim.models.convolution import Convolution

__all__ = [
    "Attention", "Downsample", "NoiseEmbedding", "Norm", "PixelNorm", "ResBlock", "SpatialAttention", "Upsample",
    "channels_last", "filtered", "from_tokens", "group_normed", "mean_around", "norm_named", "recompute", "sinusoid", "to_tokens", "zeroed",
]  # fmt: skip


M = TypeVar("M", bound=nn.Module)


def channels_last(x: Tensor) -> Tensor:
    """(f, c, h, w) in channels-last memory; no copy where it already is."""
    return x.contiguous(memory_format=torch.channels_last)


def to_tokens(x: Tensor) -> Tensor:
    """(f, c, h, w) -> (f, h * w, c); a view in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def from_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """(f, h * w, c) -> (f, c, h, w) in channels-last memory; a view."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def zeroed(module: M) -> M:
    """Set every parameter to zero: a new part begins by adding nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def mean_around(pixels: Tensor, size: int) -> Tensor:
    """(f, c, H, W) -> the same shape, each pixel the mean over ``size`` x ``size`` around it; ``size`` odd, borders repeated."""
    return filtered(pixels, (1 / size,) * size)


def filtered(pixels: Tensor, taps: Sequence[float]) -> Tensor:
    """(f, c, H, W) -> the same shape, ``taps``, an odd number of them, applied down and across each channel; borders repeated.

    Sums of shifted pictures: on a processor PyTorch's pooling and convolutions of single channels take five times as long.
    """
    height, width = pixels.shape[-2:]
    padded = nnf.pad(pixels, (len(taps) // 2,) * 4, mode="replicate")
    down = _weighted([padded[..., place : place + height, :] for place in range(len(taps))], taps)
    return _weighted([down[..., place : place + width] for place in range(len(taps))], taps)


def _weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    return total


def sinusoid(x: Tensor, dim: int, period: float = 10_000.0) -> Tensor:
    """(...) -> (..., dim) float32: cosines and sines of x at dim / 2 rates from 1 down to 1 / period."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=x.device, dtype=torch.float32) * (-math.log(period) / half))
    angles = x.float()[..., None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class NoiseEmbedding(nn.Module):
    """sigma (f,) in [0, 1] -> (f, D). The angle asin(sigma) is even in what is left to do and finite at both ends."""

    def __init__(self, dim: int, rates: int = 128) -> None:
        super().__init__()
        self.rates = rates
        self.mlp = nn.Sequential(nn.Linear(rates, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, sigma: Tensor) -> Tensor:
        angle = torch.asin(sigma.float().clamp(0.0, 1.0))
        return self.mlp(sinusoid(1000.0 * angle, self.rates))


class Norm(nn.GroupNorm):
    """Group normalisation of each frame by itself: groups of at least four channels, at most 32 groups.

    Always computed in float32: statistics want it, and the half-precision channels-last kernel of the CPU is eight times slower.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(math.gcd(32, channels), max(channels // 4, 1)), channels)

    def forward(self, x: Tensor) -> Tensor:
        values = x.float()
        if not torch.is_grad_enabled() and self._slow_for(values):
            normed = group_normed(values, self.num_groups, self.weight, self.bias, self.eps)
        elif torch.is_grad_enabled() and not values.requires_grad:
            # Behind frozen layers only weight and bias learn. The CPU's channels-last gradient of group_norm then writes the missing
            # gradient of its input and crashes (torch 2.13), so the affine part stands apart.
            plain = nnf.group_norm(values, self.num_groups, eps=self.eps)
            normed = torch.addcmul(self.bias[:, None, None], plain, self.weight[:, None, None])
        else:
            normed = nnf.group_norm(values, self.num_groups, self.weight, self.bias, self.eps)
        return channels_last(normed.to(x.dtype))

    def _slow_for(self, x: Tensor) -> bool:
        """Where the channels-last kernel of the CPU takes three to ten times as long as ``group_normed`` (torch 2.13)."""
        return x.device.type == "cpu" and self.num_channels // self.num_groups < 8 and 64 <= x.shape[-2] * x.shape[-1] <= 1024


def group_normed(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As ``group_norm``, by sums over positions that are matrix products; x (f, c, h, w) float32 in channels-last memory.

    The variance is a difference of means, so of a group whose mean is a thousand times its deviation nothing would be left.
    """
    tokens = to_tokens(x)
    mean = tokens.new_full((1, 1, tokens.shape[1]), 1 / tokens.shape[1]).expand(len(tokens), -1, -1)
    first, second = (torch.bmm(mean, values).reshape(len(x), groups, -1).mean(-1, keepdim=True) for values in (tokens, tokens.square()))
    scale = (second - first.square()).clamp(min=0).add(eps).rsqrt() * weight.view(groups, -1)
    shift = bias.view(groups, -1) - first * scale
    return torch.addcmul(shift.view(len(x), -1, 1, 1), x, scale.view(len(x), -1, 1, 1))


class PixelNorm(nn.Module):
    """Normalisation over the channels of each position by itself.

    What one position becomes depends on its neighbourhood alone, never on how large the picture is: a network of convolutions that was
    trained on patches then says the same on whole frames, and on tiles of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_channels = channels
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        rows = channels_last(x).permute(0, 2, 3, 1)
        return nnf.layer_norm(rows.float(), (self.num_channels,), self.weight, self.bias).to(x.dtype).permute(0, 3, 1, 2)


NORMS = {"group": Norm, "pixel": PixelNorm}


def norm_named(kind: str, channels: int) -> nn.Module:
    """"group": statistics of a whole frame; "pixel": of one position.

    Raises:
        ValueError: no such norm.
    """
    if kind not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {kind!r}")
    return NORMS[kind](channels)


class ResBlock(nn.Module):
    """Two 3x3 convolutions, scaled and shifted by the embedding in between, around a skip. Starts as the skip alone."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, norm: str = "group") -> None:
        super().__init__()
        self.norm1, self.norm2 = norm_named(norm, in_channels), norm_named(norm, out_channels)
        self.conv1 = Convolution(in_channels, out_channels)
        self.modulation = nn.Linear(embedding, 2 * out_channels)
        self.conv2 = zeroed(Convolution(out_channels, out_channels))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (f, in, h, w), embedding (f, D), activated -> (f, out, h, w)."""
        hidden = self.conv1(nnf.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        return self.skip(x) + self.conv2(nnf.silu(hidden))


class Attention(nn.Module):
    """Several heads of self-attention along axis 1 of tokens (b, n, m, c), each of the m by itself; starts as zero."""

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = max(channels // head_channels, 1)
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be shared by {self.heads} heads; head_channels must divide the channels")
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = zeroed(nn.Linear(channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 2, 4, 1, 5)  # 3 b m heads n d
        query, key, value = parts.flatten(1, 2).unbind(0)
        mixed = nnf.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.unflatten(0, parts.shape[1:3]).permute(0, 3, 1, 2, 4).flatten(-2))


class SpatialAttention(nn.Module):
    """Every position of a frame looks at every other. Starts as the identity."""

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.attention = Attention(channels, head_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(f, c, h, w) -> the same shape."""
        tokens = to_tokens(self.norm(x))[:, :, None]
        return x + from_tokens(self.attention(tokens)[:, :, 0], *x.shape[-2:])


class Downsample(nn.Conv2d):
    """Half the height and width, by a strided 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Twice the height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nnf.interpolate(x, scale_factor=2.0, mode="nearest"))


def recompute(module: nn.Module) -> None:
    """Gradient checkpointing: from now on ``module`` keeps only its inputs in training and computes its inside again for the gradient.

    Only ``forward`` is repeated, not the hooks around it, so whatever hooks were told for this call may be forgotten before the gradient.
    """
    module.forward = types.MethodType(_checkpointed, module)  # type: ignore[method-assign]


def _checkpointed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(module).forward
    if not torch.is_grad_enabled():
        return forward(module, *args, **kwargs)
    return checkpoint(forward, module, *args, use_reentrant=False, **kwargs)
