"""What a rollout would make of recorded windows: their keyframes noised and made again by the few-call network, decoded, and frames between
them moved. Whatever is to be learned from generated frames beside filmed ones begins here.

How much of a recording is left depends on where its noise begins (SDEdit, Meng et al. 2022): from the last of the student's levels, nearly
all; from pure noise, only labels and known frames. This file does not know losses, simulation or files.

Legend: B batch   T frames of a window   K keyframes   N frames shown   C channels   H, W frame size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from drivesim.diffusion.denoiser import network_denoiser
from drivesim.diffusion.noise import alpha_of, gaussian
from drivesim.diffusion.objective import DiffusionObjective
from drivesim.diffusion.parameterization import add_noise
from drivesim.diffusion.samplers import SAMPLERS
from drivesim.errors import UsageError
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.shapes import fold_time, unfold_time

__all__ = ["MadeWindow", "WindowMaker"]

Labels = dict[str, Tensor]


class MadeWindow(NamedTuple):
    """made, recorded: frames (b, n, 3, H, W) in about [-1, 1].   labels: theirs, (b, n, ...).   left: how much of the recording is left in
    what was made, (b,) in 0..1: the alpha of the noise that was put on it."""

    made: Tensor
    recorded: Tensor
    labels: Labels
    left: Tensor


class WindowMaker(nn.Module):
    """Frozen networks of a checkpoint.

    Args:
        autoencoder, prediction, interpolation: as exported; prediction takes ``calls`` steps of ``sampler``, interpolation moves
            frames.
        objective: schedule, parameterization and known policy of ``prediction``.
        starts: how often windows begin at each of the levels of its grid, noisiest first; None = the noisier, the more often.
        gaps: between keyframes; so many of each window are shown.   factor: frames from one keyframe to the next.

    Raises:
        UsageError: an interpolation network that makes latents, not one start for each call, or no such sampler.
    """

    def __init__(
        self, autoencoder: nn.Module, prediction: nn.Module, interpolation: nn.Module, objective: DiffusionObjective, calls: int = 4,
        starts: Sequence[float] | None = None, gaps: int = 4, factor: int = 4, sampler: str = "ddim",
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(interpolation, FrameInterpolator):
            raise UsageError("frames are made from an interpolation network that moves frames: train 4_interpolation_frames first")
        starts = list(range(calls, 0, -1)) if starts is None else starts
        if len(starts) != calls:
            raise UsageError(f"{calls} calls have {calls} levels to start from, not {len(starts)}")
        self.autoencoder, self.prediction, self.interpolation = autoencoder, prediction, interpolation
        if sampler not in SAMPLERS:
            raise UsageError(f"sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
        self.objective, self.starts, self.gaps, self.factor = objective, tuple(map(float, starts)), gaps, factor
        self.sampler = SAMPLERS[sampler]
        self.grid = objective.schedule.grid(calls)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> WindowMaker:
        """Always eval."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, frames: Tensor, labels: Labels, draws: torch.Generator) -> MadeWindow:
        """Recorded windows (b, t, 3, H, W) in [-1, 1], t = factor * (k - 1) + 1, and their labels -> a stretch of them, made.

        Raises:
            UsageError: a window too short for ``gaps``.
        """
        gaps = (frames.shape[1] - 1) // self.factor
        if gaps < self.gaps or frames.shape[1] != gaps * self.factor + 1:
            raise UsageError(f"windows must be {self.factor} frames a gap and one more, of {self.gaps} gaps or more, not {frames.shape[1]}")
        first = int(torch.randint(gaps - self.gaps + 1, (), generator=draws))
        latents, left = self._keyframes(frames[:, :: self.factor], labels, draws)
        keyframes = self._decoded(latents[:, first : first + self.gaps + 1])
        shown = slice(self.factor * first, self.factor * (first + self.gaps) + 1)
        told = {name: value[:, shown] for name, value in labels.items()}
        return MadeWindow(self._between(keyframes, told), frames[:, shown], told, left)

    def _keyframes(self, keyframes: Tensor, labels: Labels, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Keyframes (b, k, 3, H, W) and labels of all frames -> latents made again, (b, k, c, h, w), and what is left of theirs (b,)."""
        latents = unfold_time(self.autoencoder.encode(fold_time(keyframes)).float(), keyframes.shape[1])  # type: ignore[operator]
        told = self._slower(labels)
        known = self.objective.known_policy.draw(latents, draws)
        place = int(torch.multinomial(torch.tensor(self.starts), 1, generator=draws))
        sigma = self.grid[place].to(latents).expand(len(latents))
        x0 = latents if known is None else known.inward(latents)
        denoiser = network_denoiser(self.prediction, self.objective.parameterization, told, known)  # type: ignore[arg-type]
        made = self.sampler(denoiser, add_noise(x0, gaussian(x0, draws), sigma), self.grid[place:])
        made = made if known is None else known.outward(known.keep(made))
        return made.float(), alpha_of(sigma)

    def _slower(self, labels: Labels) -> Labels:
        """Labels of the keyframes alone."""
        told = {name: value[:, :: self.factor] for name, value in labels.items()}
        return {**told, **({"fps": told["fps"] / self.factor} if "fps" in told else {})}

    def _decoded(self, latents: Tensor) -> Tensor:
        """One by one, as a rollout does whose frames are moved."""
        frames: Tensor = self.autoencoder.decode(fold_time(latents)[:, None])[:, 0]  # type: ignore[operator]
        return unfold_time(frames.float(), latents.shape[1])

    def _between(self, keyframes: Tensor, labels: Mapping[str, Any]) -> Tensor:
        """Keyframes (b, k, 3, H, W) and labels of all frames -> all frames, (b, factor * (k - 1) + 1, 3, H, W)."""
        count, size = keyframes.shape[1] - 1, self.factor + 1
        rows = self.factor * torch.arange(count)[:, None] + torch.arange(size)
        told = {name: fold_time(value[:, rows]) for name, value in labels.items()}
        made = self.interpolation(fold_time(keyframes[:, :-1]), fold_time(keyframes[:, 1:]), told, size)[:, 1:]
        return torch.cat([keyframes[:, :1], unfold_time(made, count).flatten(1, 2)], dim=1)
