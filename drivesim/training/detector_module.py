"""Training the box detector: which cells are asked for which box, the losses, and pictures that no longer look crisp.

Where nobody looked (``boxes_known`` false) the picture teaches nothing about boxes. Boxes lower than 6/128 of the frame and boxes of which
most lies behind one nearer box are neither asked for nor punished; that is worked out here from the boxes alone, since batches do not say
which boxes a data set marks ``ignore``. This file does not know files, generated video or how detections are judged.

Legend: F frames   N boxes a frame (empty rows have category -1)   K categories   h, w = H / 4, W / 4 cells
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from drivesim.labels import CATEGORIES
from drivesim.models.detector import STRIDE, BoxDetector, Predictions, cell_centres
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.training.learning_rate import Optimization
from drivesim.training.stage_module import Batch, Part, StageModule

__all__ = ["DetectorModule", "Targets", "detector_losses", "encode", "left_alone", "soften"]

MIN_HEIGHT = 6 / 128
HIDDEN = 0.7
"""Share of a box behind one nearer box from which it is left alone, as the simulator's ``ignore`` does with exact silhouettes."""
REACH = 0.54
"""Share of a box's width and height in which cells are taught its edges (TTFNet, section 4.1)."""


@dataclass(frozen=True)
class Targets:
    """What a detector should say.

    heat: (f, K, h, w) in 0..1, exactly 1 at the cell that holds a box's middle.   counts: (f, K, h, w), 0 where a score is neither right
    nor wrong.   edges: (f, 4, h, w) pixels to left, top, right, bottom.   weight: (f, h, w), of the edges; 0 = no box is asked for here.
    """

    heat: Tensor
    counts: Tensor
    edges: Tensor
    weight: Tensor


def left_alone(boxes: Tensor) -> Tensor:
    """boxes (f, n, 6), nearest last -> bool (f, n): too low, or mostly behind one nearer box."""
    xyxy = boxes[..., 1:5]
    low = xyxy[..., 3] - xyxy[..., 1] < MIN_HEIGHT
    corner, other = torch.maximum(xyxy[:, :, None, :2], xyxy[:, None, :, :2]), torch.minimum(xyxy[:, :, None, 2:], xyxy[:, None, :, 2:])
    area = (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=1e-9).prod(-1)
    behind = (other - corner).clamp(min=0).prod(-1) / area[:, :, None]
    rows = torch.arange(boxes.shape[1], device=boxes.device)
    nearer = (rows[None] > rows[:, None]) & (boxes[:, None, :, 0] >= 0)
    return low | ((behind > HIDDEN) & nearer).any(-1)


def encode(boxes: Tensor, known: Tensor, height: int, width: int) -> Targets:
    """Boxes (f, n, 6) as ``LabelTrack.arrays`` gives them and ``boxes_known`` (f,) -> targets for frames of ``height`` x ``width`` pixels.

    Gaussians with the deviations of TTFNet (Liu et al. 2020, section 4.1): a sixth of ``REACH`` times the box's sides.
    """
    most = max(int((boxes[..., 0] >= 0).sum(1).max()), 1)
    boxes = boxes[:, :most]
    there, alone = boxes[..., 0] >= 0, left_alone(boxes)
    xyxy = boxes[..., 1:5] * boxes.new_tensor([width, height, width, height])
    centres = cell_centres(height // STRIDE, width // STRIDE, boxes.device)
    bumps = _bumps(xyxy, centres) * (there & ~alone)[..., None, None]
    kind = nnf.one_hot(boxes[..., 0].long().clamp(min=0), len(CATEGORIES)).to(bumps)
    heat = (bumps[:, :, None] * kind[..., None, None]).amax(1)
    strongest, owner = bumps.flip(1).max(1)  # of equals the nearest, which stands last
    owner = most - 1 - owner
    edges = _edges(xyxy, centres, owner)
    low, high = (xyxy[:, :, None, None, :2] - STRIDE / 2, xyxy[:, :, None, None, 2:] + STRIDE / 2)
    touched = ((centres > low) & (centres < high)).all(-1)  # a low box may hold no cell's centre
    silent = (touched & (there & alone)[..., None, None]).any(1)
    counts = ((~silent)[:, None] | (heat > 0)) & known[:, None, None, None]
    area = (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=1e-3).prod(-1)
    share = area.clamp(min=STRIDE**2).log() / bumps.sum((2, 3)).clamp(min=1e-6)
    weight = strongest * share.gather(1, owner.flatten(1)).view_as(strongest) * known[:, None, None]
    return Targets(heat, counts.to(heat), edges, weight)


def _bumps(xyxy: Tensor, centres: Tensor) -> Tensor:
    """A Gaussian for each box, 1 at the cell of its middle and 0 beyond its reach: (f, n, h, w)."""
    size = xyxy[..., 2:] - xyxy[..., :2]
    limit = centres.new_tensor([centres.shape[1] - 1, centres.shape[0] - 1])
    middle = ((xyxy[..., :2] + xyxy[..., 2:]) / (2 * STRIDE)).floor().clamp(min=0).minimum(limit)
    away = (centres / STRIDE - 0.5 - middle[:, :, None, None]).abs()  # in cells
    reach = (REACH * size / (2 * STRIDE))[:, :, None, None]
    bump = torch.exp(-0.5 * (away / (reach / 3).clamp(min=1e-3)).square().sum(-1))
    return bump * (away <= reach.clamp(min=0.5)).all(-1)


def _edges(xyxy: Tensor, centres: Tensor, owner: Tensor) -> Tensor:
    """Distances (f, 4, h, w) in pixels from each cell to the edges of the box that owns it, at least a tenth of a pixel."""
    mine = xyxy.gather(1, owner.flatten(1)[..., None].expand(-1, -1, 4)).view(*owner.shape, 4)
    distances = torch.cat([centres - mine[..., :2], mine[..., 2:] - centres], dim=-1)
    return distances.clamp(min=0.1).permute(0, 3, 1, 2)


def detector_losses(predictions: Predictions, targets: Targets, time_of_day: Tensor) -> dict[str, Tensor]:
    """Losses by name, scalars: focal loss of the scores (CenterNet, Eq. 1: alpha 2, beta 4) per box, generalised IoU (Rezatofighi et al.
    2019) and the L1 distance of logarithms of the edges, and the cross entropy of time of day (f,), NaN = unknown.
    """
    boxes = (targets.heat == 1).float().mul(targets.counts).sum().clamp(min=1)
    weight = targets.weight.sum().clamp(min=1e-6)
    away = (predictions.edges.log() - targets.edges.log()).abs().mean(1)
    told = ~torch.isnan(time_of_day)
    night = nnf.binary_cross_entropy_with_logits(predictions.night, time_of_day.nan_to_num(), reduction="none")
    return {
        "focal": _focal(predictions.score, targets).sum() / boxes,
        "giou": 2.0 * (targets.weight * _giou_loss(predictions.edges, targets.edges)).sum() / weight,
        "edges": (targets.weight * away).sum() / weight,
        "night": 0.2 * (night * told).sum() / told.sum().clamp(min=1),
    }


def _focal(logits: Tensor, targets: Targets) -> Tensor:
    score = logits.sigmoid()
    right = -(1 - score).square() * nnf.logsigmoid(logits)
    wrong = -(1 - targets.heat).pow(4) * score.square() * nnf.logsigmoid(-logits)
    return torch.where(targets.heat == 1, right, wrong) * targets.counts


def _giou_loss(made: Tensor, true: Tensor) -> Tensor:
    """Edges (f, 4, h, w) from the same cell -> 1 - GIoU, (f, h, w)."""
    area = [(e[:, 0] + e[:, 2]) * (e[:, 1] + e[:, 3]) for e in (made, true)]
    small, large = torch.minimum(made, true), torch.maximum(made, true)
    both = (small[:, 0] + small[:, 2]) * (small[:, 1] + small[:, 3])
    either = area[0] + area[1] - both
    hull = (large[:, 0] + large[:, 2]) * (large[:, 1] + large[:, 3])
    return 1 - both / either + (hull - either) / hull


def soften(frames: Tensor, blur: float, noise: float, draws: torch.Generator) -> Tensor:
    """Frames (f, 3, H, W) in [-1, 1], half of them blurred by a Gaussian of up to ``blur`` pixels, then noise of deviation up to ``noise``.

    A detector that only knows crisp pictures would count too little in soft ones.
    """
    count = len(frames)
    sigma = torch.rand(count, generator=draws) * blur * (torch.rand(count, generator=draws) < 0.5)
    taps = torch.arange(-4, 5)
    kernel = torch.exp(-0.5 * (taps / sigma.clamp(min=0.05)[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0).to(frames)
    folded = nnf.pad(frames.flatten(0, 1)[None], (4, 4, 4, 4), mode="replicate")
    folded = nnf.conv2d(folded, kernel[:, None, None], groups=3 * count)
    folded = nnf.conv2d(folded, kernel[:, None, :, None], groups=3 * count)
    grain = torch.randn(frames.shape, generator=draws) * torch.rand(count, 1, 1, 1, generator=draws) * noise
    return (folded[0].view_as(frames) + grain.to(frames)).clamp(-1, 1)


class DetectorModule(StageModule):
    """Train a BoxDetector on labelled frames (b, t, 3, H, W).

    Args:
        detector: the network.
        optimization, ema_decay, seed: see StageModule.
        blur: largest deviation, in pixels, of the blur that half the training frames get.
        noise: largest deviation of the noise they get, in units of [-1, 1].
    """

    def __init__(
        self, detector: BoxDetector, optimization: Optimization, ema_decay: float = 0.998, seed: int = 0, blur: float = 1.5,
        noise: float = 0.05,
    ) -> None:  # fmt: skip
        super().__init__(detector, optimization, ema_decay, seed)
        self.blur, self.noise = blur, noise

    def parts(self) -> dict[str, Part]:
        return {"detector": Part("average.", self.average)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        frames = fold_time(as_floats(batch["frames"]))
        frames = soften(frames, self.blur, self.noise, self.draws("train", self.batches))
        losses = self._losses(self.network, frames, batch)
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        losses = self._losses(self.average, fold_time(as_floats(batch["frames"])), batch)
        values = {f"val/{name}": value for name, value in losses.items()}
        values["val/loss"] = self.finite(torch.stack(list(losses.values())).sum(), "validation loss")
        self.log_dict(values, prog_bar=True, batch_size=len(batch["frames"]), sync_dist=True)

    def _losses(self, network: Any, frames: Tensor, batch: Batch) -> dict[str, Tensor]:
        labels = {name: fold_time(batch["labels"][name]) for name in ("boxes", "boxes_known", "time_of_day")}
        targets = encode(labels["boxes"], labels["boxes_known"], frames.shape[2], frames.shape[3])
        return detector_losses(network(frames), targets, labels["time_of_day"])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Frames with the boxes that are labelled (white) and found (red)."""
        frames = fold_time(batch["frames"])
        found = self.average.detect(frames)  # type: ignore[operator]
        drawn = []
        for frame, boxes, detections in zip(frames, fold_time(batch["labels"]["boxes"]), found, strict=True):
            picture = np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy())
            _draw(picture, boxes[boxes[:, 0] >= 0, 1:5].cpu().numpy(), (255, 255, 255))
            _draw(picture, detections.xyxy.numpy(), (255, 0, 0))
            drawn.append(torch.from_numpy(picture).permute(2, 0, 1))
        return {"detections": unfold_time(as_floats(torch.stack(drawn)), batch["frames"].shape[1])}


def _draw(picture: np.ndarray, xyxy: np.ndarray, colour: tuple[int, int, int]) -> None:
    height, width = picture.shape[:2]
    for x1, y1, x2, y2 in np.round(xyxy * (width - 1, height - 1, width - 1, height - 1)).astype(int).tolist():
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1)
