"""What a rollout costs, before it is made: floating-point operations of every pass, and bytes of tensors alive at once in it.

The networks are built on the meta device and called as the passes call them. This file does not know how fast a machine is or how much
memory it has.

    T frames of a window   c latent channels   h, w latent size   H, W frame size
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.diffusion.denoiser import window_denoiser
from drivesim.diffusion.frame_mask import Known, LowResolution
from drivesim.io.checkpoints import Checkpoint
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.recipes import build
from drivesim.simulation.accelerate import HEAVY, PRECISIONS
from drivesim.simulation.plan import FACTOR, decode_chunks, plan_rollout
from drivesim.simulation.quality import pass_networks
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.trace import Call, trace
from drivesim.simulation.upsample import CHOICES, UpsamplerSettings, spans

__all__ = ["Costs", "described"]

AGAIN = 0.6
"""Share of a picture's rows that looks after the first see, those around boxes: 0.55 to 0.69 in two minutes each of five rollouts of
``mini`` (by day and night, 2 to 12 vehicles). A guess, as no labels are known here."""


def described(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """The networks of a checkpoint folder on the meta device, from what their files say of them; no weight is read."""
    with torch.device("meta"):
        return {name: build(json.loads((checkpoint.folder / f"{name}.json").read_text())["recipe"]) for name in checkpoint.networks}


class Costs:
    """Costs of the passes of a rollout.

    Args:
        networks: by the names of a checkpoint folder, on the meta device.   model: what model.json says.
        settings: how the rollout samples.   upsampling: how it is enlarged; None = not at all.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], model: Mapping[str, Any], settings: RolloutSettings, upsampling: UpsamplerSettings | None
    ) -> None:
        self.model, self.settings, self.upsampling, self._given = model, settings, upsampling, networks
        self._known: dict[Any, Call] = {}
        self.serving = pass_networks(model, networks, settings.quality)
        self.enlarger = None if upsampling is None else upsampling.network or next(name for name in CHOICES if name in networks)
        self.networks = {name: _lowered(networks[name], self._precision(name)) for name in self._loaded(networks)}
        self.autoencoder: Any = self.networks["autoencoder"]
        size = int(self.autoencoder.downsample)  # type: ignore[arg-type]
        self.frame_shape = (int(model["height"]), int(model["width"]))
        channels = int(self.autoencoder.latent_channels)  # type: ignore[arg-type]
        self.latent_shape = (channels, *(length // size for length in self.frame_shape))
        self.window = int(self.networks[self.serving["keyframes"].name].frames)  # type: ignore[arg-type]

    def resized(self, settings: RolloutSettings, upsampling: UpsamplerSettings | None) -> Costs:
        """The same networks with other sizes of batch, chunk and tile, or without upsampling; what has been traced is not traced again."""
        other = copy.copy(self)
        other.settings, other.upsampling = settings, upsampling
        if upsampling is None and self.enlarger is not None:
            other.enlarger, other.networks = None, {name: value for name, value in self.networks.items() if name != self.enlarger}
        return other

    def lowered(self, precision: str) -> Costs:
        """The same rollout with networks in ``precision``, where the upsampler has none of its own."""
        return self if precision == self.settings.precision else Costs(
            self._given, self.model, replace(self.settings, precision=precision), self.upsampling
        )  # fmt: skip

    def _loaded(self, networks: Mapping[str, nn.Module]) -> list[str]:
        passes = [kind for kind in self.serving if kind != "interpolation" or self.interpolates]
        wanted = ["autoencoder", *(self.serving[kind].name for kind in passes), *([self.enlarger] if self.enlarger else [])]
        wanted += [name for kind in passes if (name := self._worse(kind)) is not None]
        wanted += ["refiner"] if self.settings.refine else []
        return [name for name in wanted if name in networks]

    def _precision(self, name: str) -> str:
        own = self.upsampling.precision if self.upsampling is not None and name == self.enlarger else None
        return own or self.settings.precision

    @property
    def interpolates(self) -> bool:
        """Are there frames between keyframes?"""
        return self.settings.fps > float(self.model["keyframe_fps"])

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of the weights of every network that the rollout loads."""
        return {name: sum(weight.nbytes for weight in network.parameters()) for name, network in self.networks.items()}

    @property
    def originals(self) -> int:
        """Bytes of the float32 weights of networks that run in another format."""
        lowered = [network for name, network in self.networks.items() if self._precision(name) != "float32"]
        return sum(4 * weight.numel() for network in lowered for weight in network.parameters())

    # one call of a network in each pass

    def _worse(self, kind: str) -> str | None:
        """Name of the network that autoguidance leads away from in a pass, where there is one and it is wanted."""
        serving = self.serving[kind]
        return serving.worse if serving.settings(self.settings, kind).autoguidance != 1 else None

    def image(self) -> Call:
        """The first frame."""
        name = self.serving["image"].name
        return self._windows(name, 1, self.window if isinstance(self.networks[name], VideoUNet) else 1)

    def keyframes(self) -> Call:
        """One window of keyframes."""
        return self._windows(self.serving["keyframes"].name, 1, self.window)

    def interpolation(self, batch: int = 1) -> Call:
        """Windows between ``batch`` pairs of neighbours."""
        name = self.serving["interpolation"].name
        network = self.networks[name]
        if not isinstance(network, FrameInterpolator):
            return self._windows(name, batch, FACTOR + 1)
        ends = (batch, 3, *self.frame_shape)
        return self._once((name, batch), lambda: network(torch.zeros(ends), torch.zeros(ends), None, FACTOR + 1))

    @property
    def moves(self) -> bool:
        """Interpolation moves frames: keyframes are decoded one by one, and nothing after them."""
        return self.interpolates and isinstance(self.networks[self.serving["interpolation"].name], FrameInterpolator)

    def decode(self, frames: int = 1) -> Call:
        """A chunk of ``frames``, and what the decoder looks at around it."""
        reach = 0 if self.moves else int(self.autoencoder.receptive_frames)
        latents = (1, reach + frames + reach, *self.latent_shape)
        return self._once(("decode", frames), lambda: self.autoencoder.decode(torch.zeros(latents), slice(reach, reach + frames)))

    @property
    def refines(self) -> bool:
        """Finished frames go through a refiner."""
        return "refiner" in self.networks

    def refinement(self, frames: int = 1) -> Call:
        """``frames`` finished frames."""
        shape = (frames, 3, *self.frame_shape)
        return self._once(("refiner", frames), lambda: self.networks["refiner"](torch.zeros(shape)))

    def enlarge(self, tile: int) -> Call:
        """One window of one tile of ``tile`` small pixels, 0 = whole frames, and the whole frames that it is a piece of."""
        network, told, factor = self._enlarger, self.model[str(self.enlarger)], self._factor
        frames = network.frames if isinstance(network, VideoUNet) else 1
        shape = [min(tile or side, side) for side in self.frame_shape]

        def call() -> Tensor:
            whole = [torch.zeros(frames, 3, *(factor * side for side in self.frame_shape)) for _ in ("noise", "result")]
            low, x = torch.zeros(1, frames, 3, *shape), torch.zeros(1, frames, 3, *(factor * side for side in shape))
            mask, level = torch.ones(1, frames, dtype=torch.bool), torch.zeros(1)
            known = LowResolution(low, mask, level, torch.zeros_like(low), float(told["known"]["detail"]))
            made = known.outward(window_denoiser(network, told["parameterization"], {}, known)(x, torch.ones(1)))
            return whole[0][0, 0, 0, 0] + made

        return self._once((str(self.enlarger), *shape), call)

    def interpolation_live(self, batch: int) -> int:
        """Bytes alive at once, from the straight line through two batches."""
        return _line((1, self.interpolation(1).live), (3, self.interpolation(3).live), batch)

    def batch_live(self, batch: int) -> int:
        """Bytes alive at once in the passes that ``batch`` is the size of."""
        interpolating = self.interpolation_live(batch) if self.interpolates else 0
        return max(interpolating, self.refinement_live(batch) if self.refines else 0)

    def refinement_live(self, batch: int) -> int:
        """Bytes alive at once, from the straight line through two batches."""
        return _line((1, self.refinement(1).live), (3, self.refinement(3).live), batch)

    def decode_live(self, frames: int) -> int:
        """Bytes alive at once in a chunk; no straight line, because the last levels take some frames at a time."""
        return self.decode(1 if self.moves else frames).live

    def live(self) -> int:
        """Bytes alive at once in the pass that needs most, with the sizes of the settings."""
        passes = [self.image().live, self.keyframes().live, self.decode_live(self.settings.decode_frames)]
        passes.append(self.batch_live(self.settings.batch))
        return max(passes + ([self.enlarge(self.upsampling.tile).live] if self.upsampling is not None else []))

    def waiting(self, frames: int | None = None) -> int:
        """Bytes of finished frames between the passes and the disk, as 8-bit pixels in main memory: a chunk, and its copy.

        frames: of a chunk; None = those of the settings.
        """
        return 2 * (frames or self.settings.decode_frames) * 3 * math.prod(self._factor * side for side in self.frame_shape)

    @property
    def _factor(self) -> int:
        return 1 if self.enlarger is None else int(self.model[self.enlarger]["known"]["factor"])

    # whole rollouts

    def flop(self, duration_s: float) -> dict[str, float]:
        """Floating-point operations of each pass of a rollout, by the names of the stopwatch."""
        settings = self.settings
        plan = plan_rollout(duration_s, settings.fps, float(self.model["keyframe_fps"]), self.window)
        pairs = sum(plan.level_frames(level) - 1 for level in range(plan.levels))
        result = {"image": self._sampled("image", self.image(), 1)}
        result["keyframes"] = sum(1 for _ in plan.windows()) * self._sampled("keyframes", self.keyframes(), self.window)
        if pairs:
            result["interpolation"] = pairs * self._sampled("interpolation", self.interpolation())
        result["decode"] = self._decoding(plan.keyframes if self.moves else plan.frames)
        if self.refines:
            refined = plan.keyframes if self.moves else plan.frames  # the others are moved from refined ones
            result["refinement"] = refined * (1 + AGAIN * (settings.refine_looks - 1)) * self.refinement().flop
        if self.upsampling is not None:
            result["upsampling"] = self._enlarging(plan.frames, self.upsampling)
        return result

    def _sampled(self, kind: str, call: Call, frames: int = 0) -> float:
        """Operations of a whole pass over one window of ``frames``, by Eq. 4 and with autoguidance."""
        how, worse = self.serving[kind].settings(self.settings, kind), self._worse(kind)
        calls = 1 + (how.guidance != 1) + (how.label_guidance != 1)
        return how.steps * (calls * call.flop + (0 if worse is None else self._windows(worse, 1, frames).flop))

    def _decoding(self, frames: int) -> float:
        """Every frame once, and at the borders of chunks what is only looked at: half of that of ``decode`` on each side, where there is
        something."""
        if self.moves:
            return frames * self.decode(1).flop
        reach = int(self.autoencoder.receptive_frames)
        chunks = decode_chunks(frames, self.settings.decode_frames, reach)
        sides = sum(chunk.last_in - chunk.last + chunk.first - chunk.first_in for chunk in chunks) / max(reach, 1)
        each = self.decode(2).flop - self.decode(1).flop
        return frames * each + sides / 2 * (self.decode(1).flop - each)

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

    def _windows(self, name: str, batch: int, frames: int) -> Call:
        """One call of a network over windows of latents; what is known is told as at the start of a rollout."""
        network: Any = self.networks[name]
        network = network if isinstance(network, VideoUNet) else FrameByFrame(network)

        def call() -> Tensor:
            x = torch.zeros(batch, frames, *self.latent_shape)
            known = Known(x, torch.zeros(batch, frames, dtype=torch.bool), torch.zeros(batch), x) if frames > 1 else None
            return window_denoiser(network, "velocity", {}, known)(x, torch.ones(batch))  # each costs the same

        return self._once((name, batch, frames), call)

    def _once(self, key: tuple[Any, ...], call: Callable[[], Any]) -> Call:
        """``call`` traced; the first element of ``key`` names the network, "decode" the autoencoder."""
        if key not in self._known:
            self._known[key] = trace(call, self._precision(str(key[0])))
        return self._known[key]


def _line(first: tuple[int, int], second: tuple[int, int], place: int) -> int:
    """Where the straight line through two points (size, bytes) is at ``place``."""
    (near, low), (far, high) = first, second
    return round(low + (high - low) * (place - near) / (far - near))


def _lowered(network: nn.Module, precision: str) -> nn.Module:
    """As ``accelerate`` would: convolutions and linear layers in ``precision``. A copy."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, HEAVY):
            module.to(PRECISIONS[precision])
    return network
