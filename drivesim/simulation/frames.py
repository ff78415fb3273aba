"""From keyframes to finished frames of one rollout: decoding, interpolation and refinement, each an iterator over the pass before it.

Only what a later call still needs is kept, so memory does not grow with minutes. Every pass starts at an absolute position, so the frames
are those of a rollout from the beginning, to the bit, wherever it begins. Where interpolation is by motion it works on frames: keyframes
are decoded and refined before it, and nothing is left to do after it. This file does not know how keyframes are made, files or videos.

    c latent channels   h, w latent size   H, W frame size
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drivesim.errors import DrivesimError
from drivesim.labels import LabelTrack
from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.models.refiner import Refiner
from drivesim.models.video_unet import VideoUNet
from drivesim.shapes import as_bytes
from drivesim.simulation.device import Stopwatch
from drivesim.simulation.fill import Context
from drivesim.simulation.keyframes import KeyframePass
from drivesim.simulation.lane import Lane
from drivesim.simulation.plan import FACTOR, Chunk, decode_chunks
from drivesim.simulation.settings import RolloutSettings

__all__ = ["FramePasses", "Step"]


@dataclass(frozen=True)
class Step:
    """Consecutive finished frames: uint8 (n, H, W, 3) RGB, their labels, and the number of the first one in the rollout."""

    frames: np.ndarray
    labels: LabelTrack
    first_frame: int


class Networks(Protocol):
    """What makes frames of keyframes; a ``Simulator`` is one."""

    autoencoder: Autoencoder | IdentityAutoencoder
    interpolation: VideoUNet | FrameInterpolator | None
    refiner: Refiner | None
    settings: RolloutSettings
    stopwatch: Stopwatch

    def fill(
        self, stage: str, seeds: Sequence[int], windows: Sequence[int], shape: Sequence[int], labels: dict[str, Tensor],
        context: Context | None = None,
    ) -> Tensor:  # fmt: skip
        """Windows of the pass ``stage``."""
        ...


class FramePasses:
    """The passes after the keyframes of one rollout. row: its number among those that ``keyframes`` makes."""

    def __init__(self, networks: Networks, lane: Lane, keyframes: KeyframePass, row: int) -> None:
        self.networks, self.lane, self.keyframes, self.row = networks, lane, keyframes, row
        self.plan, self.settings, self.timed = lane.plan, networks.settings, networks.stopwatch.timed
        self.moved = isinstance(networks.interpolation, FrameInterpolator)

    @torch.inference_mode()
    def steps(self, first_frame: int) -> Iterator[Step]:
        """Every frame from ``first_frame`` on once, in order, as soon as it is complete.

        Raises:
            DrivesimError: a sample or a decoded frame is not finite.
        """
        reach = 0 if self.moved else self.networks.autoencoder.receptive_frames
        # moved frames are finished and wait for no neighbours: small chunks, so that the first ones are soon there
        size = min(self.settings.batch, self.settings.decode_frames) if self.moved else self.settings.decode_frames
        chunks = decode_chunks(self.plan.frames, size, reach, first_frame)
        chunk = next(chunks, None) if first_frame < self.plan.frames else None
        if chunk is None:
            return
        begin = self.plan.restart(chunk.first_in)
        pieces = self.keyframes.pieces(self.row, begin)
        if self.moved:
            pieces = self._shown(pieces, begin)
        for level in range(self.plan.levels):
            pieces = self._interpolated(pieces, level, begin * FACTOR**level)
        finish = self._finished if self.moved else self._decoded
        for one, part in self._cut(pieces, begin * FACTOR**self.plan.levels, chain([chunk], chunks)):
            first = max(one.first, first_frame)
            yield Step(finish(part, one)[first - one.first :], self.lane.labels.at(range(first, one.last), self.plan.fps), first)

    def _shown(self, pieces: Iterator[Tensor], begin: int) -> Iterator[Tensor]:
        """Keyframes, of which ``begin`` is the first to come, as frames (n, 3, H, W): each decoded and refined by itself, so that it is the
        same wherever a rollout begins."""
        for piece in pieces:
            with self.timed("decode"):
                frames = torch.cat([self.networks.autoencoder.decode(latents[None, None])[0] for latents in piece])
            yield self._refined(frames, range(begin, begin + len(frames)), self.plan.keyframe_fps, at_a_time=1)
            begin += len(frames)

    # interpolation, of latents or of frames

    def _interpolated(self, pieces: Iterator[Tensor], level: int, begin: int) -> Iterator[Tensor]:
        """What is at level + 1 in pieces, from the pieces of ``level``, of which ``begin`` is the first to come."""
        total, made, last = self.plan.level_frames(level), begin + 1, next(pieces)
        yield last
        for piece in pieces:
            ends = torch.cat([last, piece[: total - made]])
            for first in range(0, len(ends) - 1, self.settings.batch):
                count = min(self.settings.batch, len(ends) - 1 - first)
                yield self._between(ends[first : first + count + 1], made - 1 + first, level)
            made, last = made + len(ends) - 1, ends[-1:]

    def _between(self, ends: Tensor, first: int, level: int) -> Tensor:
        """(n + 1, c, h, w) neighbours of ``level``, the first one being its frame ``first`` -> (4 n, c, h, w): all that follows it."""
        count, size = len(ends) - 1, FACTOR + 1
        with self.timed("interpolation"):
            rows = FACTOR * np.arange(count)[:, None] + np.arange(size)  # neighbouring windows share their ends
            told = self.lane.told(range(FACTOR * first, FACTOR * (first + count) + 1), self.plan.level_fps(level + 1), rows)
            labels = {name: label.to(ends.device) for name, label in told.items()}
            network = self.networks.interpolation
            if isinstance(network, FrameInterpolator):
                made = network(ends[:-1], ends[1:], labels, size)
            else:
                made = self._sampled_between(ends, range(first, first + count), f"interpolation_{level + 1}", labels)
        return made[:, 1:].flatten(0, 1)

    def _sampled_between(self, ends: Tensor, numbers: range, stage: str, labels: dict[str, Tensor]) -> Tensor:
        values = ends.new_zeros(len(numbers), FACTOR + 1, *ends.shape[1:])
        values[:, 0], values[:, -1] = ends[:-1], ends[1:]
        mask = torch.zeros(values.shape[:2], dtype=torch.bool, device=ends.device)
        mask[:, [0, -1]] = True
        seeds = self.lane.seeds(stage, numbers)
        return self.networks.fill(stage, seeds, numbers, values.shape[1:], labels, Context(values, mask))

    # finished frames

    @staticmethod
    def _cut(pieces: Iterator[Tensor], begin: int, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Tensor]]:
        """What a chunk looks at, as soon as all of it exists; ``begin`` is the first to come."""
        kept, offset = next(pieces), begin  # offset .. offset + len(kept) - 1
        for chunk in chunks:
            while offset + len(kept) < chunk.last_in:
                kept = torch.cat([kept, next(pieces)])
            kept, offset = kept[chunk.first_in - offset :], chunk.first_in
            yield chunk, kept[: chunk.last_in - chunk.first_in].clone()

    def _decoded(self, latents: Tensor, chunk: Chunk) -> np.ndarray:
        """A whole chunk, whichever of its frames are wanted, refined in pieces at the same places of it: so the bits do not depend on the
        wish."""
        with self.timed("decode"):
            frames = self.networks.autoencoder.decode(latents[None], chunk.kept)[0]
        return self._finished(self._refined(frames, range(chunk.first, chunk.last), self.plan.fps, self.settings.batch), chunk)

    def _refined(self, frames: Tensor, numbers: range, fps: float, at_a_time: int) -> Tensor:
        """Frames (n, 3, H, W) with their ``numbers`` at ``fps`` -> the same refined, if there is a refiner."""
        refiner = self.networks.refiner
        if refiner is None:
            return frames
        with self.timed("refinement"):
            labels = {name: value[0].to(frames.device) for name, value in self.lane.told(numbers, fps).items()}
            pieces = [slice(first, first + at_a_time) for first in range(0, len(frames), at_a_time)]
            told = ({name: value[piece] for name, value in labels.items()} for piece in pieces)
            looks = self.settings.refine_looks
            return torch.cat([refiner.looked(frames[piece], of_it, looks) for piece, of_it in zip(pieces, told, strict=True)])

    def _finished(self, frames: Tensor, chunk: Chunk) -> np.ndarray:
        """(n, 3, H, W) in [-1, 1] -> uint8 (n, H, W, 3), if they are numbers."""
        if not torch.isfinite(frames).all():
            where = f"frames {chunk.first} to {chunk.last - 1} ({chunk.first / self.plan.fps:.1f} s)"
            raise DrivesimError(f"the networks made non-finite {where}; try --device cpu or another seed, or check the checkpoint")
        return as_bytes(frames).permute(0, 2, 3, 1).contiguous().cpu().numpy()
