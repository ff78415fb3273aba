"""Scenario -> iterator of frames and labels.

``Simulator.run`` walks the plan: a first frame, keyframe windows (S = 1, then S = 2 again and again), interpolation between neighbours,
decoding in overlapping chunks; where interpolation is by motion it works on frames, so keyframes are decoded before it, and nothing after
it. Where the checkpoint holds a refiner, every finished frame goes through it. Each pass is an iterator over the one before it; context
stays in latents, and only what a later call still needs is kept, so memory does not grow with minutes. A rollout may begin at any frame:
keyframes come from a journal where it has them, and every later pass starts at an absolute position, so the frames are those of a rollout
from the beginning, to the bit. This file does not know files, videos or progress bars.

    K keyframes   T frames of a window   c latent channels   h, w latent size   H, W frame size
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.labels import LabelTrack, Scenario
from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.models.refiner import Refiner
from drivesim.models.unet import ImageNetwork
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.shapes import as_bytes, as_floats
from drivesim.simulation.accelerate import accelerate
from drivesim.simulation.device import Stopwatch, pick_device
from drivesim.simulation.fill import Context
from drivesim.simulation.keyframes import KeyframePass
from drivesim.simulation.lane import KeyframeJournal, Lane, NoJournal, in_turn
from drivesim.simulation.plan import FACTOR, Chunk, RolloutPlan, decode_chunks, plan_rollout
from drivesim.simulation.quality import pass_networks
from drivesim.simulation.scenes.sampling import ScenarioLabels
from drivesim.simulation.settings import RolloutSettings

__all__ = ["Drive", "KeyframeJournal", "Simulator", "Step", "Stopwatch", "pick_device"]


@dataclass(frozen=True)
class Step:
    """Consecutive finished frames: uint8 (n, H, W, 3) RGB, their labels, and the number of the first one in the rollout."""

    frames: np.ndarray
    labels: LabelTrack
    first_frame: int


After = Callable[[int, Iterator[Step]], Iterator[Step]]


class Simulator:
    """A checkpoint made ready to roll out on one device. ``stopwatch`` holds the seconds per pass of everything run so far."""

    def __init__(self, checkpoint: Checkpoint, settings: RolloutSettings, device: torch.device | str = "cpu") -> None:
        self.checkpoint, self.settings, self.device = checkpoint, settings, torch.device(device)
        self.stopwatch = Stopwatch(self.device)
        model = checkpoint.settings
        self.height, self.width = int(model["height"]), int(model["width"])
        self.keyframe_fps = float(model["keyframe_fps"])
        self.networks = pass_networks(model, list(checkpoint.networks), settings.quality)
        """Pass ("image", "keyframes", "interpolation") -> what serves it."""
        between = settings.fps > self.keyframe_fps
        self.how = {kind: one.settings(settings, kind) for kind, one in self.networks.items() if between or kind != "interpolation"}
        """Pass that there is -> how it samples."""
        checkpoint.demand(["autoencoder", *(self.networks[kind].name for kind in self.how)])
        self.autoencoder: Autoencoder | IdentityAutoencoder = self._network("autoencoder", Autoencoder, IdentityAutoencoder)
        self.prediction: VideoUNet = self._network(self.networks["keyframes"].name, VideoUNet)
        opens = self.networks["image"].name == self.networks["keyframes"].name
        self.image = self.prediction if opens else FrameByFrame(self._network(self.networks["image"].name, ImageNetwork))
        led = {kind: self.networks[kind].worse for kind, how in self.how.items() if how.autoguidance != 1}
        worse = {kind: self._network(name, ImageNetwork, VideoUNet) for kind, name in led.items() if name is not None}
        self.worse = {kind: network if isinstance(network, VideoUNet) else FrameByFrame(network) for kind, network in worse.items()}
        """Pass -> what autoguidance leads away from, where it is wanted."""
        self.interpolation: VideoUNet | FrameInterpolator | None = (
            self._network(self.networks["interpolation"].name, VideoUNet, FrameInterpolator) if between else None
        )
        self.refiner: Refiner | None = self._network("refiner", Refiner) if settings.refine and "refiner" in checkpoint.networks else None
        size = self.autoencoder.downsample
        self.latent_shape = (self.autoencoder.latent_channels, self.height // size, self.width // size)

    def _network(self, name: str, *kinds: type[nn.Module]) -> Any:
        network = self.checkpoint.network(name)
        if not isinstance(network, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise DrivesimError(f"{self.checkpoint.folder / name}: holds a {type(network).__name__}, not a {wanted}; export it again")
        return accelerate(network, self.settings.precision, self.settings.compile).to(self.device)

    def fill(
        self, stage: str, seeds: Sequence[int], windows: Sequence[int], shape: Sequence[int], labels: dict[str, Tensor],
        context: Context | None = None,
    ) -> Tensor:  # fmt: skip
        """Windows of the pass ``stage`` by the network that serves it, sampled as the settings say; otherwise as ``Filler``."""
        kind = stage.partition("_")[0]
        network = {"image": self.image, "keyframes": self.prediction, "interpolation": self.interpolation}[kind]
        if network is None:
            raise DrivesimError("this simulator was built for keyframes only")
        if isinstance(network, FrameInterpolator):
            raise DrivesimError(f"the {kind} network of this checkpoint moves frames, it makes no latents")
        fill = self.networks[kind].filler(self.device)
        return fill(network, stage, seeds, windows, shape, labels, self.how[kind], context, self.worse.get(kind))

    def passes(self) -> dict[str, dict[str, Any]]:
        """Pass -> the network that serves it, its sampler and network calls a window, for people and rollout.json."""
        names = {kind: network.name for kind, network in self.networks.items()}
        samplers = {kind: how.sampler for kind, how in self.how.items()}
        if isinstance(self.interpolation, FrameInterpolator):
            samplers["interpolation"] = "motion"
        serving = {kind: {"network": names[kind], "sampler": samplers[kind], "steps": how.steps} for kind, how in self.how.items()}
        looks = {"network": "refiner", "sampler": "none", "steps": self.settings.refine_looks}
        return serving if self.refiner is None else {**serving, "refinement": looks}

    def plan(self, scenario: Scenario, given: int = 1) -> RolloutPlan:
        """The integers of a rollout of ``scenario``; given: keyframes that it starts from.

        Raises:
            UsageError: the frame rate is no rung of the ladder, or the duration holds no frame.
        """
        return plan_rollout(scenario.duration_s, self.settings.fps, self.keyframe_fps, self.prediction.frames, given)

    def labels(self, scenario: Scenario) -> ScenarioLabels:
        """The labels of ``scenario`` as ``run`` gives them out: those of any frames, without making pictures."""
        plan = self.plan(scenario)
        return ScenarioLabels(scenario, last_s=(plan.frames - 1) / plan.fps)

    def run(
        self, scenario: Scenario, start: np.ndarray | None = None, *, first_frame: int = 0, journal: KeyframeJournal | None = None
    ) -> Iterator[Step]:  # fmt: skip
        """Drive.

        Args:
            scenario: what should happen; its seed fixes all noise.
            start: uint8 (H, W, 3), frame 0 of the rollout, or (n, H, W, 3), n <= 2, the keyframes up to frame 0.
            first_frame: the frame to begin at; earlier ones are not made, unless a window or chunk holds them beside later ones.
            journal: of this rollout. What it has is not computed; what is computed is saved before any frame that depends on it comes.

        Yields: every frame from ``first_frame`` on once, in order, as soon as it is complete.

        Raises:
            UsageError: a negative seed, or a start of another size (at the call, before any work).
            DrivesimError: a sample or a decoded frame is not finite.
        """
        lane = self._lane(Drive(scenario, start, journal))
        return _Run(self, lane, self._keyframes([lane]), 0).steps(first_frame)

    def run_many(self, drives: Sequence[Drive], after: After | None = None) -> Iterator[tuple[int, Step]]:
        """Drive several scenarios side by side: one network call makes a window of keyframes of each.

        after: what is done to the steps of each of them, (number in ``drives``, steps) -> steps.

        Yields: (number in ``drives``, step): of every rollout in turn, as ``run`` yields them, until all are through.

        Raises:
            As ``run``.
        """
        lanes = [self._lane(drive) for drive in drives]
        keyframes = self._keyframes(lanes)
        runs = [_Run(self, lane, keyframes, row).steps(0) for row, lane in enumerate(lanes)]
        return in_turn(runs if after is None else [after(row, steps) for row, steps in enumerate(runs)])

    def _keyframes(self, lanes: Sequence[Lane]) -> KeyframePass:
        opening = self.image.frames if isinstance(self.image, VideoUNet) else 1
        timed, anchor = self.stopwatch.timed, self.settings.anchor
        return KeyframePass(lanes, self.fill, self._encoded, self.latent_shape, self.device, timed, opening, anchor)

    def _encoded(self, shots: np.ndarray) -> Tensor:
        frames = as_floats(torch.from_numpy(np.ascontiguousarray(shots))).permute(0, 3, 1, 2)
        return self.autoencoder.encode(frames.to(self.device))

    def _lane(self, drive: Drive) -> Lane:
        scenario, start = drive.scenario, drive.start
        if scenario.seed < 0:
            raise UsageError(f"seed must be a whole number from 0, not {scenario.seed}")
        shots = None if start is None else start.reshape(-1, *start.shape[-3:])
        if shots is not None and (shots.dtype != np.uint8 or len(shots) > 2 or shots.shape[1:] != (self.height, self.width, 3)):
            raise UsageError(f"a start must be one or two uint8 frames of {self.height}x{self.width}x3, not {shots.dtype} {shots.shape}")
        plan = self.plan(scenario, 1 if shots is None else len(shots))
        return Lane(scenario, plan, self.labels(scenario), shots, drive.journal or NoJournal(), self.settings.max_boxes)


@dataclass(frozen=True)
class Drive:
    """One of the rollouts that ``Simulator.run_many`` makes; see ``Simulator.run``."""

    scenario: Scenario
    start: np.ndarray | None = None
    journal: KeyframeJournal | None = None


class _Run:
    """What comes after the keyframes of one rollout: the passes, each an iterator over the pass before it."""

    def __init__(self, simulator: Simulator, lane: Lane, keyframes: KeyframePass, row: int) -> None:
        self.simulator, self.lane, self.keyframes, self.row = simulator, lane, keyframes, row
        self.plan, self.settings, self.timed = lane.plan, simulator.settings, simulator.stopwatch.timed

    @torch.inference_mode()
    def steps(self, first_frame: int) -> Iterator[Step]:
        moved = isinstance(self.simulator.interpolation, FrameInterpolator)
        reach = 0 if moved else self.simulator.autoencoder.receptive_frames
        # moved frames wait for no neighbours: a chunk is what is refined at a time, so that the first frames are soon there
        size = min(self.settings.batch, self.settings.decode_frames) if moved else self.settings.decode_frames
        chunks = decode_chunks(self.plan.frames, size, reach, first_frame)
        chunk = next(chunks, None) if first_frame < self.plan.frames else None
        if chunk is None:
            return
        begin = self.plan.restart(chunk.first_in)
        pieces = self.keyframes.pieces(self.row, begin)
        if moved:
            pieces = self._shown(pieces)
        for level in range(self.plan.levels):
            pieces = self._interpolated(pieces, level, begin * FACTOR**level)
        finish = self._finished if moved else self._decoded
        for one, part in self._cut(pieces, begin * FACTOR**self.plan.levels, chain([chunk], chunks)):
            first = max(one.first, first_frame)
            yield Step(finish(part, one)[first - one.first :], self.lane.labels.at(range(first, one.last), self.plan.fps), first)

    def _shown(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """Keyframes as frames (n, 3, H, W): each decoded by itself, so that it is the same wherever a rollout begins."""
        for piece in pieces:
            with self.timed("decode"):
                frames = torch.cat([self.simulator.autoencoder.decode(latents[None, None])[0] for latents in piece])
            yield frames

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
            network = self.simulator.interpolation
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
        return self.simulator.fill(stage, seeds, numbers, values.shape[1:], labels, Context(values, mask))

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
        with self.timed("decode"):
            frames = self.simulator.autoencoder.decode(latents[None], chunk.kept)[0]
        return self._finished(frames, chunk)

    def _finished(self, frames: Tensor, chunk: Chunk) -> np.ndarray:
        """(n, 3, H, W) in [-1, 1] -> refined if there is a refiner, as uint8 (n, H, W, 3), if they are numbers."""
        if self.simulator.refiner is not None:
            frames = self._refined(self.simulator.refiner, frames, chunk)
        if not torch.isfinite(frames).all():
            where = f"frames {chunk.first} to {chunk.last - 1} ({chunk.first / self.plan.fps:.1f} s)"
            raise DrivesimError(f"the networks made non-finite {where}; try --device cpu or another seed, or check the checkpoint")
        return as_bytes(frames).permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _refined(self, refiner: Refiner, frames: Tensor, chunk: Chunk) -> Tensor:
        """A whole chunk, whichever of its frames are wanted, in pieces at the same places of it: so the bits do not depend on the wish."""
        told, looks = self.lane.told(range(chunk.first, chunk.last), self.plan.fps), self.settings.refine_looks
        with self.timed("refinement"):
            labels = {name: value[0].to(frames.device) for name, value in told.items()}
            pieces = [slice(first, first + self.settings.batch) for first in range(0, len(frames), self.settings.batch)]
            seen = (refiner.looked(frames[piece], {name: value[piece] for name, value in labels.items()}, looks) for piece in pieces)
            return torch.cat(list(seen))
