"""Training frames between frames by motion: what is made is held against what was filmed, in pixels and as a perceptual distance; how it
moves, against how filmed frames move; and a critic may ask that whole windows look filmed, so that frames in between are as sharp as the
known ones.

This file does not know diffusion, latents, configuration or how windows are read.

Legend: B batch   T frames   M = T - 2   H, W height and width
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from drivesim.models.conditioning import drop_labels
from drivesim.models.frame_interpolator import REACH, Between, FrameInterpolator
from drivesim.shapes import as_floats
from drivesim.training.adversarial import adversarial
from drivesim.training.filmed_motion import filmed_motion
from drivesim.training.freeze import weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.stage_module import Batch, Part, StageModule

__all__ = ["InterpolatorModule", "motion_apart"]


class InterpolatorModule(StageModule):
    """Train a FrameInterpolator on windows of frames (b, t, 3, H, W), of which it is shown the first and the last.

    Args:
        network: the interpolator.   optimization, ema_decay, seed: see StageModule.
        perceptual: distance of folded frames, or None; of one frame of each window, drawn anew each time, because it costs more than the
            interpolator does.   perceptual_weight: beside the L1 distance of all frames, whose weight is 1.
        motion_weight: of the L1 distance to filmed motion, in units of ``REACH``, where that can be trusted and boxes say nothing.
        label_dropout: probability of dropping each label; None = that of ``models.conditioning``.
        critic: PatchDiscriminator3d of whole windows, known frames included, or None.   adversarial_weight: of what it wants.
        critic_scale: its learning rate in units of the interpolator's.
    """

    def __init__(
        self, network: FrameInterpolator, optimization: Optimization, ema_decay: float = 0.999, seed: int = 0,
        perceptual: nn.Module | None = None, perceptual_weight: float = 0.5, label_dropout: Mapping[str, float] | float | None = None,
        critic: nn.Module | None = None, adversarial_weight: float = 0.03, critic_scale: float = 1.0,
        motion_weight: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(network, optimization, ema_decay, seed, helpers=("perceptual",))
        self.perceptual, self.perceptual_weight, self.label_dropout = perceptual, perceptual_weight, label_dropout
        self.motion_weight = motion_weight
        self.critic, self.adversarial_weight, self.critic_scale = critic, adversarial_weight, critic_scale

    def parts(self) -> dict[str, Part]:
        return {"interpolation": Part("average.", self.average)}

    def settings(self) -> dict[str, Any]:
        """One call, from no noise, whichever quality is asked for."""
        return {"interpolation": {"calls": 1, "noise": 0.0}}

    def trained_groups(self) -> list[dict[str, Any]]:
        critic = () if self.critic is None else self.critic.parameters()
        return super().trained_groups() + weight_groups(critic, self.optimization.weight_decay, scale=self.critic_scale)

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        frames = as_floats(batch["frames"])
        draws = self.draws("train", self.batches)
        labels = drop_labels(batch["labels"], self.label_dropout, draws)
        between = self.network.between(frames[:, 0], frames[:, -1], labels, frames.shape[1])  # type: ignore[operator]
        made, terms = between.frames, self._distances(between.frames, frames, draws)
        if self.motion_weight > 0:
            terms["motion"] = self.motion_weight / REACH * motion_apart(between, frames)[0]
        if self.critic is not None:
            displeased, terms["critic"] = adversarial(self.critic, made, frames)
            terms["adversarial"] = self.adversarial_weight * displeased
        loss = sum(terms.values(), start=frames.new_zeros(()))
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def _distances(self, made: Tensor, frames: Tensor, draws: torch.Generator) -> dict[str, Tensor]:
        """Weighted distances of the frames in between, by name; scalars in float32."""
        made, frames = made[:, 1:-1].float(), frames[:, 1:-1]
        terms = {"l1": F.l1_loss(made, frames)}
        if self.perceptual is not None and self.perceptual_weight > 0:
            drawn = torch.randint(made.shape[1], (len(made),), generator=draws).to(made.device)
            rows = torch.arange(len(made), device=made.device)
            terms["perceptual"] = self.perceptual_weight * self.perceptual(made[rows, drawn], frames[rows, drawn]).float()
        return terms

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        frames = as_floats(batch["frames"])
        between = self._between(batch, frames)
        made = between.frames.float()
        loss = sum(self._distances(made, frames, self.draws("validation", batch_idx)).values(), start=frames.new_zeros(()))
        inner = (made[:, 1:-1].clamp(-1, 1), frames[:, 1:-1])
        psnr = peak_signal_noise_ratio(*inner, data_range=(-1.0, 1.0), reduction="none", dim=(2, 3, 4)).clamp(max=100.0).mean()
        apart, learned, filmed = motion_apart(between, frames)
        values = {"val/loss": self.finite(loss, "validation loss"), "val/psnr": psnr, "val/motion": apart}
        values |= {"val/length": learned, "val/filmed_length": filmed}
        self.log_dict(values, prog_bar=True, batch_size=len(frames), sync_dist=True)

    @torch.no_grad()
    def _between(self, batch: Batch, frames: Tensor) -> Between:
        found: Between = self.average.between(frames[:, 0], frames[:, -1], batch["labels"], frames.shape[1])  # type: ignore[operator]
        return found

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Windows as recorded above windows as made from their ends: rows in pairs."""
        frames, made = self.windows(batch, 0)
        return {"samples": torch.stack([frames, made], dim=1).flatten(0, 1)}

    @torch.no_grad()
    def windows(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """Windows as recorded, and with what is made between their ends."""
        frames = as_floats(batch["frames"])
        return frames, self._between(batch, frames).frames.float().clamp(-1, 1)


def motion_apart(between: Between, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Learned motion beside filmed motion, where boxes say nothing and flow can be trusted, in pixels: the mean of |dx| and |dy|, and the
    mean lengths of learned and of filmed motion. All are 0 where there is no such place."""
    filmed, trusted = filmed_motion(frames)
    cell = frames.shape[-1] // between.motion.shape[-1]
    free = trusted * (1 - F.interpolate(between.told, scale_factor=float(cell)))
    filmed, share = (F.avg_pool2d(values, cell) for values in (filmed * free, free))
    filmed, weight, learned = filmed / share.clamp(min=1e-6), share / share.sum().clamp(min=1e-6), between.motion.float()
    apart = (weight * (learned - filmed).abs()).sum() / 2
    return apart, *((weight * motion.norm(dim=1, keepdim=True)).sum().detach() for motion in (learned, filmed))
