"""A convolution that keeps the size of its picture, with a faster gradient on CPUs.

The library's gradient for the weights is slow where pictures are small or kernels one column wide (GFLOP/s on one core, 8 frames: 48 for
320 channels at 4x8, 16 at 2x4, 27 for a (3, 1) kernel over 192); as one product of matrices it runs at 62 to 72 in all of these. On large
pictures the library is as good and is left alone. Values and gradients are the same. This file does not know what is convolved.

Legend: F pictures   H height   W width   C channels in   O channels out   K, L kernel
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

__all__ = ["Convolution", "convolve"]

SMALL = 256
"""Positions of a picture up to which the weights' gradient is a product of matrices."""
COLUMNS = 6_000_000
"""Numbers in one matrix of columns; more pictures are taken in several."""


class Convolution(nn.Conv2d):
    """Stride 1, zeros around, odd kernel; everything else, names of weights included, is ``nn.Conv2d``'s."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int] = (3, 3)) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(input, weight, bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (F, C, H, W) in channels-last memory, weight (O, C, K, L) of odd K and L, bias (O,) -> (F, O, H, W)."""
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    learns = torch.is_grad_enabled() and weight.requires_grad
    small = weight.shape[3] == 1 or x.shape[-2] * x.shape[-1] <= SMALL
    if bias is None or not (learns and small) or x.device.type != "cpu":
        return nnf.conv2d(x, weight, bias, padding=padding)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    result: Tensor = _Convolve.apply(x, weight, bias)
    return result


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nnf.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return (
            _input_gradient(gradient, x, weight) if for_x else None,
            _weight_gradient(gradient, x, weight.shape[2], weight.shape[3]) if for_weight else None,
            gradient.sum((0, 2, 3)) if for_bias else None,
        )


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The library's, which is as fast as a forward pass when it need not find the weights' as well."""
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    only = [True, False, False]
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, only)[0]


def _weight_gradient(gradient: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """(F, O, H, W), (F, C, H, W) -> (O, C, K, L): the gradient's tokens times what each of them had under the kernel."""
    pictures = max(COLUMNS // (x[0].numel() * height * width), 1)
    pairs = zip(gradient.split(pictures), x.split(pictures), strict=True)
    total = sum(part.permute(1, 0, 2, 3).flatten(1) @ _columns(seen, height, width) for part, seen in pairs)
    return torch.as_tensor(total).unflatten(1, (height, width, -1)).permute(0, 3, 1, 2)


def _columns(x: Tensor, height: int, width: int) -> Tensor:
    """(F, C, H, W) -> (F * H * W, K * L * C): for every position what lies under the kernel there."""
    rows = nnf.pad(x.permute(0, 2, 3, 1), (0, 0, width // 2, width // 2, height // 2, height // 2))
    high, wide = x.shape[-2:]
    return torch.cat([rows[:, i : i + high, j : j + wide] for i in range(height) for j in range(width)], dim=-1).flatten(0, 2)
