"""One process's share of a generation: groups of scenarios in, finished clips with their agreement out.

``Maker`` holds the networks of one process. A clip whose labels a detector does not confirm is made again with other noise, or dropped, if
that was ordered. This file does not know who hands out groups, nor what is finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import drivesim
from drivesim.errors import DrivesimError
from drivesim.io.checkpoints import file_hash, load_checkpoint
from drivesim.io.places import Place
from drivesim.io.records import clip_row, rows_of
from drivesim.io.video import VideoWriter
from drivesim.labels import Scenario
from drivesim.simulation.agreement import BOX_COLUMNS, Agreement
from drivesim.simulation.device import pick_device
from drivesim.simulation.generation.order import Group, Order, finished, keep
from drivesim.simulation.generation.starts import require_same_start
from drivesim.simulation.inputs import read_start
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.scenes.table import Request
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Drive, Simulator, Step
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

__all__ = ["Maker", "resolved", "seed_of_try", "weights_hash"]

Told = Callable[[int], None]
"""Called with the number of frames that were made since the last call."""


def resolved(request: Request, bank: TrackBank | None) -> Scenario:
    """The scenario as it is driven: tracks that were left open come from the checkpoint's track bank, as in ``drivesim rollout``."""
    scenario = request.scenario
    if scenario.tracks is not None or bank is None:
        return scenario
    labels = {name: getattr(scenario, name) for name in ("time_of_day", "crowdedness", "ego_speed_mps", "ego_yaw_rate_radps")}
    drawn = sample_scenario(bank, scenario.duration_s, **labels, seed=scenario.seed, name=scenario.name)
    return replace(drawn, profiles={**drawn.profiles, **scenario.profiles})


def seed_of_try(seed: int, number: int) -> int:
    """The seed of the noise of try 1, 2, ...: the scenario's own first, then ones drawn from it."""
    return seed if number == 1 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0])


def weights_hash(path: str) -> str:
    """SHA-256 of an exported network's weights.

    Raises:
        DrivesimError: there are none.
    """
    file = Path(path).with_suffix(".safetensors")
    if not file.is_file():
        raise DrivesimError(f"{file}: missing file; give an exported detector, or install drivesim again")
    return file_hash(file)


@dataclass(eq=False)
class _Clip:
    """One clip on its way to disk."""

    request: Request
    scenario: Scenario
    start: np.ndarray | None
    number: int
    writer: VideoWriter
    agreement: Agreement

    def write(self, step: Step) -> None:
        self.writer.write(step.frames)
        self.agreement.look(step.frames, step.labels)


class Maker:
    """The networks of ``order`` in this process.

    Raises:
        DrivesimError: weights that are not those of the order, or another version of drivesim.   UsageError: a device that is not there.
    """

    def __init__(self, order: Order) -> None:
        if order.drivesim != drivesim.__version__:
            raise DrivesimError(f"this process runs drivesim {drivesim.__version__}, the generation {order.drivesim}; install the same")
        torch.set_num_threads(order.threads)
        self.order, self.place, self.device = order, Place(order.out), pick_device(order.device)
        self.checkpoint = load_checkpoint(order.checkpoint)
        if self.checkpoint.hash != order.checkpoint_hash:
            raise DrivesimError(
                f"{order.checkpoint}: other weights here ({self.checkpoint.hash[:8]}...) than where the generation was begun "
                f"({order.checkpoint_hash[:8]}...); copy the checkpoint to this machine"
            )
        self.bank = TrackBank.load(self.checkpoint.tracks) if self.checkpoint.tracks.is_file() else None
        if weights_hash(order.detector) != order.detector_hash:
            raise DrivesimError(f"{order.detector}: other weights than where the generation was begun; copy the detector to this machine")
        self.agreement = Agreement.load(order.detector, self.device)
        self._simulators: dict[float, Simulator] = {}
        self._upsampler: Upsampler | None = None

    def simulator(self, fps: float | None) -> Simulator:
        """At a frame rate, None = that of the order."""
        settings = RolloutSettings(**self.order.settings)
        settings = settings if fps is None else replace(settings, fps=fps)
        if settings.fps not in self._simulators:
            self._simulators[settings.fps] = Simulator(self.checkpoint, settings, self.device)
        return self._simulators[settings.fps]

    def upsampler(self) -> Upsampler | None:
        if self.order.upsampling is not None and self._upsampler is None:
            self._upsampler = Upsampler(self.checkpoint, UpsamplerSettings(**self.order.upsampling), self.device)
        return self._upsampler

    def make(self, group: Group, told: Told | None = None) -> list[dict[str, Any]]:
        """Make the clips of a group that are not finished yet; returns their parts.

        All of the group is driven side by side, finished ones too, so that whatever was interrupted comes out to the same bits.

        Raises:
            UsageError: a start that cannot be read.   DrivesimError: one that was changed since the command began; whatever the passes and
            the disk raise.
        """
        due = {request.scenario_id for request in group.requests if finished(self.place, self.order, request) is None}
        made, left = list[dict[str, Any]](), list(group.requests)
        for number in range(1, self.order.tries + 1):
            if not due.intersection(request.scenario_id for request in left):
                break
            parts, left = self._tried(left, due, number, told or _nobody)
            made += parts
        return made

    def _tried(
        self, requests: Sequence[Request], due: set[str], number: int, told: Told
    ) -> tuple[list[dict[str, Any]], list[Request]]:  # fmt: skip
        """One try at clips side by side: parts of those of ``due`` that are good or had their last try, and the requests of all that are
        to be tried again, whoever is due, so that the next try is the same one however often this was interrupted."""
        with self.place.scratch() as folder, ExitStack() as stack:
            clips = [self._opened(request, number, folder, stack) for request in requests]
            for row, step in self._steps(clips):
                clips[row].write(step)
                told(len(step.frames))
            again = [clip for clip in clips if not self._good(clip)] if number < self.order.tries else []
            parts = [self._finished(clip) for clip in clips if clip.request.scenario_id in due and clip not in again]
            return parts, [clip.request for clip in again]

    def _good(self, clip: _Clip) -> bool:
        """Does the detector confirm its labels, as far as that was ordered?"""
        least, found = self.order.min_agreement, clip.agreement.tally.f1
        return least is None or found is None or found >= least

    def _opened(self, request: Request, number: int, folder: Path, stack: ExitStack) -> _Clip:
        """A clip to be written to; ``stack`` gives its video up."""
        scenario = resolved(request, self.bank)
        scenario = replace(scenario, seed=seed_of_try(scenario.seed, number))
        simulator = self.simulator(request.fps)
        require_same_start(request)
        start = None if request.start is None else read_start(request.start, simulator.height, simulator.width, simulator.keyframe_fps)
        factor = 1 if (stage := self.upsampler()) is None else stage.factor
        size = simulator.height * factor, simulator.width * factor
        writer = VideoWriter(folder / f"{request.scenario_id}.mp4", simulator.settings.fps, size)
        stack.callback(writer.discard)
        return _Clip(request, scenario, start, number, writer, self.agreement.another())

    def _steps(self, clips: Sequence[_Clip]) -> Iterator[tuple[int, Step]]:
        simulator, stage = self.simulator(clips[0].request.fps), self.upsampler()
        drives = [Drive(clip.scenario, clip.start) for clip in clips]
        if stage is None:
            return simulator.run_many(drives)
        seeded = [stage.seeded(clip.scenario.seed) for clip in clips]
        return simulator.run_many(drives, lambda row, steps: seeded[row].steps(steps))

    def _finished(self, clip: _Clip) -> dict[str, Any]:
        """Put a clip in its place, or drop it."""
        told = {"tries": clip.number, "seed": clip.scenario.seed, "frames": clip.writer.frames, "agreement": clip.agreement.tally.f1}
        if not self._good(clip):
            return keep(self.place, self.order, clip.request, {}, {}, {}, state="dropped", **told)
        clip.writer.close()
        name, video = clip.request.scenario_id, f"videos/{clip.request.scenario_id}.mp4"
        digest = file_hash(clip.writer.path)
        self.place.put(clip.writer.path, video)
        simulator = self.simulator(clip.request.fps)
        track = simulator.labels(clip.scenario).at(range(clip.writer.frames), simulator.settings.fps)
        frames, boxes = rows_of(track, name, "requested")
        found = clip.agreement.boxes()
        boxes = boxes.assign(**{column: found[column].to_numpy() for column in BOX_COLUMNS})
        more: dict[str, Any] = {"split": "train", "source": "drivesim", "provenance": self._provenance(clip), **clip.agreement.clip()}
        height, width = clip.writer.size
        row = clip_row(track, name, video, height, width, **more)
        tables = {"frames": frames, "boxes": boxes}
        return keep(self.place, self.order, clip.request, row, tables, {video: digest}, state="made", **told)

    def _provenance(self, clip: _Clip) -> str:
        checkpoint: Mapping[str, Any] = {"preset": self.checkpoint.settings.get("preset"), "hash": self.checkpoint.hash}
        settings = {**self.order.settings, "fps": self.simulator(clip.request.fps).settings.fps}
        told: dict[str, Any] = {"kind": "generated", "checkpoint": checkpoint, "seed": clip.scenario.seed, "settings": settings}
        told |= {"threads": self.order.threads, "start_frames": 0 if clip.start is None else len(clip.start)}
        if (stage := self.upsampler()) is not None:
            told["upsampling"] = {**asdict(stage.settings), "network": stage.name}
        return json.dumps({**told, "scenario": clip.request.content, "start": clip.request.start})


def _nobody(frames: int) -> None:
    return None
