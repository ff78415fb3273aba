"""Scenario -> iterator of frames and labels.

``Simulator.run`` walks the plan: a first frame, keyframe windows (S = 1, then S = 2 again and again), and what makes frames of them
(``frames.py``). Each pass is an iterator over the one before it; context stays in latents, and only what a later call still needs is kept,
so memory does not grow with minutes. A rollout may begin at any frame: keyframes come from a journal where it has them, and every later
pass starts at an absolute position, so the frames are those of a rollout from the beginning, to the bit. This file does not know files,
videos or progress bars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.labels import Scenario
from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.models.refiner import Refiner
from drivesim.models.unet import ImageNetwork
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.shapes import as_floats
from drivesim.simulation.accelerate import accelerate
from drivesim.simulation.device import Stopwatch, pick_device
from drivesim.simulation.fill import Context
from drivesim.simulation.frames import FramePasses, Step
from drivesim.simulation.keyframes import KeyframePass
from drivesim.simulation.lane import KeyframeJournal, Lane, NoJournal, in_turn
from drivesim.simulation.plan import RolloutPlan, plan_rollout
from drivesim.simulation.quality import pass_networks
from drivesim.simulation.scenes.sampling import ScenarioLabels
from drivesim.simulation.settings import RolloutSettings

__all__ = ["Drive", "KeyframeJournal", "Simulator", "Step", "Stopwatch", "pick_device"]

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
        return FramePasses(self, lane, self._keyframes([lane]), 0).steps(first_frame)

    def run_many(self, drives: Sequence[Drive], after: After | None = None) -> Iterator[tuple[int, Step]]:
        """Drive several scenarios side by side: one network call makes a window of keyframes of each.

        after: what is done to the steps of each of them, (number in ``drives``, steps) -> steps.

        Yields: (number in ``drives``, step): of every rollout in turn, as ``run`` yields them, until all are through.

        Raises:
            As ``run``.
        """
        lanes = [self._lane(drive) for drive in drives]
        keyframes = self._keyframes(lanes)
        runs = [FramePasses(self, lane, keyframes, row).steps(0) for row, lane in enumerate(lanes)]
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
