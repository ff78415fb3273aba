"""A small box detector for road frames: what a network that never saw a requested box finds in a picture.

Anchor-free: at every cell of a stride-4 map a score per category and the distances to the four edges of the box whose middle lies there
(CenterNet, Zhou et al. 2019; edges as in TTFNet, Liu et al. 2020), from a residual backbone down to stride 32 and a top-down path back up
(Lin et al. 2017). A second output says how likely it is night. This file does not know losses, labels over time, files or whether the
frames are real.

Legend: F frames   C channels   K categories   H, W height and width of frames   h, w = H / 4, W / 4   N detections
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.labels import CATEGORIES, VEHICLES
from drivesim.models.blocks import channels_last
from drivesim.recipes import recipe
from drivesim.shapes import as_floats

__all__ = ["STRIDE", "BoxDetector", "Detections", "Predictions", "box_iou", "cell_centres", "decode", "group_of"]

STRIDE = 4
PRIOR = 0.01
"""Score that an untrained network gives to every cell, so that the many empty ones do not drown the first steps (Lin et al. 2017b)."""


class Predictions(NamedTuple):
    """score: logits (f, K, h, w).   edges: distances in pixels from a cell's centre to left, top, right, bottom (f, 4, h, w), positive.
    night: logit (f,) that it is night."""

    score: Tensor
    edges: Tensor
    night: Tensor


@dataclass(frozen=True)
class Detections:
    """Boxes found in one frame, best first.

    xyxy: float32 (N, 4), x1, y1, x2, y2 in 0..1 of the frame.   score: float32 (N,) in 0..1.   category: int64 (N,), index into CATEGORIES.
    night: probability that the frame is at night.
    """

    xyxy: Tensor
    score: Tensor
    category: Tensor
    night: float

    def __len__(self) -> int:
        return len(self.score)

    def above(self, threshold: float) -> Detections:
        """Those with a score of at least ``threshold``."""
        keep = self.score >= threshold
        return Detections(self.xyxy[keep], self.score[keep], self.category[keep], self.night)

    @property
    def vehicles(self) -> Detections:
        """Cars, trucks, buses and motorcycles."""
        keep = self.category < len(VEHICLES)
        return Detections(self.xyxy[keep], self.score[keep], self.category[keep], self.night)


class _Conv(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, width: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )  # fmt: skip


class _Residual(nn.Module):
    """Two 3x3 convolutions around a skip (He et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _Conv(width, width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return nnf.relu(x + self.norm2(self.conv2(self.conv1(x))))


class BoxDetector(nn.Module):
    """Frames -> boxes.

    Args:
        widths: channels at strides 4, 8, 16, ...
        blocks: residual blocks at each.
        neck: channels of the top-down path and the head.
        threshold: the score from which a detection counts, unless ``detect`` is told another; found on held-out clips after training.

    Raises:
        ValueError: not as many ``blocks`` as ``widths``.
    """

    def __init__(
        self, widths: Sequence[int] = (40, 64, 112, 144), blocks: Sequence[int] = (1, 2, 2, 1), neck: int = 40, threshold: float = 0.3
    ) -> None:  # fmt: skip
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"as many blocks as widths are needed, not {len(blocks)} and {len(widths)}")
        self.recipe = recipe(self, widths=list(widths), blocks=list(blocks), neck=neck, threshold=threshold)
        self.threshold, self.downsample = threshold, STRIDE * 2 ** (len(widths) - 1)
        ins = [3 * STRIDE**2, *widths[:-1]]
        self.unshuffle = nn.PixelUnshuffle(STRIDE)
        self.stages = nn.ModuleList(
            nn.Sequential(_Conv(ins[level], width, stride=2 if level else 1), *(_Residual(width) for _ in range(blocks[level])))
            for level, width in enumerate(widths)
        )  # fmt: skip
        self.lateral = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in widths)
        self.merged = nn.ModuleList(_Conv(neck, neck) for _ in widths[:-1])
        self.head = _Conv(neck, neck)
        self.score, self.edges = nn.Conv2d(neck, len(CATEGORIES), 1), nn.Conv2d(neck, 4, 1)
        self.night = nn.Linear(widths[-1], 1)
        nn.init.constant_(self.score.bias, float(torch.logit(torch.tensor(PRIOR))))  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> Predictions:
        """(f, 3, H, W) in [-1, 1] -> Predictions.

        Raises:
            ValueError: H or W does not divide by the deepest stride.
        """
        if frames.shape[-2] % self.downsample or frames.shape[-1] % self.downsample:
            raise ValueError(f"frames of {frames.shape[-2]}x{frames.shape[-1]} pixels do not divide by {self.downsample}")
        x, levels = channels_last(self.unshuffle(frames)), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        night = self.night(levels[-1].mean((2, 3)).float())[:, 0]
        x = self.head(self._top_down(levels))
        edges = self.edges(x).float().clamp(max=4.5).exp() * STRIDE  # at most 360 pixels
        return Predictions(self.score(x).float(), edges, night)

    def _top_down(self, levels: Sequence[Tensor]) -> Tensor:
        """Features of every stride, finest first -> features at the finest (f, neck, h, w)."""
        x = self.lateral[-1](levels[-1])
        for level in reversed(range(len(levels) - 1)):
            x = self.merged[level](self.lateral[level](levels[level]) + nnf.interpolate(x, scale_factor=2.0))
        return x

    @torch.no_grad()
    def detect(self, frames: Tensor, threshold: float | None = None, limit: int = 64) -> list[Detections]:
        """uint8 frames (f, 3, H, W) -> what is in each, at most ``limit`` boxes with a score of at least ``threshold`` (None = its own).

        The network was made for H = 128; other sizes work as far as vehicles look alike there.

        Raises:
            TypeError: not uint8.   ValueError: another shape, a size that does not divide by the deepest stride, or a limit below 1.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames must be (f, 3, H, W), not {tuple(frames.shape)}")
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        device = self.night.weight.device
        predictions = self(as_floats(frames.to(device)))
        return decode(predictions, self.threshold if threshold is None else threshold, limit)


def cell_centres(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Pixel positions (x, y) of the centres of a map's cells, (h, w, 2)."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return (torch.stack([x, y], dim=-1).float() + 0.5) * STRIDE


def decode(predictions: Predictions, threshold: float, limit: int, overlap: float = 0.5) -> list[Detections]:
    """Predictions -> boxes of each frame: local peaks of the score (CenterNet's 3x3 maximum), then greedy suppression.

    overlap: of two boxes of one group (vehicles; the others each by category) that overlap by more than this IoU the better one stays.
    """
    score = predictions.score.sigmoid()
    peaks = score * (nnf.max_pool2d(score, 3, 1, 1) == score)
    f, k, height, width = score.shape
    best, index = peaks.flatten(1).topk(min(4 * limit, k * height * width))
    category, cell = index // (height * width), index % (height * width)
    boxes = _corners(predictions.edges)
    size = boxes.new_tensor([width, height, width, height]) * STRIDE
    night = predictions.night.sigmoid().tolist()
    found = []
    for frame in range(f):
        keep = best[frame] >= max(threshold, 1e-6)
        xyxy = (boxes[frame, cell[frame][keep]] / size).clamp(0.0, 1.0)
        scores, categories = best[frame][keep], category[frame][keep]
        rows = _suppressed(xyxy, group_of(categories), overlap)[:limit]
        found.append(Detections(xyxy[rows].cpu(), scores[rows].cpu(), categories[rows].cpu(), night[frame]))
    return found


def group_of(category: Tensor) -> Tensor:
    """Categories that may be taken for one another get one number: every vehicle is 0."""
    return (category - len(VEHICLES) + 1).clamp(min=0)


def _corners(edges: Tensor) -> Tensor:
    """Edges (f, 4, h, w) -> boxes in pixels (f, h * w, 4)."""
    centres = cell_centres(edges.shape[2], edges.shape[3], edges.device).flatten(0, 1)
    left_top, right_bottom = edges.flatten(2).transpose(1, 2).split(2, dim=-1)
    return torch.cat([centres - left_top, centres + right_bottom], dim=-1)


def _suppressed(xyxy: Tensor, group: Tensor, overlap: float) -> Tensor:
    """Rows that stay, best first; the rows come sorted by falling score."""
    clash = (box_iou(xyxy, xyxy) > overlap) & (group[:, None] == group[None])
    stays: list[int] = []
    for row, clashes in enumerate(clash.cpu().numpy()):
        if not clashes[stays].any():
            stays.append(row)
    return torch.tensor(stays, dtype=torch.int64, device=xyxy.device)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4), x1, y1, x2, y2 -> (n, m); 0 where both are empty."""
    low, high = torch.maximum(first[:, None, :2], second[None, :, :2]), torch.minimum(first[:, None, 2:], second[None, :, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (first, second)]
    return both / (area[0][:, None] + area[1][None] - both).clamp(min=1e-12)
