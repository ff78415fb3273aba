"""Frames -> frames four times as large, as an iterator: what comes in is forgotten as soon as it is enlarged.

Windows lie at absolute frame numbers and tiles at absolute places, whatever pieces the frames arrive in; neighbours overlap and are mixed
linearly there, so no border shows. All noise is drawn by frame number, so windows that share a frame see the same noise in it, and a
stream may be taken up again at any frame. This file does not know files, labels' meaning or where frames come from.

    T frames of a window   h, w frame size   H, W = factor * (h, w)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.diffusion.samplers import SAMPLERS
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.recipes import build
from drivesim.shapes import as_bytes, as_floats
from drivesim.simulation.accelerate import accelerate, check_choices
from drivesim.simulation.device import Stopwatch
from drivesim.simulation.fill import Filler, PassSettings, draw_noise
from drivesim.simulation.settings import merged
from drivesim.simulation.simulator import Step

__all__ = ["Span", "Upsampler", "UpsamplerSettings", "spans"]

CHOICES = ("upsampler_fast", "upsampler", "upsampler_image_fast", "upsampler_image")
"""Networks that can do it, the first one that a checkpoint has being taken."""


@dataclass(frozen=True)
class UpsamplerSettings:
    """How to enlarge; a checkpoint's model.json holds the defaults under "upsampling".

    steps: network calls.   level: sigma of the noise put on the small frames, and told to the network (Sec. 3.4).
    overlap: frames that neighbouring windows share.   tile: size of tiles in small pixels, 0 = whole frames; neighbours share
    ``tile_overlap``.   network: one of CHOICES; None = the first one there is.   precision, compile: see ``accelerate``; None = as the
    rollout, or plain.

    Raises:
        UsageError: a value out of range.
    """

    steps: int = 1
    level: float = 0.05
    sampler: str = "ddim"
    overlap: int = 2
    tile: int = 0
    tile_overlap: int = 16
    network: str | None = None
    precision: str | None = None
    compile: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.overlap < 0 or self.tile < 0 or self.tile_overlap < 0:
            raise UsageError("upsampling.steps must be at least 1; overlap, tile and tile_overlap at least 0")
        if not 0 <= self.level < 1:
            raise UsageError(f"upsampling.level must lie in 0..1, not {self.level}")
        if self.tile and self.tile < 2 * self.tile_overlap:
            raise UsageError(f"upsampling.tile must be 0 or at least twice tile_overlap ({2 * self.tile_overlap}), not {self.tile}")
        if self.network is not None and self.network not in CHOICES:
            raise UsageError(f"upsampling.network must be one of {', '.join(CHOICES)}, not {self.network!r}")
        if self.sampler not in SAMPLERS:
            raise UsageError(f"upsampling.sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        check_choices("upsampling", self.precision or "float32", self.compile or "none")

    @classmethod
    def of(cls, defaults: Mapping[str, Any], **overrides: Any) -> UpsamplerSettings:
        """A checkpoint's defaults with the user's wishes on top; None = no wish.

        Raises:
            UsageError: a name that is no setting, with the nearest one, or a value out of range.
        """
        return cls(**merged("upsampling", [item.name for item in fields(cls)], defaults, overrides))


@dataclass(frozen=True)
class Span:
    """Places first .. last - 1 of an axis, and weights float32 (last - first,) that sum to 1 with the neighbours' where they overlap."""

    first: int
    last: int
    weights: Tensor


def spans(length: int, size: int, overlap: int) -> list[Span]:
    """Cover 0 .. length - 1 by spans of ``size`` at multiples of size - overlap, the last one cut short; 0 or a long size = one span.

    A rest no longer than the overlap belongs to the span before it anyway and gets none of its own. The outer third of an overlap has no
    weight: what stands next to a border that is not the picture's lacks its surroundings.
    """
    if not 0 < size < length:
        return [Span(0, length, torch.ones(length))]
    stride = size - overlap
    firsts = [first for first in range(0, length, stride) if first == 0 or length - first > overlap]
    return [_span(first, min(first + size, length), overlap, first > 0, first != firsts[-1]) for first in firsts]


def _span(first: int, last: int, overlap: int, rises: bool, falls: bool) -> Span:
    margin = overlap // 3
    ramp = (torch.arange(1 - margin, overlap - margin + 1) / (overlap - 2 * margin + 1)).clamp(0, 1)
    weights = torch.ones(last - first)
    if rises:
        weights[:overlap] *= ramp
    if falls:
        weights[len(weights) - overlap :] *= ramp.flip(0)
    return Span(first, last, weights)


class Upsampler:
    """A checkpoint's upsampler made ready on one device. ``stopwatch`` gains the seconds under "upsampling".

    seed: of all noise.

    Raises:
        DrivesimError: the checkpoint has no upsampler, or not the one that settings name.
        UsageError: windows that overlap by half of their length or more.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: UpsamplerSettings, device: torch.device | str = "cpu", seed: int = 0,
        stopwatch: Stopwatch | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.seed, self.device = settings, seed, torch.device(device)
        self.stopwatch = stopwatch or Stopwatch(self.device)
        self.name = _choice(checkpoint, settings.network)
        told = checkpoint.settings[self.name]
        self.factor, self.detail = int(told["known"]["factor"]), float(told["known"]["detail"])
        self.noise = float(told.get("noise", 1.0))
        self.fill = Filler(build(told["schedule"]), str(told["parameterization"]), self.device)
        network = accelerate(checkpoint.network(self.name), settings.precision or "float32", settings.compile or "none")
        self.network = _video(network).to(self.device)
        self.frames = self.network.frames if isinstance(self.network, VideoUNet) else 1
        self.overlap = settings.overlap if self.frames > 1 else 0
        if 2 * self.overlap >= self.frames > 1:
            raise UsageError(f"upsampling.overlap must be below half of a window's {self.frames} frames, not {self.overlap}")
        image = self.network.image
        self.grain = math.lcm(image.stem * 2 ** (image.levels - 1), self.factor) // self.factor
        """Small frames are filled up to multiples of this many pixels."""
        self._pass = PassSettings(settings.sampler, settings.steps, context_level=settings.level)

    def seeded(self, seed: int) -> Upsampler:
        """The same networks with other noise."""
        other = copy(self)
        other.seed = seed
        return other

    @property
    def stride(self) -> int:
        """Frames from one window to the next."""
        return self.frames - self.overlap

    def lead(self, first_frame: int) -> int:
        """The first small frame that must be there to make ``first_frame`` and all after it."""
        return max(first_frame // self.stride - (first_frame % self.stride < self.overlap), 0) * self.stride

    def steps(self, steps: Iterator[Step], first_frame: int = 0) -> Iterator[Step]:
        """Enlarge a rollout's steps from ``first_frame`` on; ``steps`` begin at ``lead(first_frame)``. Labels stay as they are."""
        waiting: list[Step] = []

        def small() -> Iterator[np.ndarray]:
            for step in steps:
                waiting.append(step)
                yield step.frames

        large: list[np.ndarray] = []
        for frame in self.stream(small(), self.lead(first_frame)):
            large.append(frame)
            step = waiting[0]
            if len(large) < len(step.frames):
                continue
            waiting.pop(0)
            skipped = max(first_frame - step.first_frame, 0)
            if skipped < len(large):
                labels = step.labels.take(range(skipped, len(large)), step.labels.fps) if skipped else step.labels
                yield Step(np.stack(large[skipped:]), labels, step.first_frame + skipped)
            large = []

    @torch.inference_mode()
    def stream(self, pieces: Iterator[np.ndarray], first_frame: int = 0) -> Iterator[np.ndarray]:
        """Enlarge small frames that come in pieces of any length.

        Args:
            pieces: uint8 (n, h, w, 3). first_frame: absolute number of the first of them, a multiple of ``stride``.

        Yields: every frame in order, uint8 (H, W, 3), as soon as it is complete.

        Raises:
            DrivesimError: frames that change their size, or a sample that is not finite.
        """
        kept: list[np.ndarray] = []
        tail: Tensor | None = None
        first, more = first_frame, True
        while more:
            while more and len(kept) < self.frames:
                piece = next(pieces, None)
                more = piece is not None
                kept += [] if piece is None else _same_size(kept, list(piece))
            while len(kept) >= self.frames or (not more and len(kept) > (0 if tail is None else self.overlap)):
                made = self._window(kept[: self.frames], first)
                done = self.stride if more or len(kept) > self.frames else len(made)
                yield from self._mixed(made, tail, done)
                tail, kept, first = made[done:], kept[done:], first + done
        if tail is not None:
            yield from as_bytes(tail).permute(0, 2, 3, 1).cpu().numpy()

    def _mixed(self, made: Tensor, tail: Tensor | None, done: int) -> Iterator[np.ndarray]:
        """The first ``done`` frames of a window, the first ones mixed with what the window before it made of them."""
        if tail is not None and len(tail):
            share = (torch.arange(1, len(tail) + 1, device=made.device) / (len(tail) + 1))[:, None, None, None]
            made[: len(tail)].lerp_(tail, 1 - share)
        yield from as_bytes(made[:done]).permute(0, 2, 3, 1).cpu().numpy()

    def _window(self, frames: list[np.ndarray], first: int) -> Tensor:
        """Up to T small frames, the first one being number ``first`` -> float (n, 3, H, W). Missing ones repeat the last."""
        with self.stopwatch.timed("upsampling"):
            count = len(frames)
            frames = frames + [frames[-1]] * (self.frames - count)
            small = as_floats(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)).to(self.device)
            height, width = small.shape[-2:]
            small = nnf.pad(small, (0, -width % self.grain, 0, -height % self.grain), mode="replicate")
            large = self._tiles(small[None], range(first, first + self.frames))[0]
            if not torch.isfinite(large).all():
                last = first + count - 1
                raise DrivesimError(f"the upsampler made non-finite frames {first} to {last}; try --device cpu or another seed")
            return large[:count, :, : height * self.factor, : width * self.factor].clone()

    def _tiles(self, small: Tensor, numbers: range) -> Tensor:
        """(1, T, 3, h, w) -> (1, T, 3, H, W), tile by tile."""
        factor, (height, width) = self.factor, small.shape[-2:]
        size = (3, height * factor, width * factor)
        noise = self.noise * self._noise(numbers, size, 0) if self.noise else small.new_zeros(1, len(numbers), *size)
        low_noise = self._noise(numbers, (3, height, width), 1)
        tile, overlap = (_up(size, self.grain) for size in (self.settings.tile, self.settings.tile_overlap))
        rows, columns = (spans(length, tile, overlap) for length in (height, width))
        if len(rows) == len(columns) == 1:
            return self.fill.enlarge(self.network, small, noise, low_noise, self.detail, self._pass)
        large = torch.zeros_like(noise)
        for row in rows:
            for column in columns:
                small_place = (..., slice(row.first, row.last), slice(column.first, column.last))
                place = (..., slice(row.first * factor, row.last * factor), slice(column.first * factor, column.last * factor))
                made = self.fill.enlarge(
                    self.network, small[small_place], noise[place], low_noise[small_place], self.detail, self._pass
                )
                weights = row.weights[:, None] * column.weights
                large[place] += made * _enlarged(weights, factor).to(made)
        return large

    def _noise(self, numbers: range, shape: tuple[int, ...], part: int) -> Tensor:
        return draw_noise([self.seed] * len(numbers), "upsampling", numbers, shape, part)[None].to(self.device)


def _choice(checkpoint: Checkpoint, wanted: str | None) -> str:
    found = [name for name in CHOICES if name in checkpoint.networks and name in checkpoint.settings]
    if wanted is None and found:
        return found[0]
    if wanted in found:
        return str(wanted)
    raise DrivesimError(
        f"{checkpoint.folder}: holds no {wanted or 'upsampler'}; train it with: drivesim train experiment=mini/6_upsampler_image "
        f"data=CLIPS out={checkpoint.folder}, then mini/6_upsampler and mini/6_upsampler_fast"
    )


def _video(network: nn.Module) -> VideoUNet | FrameByFrame:
    """The exported network behind the signature of video networks."""
    if isinstance(network, VideoUNet):
        return network
    if isinstance(network, ImageUNet):
        return FrameByFrame(network)
    raise DrivesimError(f"an upsampler must be a VideoUNet or an ImageUNet, not a {type(network).__name__}; export it again")


def _same_size(kept: list[np.ndarray], frames: list[np.ndarray]) -> list[np.ndarray]:
    for frame in frames:
        if kept and frame.shape != kept[0].shape:
            before, now = kept[0].shape[:2], frame.shape[:2]
            raise DrivesimError(f"the picture changes its size from {before} to {now}; upsample the parts one by one")
    return frames


def _up(size: int, grain: int) -> int:
    return -(-size // grain) * grain


def _enlarged(weights: Tensor, factor: int) -> Tensor:
    return weights.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
