"""ONE training module for every diffusion stage: image, prediction, interpolation, upsampling (Video LDM, Eqs. 1 to 3 and 5).

What differs between the stages is handed in: the network, which frames are known, and what is held still. This file does not know
configuration, files or how windows are read.

Legend: B batch   T frames   C channels   H, W height and width of latents or frames
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics import MeanMetric

from drivesim.diffusion.denoiser import window_denoiser
from drivesim.diffusion.noise import gaussian
from drivesim.diffusion.objective import DiffusionObjective, NothingKnown
from drivesim.diffusion.samplers import SAMPLERS
from drivesim.errors import UsageError
from drivesim.models.conditioning import drop_labels
from drivesim.models.video_unet import FrameByFrame
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.training.freeze import assert_unchanged, fingerprint, set_trainable, weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.patches import Patches
from drivesim.training.stage_module import Batch, Part, StageModule

__all__ = ["DiffusionModule"]

NOISE_BANDS = (0.25, 0.5, 0.75)
"""Validation loss is reported apart for sigma below, between and above these."""


class DiffusionModule(StageModule):
    """Train a network of windows.

    Args:
        network: VideoUNet or FrameByFrame.
        objective: schedule, parameterization and which frames are known.
        autoencoder: first stage, frozen; encodes batches of frames and decodes pictures. Batches may hold latents instead.
        part: name of the exported network: "image", "prediction", "interpolation", or one of the upsampler's.
        optimization, ema_decay, seed: see StageModule.
        frozen: "spatial" trains the temporal layers alone (asserted at the end); "none" trains everything.
        unfreeze_at_step: from this step on a frozen image network trains too, at ``unfrozen_scale`` of the learning rate; None = never.
        single_frames: share of batches that hold single frames, so that the image network stays one, once it trains too.
        label_dropout: probability of dropping each label; None = that of ``models.conditioning``.
        gradient_checkpointing: trade time for memory.
        sampling_steps: of the DDIM sampler that makes pictures during training.
        patches: train on pieces of the windows; None = on whole ones.
        told: name under which model.json keeps this stage's schedule and parameterization; None = they are those of the checkpoint.
        image_part: the file that holds the spatial weights, so that they need not be saved again: the image network's own where they are
            frozen, else one that is exported along. None = saved again where they have moved.
    """

    def __init__(
        self, network: nn.Module, objective: DiffusionObjective, autoencoder: nn.Module, part: str, optimization: Optimization,
        ema_decay: float = 0.999, seed: int = 0, frozen: str = "none", unfreeze_at_step: int | None = None, unfrozen_scale: float = 0.1,
        single_frames: float = 0.2, label_dropout: Mapping[str, float] | float | None = None, gradient_checkpointing: bool = False,
        sampling_steps: int = 20, patches: Patches | None = None, told: str | None = None,
        image_part: str | None = None,
    ) -> None:  # fmt: skip
        if frozen not in ("spatial", "none"):
            raise ValueError(f"frozen must be spatial or none, not {frozen!r}")
        _check_channels(network, autoencoder)
        super().__init__(network, optimization, ema_decay, seed, helpers=("autoencoder",))
        self.objective, self.part, self.patches, self.told, self.image_part = objective, part, patches, told, image_part
        self.single_frame_objective = DiffusionObjective(objective.schedule, objective.parameterization, NothingKnown())
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.frozen, self.unfreeze_at_step, self.unfrozen_scale = frozen, unfreeze_at_step, unfrozen_scale
        self.single_frames, self.label_dropout, self.sampling_steps = single_frames, label_dropout, sampling_steps
        self.band_losses = nn.ModuleList(MeanMetric() for _ in range(len(NOISE_BANDS) + 1))
        if gradient_checkpointing:
            self.network.enable_checkpointing()  # type: ignore[operator]
        self._spatial_fingerprint = ""

    # what is exported

    def parts(self) -> dict[str, Part]:
        """A stage of single frames exports the bare image network; the others the whole network, the image network's weights once."""
        if isinstance(self.average, FrameByFrame):
            return {self.part: Part("average.image.", self.average.image)}
        if self.image_part is not None:
            image: Any = self.average.image
            along = {} if self.swappable else {self.image_part: Part("average.image.", image)}
            return {**along, self.part: Part("average.", self.average, {"image.": self.image_part})}
        image = "upsampler_image" if self.part == "upsampler" else "image"
        return {self.part: Part("average.", self.average, without={"image.": image} if self.swappable else {})}

    @property
    def swappable(self) -> bool:
        """True: the spatial weights are the image network's to the last bit, so they need not be saved again."""
        return self.frozen == "spatial" and self.unfreeze_at_step is None

    def settings(self) -> dict[str, Any]:
        said = self.objective.described()
        return {self.told: said} if self.told else {name: said[name] for name in ("schedule", "parameterization")}

    # what is trained

    def setup(self, stage: str) -> None:
        """Freeze before a strategy wraps the network. Strategies for several processes must know every weight that will ever train, so
        there a network that is unfrozen later is held still by a learning rate of zero instead.

        Raises:
            UsageError: single frames under a strategy that would wait for ever for the gradients of the temporal layers left out.
        """
        if self.unfreeze_at_step is not None and self.single_frames > 0 and _waits_for_all_weights(self.trainer):
            raise UsageError(
                "batches of single frames leave the temporal layers out, and processes would wait for their gradients for ever: set "
                "trainer.strategy=ddp_find_unused_parameters_true, or module.single_frames=0"
            )
        if self.frozen == "spatial" and (self.unfreeze_at_step is None or self.trainer.world_size == 1):
            set_trainable(self._spatial(), False)

    def trained_groups(self) -> list[dict[str, Any]]:
        decay = self.optimization.weight_decay
        if self.frozen == "none":
            return super().trained_groups()
        groups = weight_groups(self.network.temporal_parameters(), decay, scale=1.0)  # type: ignore[operator]
        if self.unfreeze_at_step is not None:
            groups += weight_groups(self._spatial(), decay, scale=0.0, spatial=True)
        return groups

    def _spatial(self) -> list[nn.Parameter]:
        return list(self.network.spatial_parameters())  # type: ignore[operator]

    @property
    def unfrozen(self) -> bool:
        """The image network was held still and trains now."""
        return self.frozen == "spatial" and self.unfreeze_at_step is not None and self.global_step >= self.unfreeze_at_step

    def on_fit_start(self) -> None:
        if self.frozen == "spatial" and not self._spatial_fingerprint:
            self._spatial_fingerprint = fingerprint(self._spatial())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.unfrozen:
            self._unfreeze()
        super().on_train_batch_start(batch, batch_idx)

    def _unfreeze(self) -> None:
        set_trainable(self._spatial(), True)
        for group in self.trainer.optimizers[0].param_groups:
            if group.get("spatial"):
                group["scale"] = self.unfrozen_scale

    def on_train_end(self) -> None:
        if self.frozen == "spatial" and not self.unfrozen:
            assert_unchanged(self._spatial_fingerprint, self._spatial(), "spatial")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["spatial_fingerprint"] = self._spatial_fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._spatial_fingerprint = checkpoint["spatial_fingerprint"]

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws("train", self.batches)
        batch = self.cut(batch, draws)
        latents, labels = self.latents(batch), batch["labels"]
        objective = self.objective
        if self.unfrozen and float(torch.rand((), generator=draws)) < self.single_frames:
            latents, labels = single_frames(latents, labels)
            objective = self.single_frame_objective
        labels = drop_labels(labels, self.label_dropout, draws)
        loss = objective(self.network, latents, labels, draws).loss.mean()
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same draws at every validation, so that losses can be compared."""
        draws = self.draws("validation", batch_idx)
        batch = self.cut(batch, draws)
        latents = self.latents(batch)
        losses, sigmas = self.objective(self.average, latents, batch["labels"], draws)
        self.log("val/loss", self.finite(losses.mean(), "validation loss"), prog_bar=True, batch_size=len(losses), sync_dist=True)
        bands = torch.bucketize(sigmas, torch.tensor(NOISE_BANDS, device=sigmas.device))
        for band, metric in enumerate(self.band_losses):
            metric.update(losses, weight=(bands == band).float())  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        for low, metric in zip((0.0, *NOISE_BANDS), self.band_losses, strict=True):
            mean = metric.compute()  # type: ignore[operator]  # over all processes; NaN where no window fell into the band
            if torch.isfinite(mean):
                self.log(f"val/loss_sigma_from_{low:g}", mean, rank_zero_only=True)
            metric.reset()  # type: ignore[operator]

    def cut(self, batch: Batch, draws: torch.Generator) -> Batch:
        """The batch in patches, if this stage trains on them."""
        return batch if self.patches is None else self.patches.cut(batch, draws)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """Normalised latents (b, t, c, h, w) of a batch, from its latents or its uint8 frames."""
        if "latents" in batch:
            return batch["latents"].float()
        frames = batch["frames"]
        return unfold_time(self.autoencoder.encode(as_floats(fold_time(frames))).float(), frames.shape[1])  # type: ignore[operator]

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Windows as recorded above windows as made from the same labels and known frames, decoded: rows in pairs."""
        batch = self.cut(batch, self.draws("pictures", 0))
        latents = self.latents(batch)
        rows = torch.stack([latents, self._made(latents, batch["labels"], 0)], dim=1).flatten(0, 1)
        return {"samples": self.autoencoder.decode(rows)}  # type: ignore[operator]

    @torch.no_grad()
    def windows(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """As pictures, the recorded ones apart: as they were filmed, or decoded where batches hold latents. Known frames are in both."""
        batch = self.cut(batch, self.draws("pictures", index))
        latents = self.latents(batch)
        made = self.autoencoder.decode(self._made(latents, batch["labels"], index))  # type: ignore[operator]
        return as_floats(batch["frames"]) if "frames" in batch else self.autoencoder.decode(latents), made  # type: ignore[operator]

    def _made(self, latents: Tensor, labels: dict[str, Tensor], index: int) -> Tensor:
        """Latents that the averaged network makes from labels and the known frames of ``latents``, with the draws of ``index``."""
        draws = self.draws("pictures", index)
        known = self.objective.known_policy.draw(latents, draws)
        like = latents if known is None else known.inward(latents)
        denoiser = window_denoiser(self.average, self.objective.parameterization, labels, known)
        made = SAMPLERS["ddim"](denoiser, gaussian(like, draws), self.objective.schedule.grid(self.sampling_steps))
        return made if known is None else known.outward(known.keep(made))


def _waits_for_all_weights(trainer: L.Trainer) -> bool:
    """Plain DDP reduces the gradient of every weight in every step, whether or not all processes have it."""
    strategy = trainer.strategy
    return isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters", False)


def _check_channels(network: nn.Module, autoencoder: nn.Module) -> None:
    wanted, given = getattr(getattr(network, "image", None), "channels", None), autoencoder.latent_channels
    if wanted is not None and wanted != given:
        raise UsageError(
            f"the network takes {wanted} channels, the first stage gives {given}: use the first_stage that stage 1 was trained with"
        )


def single_frames(latents: Tensor, labels: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Every frame of the windows as a window of its own, which costs no more than the windows do: (b, t, ...) -> (b * t, 1, ...)."""
    return fold_time(latents)[:, None], {name: fold_time(value)[:, None] for name, value in labels.items()}
