"""The one mechanism behind prediction, interpolation and upsampling: some frames are known, a mask says which, a level says how well.

Masks are bool (b, t), True = known. A network is told known frames in one of three ways: as a context tensor c_S (b, t, c + 2, h, w)
beside its input (Align your Latents, Sec. 3.2), by standing in their own frame slots with their own noise level (per-frame sigma), or by
both, with c_S carried on into the unknown frames. The known values are themselves noised a little ("noise augmentation"), which keeps long
rollouts from drifting. This file does not know networks, schedules or losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from drivesim.diffusion.noise import uniform
from drivesim.diffusion.parameterization import add_noise
from drivesim.shapes import expand_to, fold_time, unfold_time

__all__ = ["Known", "LowResolution", "carry_weights", "draw_first_frames", "draw_level", "endpoints", "first_frames",
           "none_known"]  # fmt: skip


def none_known(b: int, t: int) -> Tensor:
    """bool (b, t): no frame is known."""
    return torch.zeros(b, t, dtype=torch.bool)


def first_frames(b: int, t: int, counts: int | Sequence[int] | Tensor) -> Tensor:
    """bool (b, t): the first ``counts`` frames are known; one count for all windows or one each (b,)."""
    counts = torch.as_tensor(counts)
    return (torch.arange(t, device=counts.device) < counts.reshape(-1, 1)).expand(b, t).clone()


def endpoints(b: int, t: int) -> Tensor:
    """bool (b, t): the first and the last frame are known."""
    mask = none_known(b, t)
    mask[:, [0, -1]] = True
    return mask


def draw_first_frames(b: int, t: int, probabilities: Sequence[float], generator: torch.Generator) -> Tensor:
    """bool (b, t): each window knows its first S frames, S ~ ``probabilities`` (of 0, 1, 2 ...: p_S of Sec. 3.2), and never all t."""
    shares = torch.tensor(probabilities, dtype=torch.float64, device=generator.device)
    counts = torch.multinomial(shares, b, replacement=True, generator=generator)
    return first_frames(b, t, counts.clamp(max=t - 1))


def carry_weights(mask: Tensor) -> Tensor:
    """bool (b, t) -> float32 (b, t, t): row i says what share of each known frame frame i is given.

    Linear in time between its known neighbours, all of the nearest one at the ends, zero where no frame is known.
    """
    t = mask.shape[1]
    place = torch.arange(t, device=mask.device).expand(mask.shape)
    before = torch.where(mask, place, -1).cummax(dim=1).values
    after = torch.where(mask, place, t).flip(1).cummin(dim=1).values.flip(1)
    gap = (after - before).clamp_min(1)
    share = torch.where(before < 0, 1.0, torch.where(after >= t, 0.0, (place - before) / gap))  # of the one after
    first, second = before.clamp(0, t - 1), after.clamp(0, t - 1)
    weights = torch.zeros(*mask.shape, t, device=mask.device)
    weights.scatter_add_(2, first[..., None], (1 - share)[..., None])
    weights.scatter_add_(2, second[..., None], share[..., None])
    return weights * mask.any(dim=1)[:, None, None]


def draw_level(b: int, generator: torch.Generator, clean_share: float = 0.3, low: float = 0.02, high: float = 0.5) -> Tensor:
    """Noise-augmentation levels, float32 (b,): 0 for a ``clean_share`` of the windows, else log-uniform in ``low``..``high`` (sigmas)."""
    clean = uniform(b, generator) < clean_share
    level = low * (uniform(b, generator) * math.log(high / low)).exp()
    return torch.where(clean, 0.0, level).float()


@dataclass(frozen=True)
class Known:
    """What is known of a batch of windows.

    values: clean latents (b, t, c, h, w); what stands in unknown slots is never read.
    mask:   bool (b, t), True = known.
    level:  (b,), sigma of the noise put on the known values before the network sees them.
    noise:  eps like ``values``: fixed, so that every step of a sampler sees the same noised values.
    """

    values: Tensor
    mask: Tensor
    level: Tensor
    noise: Tensor

    @property
    def unknown(self) -> Tensor:
        """bool (b, t): the frames to be made, the only ones that a loss counts."""
        return ~self.mask

    def noised(self) -> Tensor:
        """The values at their level, (b, t, c, h, w)."""
        return add_noise(self.values, self.noise, self.level)

    def tensor(self) -> Tensor:
        """c_S = cat(mask * noised, mask, mask * level) over channels: (b, t, c + 2, h, w)."""
        mask = expand_to(self.mask, self.values)
        level = torch.where(mask, expand_to(self.level, self.values), 0.0)
        plane = self.values.new_zeros(1, 1, 1, *self.values.shape[-2:])
        return torch.cat([torch.where(mask, self.noised(), 0.0), mask + plane, level + plane], dim=2)

    def carried(self) -> Tensor:
        """c_S whose unknown frames hold what the nearest known ones suggest: (b, t, c + 2, h, w).

        Between two known frames the noised values are mixed linearly in time, beyond the outermost they are held; the mask channel still
        says which frames are known, and the level channel holds everywhere. So every frame sees the known content at its own place,
        without waiting for it to travel through the temporal layers. All zero where nothing is known.
        """
        shares = carry_weights(self.mask).to(self.values)
        values = torch.einsum("bij,bjchw->bichw", shares, torch.where(expand_to(self.mask, self.values), self.noised(), 0.0))
        plane = values.new_zeros(1, 1, 1, *values.shape[-2:])
        told = shares.sum(dim=2) * self.level[:, None].to(shares)
        return torch.cat([values, expand_to(self.mask, values) + plane, expand_to(told, values) + plane], dim=2)

    def insert(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Stand the noised values in their frame slots.

        Args:
            x: (b, t, c, h, w).
            sigma: (b,) or (b, t).

        Returns:
            x with the known slots replaced, and the per-frame sigma (b, t) that goes with it.
        """
        sigmas = torch.where(self.mask, self.level[:, None].to(sigma), sigma.reshape(len(x), -1))
        return torch.where(expand_to(self.mask, x), self.noised(), x), sigmas

    def keep(self, x0: Tensor) -> Tensor:
        """A clean estimate (b, t, c, h, w) with the known frames set to what is known of them."""
        return torch.where(expand_to(self.mask, x0), self.values, x0)

    def rows(self, rows: Tensor) -> Known:
        """What is known of some of the windows: bool (b,) or positions."""
        return type(self)(**{name: value[rows] if isinstance(value, Tensor) else value for name, value in vars(self).items()})

    def inward(self, frames: Tensor) -> Tensor:
        """Clean windows -> the x0 that diffusion runs on: here the windows themselves."""
        return frames

    def outward(self, x0: Tensor) -> Tensor:
        """The inverse of ``inward``."""
        return x0


@dataclass(frozen=True)
class LowResolution(Known):
    """Every frame is known, but only at low resolution: ``values`` are small frames (b, t, c, h / 4, w / 4), noised as such (Sec. 3.4).

    They guide as context, c_S having their size; no slot holds them, and every frame is still to be made. What diffusion makes is the
    detail alone, what the noised small frames lack once they are enlarged, brought to a deviation of about 1: a network that says nothing
    yet is an interpolation, and what is left of the sampler's noise is as small as the detail (residual diffusion: Li et al. 2022,
    "SRDiff", Sec. 3.2).

    detail: deviation of the detail of clean frames, in units of the frames' range [-1, 1].
    """

    detail: float = 1.0

    @property
    def unknown(self) -> Tensor:
        """bool (b, t): all of them."""
        return torch.ones_like(self.mask)

    def insert(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing to insert: x as it is, sigma spread to (b, t)."""
        return x, sigma.reshape(len(x), -1).expand(self.mask.shape)

    def keep(self, x0: Tensor) -> Tensor:
        """Nothing to keep: x0 as it is."""
        return x0

    def inward(self, frames: Tensor) -> Tensor:
        """(frames - enlarged noised small frames) / deviation; (b, t, c, h, w)."""
        return (frames - self._enlarged(frames)) / self._deviation(frames)

    def outward(self, x0: Tensor) -> Tensor:
        """enlarged noised small frames + deviation * x0; (b, t, c, h, w)."""
        return self._enlarged(x0) + self._deviation(x0) * x0

    def _deviation(self, like: Tensor) -> Tensor:
        """sqrt(detail^2 + level^2): the noise that was put on the small frames has to be taken out again, too."""
        return expand_to((self.level.to(like).square() + self.detail**2).sqrt(), like)

    def _enlarged(self, like: Tensor) -> Tensor:
        small = fold_time(self.noised()).to(like)
        return unfold_time(interpolate(small, size=like.shape[-2:], mode="bicubic", align_corners=False), like.shape[1])
