"""FID-Inception: the Inception-v3 of TensorFlow's ``inception-2015-12-05`` graph, whose pooled features the FID is defined on.

It differs from the Inception-v3 of image libraries in 1,008 logits, averages that do not count the padding, and a max pool in the last
block (Heusel et al. 2017 and its ports). Parameters carry the names of the common PyTorch layout. This file knows the network and its own
preprocessing; it does not know where weights come from.

Legend: N pictures   C channels   H height   W width
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .resize import RESIZES, NetworkInputError, check_bytes

__all__ = ["InceptionFID"]

SIDE = 299
"""Pixels a side of the square the network sees."""
LOGITS = 1008

Size = int | tuple[int, int]


class Unit(nn.Module):
    """Convolution without bias, batch normalisation (eps 1e-3, as in the graph), ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return nnf.relu(self.bn(self.conv(x)), inplace=True)


def mean_pool(x: Tensor) -> Tensor:
    """3x3 mean, same size; at the edge over the pixels that exist, which is TensorFlow's rule."""
    return nnf.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """3x3 maximum, same size."""
    return nnf.max_pool2d(x, 3, stride=1, padding=1)


def shrink(x: Tensor) -> Tensor:
    """3x3 maximum at stride 2, edges cut."""
    return nnf.max_pool2d(x, 3, stride=2)


class BlockA(nn.Module):
    """Mixed_5b, 5c, 5d: (n, c, 35, 35) -> (n, 224 + pool, 35, 35)."""

    def __init__(self, channels: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 64, 1)
        self.branch5x5_1 = Unit(channels, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(mean_pool(x))], dim=1)


class BlockB(nn.Module):
    """Mixed_6a: (n, c, 35, 35) -> (n, 480 + c, 17, 17)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(channels, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, shrink(x)], dim=1)


class BlockC(nn.Module):
    """Mixed_6b to 6e: (n, 768, 17, 17) -> the same; ``narrow`` channels between the factored 7x7 convolutions."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        wide, tall = (1, 7), (7, 1)
        self.branch1x1 = Unit(768, 192, 1)
        self.branch7x7_1 = Unit(768, narrow, 1)
        self.branch7x7_2 = Unit(narrow, narrow, wide, padding=(0, 3))
        self.branch7x7_3 = Unit(narrow, 192, tall, padding=(3, 0))
        self.branch7x7dbl_1 = Unit(768, narrow, 1)
        self.branch7x7dbl_2 = Unit(narrow, narrow, tall, padding=(3, 0))
        self.branch7x7dbl_3 = Unit(narrow, narrow, wide, padding=(0, 3))
        self.branch7x7dbl_4 = Unit(narrow, narrow, tall, padding=(3, 0))
        self.branch7x7dbl_5 = Unit(narrow, 192, wide, padding=(0, 3))
        self.branch_pool = Unit(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(mean_pool(x))], dim=1)


class BlockD(nn.Module):
    """Mixed_7a: (n, 768, 17, 17) -> (n, 1280, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(768, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(768, 192, 1)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, shrink(x)], dim=1)


class BlockE(nn.Module):
    """Mixed_7b: (n, c, 8, 8) -> (n, 2048, 8, 8)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(channels, 320, 1)
        self.branch3x3_1 = Unit(channels, 384, 1)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(channels, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(channels, 192, 1)

    def pooled(self, x: Tensor) -> Tensor:
        return mean_pool(x)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three), self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(self.pooled(x))], dim=1)


class LastBlockE(BlockE):
    """Mixed_7c: as 7b, but the graph takes a maximum where 7b takes a mean."""

    def pooled(self, x: Tensor) -> Tensor:
        return max_pool(x)


class InceptionFID(nn.Module):
    """uint8 pictures (n, 3, h, w), 0..255 RGB -> float (n, 2048), the ``pool3`` features. Weights are random until a state dict is loaded.

    Pictures are squashed to 299x299 and scaled to (x - 128) / 128. The network is always in eval mode: ``train()`` changes nothing, so a
    metric that is a part of a training module cannot spoil its statistics.

    Args:
        resize: "tf1", the rule FID was published with (see ``tf1_bilinear``), or "antialias".

    Raises:
        NetworkInputError: an unknown rule; frames that are not uint8 (n, 3, h, w).
    """

    num_features = 2048

    def __init__(self, resize: str = "tf1") -> None:
        super().__init__()
        if resize not in RESIZES:
            raise NetworkInputError(f"no resizing rule {resize!r}; choose one of {', '.join(RESIZES)}")
        self.resize = resize
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (BlockC(narrow) for narrow in (128, 160, 160, 192))
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280), LastBlockE(2048)
        self.fc = nn.Linear(2048, LOGITS)
        self.eval()

    def train(self, mode: bool = True) -> InceptionFID:
        """Stays in eval mode whatever is asked."""
        return super().train(False)

    def prepare(self, pictures: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) -> float (n, 3, 299, 299), -1..127/128, in the type of the weights."""
        check_bytes(pictures, 4)
        return ((RESIZES[self.resize](pictures, SIDE, SIDE) - 128) / 128).to(self.fc.weight.dtype)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(self.prepare(pictures))))
        x = shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(shrink(x))))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))

    def logits(self, pictures: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) -> float (n, 1008), before the softmax."""
        return self.fc(self(pictures))
