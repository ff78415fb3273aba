"""Frames between two known frames, by motion: both are warped to where their contents are in between, mixed, and mended.

Where a vehicle moves, its box track says; where everything else moves, a U-Net does, looking at both frames. Pictures are moved, not made
anew, so what lies between is as sharp as the known frames and costs a fraction of sampling and decoding it. (Motion and occlusion by a
U-Net: Jiang et al. 2018, "Super SloMo"; Huang et al. 2022, "RIFE".) This file does not know latents, noise, or where frames come from.

    B windows   T frames of a window, the first and the last known   M = T - 2   F = B * M   H, W frame size
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.models.blocks import mean_around
from drivesim.models.conditioning import RASTER_CHANNELS, raster_boxes
from drivesim.models.unet import ImageUNet
from drivesim.recipes import recipe
from drivesim.shapes import unfold_time

__all__ = ["Between", "FrameInterpolator", "box_motion", "mixed", "straight", "warped"]

Labels = Mapping[str, Tensor]

CHANNELS = 8
"""Of the U-Net. In: both known frames, the place in time, 1. Out: motion to either (2 + 2), whom to trust (1), what is to be mended (3)."""
MOTION_CHANNELS = 2 * 3
"""Of what boxes say, for each known frame: motion x, y in units of ``REACH``, and how much detail is there."""
REACH = 8.0
"""Pixels of motion for one unit of the U-Net's output."""
STIFF = 5
"""Cells of the stem over which learned motion is a mean: what trembles from cell to cell bends poles, houses and markings."""
EVENNESS = 0.3
"""How strongly the nearer known frame is preferred, in logits: 1 mixes linearly in time. With less, a frame beside a known one is not so
much like it and more like the others, and nothing pulses."""
ONE_SIDED = 4.0
"""How strongly a vehicle that is in one known frame alone, or larger there, is taken from there, in logits."""
DETAIL, AROUND = 5, 9
"""Pixels: detail is what a mean over the first takes away; its energy is a mean over the second."""
MOST_GAIN = 1.5
"""Of detail, where the two sides cancel; two unlike sides, mixed evenly, want the root of 2."""
FLAT = 1e-5
"""Energy of detail, in squared units of [-1, 1], below which nothing is raised: there it is rounding."""
BORDER = 1e-4
"""A box that ends so near the picture's border, in units of the picture, may go on beyond it."""


class Between(NamedTuple):
    """What is made between known frames.

    frames: (B, T, 3, H, W), the known ones as they are.   motion: (B, 2, h, w), learned, from the first to the last, x and y in pixels, one
    for each cell of the stem.   told: (B, 1, h, w), share of a cell where boxes say how things move, in 0..1; there ``motion`` adds to it.
    """

    frames: Tensor
    motion: Tensor
    told: Tensor


class FrameInterpolator(nn.Module):
    """Frames between two known ones, in one call without noise. New, it moves boxes along their tracks and mixes the rest in time.

    Args:
        base, multipliers, blocks, attention, head_channels, embedding: of the U-Net, see ``ImageUNet``.
        stem: space-to-depth before it; motion is one vector for each ``stem`` x ``stem`` pixels.
        labels: scalar labels that it is told of the frames in between.
    """

    def __init__(
        self, base: int = 32, multipliers: tuple[int, ...] = (1, 2, 3, 4), blocks: int = 1, attention: tuple[int, ...] = (4, 8),
        head_channels: int = 32, embedding: int = 128, stem: int = 4,
        labels: tuple[str, ...] = ("ego_speed_mps", "ego_yaw_rate_radps", "fps"),
    ) -> None:  # fmt: skip
        super().__init__()
        self.recipe = recipe(
            self, base=base, multipliers=multipliers, blocks=blocks, attention=attention, head_channels=head_channels, embedding=embedding,
            stem=stem, labels=labels,
        )  # fmt: skip
        self.stem = stem
        self.motion = ImageUNet(
            CHANNELS, base, multipliers, blocks, attention, head_channels, embedding, labels, boxes=True, stem=stem,
            context_channels=MOTION_CHANNELS + 2 * RASTER_CHANNELS,
        )  # fmt: skip

    def forward(self, first: Tensor, last: Tensor, labels: Labels | None = None, frames: int = 5) -> Tensor:
        """``between`` without what it knows of motion: (B, T, 3, H, W)."""
        return self.between(first, last, labels, frames).frames

    def between(self, first: Tensor, last: Tensor, labels: Labels | None = None, frames: int = 5) -> Between:
        """first, last (B, 3, H, W) in [-1, 1]; labels of (B, T) frames, or None -> frames, and how their contents move.

        Args:
            frames: T; evenly spaced in time.

        Raises:
            ValueError: T below 3, or H or W not divisible as the U-Net needs it.
        """
        if frames < 3:
            raise ValueError(f"there is nothing between the ends of {frames} frames")
        place = (torch.arange(1, frames - 1, device=first.device, dtype=torch.float32) / (frames - 1)).repeat(len(first))
        before, after = (end.repeat_interleave(frames - 2, dim=0) for end in (first, last))
        said = _said(labels, len(first), frames, (first.shape[-2], first.shape[-1])).to(first.device)
        plane = torch.ones_like(before[:, :1])
        x = torch.cat([before, after, place[:, None, None, None] * plane, plane], dim=1)
        # no noise here: the place in time, 0..1 as a sigma is, goes where the U-Net is told its noise level
        out = self.motion(x, place, _middle(labels), self._told(said, labels, frames)).float()
        motion = self._straight(out, place, frames - 2)
        made = unfold_time(self._composed(before.float(), after.float(), motion, out, said, place), frames - 2)
        told = unfold_time(nnf.avg_pool2d(said[:, :, 2].amax(1, keepdim=True).ceil(), self.stem), frames - 2).amax(1)
        return Between(torch.cat([first[:, None], made, last[:, None]], dim=1), motion[:: frames - 2], told)

    def _told(self, said: Tensor, labels: Labels | None, frames: int) -> Tensor:
        """What boxes say of motion, and the boxes of both known frames, in cells of the stem: (F, K, H / stem, W / stem)."""
        scale = said.new_tensor([1 / REACH, 1 / REACH, 1.0])[:, None, None]
        moves = nnf.avg_pool2d((said * scale).flatten(1, 2), self.stem)
        if labels is None or "boxes" not in labels:
            return torch.cat([moves, moves.new_zeros(len(moves), 2 * RASTER_CHANNELS, *moves.shape[-2:])], dim=1)
        rasters = [
            raster_boxes(labels["boxes"][:, end], labels["boxes_known"][:, end], *moves.shape[-2:]).to(moves) for end in (0, frames - 1)
        ]
        return torch.cat([moves, *(raster.repeat_interleave(frames - 2, dim=0) for raster in rasters)], dim=1)

    def _straight(self, out: Tensor, place: Tensor, count: int) -> Tensor:
        """What the U-Net says of motion (in ``out``, (F, 8, H, W)) as one motion for all M = ``count`` places of a window, (F, 2, h, w)."""
        cells = mean_around(nnf.avg_pool2d(out[:, :4], self.stem), STIFF).unflatten(1, (2, 2))
        return REACH * straight(cells, _ways(place), count)

    def _composed(self, first: Tensor, last: Tensor, motion: Tensor, out: Tensor, said: Tensor, place: Tensor) -> Tensor:
        """Warp, mix and mend. motion: from the first to the last, (F, 2, h, w).   out: of the U-Net, (F, 8, H, W).   said: see ``_said``.
        place: (F,) in 0..1."""
        whole = nnf.interpolate(motion, scale_factor=float(self.stem), mode="bilinear", align_corners=False)
        moves = _ways(place)[:, :, None, None, None] * whole[:, None] + said[:, :, :2]
        sides = [warped(frame, moves[:, end]) for end, frame in enumerate((first, last))]
        near = EVENNESS * torch.log(place / (1 - place))[:, None, None, None]
        trust = torch.sigmoid(near + ONE_SIDED * (said[:, 1, 2:] - said[:, 0, 2:]) + out[:, 4:5])
        return mixed(sides[0], sides[1], trust) + out[:, 5:]


def _ways(place: Tensor) -> Tensor:
    """Places in time (F,) in 0..1 -> (F, 2): to the first and to the last, in units of the way between them, signed."""
    return torch.stack([-place, 1 - place], dim=1)


def straight(motion: Tensor, ways: Tensor, count: int) -> Tensor:
    """The one motion in a straight line, at one speed, that fits best what is said at all places in time of a window (least squares).

    Args:
        motion: (F, 2, 2, h, w), to the first and the last known frame, x and y.   ways: (F, 2), their shares of the whole way, signed.
        count: M, places in time of each window.

    Returns:
        (F, 2, h, w): from the first known frame to the last, the same for all places of a window.
    """
    shares = ways.unflatten(0, (-1, count))[..., None, None, None]
    whole = (shares * motion.unflatten(0, (-1, count))).sum((1, 2)) / shares.square().sum((1, 2))
    return whole.repeat_interleave(count, dim=0)


def warped(frames: Tensor, motion: Tensor) -> Tensor:
    """Take every pixel from where ``motion`` points.

    Args:
        frames: (f, c, H, W).   motion: (f, 2, H, W), x and y in pixels; beyond the border, the border is taken.
    """
    height, width = frames.shape[-2:]
    x = torch.arange(width, device=frames.device) + motion[:, 0]
    y = torch.arange(height, device=frames.device)[:, None] + motion[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    # bilinear sampling blurs by as much as the motion is off whole pixels: frames that lie between would be softer than those at the ends
    return nnf.grid_sample(frames, grid, mode="bicubic", padding_mode="border", align_corners=False)


def mixed(first: Tensor, last: Tensor, trust: Tensor) -> Tensor:
    """(f, 3, H, W) of either side -> ``trust`` (f, 1, H, W) of the last and the rest of the first, with the energy of their detail.

    Where both sides do not show quite the same, the details of a mean cancel, and a picture that is soft between keyframes pulses. So
    detail is raised to the mean energy of both sides around it; where they agree all around, nothing is raised.
    """
    fine = [side - mean_around(side, DETAIL) for side in (first, last)]
    detail = torch.lerp(fine[0], fine[1], trust)
    wanted = torch.lerp(_energy(fine[0]), _energy(fine[1]), trust)
    gain = ((wanted + FLAT) / (_energy(detail) + FLAT)).sqrt().clamp(1.0, MOST_GAIN)
    return torch.lerp(first, last, trust) + (gain - 1) * detail


def _energy(fine: Tensor) -> Tensor:
    return mean_around(fine.square().mean(1, keepdim=True), AROUND)


def box_motion(boxes: np.ndarray, other: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where the pixels of boxes lie in another frame: each keeps its place within its box, nearer boxes hide farther ones.

    Args:
        boxes: (n, 6) category (-1 = empty row), x1, y1, x2, y2 in 0..1, track_id; nearest last.   other: the same of the other frame.
        size: (H, W).

    Returns:
        float32 (3, H, W): motion x, y in pixels from here to there, and, where a box with that track is in both frames and the motion stays
        in the picture, how much of its detail is there: 1, or less where it is smaller there.
    """
    height, width = size
    said = np.zeros((3, height, width), np.float32)
    there = {row[5]: row for row in other if row[0] >= 0}
    for box in boxes:
        if box[0] < 0:
            continue
        left, right = (math.ceil(min(max(edge, 0), 1) * width - 0.5) for edge in (box[1], box[3]))
        top, bottom = (math.ceil(min(max(edge, 0), 1) * height - 0.5) for edge in (box[2], box[4]))
        if right <= left or bottom <= top:
            continue
        said[:, top:bottom, left:right] = 0  # it hides what is behind, even where it says nothing itself
        match = there.get(box[5])
        ways = None if match is None else _box_ways(box, match)
        if ways is None:
            continue
        places = ((np.arange(left, right) + 0.5) / width, ((np.arange(top, bottom) + 0.5) / height)[:, None])
        x, y = (scale * place + offset for place, (scale, offset) in zip(places, ways, strict=True))
        inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
        detail = min(1.0, ways[0][0] * ways[1][0])
        moves = np.broadcast_arrays((x - places[0]) * width, (y - places[1]) * height, detail, inside)[:3]
        said[:, top:bottom, left:right] = np.where(inside, np.stack(moves), 0)
    return said


def _box_ways(box: np.ndarray, match: np.ndarray) -> list[tuple[float, float]] | None:
    """(scale, offset) from a box to the same vehicle's in another frame, for x and y; None where the boxes do not tell.

    Boxes end at the picture's border where the vehicle does not. Such an axis has the scale of the other one, and is held at its free edge.
    """
    spans = [(box[[low, low + 2]].astype(float), match[[low, low + 2]].astype(float)) for low in (1, 2)]
    cuts = [np.any(np.abs(np.stack([here, there]) - (0, 1)) <= BORDER, axis=0) for here, there in spans]
    scales = [max(there[1] - there[0], 0.0) / max(here[1] - here[0], 1e-9) for here, there in spans]
    ways = []
    for axis, ((here, there), cut) in enumerate(zip(spans, cuts, strict=True)):
        if cut.all() or (cut.any() and cuts[1 - axis].any()):
            return None
        scale, edge = scales[1 - axis] if cut.any() else scales[axis], int(cut[0])
        ways.append((scale, float(there[edge] - scale * here[edge])))
    return ways


def _said(labels: Labels | None, count: int, frames: int, size: tuple[int, int]) -> Tensor:
    """``box_motion`` from every frame in between to the first and to the last: (F, 2, 3, H, W); on the CPU, where painting is done."""
    said = np.zeros((count, frames - 2, 2, 3, *size), np.float32)
    if labels is not None and "boxes" in labels:
        boxes, known = labels["boxes"].float().cpu().numpy(), labels["boxes_known"].bool().cpu().numpy()
        for window in range(count):
            for frame in range(1, frames - 1):
                for side, end in enumerate((0, frames - 1)):
                    if known[window, frame] and known[window, end]:
                        said[window, frame - 1, side] = box_motion(boxes[window, frame], boxes[window, end], size)
    return torch.from_numpy(said).flatten(0, 1)


def _middle(labels: Labels | None) -> dict[str, Any] | None:
    """Labels of the frames in between, (F, ...)."""
    return None if labels is None else {name: value[:, 1:-1].flatten(0, 1) for name, value in labels.items()}
