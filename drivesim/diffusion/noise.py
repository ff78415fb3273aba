"""Noise levels of a variance-preserving process: x = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1 and eps ~ N(0, I).

sigma in [0, 1] is the only name of a noise level: 0 is clean, 1 is pure noise, alpha = sqrt(1 - sigma^2) follows. A NoiseSchedule says
how often training sees each level and which levels sampling visits. This file does not know networks, what they predict, or frames.

Sources: Ho et al. 2020 (linear betas); Nichol and Dhariwal 2021, Eq. 17 (cosine); Lin et al. 2023, Algorithm 1 and Section 3.3 (zero
terminal SNR, trailing steps); Kingma et al. 2021, Appendix I.1 (evenly spread draws).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from drivesim.errors import UsageError
from drivesim.recipes import recipe

__all__ = [
    "NoiseSchedule", "alpha_of", "cosine_schedule", "gaussian", "linear_schedule", "log_snr", "sigma_of_log_snr", "uniform",
    "zero_terminal_cosine", "zero_terminal_snr",
]  # fmt: skip


def alpha_of(sigma: Tensor) -> Tensor:
    """Signal scale alpha = sqrt(1 - sigma^2), any shape. Its own inverse: alpha_of(alpha_of(sigma)) = sigma."""
    return ((1 - sigma) * (1 + sigma)).clamp_min(0).sqrt()  # the product keeps the digits that 1 - sigma^2 loses near 1


def log_snr(sigma: Tensor) -> Tensor:
    """log(alpha^2 / sigma^2), any shape: +inf at sigma = 0, -inf at sigma = 1."""
    return 2 * (alpha_of(sigma).log() - sigma.log())


def sigma_of_log_snr(value: Tensor) -> Tensor:
    """The inverse of log_snr: sigma^2 = 1 / (1 + exp(logSNR)), any shape."""
    return torch.sigmoid(-value).sqrt()


def gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    """eps ~ N(0, I) with the shape, type and device of ``like``; the same numbers wherever ``like`` lives."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """float64 (count,) on the generator's device, each uniform in [0, 1)."""
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


class NoiseSchedule:
    """A table of N >= 2 strictly rising noise levels in (0, 1], read continuously between its entries.

    Args:
        sigmas: the table, lowest noise first.

    Raises:
        UsageError: the table does not rise strictly or leaves (0, 1].
    """

    recipe: dict[str, Any]

    def __init__(self, sigmas: Sequence[float] | Tensor) -> None:
        self.sigmas = torch.as_tensor(sigmas, dtype=torch.float64)
        rising = self.sigmas.ndim == 1 and len(self.sigmas) >= 2 and bool((self.sigmas.diff() > 0).all())
        if not rising or self.sigmas[0] <= 0 or self.sigmas[-1] > 1:
            raise UsageError("a noise schedule needs two or more strictly rising sigmas above 0 and up to 1")
        self.recipe = recipe(self, sigmas=self.sigmas.tolist())

    def __len__(self) -> int:
        return len(self.sigmas)

    @property
    def zero_terminal(self) -> bool:
        """True: the noisiest level is pure noise, so sampling starts where training ended."""
        return bool(self.sigmas[-1] == 1)

    def at(self, position: Tensor) -> Tensor:
        """Sigma at fractional table positions 0..N-1, linear between entries; float64, any shape."""
        table = self.sigmas.to(position.device)
        low = position.floor().long().clamp(0, len(table) - 2)
        return torch.lerp(table[low], table[low + 1], position.double() - low)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Training levels, float32 ``shape`` on the generator's device; each is uniform over the table.

        The draws of one call are spread evenly, u_i = (u_0 + i / n) mod 1 (Kingma et al. 2021, App. I.1), so that a small batch
        still meets low and high noise.
        """
        count = math.prod(shape)
        spread = torch.arange(count, device=generator.device, dtype=torch.float64) / max(count, 1)
        position = (uniform(1, generator) + spread) % 1 * (len(self) - 1)
        return self.at(position).reshape(shape).float()

    def grid(self, steps: int, spacing: str = "trailing") -> Tensor:
        """Sampling levels: float64 (steps + 1,), strictly falling, ending in 0.

        ``trailing`` starts at the noisiest level (Lin et al. 2023, Sec. 3.3); ``leading`` starts one stride below it, as DDIM did.

        Raises:
            UsageError: fewer than one step, more steps than levels, or an unknown spacing.
        """
        levels = len(self)
        if not 1 <= steps <= levels:
            raise UsageError(f"sampling steps must lie in 1..{levels}, not {steps}")
        remaining = torch.arange(steps, 0, -1, dtype=torch.float64) * (levels / steps)  # levels still above clean
        if spacing == "trailing":
            position = remaining - 1
        elif spacing == "leading":
            position = remaining - levels / steps
        else:
            raise UsageError(f"spacing must be trailing or leading, not {spacing!r}")
        return torch.cat([self.at(position), position.new_zeros(1)])


def _from_betas(beta: Tensor) -> NoiseSchedule:
    """alpha_t^2 = prod_{s <= t} (1 - beta_s) (Ho et al. 2020, Eq. 4)."""
    return NoiseSchedule(alpha_of((1 - beta).cumprod(0).sqrt()))


def linear_schedule(beta_start: float = 0.0015, beta_end: float = 0.0195, steps: int = 1000) -> NoiseSchedule:
    """The paper's: betas rise linearly (Align your Latents, Table 6). It ends at sigma just below 1."""
    schedule = _from_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))
    schedule.recipe = recipe(linear_schedule, beta_start=beta_start, beta_end=beta_end, steps=steps)
    return schedule


def cosine_schedule(steps: int = 1000) -> NoiseSchedule:
    """alpha^2 falls as cos^2 (Nichol and Dhariwal 2021, Eq. 17), betas clipped at 0.999 as there."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * (math.pi / 2)
    signal = angle.cos() ** 2
    schedule = _from_betas((1 - signal[1:] / signal[:-1]).clamp(max=0.999))
    schedule.recipe = recipe(cosine_schedule, steps=steps)
    return schedule


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The same schedule with alpha shifted and scaled so that it ends in 0 and starts where it did (Lin et al. 2023, Algorithm 1)."""
    alpha = alpha_of(schedule.sigmas)
    alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
    moved = NoiseSchedule(alpha_of(alpha))
    moved.recipe = recipe(zero_terminal_snr, schedule=schedule)
    return moved


def zero_terminal_cosine(steps: int = 1000) -> NoiseSchedule:
    """The default of small models: cosine, ending in pure noise, so that dark pictures stay dark."""
    schedule = zero_terminal_snr(cosine_schedule(steps))
    schedule.recipe = recipe(zero_terminal_cosine, steps=steps)
    return schedule
