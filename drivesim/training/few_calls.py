"""Distillation of latent networks to few calls: a student that answers each of a handful of noise levels with a finished window.

A student meets recorded or made windows noised to one of its levels. What it answers is drawn to the recording (less so the noisier its
input, where the mean of all answers would be a blur), must please a critic that sees the known frames and the boxes beside it (Sauer et al.
2023 and 2024: adversarial diffusion distillation, in latents), and, where there is a teacher, must be where the teacher's guided
probability flow ends, or lead to where that flow is one level further (Salimans and Ho 2022: progressive distillation; Meng et al. 2023 for
the guidance baked in). A student that learned the end of the flow is sampled by ``samplers.renoise``, one that learned its steps by DDIM.
One that learned the teacher's guided answers alone takes the teacher's own steps.
``own_share`` of the batches start where the student's own step from the level before leads, as its sampler does. This file does not know
configuration, files or how windows are read.

Legend: B batch   T frames   C channels   H, W height and width of latents   K calls
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.diffusion.denoiser import network_denoiser, window_denoiser
from drivesim.diffusion.frame_mask import Known
from drivesim.diffusion.noise import alpha_of, gaussian
from drivesim.diffusion.parameterization import add_noise
from drivesim.diffusion.samplers import SAMPLERS, leading_to, renoise
from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES
from drivesim.models.conditioning import RASTER_CHANNELS, drop_labels, null_labels, raster_boxes
from drivesim.models.discriminator import PatchDiscriminator3d
from drivesim.shapes import expand_to, fold_time, unfold_time
from drivesim.training.adversarial import adversarial
from drivesim.training.decoded import DecodedDistance
from drivesim.training.diffusion_module import DiffusionModule, single_frames
from drivesim.training.freeze import weight_groups
from drivesim.training.lessons import Lessons
from drivesim.training.stage_module import Batch

__all__ = ["FewCallModule", "window_critic"]

Labels = dict[str, Tensor]


def window_critic(channels: int, width: int = 32, levels: int = 2) -> PatchDiscriminator3d:
    """A critic of windows of latents (b, t, channels, h, w) beside the box raster."""
    return PatchDiscriminator3d(width, levels, channels + RASTER_CHANNELS)


class FewCallModule(DiffusionModule):
    """Teach a network of latents to make windows in K calls.

    Args:
        lessons: what it learns from.   teacher: frozen; None = learn from recordings and the critic alone.   worse: a less trained version
            of the teacher, for its autoguidance; None = the teacher has none.
        critic: of windows beside the box raster, see window_critic; None = no critic.
        decoded: distance to the recording of frames as they will be seen; None = of latents alone.
        more: as DiffusionModule; ``single_frames`` is the share of batches of single frames from the first step on.
    """

    def __init__(
        self, *, lessons: Lessons, teacher: nn.Module | None = None, worse: nn.Module | None = None, critic: nn.Module | None = None,
        decoded: DecodedDistance | None = None, **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(**{"told": more.get("part"), **more})
        self.lessons, self.critic, self.decoded = lessons, critic, decoded
        if (worse is None) != (lessons.autoguidance == 1):
            given = "none" if worse is None else type(worse).__name__
            raise UsageError(f"lessons.autoguidance={lessons.autoguidance} and a worse network ({given}): give both or neither")
        self.teacher, self.worse = (None if one is None else one.requires_grad_(False).eval() for one in (teacher, worse))
        self._helpers = (*self._helpers, "teacher.", "worse.", "decoded.")
        if lessons.opens and not getattr(self.objective.known_policy, "probabilities", (0.0,))[0]:
            raise UsageError("lessons.opens=true needs windows of which nothing is known; give them a share (known_policy.probabilities)")
        self.levels = self.objective.schedule.grid(lessons.calls)[:-1]
        """Noise levels of the student's inputs, float64 (K,), falling."""

    def settings(self) -> dict[str, Any]:
        said = self.lessons.described(taught=self.teacher is not None)
        names = (self.told, None if self.swappable else self.image_part)
        return {name: {**self.objective.described(), **said} for name in names if name is not None}

    def trained_groups(self) -> list[dict[str, Any]]:
        critic = () if self.critic is None else self.critic.parameters()
        return super().trained_groups() + weight_groups(critic, self.optimization.weight_decay, scale=self.lessons.critic_scale)

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws("train", self.batches)
        latents, labels = self.latents(batch), batch["labels"]
        policy = self.objective.known_policy
        if float(torch.rand((), generator=draws)) < self.single_frames:
            latents, labels = single_frames(latents, labels)
            policy = self.single_frame_objective.known_policy
        labels = drop_labels(labels, self.label_dropout, draws)
        known = policy.draw(latents, draws)
        noised, sigma = self._inputs(latents, labels, known, draws)
        made = self.answer(self.network, noised, sigma, labels, known)
        terms = self._distances(made, noised, latents, sigma, labels, known)
        if self.decoded is not None:
            shown, unknown = (made, torch.ones_like(made[:, :, 0, 0, 0])) if known is None else (known.outward(made), known.unknown)
            terms |= self.decoded(self.autoencoder, shown, latents, unknown, draws)
        loss = sum(terms.values(), start=made.new_zeros(()))
        rows = sigma <= self.lessons.adversarial_below
        if self.critic is not None and rows.any():
            seen = {name: value[rows] for name, value in labels.items()}
            displeased, hinge = self._judged(made[rows], latents[rows], seen, known and known.rows(rows), draws)
            balance = self._balance(loss, displeased, made)
            terms |= {"adversarial": displeased, "critic": hinge, "balance": balance}
            push = self.lessons.adversarial_weight if self.global_step >= self.lessons.adversarial_from else 0.0
            loss = loss + push * balance * displeased + hinge
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def answer(self, network: nn.Module, noised: Tensor, sigma: Tensor, labels: Labels, known: Known | None) -> Tensor:
        """What one call makes of noised windows: x0 as it is diffused (inward), float32 (b, t, c, h, w)."""
        return network_denoiser(network, self.objective.parameterization, labels, known)(noised, sigma).float()

    def _inputs(self, latents: Tensor, labels: Labels, known: Known | None, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Windows noised to a level of the student's each, and the levels (b,). The levels of a batch are spread evenly."""
        calls, count = self.lessons.calls, len(latents)
        x0 = latents if known is None else known.inward(latents)
        spread = torch.arange(count, dtype=torch.float64) / count
        place = ((torch.rand((), generator=draws, dtype=torch.float64) + spread) % 1 * calls).long().clamp(max=calls - 1)
        sigma = self.levels[place].to(latents)
        if calls > 1 and float(torch.rand((), generator=draws)) < self.lessons.own_share:
            return self._own(x0, place, labels, known, draws), sigma
        return self._start(add_noise(x0, gaussian(x0, draws), sigma)), sigma

    def _start(self, noised: Tensor) -> Tensor:
        return noised if self.lessons.noise == 1 else self.lessons.noise * noised

    @torch.no_grad()
    def _own(self, x0: Tensor, place: Tensor, labels: Labels, known: Known | None, draws: torch.Generator) -> Tensor:
        """Noised windows that the student's own step from one level before leads to, wherever there is such a level."""
        sigma, before = (self.levels[where].to(x0) for where in (place, (place - 1).clamp(min=0)))
        noise = gaussian(x0, draws)
        earlier = add_noise(x0, noise, before)
        answered = self.answer(self.network, earlier, before, labels, known).to(x0)
        carried = (earlier - expand_to(alpha_of(before), x0) * answered) / expand_to(before, x0)
        own = add_noise(answered, gaussian(x0, draws) if self.lessons.sampler == "renoise" else carried, sigma)
        return torch.where(expand_to(place.to(x0.device) > 0, x0), own, add_noise(x0, noise, sigma))

    def _distances(
        self, made: Tensor, noised: Tensor, latents: Tensor, sigma: Tensor, labels: Labels, known: Known | None
    ) -> dict[str, Tensor]:
        """Weighted squared distances of the frames to be made to the recording and to the end of the teacher's flow."""
        wanted = latents if known is None else known.inward(latents)
        weight = self.lessons.recorded_weight * alpha_of(sigma).square().clamp(min=self.lessons.mean_floor) / sigma.square()
        where = self._attention(made, labels)
        terms = {"recorded": _mean_unknown(where * (made - wanted).square(), weight, known)}
        if self.teacher is not None and self.lessons.teacher_weight > 0:
            taught = self._taught(noised, sigma, labels, known)
            terms["teacher"] = self.lessons.teacher_weight * _mean_unknown((made - taught).square(), 1 / sigma.square(), known)
        return terms

    def _attention(self, made: Tensor, labels: Labels) -> Tensor:
        """1 + box_weight inside boxes, in every frame with mean 1: (b, t, 1, h, w)."""
        if self.lessons.box_weight == 0 or "boxes" not in labels:
            return made.new_ones(())
        inside = self._raster(labels, made)[:, :, : len(CATEGORIES)].amax(dim=2, keepdim=True)
        weight = 1 + self.lessons.box_weight * inside
        return weight / weight.mean(dim=(-1, -2), keepdim=True)

    @torch.no_grad()
    def _taught(self, noised: Tensor, sigma: Tensor, labels: Labels, known: Known | None) -> Tensor:
        """The answers that lead where the teacher's guided flow does. The student's levels are among the teacher's.

        For "renoise" that is the end of the flow; for "ddim" the x0 whose DDIM step ends where the teacher's steps to the next level do
        (Salimans and Ho 2022, Algorithm 2), which for one step is what the guided teacher answers (Meng et al. 2023, stage one).
        """
        assert self.teacher is not None
        lessons, taught = self.lessons, torch.empty_like(noised)
        grid = self.objective.schedule.grid(lessons.calls * lessons.teacher_steps)
        for place, level in enumerate(self.levels.to(sigma)):
            rows = (sigma - level).abs() < 1e-6
            if rows.any():
                told = {name: value[rows] for name, value in labels.items()}
                denoiser = window_denoiser(
                    self.teacher, self.objective.parameterization, told, known and known.rows(rows), context_scale=lessons.guidance,
                    label_scale=lessons.label_guidance, null_labels=null_labels(told, lessons.guided_labels), worse=self.worse,
                    autoguidance=lessons.autoguidance, parallel=lessons.guidance_parallel,
                )  # fmt: skip
                first = place * lessons.teacher_steps
                path = grid[first:] if lessons.sampler == "renoise" else grid[first : first + lessons.teacher_steps + 1]
                taught[rows] = leading_to(SAMPLERS["dpmpp_2m"](denoiser, noised[rows], path), noised[rows], path).to(taught)
        return taught

    # the critic

    def _judged(self, made: Tensor, latents: Tensor, labels: Labels, known: Known | None, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """(how little the made windows please the critic, the critic's loss). Known frames and boxes stand beside, for both the same."""
        assert self.critic is not None
        shown = made if known is None else known.outward(known.keep(made))
        raster, sight = self._raster(labels, latents), self.lessons.critic_noise
        blurred = [torch.cat([x + sight * gaussian(x, draws), raster], dim=2) for x in (shown, latents)]
        return adversarial(self.critic, *blurred)

    @staticmethod
    def _raster(labels: Labels, like: Tensor) -> Tensor:
        """The boxes as networks see them, (b, t, 13, h, w); all zero where there are none."""
        if "boxes" not in labels:
            return like.new_zeros(*like.shape[:2], RASTER_CHANNELS, *like.shape[-2:])
        painted = raster_boxes(fold_time(labels["boxes"]), fold_time(labels["boxes_known"]), *like.shape[-2:])
        return unfold_time(painted, like.shape[1]).to(like)

    def _balance(self, distance: Tensor, displeased: Tensor, made: Tensor) -> Tensor:
        """Ratio of the gradients that the distances and the critic have on what was made (Esser et al. 2021, Eq. 7), within its limit."""
        (pull,) = torch.autograd.grad(distance, made, retain_graph=True)
        (push,) = torch.autograd.grad(displeased, made, retain_graph=True)
        return (pull.norm() / push.norm().clamp(min=1e-12)).clamp(max=self.lessons.balance_limit).detach()

    # judging

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same draws at every validation. Only the distance to the recording: a critic's loss says nothing over time."""
        draws = self.draws("validation", batch_idx)
        latents, labels = self.latents(batch), batch["labels"]
        known = self.objective.known_policy.draw(latents, draws)
        noised, sigma = self._inputs(latents, labels, known, draws)
        made = self.answer(self.average, noised, sigma, labels, known)
        wanted = latents if known is None else known.inward(latents)
        loss = _mean_unknown((made - wanted).square(), torch.ones_like(sigma), known)
        self.log("val/loss", self.finite(loss, "validation loss"), prog_bar=True, batch_size=len(latents), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """The bands of the diffusion loss are not filled here."""

    def _made(self, latents: Tensor, labels: Mapping[str, Tensor], index: int) -> Tensor:
        draws = self.draws("pictures", index)
        known = self.objective.known_policy.draw(latents, draws)
        like = latents if known is None else known.inward(latents)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.answer(self.average, x, sigma, dict(labels), known)

        start, grid = self._start(gaussian(like, draws)), self.objective.schedule.grid(self.lessons.calls)
        fresh = {"noise": lambda step: gaussian(like, draws)} if self.lessons.sampler == "renoise" else {}
        made = {**SAMPLERS, "renoise": renoise}[self.lessons.sampler](denoise, start, grid, **fresh)
        return made if known is None else known.outward(known.keep(made))


def _mean_unknown(squares: Tensor, weight: Tensor, known: Known | None) -> Tensor:
    """Squares (b, t, c, h, w) of the frames to be made -> weighted mean over the batch; scalar."""
    per_frame = squares.mean(dim=(2, 3, 4))
    unknown = torch.ones_like(per_frame) if known is None else known.unknown.to(per_frame)
    per_window = (per_frame * unknown).sum(dim=1) / unknown.sum(dim=1).clamp(min=1)
    return (weight.to(per_window) * per_window).mean()
