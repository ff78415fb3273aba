"""Distillation to one network call: a student that answers pure noise with a finished picture.

Adversarial diffusion distillation (Sauer et al. 2023, Eq. 4): the student's picture must please a critic and, noised again, be what the
teacher would make of it. Conditioned on low-resolution frames there is also a right answer near it, so its distances count too. This file
does not know configuration, files or how windows are read.

Legend: B batch   T frames   H, W height and width of frames
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from drivesim.diffusion.denoiser import network_denoiser
from drivesim.diffusion.frame_mask import Known
from drivesim.diffusion.noise import gaussian
from drivesim.diffusion.objective import DiffusionObjective
from drivesim.diffusion.parameterization import add_noise
from drivesim.models.video_unet import FrameByFrame
from drivesim.shapes import as_floats, fold_time
from drivesim.training.adversarial import adversarial
from drivesim.training.freeze import weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.patches import Patches
from drivesim.training.stage_module import Batch, Part, StageModule

__all__ = ["DistillationModule"]


class DistillationModule(StageModule):
    """Teach a pixel-space network to make windows in one call.

    Args:
        network: the student, usually a copy of the teacher.   teacher: frozen; None = learn from recordings alone.
        objective: its schedule, parameterization and known policy are those of both.
        part: name of the exported network.   told: see DiffusionModule.   patches: see DiffusionModule.
        perceptual: distance of folded frames, or None.   critic: a patch discriminator, or None.
        perceptual_weight, teacher_weight, adversarial_weight: beside the L1 distance to the recording, whose weight is 1.
        adversarial_from: step at which the critic comes in.   critic_scale: its learning rate in units of the student's.
        noise: scale of the noise that the student is handed. 1 = as a sampler begins; 0 = none: where the small frames leave little open,
            a small student need not learn to look through it.
    """

    def __init__(
        self, network: nn.Module, teacher: nn.Module | None, objective: DiffusionObjective, part: str, optimization: Optimization,
        ema_decay: float = 0.999, seed: int = 0, patches: Patches | None = None, told: str | None = None,
        perceptual: nn.Module | None = None, critic: nn.Module | None = None, perceptual_weight: float = 0.1, teacher_weight: float = 1.0,
        adversarial_weight: float = 0.02, adversarial_from: int = 0, critic_scale: float = 1.0, noise: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(network, optimization, ema_decay, seed, helpers=("teacher", "perceptual"))
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.objective, self.part, self.patches, self.told = objective, part, patches, told
        self.perceptual, self.critic = perceptual, critic
        self.perceptual_weight, self.teacher_weight, self.adversarial_weight = perceptual_weight, teacher_weight, adversarial_weight
        self.adversarial_from, self.critic_scale, self.noise = adversarial_from, critic_scale, noise

    def parts(self) -> dict[str, Part]:
        if isinstance(self.average, FrameByFrame):
            return {self.part: Part("average.image.", self.average.image)}
        return {self.part: Part("average.", self.average)}

    def settings(self) -> dict[str, Any]:
        said = {**self.objective.described(), "noise": self.noise}
        return said if self.told is None else {self.told: said}

    def trained_groups(self) -> list[dict[str, Any]]:
        decay = self.optimization.weight_decay
        groups = weight_groups(self.network.parameters(), decay, scale=1.0)
        return groups + (weight_groups(self.critic.parameters(), decay, scale=self.critic_scale) if self.critic is not None else [])

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws("train", self.batches)
        frames = self._frames(batch, draws)
        known = self.objective.known_policy.draw(frames, draws)
        made = self.made(self.network, frames, known, draws)
        terms = self._distances(made, frames)
        if self.teacher is not None and self.teacher_weight > 0:
            terms["teacher"] = self.teacher_weight * self._to_teacher(made, known, draws)
        loss = sum(terms.values(), start=made.new_zeros(()))
        if self.critic is not None and self.global_step >= self.adversarial_from:
            displeased, hinge = adversarial(self.critic, made, frames)
            terms |= {"adversarial": displeased, "critic": hinge}
            loss = loss + self.adversarial_weight * displeased + hinge
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def made(self, network: nn.Module, like: Tensor, known: Known | None, draws: torch.Generator) -> Tensor:
        """Windows (b, t, 3, H, W) that one call makes of pure noise."""
        noise = self.noise * gaussian(like, draws)
        x0 = network_denoiser(network, self.objective.parameterization, {}, known)(noise, noise.new_ones(len(noise))).float()
        return x0 if known is None else known.outward(x0)

    def _to_teacher(self, made: Tensor, known: Known | None, draws: torch.Generator) -> Tensor:
        """Squared distance to what the teacher makes of the noised student picture (Sauer et al. 2023, Eq. 4); scalar."""
        sigma = self.objective.schedule.draw((len(made),), draws).to(made.device)
        assert self.teacher is not None
        x0 = made if known is None else known.inward(made)
        with torch.no_grad():
            noised = add_noise(x0, gaussian(x0, draws), sigma)
            wanted = network_denoiser(self.teacher, self.objective.parameterization, {}, known)(noised, sigma)
        return F.mse_loss(x0, wanted.float())

    def _distances(self, made: Tensor, frames: Tensor) -> dict[str, Tensor]:
        terms = {"l1": F.l1_loss(made, frames)}
        if self.perceptual is not None and self.perceptual_weight > 0:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(fold_time(made), fold_time(frames)).float()
        return terms

    def _frames(self, batch: Batch, draws: torch.Generator) -> Tensor:
        return as_floats((batch if self.patches is None else self.patches.cut(batch, draws))["frames"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        draws = self.draws("validation", batch_idx)
        frames = self._frames(batch, draws)
        made = self.made(self.average, frames, self.objective.known_policy.draw(frames, draws), draws)
        loss = sum(self._distances(made, frames).values(), start=made.new_zeros(()))
        psnr = peak_signal_noise_ratio(made, frames, data_range=(-1.0, 1.0), reduction="none", dim=(2, 3, 4)).clamp(max=100.0).mean()
        values = {"val/loss": self.finite(loss, "validation loss"), "val/psnr": psnr}
        self.log_dict(values, prog_bar=True, batch_size=len(frames), sync_dist=True)

    @torch.no_grad()
    def windows(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """Frames, and what one call makes of their low-resolution ones."""
        draws = self.draws("pictures", index)
        frames = self._frames(batch, draws)
        return frames, self.made(self.average, frames, self.objective.known_policy.draw(frames, draws), draws)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Recorded above made: rows in pairs."""
        return {"samples": torch.stack(self.windows(batch, 0), dim=1).flatten(0, 1)}
