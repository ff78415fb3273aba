"""Labels as networks see them: embeddings of the scalar labels, a raster of the boxes, and label dropout.

A null is NaN for a scalar and ``boxes_known = False`` for boxes; a missing entry, or no labels at all, means the same. Every null has an
embedding of its own, so any subset of labels can be given. This file does not know which network asks, nor how much noise there is.

Legend: F frames   N boxes   H, W cells of the raster (latent height and width)   D embedding
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES, LABELS, Label
from drivesim.models.blocks import channels_last, zeroed

__all__ = [
    "DROPOUT", "EVERY_LABEL", "RASTER_CHANNELS", "BoxRaster", "LabelEmbedder", "covered", "drop_labels", "guided_names", "null_labels",
    "raster_boxes", "within_rows",
]  # fmt: skip

Labels = Mapping[str, Tensor]

FPS = Label("fps", "frames/s", 0, 100, "rate of the frames")
"""Not said of a scene but known of every window, so it stands outside the registry."""

DROPOUT = {**{name: 0.3 if label.temporal else 0.1 for name, label in LABELS.items()}, "boxes": 0.1}
"""Probability of dropping each label in training: a tenth, and three tenths for the motion of the car."""

EVERY_LABEL = "all"
"""Instead of the names of labels."""

RASTER_CHANNELS = len(CATEGORIES) + 4 + 2 + 1
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
TOUCH = 0.01
"""A box is seen in a cell of which it covers at least this share."""


class LabelEmbedder(nn.Module):
    """Sum of one embedding per scalar label, each with a learned null.

    Args:
        names: labels of ``drivesim.labels.LABELS``, or "fps".
        dim: D.
    """

    def __init__(self, names: Sequence[str], dim: int) -> None:
        super().__init__()
        unknown = [name for name in names if name not in LABELS and name != FPS.name]
        if unknown:
            raise ValueError(f"no label {unknown[0]!r}: a network can be told {', '.join([*LABELS, FPS.name])}")
        self.dim = dim
        self.parts = nn.ModuleDict({name: _embedding_of(LABELS.get(name, FPS), dim) for name in names})

    def forward(self, labels: Labels | None, like: Tensor) -> Tensor:
        """labels of F frames or None -> (F, D), on the device of ``like`` (F, ...)."""
        total = torch.zeros(len(like), self.dim, device=like.device)
        for name, part in self.parts.items():
            value = None if labels is None else labels.get(name)
            total = total + part(like.new_full((len(like),), math.nan, dtype=torch.float32) if value is None else value.float())
        return total


def _embedding_of(label: Label, dim: int) -> nn.Module:
    return ClassEmbedding(len(label.values), dim) if label.values else NumberEmbedding(label.high - label.low, dim)


class ClassEmbedding(nn.Module):
    """A class index as float32, NaN = null -> (F, D)."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, dim)

    def forward(self, value: Tensor) -> Tensor:
        index = torch.where(value.isnan(), float(self.classes), value)
        return self.table(index.round().long().clamp(0, self.classes))


class NumberEmbedding(nn.Module):
    """A number, NaN = null -> (F, D), by Fourier features of its logarithm: five and six cars differ more than 50 and 51.

    Near zero the logarithm gives way to a straight line (asinh), at a hundredth of the label's range: signs and zero are kept.
    """

    def __init__(self, span: float, dim: int, octaves: int = 6) -> None:
        super().__init__()
        self.unit = span / 100.0
        self.octaves = octaves
        self.mlp = nn.Sequential(nn.Linear(2 * octaves + 1, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.null = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, value: Tensor) -> Tensor:
        known = ~value.isnan()
        place = torch.asinh(value.nan_to_num() / self.unit) / math.asinh(100.0)
        angles = place[:, None] * (math.pi * 2.0 ** torch.arange(self.octaves, device=value.device))
        features = torch.cat([place[:, None], angles.cos(), angles.sin()], dim=1)
        return torch.where(known[:, None], self.mlp(features).float(), self.null)


def raster_boxes(boxes: Tensor, boxes_known: Tensor, height: int, width: int) -> Tensor:
    """Paint boxes into the cells of the latent grid.

    Args:
        boxes: (F, N, 6) category (-1 = empty row), x1, y1, x2, y2 in 0..1 of the frame, track_id; nearest last.
        boxes_known: (F,) bool; where False the frame's raster is all zero.

    Returns:
        float32 (F, 13, H, W): per category the largest share of the cell that one of its boxes covers (6); distances in cells from the
        cell's centre to left, top, right, bottom of the front-most box seen there, through asinh (4); cosine and sine of that box's
        track_id times the golden angle, so that neighbouring instances differ (2); 1 where boxes are known (1).
    """
    boxes, cover = _covers(boxes, boxes_known, height, width)
    given = boxes_known.float()[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([_coverage(cover, boxes[..., 0]), _front_box(cover, boxes), given], dim=1)


def covered(boxes: Tensor, boxes_known: Tensor, height: int, width: int) -> Tensor:
    """Boxes as for ``raster_boxes`` -> (F, 1, H, W): the largest share of each cell that one of them covers, whatever it is."""
    return _covers(boxes, boxes_known, height, width)[1].amax(dim=1, keepdim=True)


def within_rows(boxes: Tensor, top: float, bottom: float) -> Tensor:
    """Boxes (..., 6) of whole frames as they lie in the rows from ``top`` to ``bottom``, in 0..1; what sticks out lies outside 0..1."""
    moved = boxes.clone()
    moved[..., [2, 4]] = (boxes[..., [2, 4]] - top) / (bottom - top)
    return moved


def _covers(boxes: Tensor, boxes_known: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes, without size where they are none, and the share of each cell that each of them covers, (F, N, H, W)."""
    real = (boxes[..., 0] >= 0) & boxes_known[:, None].bool()
    boxes = boxes.float().masked_fill(~real[..., None], 0.0)
    across, down = (_overlap(boxes[..., low], boxes[..., low + 2], cells) for low, cells in ((1, width), (2, height)))
    return boxes, across[:, :, None, :] * down[:, :, :, None]


def _overlap(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(F, N) interval ends in 0..1 -> (F, N, cells): the share of each cell inside the interval."""
    edge = torch.arange(cells, device=low.device, dtype=torch.float32)
    inside = torch.minimum(high[..., None] * cells, edge + 1) - torch.maximum(low[..., None] * cells, edge)
    return inside.clamp(0.0, 1.0)


def _coverage(cover: Tensor, category: Tensor) -> Tensor:
    """(F, N, H, W), (F, N) -> (F, categories, H, W)."""
    layers = [(cover * (category == index)[..., None, None]).amax(dim=1) for index in range(len(CATEGORIES))]
    return torch.stack(layers, dim=1)


def _front_box(cover: Tensor, boxes: Tensor) -> Tensor:
    """Edges and identity of the last box seen in each cell -> (F, 6, H, W), zero where none is."""
    _, count, height, width = cover.shape
    order = torch.arange(1, count + 1, device=cover.device)[None, :, None, None]
    front = ((cover >= TOUCH) * order).amax(dim=1)
    seen = (front > 0)[:, None]
    picked = boxes[:, :, 1:].gather(1, (front - 1).clamp(min=0).flatten(1)[..., None].expand(-1, -1, 5))
    picked = picked.transpose(1, 2).unflatten(2, (height, width))
    centre_x = (torch.arange(width, device=cover.device) + 0.5).expand(height, width)
    centre_y = (torch.arange(height, device=cover.device) + 0.5)[:, None].expand(height, width)
    size = torch.tensor([width, height, width, height], device=cover.device)[:, None, None]
    edges = torch.asinh(picked[:, :4] * size - torch.stack([centre_x, centre_y, centre_x, centre_y]))
    angle = picked[:, 4:] * GOLDEN_ANGLE
    return torch.cat([edges, angle.cos(), angle.sin()], dim=1) * seen


class BoxRaster(nn.Module):
    """Boxes into the U-Net: the raster through one convolution that starts as zero. Unknown boxes add exactly nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = zeroed(nn.Conv2d(RASTER_CHANNELS, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor, labels: Labels | None) -> Tensor:
        """x (F, C, H, W), labels with ``boxes`` (F, N, 6) and ``boxes_known`` (F,), or without -> x with the boxes added."""
        if labels is None or "boxes" not in labels:
            return x
        return x + self.conv(channels_last(self.raster(labels["boxes"], labels["boxes_known"], *x.shape[-2:])))

    raster = staticmethod(raster_boxes)


def drop_labels(
    labels: Labels, probabilities: Mapping[str, float] | float | None = None, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Label dropout: each label of each window (axis 0) becomes null with its own probability, independently of the others.

    Args:
        labels: name -> (B, ...); the tensors are left as they are, changed copies are returned.
        probabilities: per name ("boxes" for the boxes; names not listed are kept), one number for every label, or None for ``DROPOUT``.
            The frame rate is no label of the scene: it is dropped only where it is listed.
        generator: source of the draws; the same generator state drops the same labels.
    """
    if probabilities is None:
        probabilities = DROPOUT
    if not isinstance(probabilities, Mapping):
        probabilities = dict.fromkeys(DROPOUT, float(probabilities))
    dropped = dict(labels)
    for name in sorted(set(probabilities) & set(labels)):
        key = "boxes_known" if name == "boxes" else name
        value = labels[key]
        draw = torch.rand(len(value), generator=generator, device=generator.device if generator else None).to(value.device)
        chosen = (draw < probabilities[name]).view(-1, *[1] * (value.ndim - 1))
        dropped[key] = value & ~chosen if name == "boxes" else value.masked_fill(chosen, math.nan)
    return dropped


def guided_names(told: str) -> tuple[str, ...]:
    """``EVERY_LABEL``, or names joined by "+" ("boxes+crowdedness") -> those labels, of DROPOUT.

    Raises:
        UsageError: a name that is no label.
    """
    names = tuple(DROPOUT) if told == EVERY_LABEL else tuple(str(told).split("+"))
    unknown = [name for name in names if name not in DROPOUT]
    if unknown:
        raise UsageError(f"there is no label {unknown[0]!r}; give {EVERY_LABEL}, or some of {', '.join(DROPOUT)} joined by +")
    return names


def null_labels(labels: Labels, guided: str = EVERY_LABEL) -> dict[str, Tensor]:
    """The same windows with the ``guided`` labels unknown, see ``guided_names``: what guidance leads away from. The others stay, and so
    does the frame rate: it says which task this is, not what is to be seen."""
    hidden = dict(labels)
    for name in set(guided_names(guided)) & set(labels):
        key = "boxes_known" if name == "boxes" else name
        hidden[key] = torch.zeros_like(labels[key]) if name == "boxes" else torch.full_like(labels[key], math.nan)
    return hidden
