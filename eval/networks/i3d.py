"""I3D, the inflated Inception whose logits the FVD is defined on (Carreira and Zisserman 2017; Unterthiner et al. 2018).

Built after the graph of TF-Hub's ``deepmind/i3d-kinetics-400/1``: SAME padding computed from the input (so it is lopsided where the size
asks for it), batch normalisation with eps 1e-3, logits averaged over time. Parameters carry the names of the common PyTorch layout. This
file does not know how frames are resized, nor where weights come from.

Legend: B batch   C channels   T frames   H height   W width
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .resize import NetworkInputError

__all__ = ["I3D", "MIN_FRAMES", "SIDE", "same_padding"]

SIDE = 224
"""Pixels a side of the square the network sees."""
MIN_FRAMES = 9
"""Three halvings round up to two frames only from nine; the last pool needs two."""
CLASSES = 400

Triple = tuple[int, int, int]

MIXED: dict[str, tuple[int, tuple[int, ...]]] = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Block -> channels in, channels of b0, b1a, b1b, b2a, b2b, b3b."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: zeros (before, after) so that ceil(size / stride) outputs come out; the odd one goes after."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> tuple[Tensor, Triple]:
    """x (b, c, t, h, w), padded where the padding is lopsided -> x and the even padding that is left to the layer itself."""
    sides = [same_padding(size, *way) for size, *way in zip(x.shape[2:], kernel, stride, strict=True)]
    if all(before == after for before, after in sides):
        return x, (sides[0][0], sides[1][0], sides[2][0])
    (front, back), (top, bottom), (left, right) = sides
    return nnf.pad(x, (left, right, top, bottom, front, back)), (0, 0, 0)


def max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """SAME max pool of (b, c, t, h, w) >= 0: after a ReLU, zeros at the edge change no maximum."""
    x, padding = pad_same(x, kernel, stride)
    return nnf.max_pool3d(x, kernel, stride, padding)


class Unit(nn.Module):
    """SAME convolution without bias, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv3d.kernel_size[0], self.conv3d.stride[0]
        x, padding = pad_same(x, (kernel,) * 3, (stride,) * 3)
        return nnf.relu(self.bn(nnf.conv3d(x, self.conv3d.weight, stride=stride, padding=padding)), inplace=True)


class Logits(nn.Module):
    """A 1x1x1 convolution with bias and nothing behind it."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class Mixed(nn.Module):
    """Four branches side by side: 1x1x1; twice 1x1x1 then 3x3x3; maximum then 1x1x1."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        first, narrow_1, wide_1, narrow_2, wide_2, last = widths
        self.b0 = Unit(channels, first)
        self.b1a, self.b1b = Unit(channels, narrow_1), Unit(narrow_1, wide_1, 3)
        self.b2a, self.b2b = Unit(channels, narrow_2), Unit(narrow_2, wide_2, 3)
        self.b3b = Unit(channels, last)

    def forward(self, x: Tensor) -> Tensor:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(nn.Module):
    """Float clips (b, 3, t, 224, 224) in [-1, 1], t >= 9 -> (b, 400): Kinetics logits averaged over time. float32 or float64.

    Weights are random until a state dict is loaded. The network is always in eval mode: ``train()`` changes nothing.

    Raises:
        NetworkInputError: another shape, fewer than 9 frames, integers, values outside [-1, 1], or NaN.
    """

    num_features = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.logits = Logits(1024, CLASSES)
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (channels, widths) in MIXED.items():
            self.add_module(name, Mixed(channels, widths))
        self.eval()

    def train(self, mode: bool = True) -> I3D:
        """Stays in eval mode whatever is asked."""
        return super().train(False)

    def forward(self, clips: Tensor) -> Tensor:
        _check(clips)
        x = self.Conv3d_1a_7x7(clips.to(self.logits.conv3d.weight.dtype))
        x = self._mixed(max_pool(x, (1, 3, 3), (1, 2, 2)))
        return self.logits(nnf.avg_pool3d(x, (2, 7, 7), stride=1)).flatten(2).mean(dim=2)

    def _mixed(self, x: Tensor) -> Tensor:
        """(b, 64, t / 2, 56, 56) -> (b, 1024, t / 8, 7, 7): everything between the first pool and the last."""
        x = max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                x = max_pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = max_pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        return x


def _check(clips: Tensor) -> None:
    if clips.ndim != 5 or clips.shape[1] != 3 or tuple(clips.shape[3:]) != (SIDE, SIDE) or len(clips) == 0:
        raise NetworkInputError(f"I3D sees clips of shape (b, 3, t, {SIDE}, {SIDE}), got {tuple(clips.shape)}; resize them first")
    if clips.shape[2] < MIN_FRAMES:
        raise NetworkInputError(f"I3D needs at least {MIN_FRAMES} frames at once, got {clips.shape[2]}; use longer clips")
    if not clips.is_floating_point():
        raise NetworkInputError(f"I3D sees floats in [-1, 1], got {str(clips.dtype).removeprefix('torch.')}; use x / 127.5 - 1 on bytes")
    low, high = (float(value) for value in clips.aminmax())
    if not (low >= -1.001 and high <= 1.001):  # also true where there is a NaN
        raise NetworkInputError(f"I3D sees floats in [-1, 1], got {low:.4g} to {high:.4g}; use x / 127.5 - 1 on bytes")
