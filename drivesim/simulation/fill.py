"""Make the unknown frames of windows: the one door from the simulation to the samplers.

Every random number comes from a counter (seed, pass, window), so a window's noise depends neither on the batch it is made in nor on what
was made before. This file does not know time, scenarios, pixels or files.

    B windows   T frames   C latent channels   H, W latent size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.diffusion.denoiser import Denoiser, window_denoiser
from drivesim.diffusion.frame_mask import Known, LowResolution
from drivesim.diffusion.noise import NoiseSchedule
from drivesim.diffusion.samplers import SAMPLERS, NonFiniteError, renoise
from drivesim.models.conditioning import EVERY_LABEL, null_labels

__all__ = ["PASSES", "RENOISE", "Context", "Filler", "Labels", "PassSettings", "draw_noise", "with_shared"]

PASSES = ("image", "keyframes", "interpolation_1", "interpolation_2", "upsampling")
"""Names of the passes; their order is part of the noise counter, so it only ever grows at the end."""

CELL = 8
"""Latents on a side of the cells in which noise is shared."""
RENOISE = "renoise"
"""Name of the sampler of few calls among those of a pass; it is none of SAMPLERS, whose samplers draw nothing."""

Labels = dict[str, Tensor]


@dataclass(frozen=True)
class PassSettings:
    """How one pass samples. sampler: a name of SAMPLERS, or RENOISE.

    guidance: scale of Eq. 4 (1 = one network call, no guidance).   label_guidance: s_l (1 = none).   guided_labels: which labels it is
    about, see ``guided_names``.   autoguidance: its scale, where there is a worse network (1 = none).   guidance_parallel:
    share kept of what all guidance would only strengthen, see ``denoiser.pushed``.
    """

    sampler: str
    steps: int
    guidance: float = 1.0
    label_guidance: float = 1.0
    context_level: float = 0.0
    """Noise level put on the known frames, 0..1, and told to the network."""
    guided_labels: str = EVERY_LABEL
    autoguidance: float = 1.0
    guidance_parallel: float = 1.0
    shared_noise: float = 0.0
    """Added to the noise that a window begins with: see ``with_shared``."""


@dataclass(frozen=True)
class Context:
    """Known frames: values (b, t, c, h, w), clean, anything where mask (b, t) is False."""

    values: Tensor
    mask: Tensor


def draw_noise(seeds: Sequence[int], stage: str, windows: Sequence[int], shape: Sequence[int], part: int = 0) -> Tensor:
    """Standard normal float32 (b, *shape) on the CPU, one row per seed and window number.

    part: 0 the start of sampling, 1 the context's noise, 2 + k what ``renoise`` adds after step k.
    """
    rows = [torch.randn(tuple(shape), generator=_generator(seed, stage, window, part)) for seed, window in zip(seeds, windows, strict=True)]
    return torch.stack(rows)


def with_shared(noise: Tensor, deviation: float) -> Tensor:
    """Noise (b, t, c, h, w) with more of what its frames have in common, so that a window shows a scene of its own.

    Each frame begins with noise of its own, so of what frames share, the scene, there is little: means over t frames and over cells of 8x8
    latents deviate by 1 / (8 sqrt(t)). A network that has learned little makes the same of all of it: a road without houses and trees. Here
    that mean, brought to deviation 1 and bilinear in space, is added ``deviation`` times. (Ge et al. 2023, "Preserve your own correlation",
    share noise among frames in training as well.)
    """
    if not deviation:
        return noise
    height, width = noise.shape[-2:]
    coarse = nnf.interpolate(noise.mean(1), (max(height // CELL, 1), max(width // CELL, 1)), mode="area")
    held = noise.shape[1] * height * width / (coarse.shape[-2] * coarse.shape[-1])
    return noise + deviation * held**0.5 * nnf.interpolate(coarse, (height, width), mode="bilinear")[:, None]


def _generator(seed: int, stage: str, window: int, part: int) -> torch.Generator:
    counter = np.random.SeedSequence([seed, PASSES.index(stage), window, part])
    return torch.Generator().manual_seed(int(counter.generate_state(1, np.uint64)[0]))


@dataclass(frozen=True)
class Filler:
    """What a checkpoint says of a network's noise, bound to a device; called once per batch of windows.

    scale: of the noise that sampling begins with.
    """

    schedule: NoiseSchedule
    parameterization: str
    device: torch.device
    scale: float = 1.0

    def __call__(
        self, network: nn.Module, stage: str, seeds: Sequence[int], windows: Sequence[int], shape: Sequence[int], labels: Labels,
        settings: PassSettings, context: Context | None = None, worse: nn.Module | None = None,
    ) -> Tensor:  # fmt: skip
        """Sample windows of latents.

        Args:
            network: VideoUNet or FrameByFrame. stage: one of PASSES. seeds, windows: what their noise is counted by, one per row.
            shape: (t, c, h, w).
            labels: tensors (b, t, ...). context: frames to keep; they come back as they were. worse: the network of autoguidance.

        Returns: latents (b, t, c, h, w), finite.

        Raises:
            NonFiniteError: a step of the sampler was not finite; the message names the pass and its windows.
        """
        known = self._known(stage, seeds, windows, context, settings)
        denoiser = window_denoiser(
            network, self.parameterization, labels, known,
            context_scale=settings.guidance, label_scale=settings.label_guidance, null_labels=null_labels(labels, settings.guided_labels),
            worse=worse, autoguidance=settings.autoguidance, parallel=settings.guidance_parallel,
        )  # fmt: skip
        try:
            x0 = self._sample(denoiser, stage, seeds, windows, shape, settings)
        except NonFiniteError as error:
            raise NonFiniteError(f"pass {stage}, windows {windows[0]} to {windows[-1]}: {error}") from error
        return x0 if known is None else known.keep(x0)

    def _sample(
        self, denoiser: Denoiser, stage: str, seeds: Sequence[int], windows: Sequence[int], shape: Sequence[int], settings: PassSettings
    ) -> Tensor:  # fmt: skip
        def noise(part: int) -> Tensor:
            return draw_noise(seeds, stage, windows, shape, part).to(self.device)

        begun = with_shared(noise(0), settings.shared_noise) if self.scale else torch.zeros(len(windows), *shape, device=self.device)
        grid = self.schedule.grid(settings.steps)
        if settings.sampler == RENOISE:
            return renoise(denoiser, self.scale * begun, grid, lambda step: noise(2 + step))
        return SAMPLERS[settings.sampler](denoiser, self.scale * begun, grid)

    def enlarge(
        self, network: nn.Module, low: Tensor, noise: Tensor, low_noise: Tensor, detail: float, settings: PassSettings
    ) -> Tensor:
        """Sample windows whose frames are known at low resolution (Eq. 5).

        Args:
            network: VideoUNet or FrameByFrame that takes in c_S. low: (b, t, c, h, w). noise: (b, t, c, H, W), the start of sampling.
            low_noise: like low, put on it at ``settings.context_level``. Both are handed in, so that tiles of a frame share its noise.
            detail: deviation of what is to be added (LowResolution).

        Returns: (b, t, c, H, W), finite.

        Raises:
            NonFiniteError: a step of the sampler was not finite.
        """
        mask = torch.ones(low.shape[:2], dtype=torch.bool, device=self.device)
        level = torch.full((len(low),), settings.context_level, device=self.device)
        known = LowResolution(low, mask, level, low_noise, detail)
        denoiser = window_denoiser(network, self.parameterization, {}, known)
        return known.outward(SAMPLERS[settings.sampler](denoiser, noise, self.schedule.grid(settings.steps)))

    def _known(
        self, stage: str, seeds: Sequence[int], windows: Sequence[int], context: Context | None, settings: PassSettings
    ) -> Known | None:  # fmt: skip
        if context is None:
            return None
        values = context.values
        noise = draw_noise(seeds, stage, windows, values.shape[1:], part=1).to(self.device)
        level = torch.full((len(values),), settings.context_level, device=self.device)
        return Known(values, context.mask, level, noise)
