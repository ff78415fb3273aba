"""The training objective: one loss for every diffusion stage. What differs between stages is only which frames are known.

    Eq. 1  image            nothing known, one frame     NothingKnown, T = 1
    Eq. 2  video            nothing known, T frames      NothingKnown
    Eq. 3  prediction       first 0, 1 or 2 frames       FirstFrames
           interpolation    first and last frame         EndPoints
    Eq. 5  upsampling       all, at low resolution       LowFrames

(Align your Latents, Blattmann et al. 2023.) Which parameters train is the trainer's business. This file does not know what a network is
made of, what a label means, optimisers or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from drivesim.diffusion.denoiser import Labels, Network, call_network
from drivesim.diffusion.frame_mask import Known, LowResolution, draw_first_frames, draw_level, endpoints
from drivesim.diffusion.noise import NoiseSchedule, gaussian, linear_schedule
from drivesim.diffusion.parameterization import Epsilon, Parameterization, add_noise, parameterization_named
from drivesim.errors import UsageError
from drivesim.recipes import recipe
from drivesim.shapes import fold_time, unfold_time

__all__ = ["DiffusionObjective", "EndPoints", "FirstFrames", "KnownPolicy", "LowFrames", "NothingKnown", "WindowLoss"]


class KnownPolicy(Protocol):
    """Decides what a training window knows."""

    recipe: dict[str, Any]

    def draw(self, x0: Tensor, generator: torch.Generator) -> Known | None:
        """Clean windows (b, t, c, h, w) -> what the network is told of them; None = nothing."""
        ...


class NothingKnown:
    """Eqs. 1 and 2: every frame is made from noise."""

    def __init__(self) -> None:
        self.recipe: dict[str, Any] = recipe(self)

    def draw(self, x0: Tensor, generator: torch.Generator) -> Known | None:
        """None."""
        return None


class _Augmented:
    """Known frames are noised: not at all in ``clean_share`` of the windows, else at a log-uniform sigma in ``low``..``high``.

    Raises:
        UsageError: a share outside 0..1, or not 0 < low <= high <= 1.
    """

    def __init__(self, clean_share: float = 0.3, low: float = 0.02, high: float = 0.5) -> None:
        if not (0 <= clean_share <= 1 and 0 < low <= high <= 1):
            raise UsageError(f"noise augmentation needs 0 <= clean_share <= 1 and 0 < low <= high <= 1, not {clean_share}, {low}, {high}")
        self.clean_share, self.low, self.high = clean_share, low, high
        self.recipe: dict[str, Any] = recipe(self, clean_share=clean_share, low=low, high=high)

    def level(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """(b,) on x0's device."""
        return draw_level(len(x0), generator, self.clean_share, self.low, self.high).to(x0.device)


class FirstFrames(_Augmented):
    """Eq. 3, prediction: the first S frames are known, S = 0, 1, 2 ... with the given probabilities (p_S), never all.

    Raises:
        UsageError: probabilities that are negative or do not sum to 1.
    """

    def __init__(
        self, probabilities: Sequence[float] = (0.15, 0.25, 0.6), clean_share: float = 0.3, low: float = 0.02, high: float = 0.5
    ) -> None:
        super().__init__(clean_share, low, high)
        self.probabilities = tuple(float(share) for share in probabilities)
        if min(self.probabilities, default=-1) < 0 or not math.isclose(sum(self.probabilities), 1, abs_tol=1e-6):
            raise UsageError(f"probabilities of the number of known frames must be >= 0 and sum to 1, not {list(self.probabilities)}")
        self.recipe = recipe(self, probabilities=self.probabilities, clean_share=clean_share, low=low, high=high)

    def draw(self, x0: Tensor, generator: torch.Generator) -> Known | None:
        """A mask, a level and its noise for each window."""
        mask = draw_first_frames(x0.shape[0], x0.shape[1], self.probabilities, generator).to(x0.device)
        return Known(x0, mask, self.level(x0, generator), gaussian(x0, generator))


class EndPoints(_Augmented):
    """Eq. 3, interpolation (Sec. 3.3): the first and the last frame are known. Windows under three frames know nothing."""

    def draw(self, x0: Tensor, generator: torch.Generator) -> Known | None:
        """The same mask for all, a level and its noise for each window."""
        if x0.shape[1] < 3:
            return None
        mask = endpoints(x0.shape[0], x0.shape[1]).to(x0.device)
        return Known(x0, mask, self.level(x0, generator), gaussian(x0, generator))


class LowFrames:
    """Eq. 5, upsampling (Sec. 3.4): every frame is known at 1 / factor of its size, noise-augmented. For networks told by encoder.

    Args:
        factor: cells of factor x factor pixels are averaged.
        detail: see LowResolution.
        highest: levels are drawn as sigma at step u of ``schedule``, u ~ U{0 .. highest} (App. H.1: 250 of 1000).
        schedule: of the augmentation alone; None = the paper's, betas from 1e-4 to 2e-2.

    Raises:
        UsageError: a factor below 1, or ``highest`` beyond the schedule.
    """

    def __init__(self, factor: int = 4, highest: int = 250, schedule: NoiseSchedule | None = None, detail: float = 0.1) -> None:
        self.factor, self.highest, self.detail = factor, highest, detail
        self.schedule = schedule or linear_schedule(1e-4, 2e-2)
        if factor < 1 or not 0 <= highest < len(self.schedule):
            raise UsageError(f"low frames need factor >= 1 and highest within 0..{len(self.schedule) - 1}, not {factor} and {highest}")
        self.recipe: dict[str, Any] = recipe(self, factor=factor, highest=highest, schedule=self.schedule, detail=detail)

    def draw(self, x0: Tensor, generator: torch.Generator) -> Known | None:
        """Averages over cells: values (b, t, c, h / factor, w / factor), and a level and noise for each window."""
        low = unfold_time(avg_pool2d(fold_time(x0), self.factor), x0.shape[1])
        mask = torch.ones(x0.shape[:2], dtype=torch.bool, device=x0.device)
        step = torch.randint(self.highest + 1, (len(x0),), generator=generator, device=generator.device)
        return LowResolution(low, mask, self.schedule.at(step).to(low), gaussian(low, generator), self.detail)


class WindowLoss(NamedTuple):
    """loss (b,): mean squared error over the unknown frames of each window. sigma (b,): the noise level it was taken at."""

    loss: Tensor
    sigma: Tensor


class DiffusionObjective:
    """E || y - f(x_sigma; c, c_S, sigma) ||^2 over data, noise levels and what is known; y is the parameterization's target.

    Args:
        schedule: how often training sees each noise level.
        parameterization: what the network predicts: "epsilon", "velocity", or an object with x0() and target().
        known_policy: which frames are known; None = NothingKnown().

    Raises:
        UsageError: epsilon on a zero-terminal schedule: pure noise would teach the network nothing about x0.
    """

    def __init__(
        self, schedule: NoiseSchedule, parameterization: str | Parameterization = "velocity", known_policy: KnownPolicy | None = None
    ) -> None:
        self.schedule = schedule
        self.parameterization = parameterization_named(parameterization)
        self.known_policy = known_policy or NothingKnown()
        if schedule.zero_terminal and isinstance(self.parameterization, Epsilon):
            raise UsageError("epsilon says nothing at pure noise: take velocity with a zero-terminal schedule")

    def described(self) -> dict[str, Any]:
        """What a sampler must know of it, as plain values."""
        name = type(self.parameterization).__name__.lower()
        return {"schedule": self.schedule.recipe, "parameterization": name, "known": self.known_policy.recipe}

    def __call__(self, network: Network, x0: Tensor, labels: Labels, generator: torch.Generator) -> WindowLoss:
        """One noised draw of each window (b, t, c, h, w) -> its loss. Everything random comes from ``generator``."""
        known = self.known_policy.draw(x0, generator)
        x0 = x0 if known is None else known.inward(x0)
        sigma = self.schedule.draw((len(x0),), generator).to(x0.device)
        eps = gaussian(x0, generator)
        output = call_network(network, add_noise(x0, eps, sigma), sigma, labels, known)
        error = output.float() - self.parameterization.target(x0, eps, sigma).float()
        return WindowLoss(_mean_over_unknown(error.square().mean(dim=(2, 3, 4)), known), sigma)


def _mean_over_unknown(per_frame: Tensor, known: Known | None) -> Tensor:
    """(b, t) -> (b,): the mean over the frames to be made; 0 where there is none."""
    if known is None:
        return per_frame.mean(dim=1)
    unknown = known.unknown
    return torch.where(unknown, per_frame, 0.0).sum(dim=1) / unknown.sum(dim=1).clamp_min(1)
