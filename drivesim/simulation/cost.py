"""What a rollout costs, before it is made: floating-point operations of every pass, and bytes of tensors alive at once in it.

The networks are built on the meta device and called as the passes call them. This file does not know how fast a machine is or how much
memory it has.

    T frames of a window   c latent channels   h, w latent size   H, W frame size
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.diffusion.denoiser import window_denoiser
from drivesim.diffusion.frame_mask import Known, LowResolution
from drivesim.io.checkpoints import Checkpoint
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.recipes import build
from drivesim.simulation.accelerate import HEAVY, PRECISIONS
from drivesim.simulation.fill import PassSettings
from drivesim.simulation.plan import FACTOR, decode_chunks, plan_rollout
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.trace import Call, trace
from drivesim.simulation.upsample import CHOICES, UpsamplerSettings, spans

__all__ = ["Costs", "Line", "described"]


def described(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The networks of a checkpoint folder on the meta device, from what their files say of them; no weight is read."""
    with torch.device("meta"):
        return {name: build(json.loads((checkpoint.folder / f"{name}.json").read_text())["recipe"]) for name in checkpoint.networks}


@dataclass(frozen=True)
class Line:
    """Bytes alive at once as a straight line over a pass's size: windows of a batch, frames of a chunk."""

    fixed: float
    per_item: float

    def at(self, size: int) -> int:
        return round(self.fixed + self.per_item * size)


class Costs:
    """Costs of the passes of a rollout.

    Args:
        networks: by the names of a checkpoint folder, on the meta device.   model: what model.json says.
        settings: how the rollout samples.   upsampling: how it is enlarged; None = not at all.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], model: Mapping[str, Any], settings: RolloutSettings, upsampling: UpsamplerSettings | None
    ) -> None:
        self.model, self.settings, self.upsampling = model, settings, upsampling
        self.enlarger = None if upsampling is None else upsampling.network or next(name for name in CHOICES if name in networks)
        self.networks = {name: _lowered(networks[name], self._precision(name)) for name in self._loaded(networks)}
        self.autoencoder: Any = self.networks["autoencoder"]
        size = self.autoencoder.downsample
        self.frame_shape = (int(model["height"]), int(model["width"]))
        self.latent_shape = (self.autoencoder.latent_channels, *(length // size for length in self.frame_shape))
        self.window = int(self.networks["prediction"].frames)  # type: ignore[arg-type]

    def _loaded(self, networks: Mapping[str, nn.Module]) -> list[str]:
        between = ["interpolation"] if self.settings.fps > float(self.model["keyframe_fps"]) else []
        wanted = ["autoencoder", "image", "prediction", *between, *([self.enlarger] if self.enlarger else [])]
        return [name for name in wanted if name in networks]

    def _precision(self, name: str) -> str:
        own = self.upsampling.precision if self.upsampling is not None and name == self.enlarger else None
        return own or self.settings.precision

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of the weights of every network that the rollout loads."""
        return {name: sum(weight.nbytes for weight in network.parameters()) for name, network in self.networks.items()}

    # one call of a network in each pass

    @cached_property
    def image(self) -> Call:
        """The first frame."""
        return self._windows(FrameByFrame(self.networks["image"]), 1, 1)  # type: ignore[arg-type]

    @cached_property
    def keyframes(self) -> Call:
        """One window of keyframes."""
        return self._windows(self.networks["prediction"], 1, self.window)

    def interpolation(self, batch: int) -> Call:
        """Windows between ``batch`` pairs of neighbours."""
        return self._windows(self.networks["interpolation"], batch, FACTOR + 1)

    def decode(self, frames: int) -> Call:
        """A chunk of ``frames``, and what the decoder looks at around it."""
        latents = frames + 2 * int(self.autoencoder.receptive_frames)
        return trace(lambda: self.autoencoder.decode(torch.zeros(1, latents, *self.latent_shape)), self.settings.precision)

    def enlarge(self, tile: int) -> Call:
        """One window of one tile of ``tile`` small pixels, 0 = whole frames, and the whole frames that it is a piece of."""
        network, told, factor = self._enlarger, self.model[str(self.enlarger)], int(self.model[str(self.enlarger)]["known"]["factor"])
        frames = network.frames if isinstance(network, VideoUNet) else 1
        shape = [min(tile or side, side) for side in self.frame_shape]

        def call() -> Tensor:
            whole = [torch.zeros(frames, 3, *(factor * side for side in self.frame_shape)) for _ in ("noise", "result")]
            low, x = torch.zeros(1, frames, 3, *shape), torch.zeros(1, frames, 3, *(factor * side for side in shape))
            mask, level = torch.ones(1, frames, dtype=torch.bool), torch.zeros(1)
            known = LowResolution(low, mask, level, torch.zeros_like(low), float(told["known"]["detail"]))
            made = known.outward(window_denoiser(network, told["parameterization"], {}, known)(x, torch.ones(1)))
            return whole[0][0, 0, 0, 0] + made

        return trace(call, self._precision(str(self.enlarger)))

    @cached_property
    def interpolation_live(self) -> Line:
        return _line(1, self.interpolation(1).live, 3, self.interpolation(3).live)

    @cached_property
    def decode_live(self) -> Line:
        return _line(4, self.decode(4).live, 12, self.decode(12).live)

    # whole rollouts

    def flop(self, duration_s: float) -> dict[str, float]:
        """Floating-point operations of each pass of a rollout, by the names of the stopwatch."""
        settings = self.settings
        plan = plan_rollout(duration_s, settings.fps, float(self.model["keyframe_fps"]), self.window)
        pairs = sum(plan.level_frames(level) - 1 for level in range(plan.levels))
        chunks = list(decode_chunks(plan.frames, settings.decode_frames, int(self.autoencoder.receptive_frames)))
        decoded = sum(chunk.last_in - chunk.first_in for chunk in chunks)
        steps = {name: _calls(settings.of_pass(name)) for name in ("image", "keyframes", "interpolation_1")}
        result = {"image": steps["image"] * self.image.flop}
        result["keyframes"] = sum(1 for _ in plan.windows()) * steps["keyframes"] * self.keyframes.flop
        if pairs:
            result["interpolation"] = pairs * steps["interpolation_1"] * self.interpolation(1).flop
        result["decode"] = decoded / (1 + 2 * int(self.autoencoder.receptive_frames)) * self.decode(1).flop
        if self.upsampling is not None:
            result["upsampling"] = self._enlarging(plan.frames, self.upsampling)
        return result

    def _enlarging(self, frames: int, settings: UpsamplerSettings) -> float:
        network = self._enlarger
        overlap = settings.overlap if isinstance(network, VideoUNet) else 0
        stride = (network.frames if isinstance(network, VideoUNet) else 1) - overlap
        windows = max(math.ceil((frames - overlap) / stride), 1)
        tiles = math.prod(len(spans(side, settings.tile, settings.tile_overlap)) for side in self.frame_shape)
        return windows * tiles * settings.steps * self.enlarge(settings.tile).flop

    @property
    def _enlarger(self) -> VideoUNet | FrameByFrame:
        network: Any = self.networks[str(self.enlarger)]
        return network if isinstance(network, VideoUNet) else FrameByFrame(network)

    def _windows(self, network: nn.Module, batch: int, frames: int) -> Call:
        """One network call of a pass over windows of latents; what is known is told as at the start of a rollout."""

        def call() -> Tensor:
            x = torch.zeros(batch, frames, *self.latent_shape)
            known = Known(x, torch.zeros(batch, frames, dtype=torch.bool), torch.zeros(batch), x) if frames > 1 else None
            return window_denoiser(network, str(self.model["parameterization"]), {}, known)(x, torch.ones(batch))

        return trace(call, self.settings.precision)


def _calls(settings: PassSettings) -> int:
    """Network calls of a whole pass over one window, by Eq. 4."""
    return settings.steps * (1 + (settings.guidance != 1) + (settings.label_guidance != 1))


def _line(first: int, low: int, second: int, high: int) -> Line:
    per_item = (high - low) / (second - first)
    return Line(low - per_item * first, per_item)


def _lowered(network: nn.Module, precision: str) -> nn.Module:
    """As ``accelerate`` would: convolutions and linear layers in ``precision``. A copy."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, HEAVY):
            module.to(PRECISIONS[precision])
    return network
