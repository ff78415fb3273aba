"""Scenario -> iterator of frames and labels.

``Simulator.run`` walks the plan: a first frame, keyframe windows (S = 1, then S = 2 again and again), interpolation between neighbours,
decoding in overlapping chunks. Each pass is an iterator over the one before it; context stays in latents, and only the latents that a
later call still needs are kept, so memory does not grow with minutes. This file does not know files, videos or progress bars.

    K keyframes   T frames of a window   c latent channels   h, w latent size   H, W frame size
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.labels import LabelTrack, Scenario
from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.models.unet import ImageNetwork
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.recipes import build
from drivesim.shapes import as_bytes, as_floats
from drivesim.simulation.fill import Context, Filler
from drivesim.simulation.plan import FACTOR, Chunk, RolloutPlan, Window, decode_chunks, plan_rollout
from drivesim.simulation.scenarios import ScenarioLabels
from drivesim.simulation.settings import RolloutSettings

__all__ = ["Simulator", "Step", "Stopwatch", "pick_device"]


@dataclass(frozen=True)
class Step:
    """Consecutive finished frames: uint8 (n, H, W, 3) RGB, their labels, and the number of the first one in the rollout."""

    frames: np.ndarray
    labels: LabelTrack
    first_frame: int


@dataclass
class Stopwatch:
    """Seconds of work per pass."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


def pick_device(name: str = "auto") -> torch.device:
    """"auto" = CUDA where there is one, else the CPU.

    Raises:
        UsageError: the named device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device must be auto, cpu or cuda, not {name!r}") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device {name} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; "
                         "use --device cpu")  # fmt: skip
    return device


class Simulator:
    """A checkpoint made ready to roll out on one device. ``stopwatch`` holds the seconds per pass of everything run so far."""

    def __init__(self, checkpoint: Checkpoint, settings: RolloutSettings, device: torch.device | str = "cpu") -> None:
        self.checkpoint, self.settings, self.device = checkpoint, settings, torch.device(device)
        self.stopwatch = Stopwatch(self.device)
        model = checkpoint.settings
        self.height, self.width = int(model["height"]), int(model["width"])
        self.keyframe_fps = float(model["keyframe_fps"])
        self.schedule = build(model["schedule"])
        self.autoencoder: Autoencoder | IdentityAutoencoder = self._network("autoencoder", Autoencoder, IdentityAutoencoder)
        self.image = FrameByFrame(self._network("image", ImageNetwork))
        self.prediction: VideoUNet = self._network("prediction", VideoUNet)
        self.interpolation: VideoUNet | None = self._network("interpolation", VideoUNet) if settings.fps > self.keyframe_fps else None
        size = self.autoencoder.downsample
        self.latent_shape = (self.autoencoder.latent_channels, self.height // size, self.width // size)

    def _network(self, name: str, *kinds: type[nn.Module]) -> Any:
        network = self.checkpoint.network(name)
        if not isinstance(network, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise DrivesimError(f"{self.checkpoint.folder / name}: holds a {type(network).__name__}, not a {wanted}; export it again")
        return network.to(self.device).eval().requires_grad_(False)

    def plan(self, scenario: Scenario, given: int = 1) -> RolloutPlan:
        """The integers of a rollout of ``scenario``; given: keyframes that it starts from.

        Raises:
            UsageError: the frame rate is no rung of the ladder, or the duration holds no frame.
        """
        return plan_rollout(scenario.duration_s, self.settings.fps, self.keyframe_fps, self.prediction.frames, given)

    def run(self, scenario: Scenario, start: np.ndarray | None = None) -> Iterator[Step]:
        """Drive.

        Args:
            scenario: what should happen; its seed fixes all noise.
            start: uint8 (H, W, 3), frame 0 of the rollout, or (n, H, W, 3), n <= 2, the keyframes up to frame 0.

        Yields: every frame once, in order, as soon as it is complete.

        Raises:
            UsageError: a negative seed, or a start of another size (at the call, before any work).
            DrivesimError: a sample or a decoded frame is not finite.
        """
        if scenario.seed < 0:
            raise UsageError(f"seed must be a whole number from 0, not {scenario.seed}")
        shots = None if start is None else start.reshape(-1, *start.shape[-3:])
        if shots is not None and (shots.dtype != np.uint8 or len(shots) > 2 or shots.shape[1:] != (self.height, self.width, 3)):
            raise UsageError(f"a start must be one or two uint8 frames of {self.height}x{self.width}x3, not {shots.dtype} {shots.shape}")
        plan = self.plan(scenario, 1 if shots is None else len(shots))
        return _Run(self, scenario, plan).steps(shots)


class _Run:
    """One rollout in progress: the passes, each an iterator over the pass before it."""

    def __init__(self, simulator: Simulator, scenario: Scenario, plan: RolloutPlan) -> None:
        self.simulator, self.plan, self.settings = simulator, plan, simulator.settings
        self.labels = ScenarioLabels(scenario, last_s=(plan.frames - 1) / plan.fps)
        parameterization = str(simulator.checkpoint.settings["parameterization"])
        self.fill = Filler(simulator.schedule, parameterization, scenario.seed, simulator.device)
        self.timed = simulator.stopwatch.timed

    @torch.inference_mode()
    def steps(self, start: np.ndarray | None) -> Iterator[Step]:
        latents = self._keyframes(start)
        for level in range(self.plan.levels):
            latents = self._interpolated(latents, level)
        for chunk, frames in self._decoded(latents):
            yield Step(frames, self.labels.at(range(chunk.first, chunk.last), self.plan.fps), chunk.first)

    # keyframes

    def _keyframes(self, start: np.ndarray | None) -> Iterator[Tensor]:
        """Level 0 in pieces (n, c, h, w)."""
        recent = self._first_frame() if start is None else self._encoded(start)
        yield recent[-1:]
        for window in self.plan.windows():
            made = self._window(window, recent)
            recent = torch.cat([recent, made])[-2:]
            yield made

    def _first_frame(self) -> Tensor:
        settings = self.settings.of_pass("image")
        with self.timed("image"):
            labels = self._told(range(1), self.plan.keyframe_fps)
            return self.fill(self.simulator.image, "image", [0], (1, *self.simulator.latent_shape), labels, settings)[0]

    def _encoded(self, start: np.ndarray) -> Tensor:
        with self.timed("image"):
            frames = as_floats(torch.from_numpy(np.ascontiguousarray(start))).permute(0, 3, 1, 2)
            return self.simulator.autoencoder.encode(frames.to(self.simulator.device))

    def _window(self, window: Window, recent: Tensor) -> Tensor:
        """The keyframes that ``window`` makes, (kept, c, h, w)."""
        settings = self.settings.of_pass("keyframes")
        with self.timed("keyframes"):
            labels = self._told(range(window.first, window.first + window.size), self.plan.keyframe_fps)
            values = recent.new_zeros(1, window.size, *recent.shape[1:])
            values[:, : window.known] = recent[-window.known :]
            mask = torch.arange(window.size, device=recent.device)[None] < window.known
            shape, context = values.shape[1:], Context(values, mask)
            latents = self.fill(self.simulator.prediction, "keyframes", [window.index], shape, labels, settings, context)
        return latents[0, window.known : window.known + window.kept]

    # interpolation

    def _interpolated(self, pieces: Iterator[Tensor], level: int) -> Iterator[Tensor]:
        """Frames of level + 1 in pieces, from the frames of ``level``."""
        total, made, last = self.plan.level_frames(level), 1, next(pieces)
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
        fps, numbers = self.plan.level_fps(level + 1), range(first, first + count)
        network = self.simulator.interpolation
        if network is None:
            raise DrivesimError("this simulator was built for keyframes only")
        with self.timed("interpolation"):
            rows = FACTOR * np.arange(count)[:, None] + np.arange(size)  # neighbouring windows share their ends
            labels = self._told(range(FACTOR * first, FACTOR * (first + count) + 1), fps, rows)
            values = ends.new_zeros(count, size, *ends.shape[1:])
            values[:, 0], values[:, -1] = ends[:-1], ends[1:]
            mask = torch.zeros(count, size, dtype=torch.bool, device=ends.device)
            mask[:, [0, -1]] = True
            stage, context = f"interpolation_{level + 1}", Context(values, mask)
            latents = self.fill(network, stage, numbers, values.shape[1:], labels, self.settings.of_pass(stage), context)
        return latents[:, 1:].flatten(0, 1)

    # decoding

    def _decoded(self, pieces: Iterator[Tensor]) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Frames in chunks at absolute positions, as soon as the latents that a chunk looks at exist."""
        overlap = self.simulator.autoencoder.receptive_frames
        kept, offset = next(pieces), 0  # latents offset .. offset + len(kept) - 1
        for chunk in decode_chunks(self.plan.frames, self.settings.decode_frames, overlap):
            while offset + len(kept) < chunk.last_in:
                kept = torch.cat([kept, next(pieces)])
            kept, offset = kept[chunk.first_in - offset :], chunk.first_in
            yield chunk, self._frames(kept[: chunk.last_in - chunk.first_in], chunk)

    def _frames(self, latents: Tensor, chunk: Chunk) -> np.ndarray:
        with self.timed("decode"):
            frames = self.simulator.autoencoder.decode(latents[None])[0, chunk.kept]
            if not torch.isfinite(frames).all():
                where = f"frames {chunk.first} to {chunk.last - 1} ({chunk.first / self.plan.fps:.1f} s)"
                raise DrivesimError(f"the decoder made non-finite {where}; try --device cpu or another seed, or check the autoencoder")
            return as_bytes(frames).permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _told(self, frames: range, fps: float, rows: np.ndarray | None = None) -> dict[str, Tensor]:
        """What the networks are told of ``frames``: tensors (b, t, ...). rows: (b, t) positions in ``frames``; None = one window of all."""
        arrays = self.labels.at(frames, fps).arrays(self.settings.max_boxes)
        rows = np.arange(len(frames))[None] if rows is None else rows
        return {name: torch.from_numpy(values[rows]).to(self.simulator.device) for name, values in arrays.items()}
