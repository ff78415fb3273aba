"""Training the first stage: the image autoencoder (stage 1), and its decoder on video (stage 5; Video LDM, section 3.1.1).

One module, one optimizer: the critic's loss and the autoencoder's are added, each blind to the other's weights, so accumulation, mixed
precision and strategies work as for every other stage. This file does not know configuration, files or how windows are read.

Legend: B batch   T frames   F = B * T   C channels   H, W height and width of frames
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from drivesim.errors import DrivesimError
from drivesim.models.backbones import PerceptualLite1
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.training.adversarial import adversarial
from drivesim.training.freeze import set_trainable, weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.patches import Patches
from drivesim.training.stage_module import Batch, Part, StageModule

__all__ = ["AutoencoderModule", "perceptual_or_none"]

STATISTICS_DECAY = 0.99
"""Of the running mean and deviation by which latents are normalised."""


def perceptual_or_none(stages: int = 4) -> PerceptualLite1 | None:
    """The perceptual loss, or a warning and None where its weights are not installed."""
    try:
        return PerceptualLite1(stages)
    except DrivesimError as error:
        warnings.warn(f"training without the perceptual loss: {error}", stacklevel=2)
        return None


class AutoencoderModule(StageModule):
    """Train an autoencoder on frames (b, t, 3, H, W).

    Args:
        autoencoder: Autoencoder; an IdentityAutoencoder has nothing to train and is exported as it is.
        optimization, ema_decay, seed: see StageModule.
        trained: "all" (stage 1) or "decoder" (stage 5: the encoder stays as the diffusion networks know it).
        perceptual: distance of folded frames, or None.
        critic: PatchDiscriminator2d (sees frames), PatchDiscriminator3d (sees clips), or None.
        perceptual_weight, squared_weight, kl_weight, adversarial_weight: of the perceptual distance, the squared error, the KL divergence
            and the critic, beside the L1 distance, whose weight is 1; all are means over elements.
        adversarial_from: step at which the critic comes in.
        critic_scale: the critic's learning rate in units of the autoencoder's.
        patches: train on pieces of the windows; None = on whole ones. For autoencoders that are convolutions (norm "none").
    """

    def __init__(
        self, autoencoder: nn.Module, optimization: Optimization, ema_decay: float = 0.999, seed: int = 0, trained: str = "all",
        perceptual: nn.Module | None = None, critic: nn.Module | None = None, perceptual_weight: float = 0.1, squared_weight: float = 2.0,
        kl_weight: float = 1e-5, adversarial_weight: float = 0.05, adversarial_from: int = 0, critic_scale: float = 1.0,
        patches: Patches | None = None,
    ) -> None:  # fmt: skip
        if trained not in ("all", "decoder"):
            raise ValueError(f"trained must be all or decoder, not {trained!r}")
        super().__init__(autoencoder, optimization, ema_decay, seed, helpers=("perceptual",))
        self.trained, self.perceptual, self.critic = trained, perceptual, critic
        self.perceptual_weight, self.squared_weight = perceptual_weight, squared_weight
        self.kl_weight, self.adversarial_weight, self.adversarial_from = kl_weight, adversarial_weight, adversarial_from
        self.critic_scale, self.patches = critic_scale, patches

    def parts(self) -> dict[str, Part]:
        return {"autoencoder": Part("average.", self.average)}

    def setup(self, stage: str) -> None:
        """Stage 5 freezes all but the decoder, before a strategy wraps the network."""
        if self.trained == "decoder":
            set_trainable(self.network.parameters(), False)
            set_trainable(self._decoder(), True)

    def trained_groups(self) -> list[dict[str, Any]]:
        decay = self.optimization.weight_decay
        groups = weight_groups((weight for weight in self.network.parameters() if weight.requires_grad), decay, scale=1.0)
        return groups + (weight_groups(self.critic.parameters(), decay, scale=self.critic_scale) if self.critic is not None else [])

    def _decoder(self) -> Iterator[nn.Parameter]:
        return (weight for name, weight in self.network.named_parameters() if name.startswith(("decoder.", "decoder_temporal.")))

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws("train", self.batches)
        frames = as_floats((batch if self.patches is None else self.patches.cut(batch, draws))["frames"])
        made, kl = self._reconstruct(frames, draws)
        distances = self._distances(made, frames)
        loss = sum(distances.values(), start=self.kl_weight * kl)
        self.log_dict({"train/kl": kl, **{f"train/{name}": value for name, value in distances.items()}})
        if self.critic is not None and self.global_step >= self.adversarial_from:
            loss = loss + self._adversarial(made, frames)
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def _reconstruct(self, frames: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames (b, t, 3, H, W) -> reconstruction of a posterior sample, and the KL divergence from N(0, 1) per latent.

        Stage 5 decodes the posterior's mean, which is what diffusion will hand to the decoder.
        """
        network = self.network
        if self.trained == "decoder":
            with torch.no_grad():
                mean, _ = network.posterior(fold_time(frames))  # type: ignore[operator]
            return _decoded(network, mean, frames.shape[1]), mean.new_zeros(())
        mean, log_variance = (moment.float() for moment in network.posterior(fold_time(frames)))  # type: ignore[operator]
        self._follow_statistics(mean.detach())
        noise = torch.randn(mean.shape, generator=draws).to(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        return _decoded(network, mean + (0.5 * log_variance).exp() * noise, frames.shape[1]), kl

    def _distances(self, made: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Weighted distances of clips (b, t, 3, H, W) by name; scalars in float32."""
        terms = {"l1": F.l1_loss(made, frames), "squared": self.squared_weight * F.mse_loss(made, frames)}
        if self.perceptual is not None and self.perceptual_weight > 0:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(fold_time(made), fold_time(frames)).float()
        return terms

    def _adversarial(self, made: Tensor, frames: Tensor) -> Tensor:
        """The autoencoder's wish to please plus the critic's loss."""
        assert self.critic is not None
        displeased, hinge = adversarial(self.critic, made, frames)
        self.log_dict({"train/adversarial": displeased, "train/critic": hinge})
        return self.adversarial_weight * displeased + hinge

    @torch.no_grad()
    def _follow_statistics(self, latents: Tensor) -> None:
        """Keep latent_mean and latent_std at the running moments of unnormalised latents (f, c, h, w)."""
        network: Any = self.network
        keep = min(STATISTICS_DECAY, self.batches / (self.batches + 1))
        second = network.latent_std.square() + network.latent_mean.square()
        network.latent_mean.lerp_(latents.mean((0, 2, 3)), 1.0 - keep)
        second.lerp_(latents.square().mean((0, 2, 3)), 1.0 - keep)
        network.latent_std.copy_((second - network.latent_mean.square()).clamp_min(1e-8).sqrt())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        frames = as_floats(batch["frames"])
        made = self.reconstruction(frames)
        loss = sum(self._distances(made, frames).values(), start=made.new_zeros(()))
        psnr = peak_signal_noise_ratio(made, frames, data_range=(-1.0, 1.0), reduction="none", dim=(2, 3, 4)).clamp(max=100.0).mean()
        values = {"val/loss": self.finite(loss, "validation loss"), "val/psnr": psnr}
        self.log_dict(values, prog_bar=True, batch_size=len(frames), sync_dist=True)

    @torch.no_grad()
    def reconstruction(self, frames: Tensor) -> Tensor:
        """Frames (b, t, 3, H, W) in [-1, 1] -> the same through the averaged autoencoder."""
        return self.average.decode(unfold_time(self.average.encode(fold_time(frames)), frames.shape[1])).float()  # type: ignore[operator]

    def windows(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """Frames and their reconstructions."""
        frames = as_floats(batch["frames"])
        return frames, self.reconstruction(frames)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Frames above their reconstructions: rows in pairs."""
        frames = as_floats(batch["frames"])
        return {"reconstructions": torch.stack([frames, self.reconstruction(frames)], dim=1).flatten(0, 1)}


def _decoded(autoencoder: Any, latents: Tensor, frames: int) -> Tensor:
    """Unnormalised latents (f, c, h, w) -> frames (b, t, 3, H, W), float32, with the temporal layers if there are any."""
    temporal = autoencoder.decoder_temporal if autoencoder.receptive_frames and frames > 1 else None
    return unfold_time(autoencoder.decode_raw(latents, temporal, frames).float(), frames)
