"""A rollout from scenario to disk: made, recorded, and gone on with where it was cut off.

``record`` joins a simulator, an optional stage that works on finished frames, and the ``Recorder`` of ``writer``. This file does
not know how frames are made or what files hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from drivesim.labels import LABELS, Scenario
from drivesim.simulation.recording.folder import check_folder, clear_work, described
from drivesim.simulation.recording.state import RolloutState, environment_of, identity_of
from drivesim.simulation.recording.writer import Recorder, RolloutStopped
from drivesim.simulation.simulator import Simulator, Step

__all__ = ["Progress", "Recorder", "Recording", "RolloutStopped", "Stage", "check_folder", "finished", "record"]


@dataclass(frozen=True)
class Progress:
    """After every step: frames done of ``total``, seconds of video done, seconds of work, an estimate of the seconds left; ``kept``
    frames were there before this process began."""

    frames: int
    total: int
    video_s: float
    elapsed_s: float
    left_s: float
    kept: int = 0


@dataclass(frozen=True)
class Recording:
    """What was written. seconds: of work per pass. first_second_s: when the first closed segment was there to be played. moved: what of
    the machine or the program was not as it had been when this rollout was begun, so that the last bits of later frames may differ."""

    folder: Path
    video: Path
    frames: int
    fps: float
    elapsed_s: float
    first_second_s: float
    seconds: dict[str, float]
    moved: tuple[str, ...] = ()


class Stage(Protocol):
    """Something between simulator and recorder that makes one frame of every frame, such as an upsampler.

    factor: its frames are that many times as high and wide. settings: a dataclass of what fixes its frames.
    """

    factor: int
    settings: Any

    def lead(self, first_frame: int) -> int:
        """The first frame that must come in to make ``first_frame`` and all after it, to the bit as in a rollout from the beginning."""

    def steps(self, steps: Iterator[Step], first_frame: int) -> Iterator[Step]:
        """The frames from ``first_frame`` on; ``steps`` begin at ``lead(first_frame)``."""


def finished(out: str | Path) -> Recording | None:
    """The finished rollout in ``out``, None where there is none. What a run that was killed while it tidied up has left goes."""
    out, told = Path(out), described(Path(out))
    if told.get("state") != "finished":
        return None
    clear_work(out)
    timings = told.get("timings", {})
    seconds = {name.removesuffix("_s"): value for name, value in timings.items()}
    elapsed_s, first_second_s = (float(seconds.pop(name, 0.0)) for name in ("elapsed", "first_second"))
    video = out / "videos" / f"{told['clip_id']}.mp4"
    return Recording(out, video, int(told["frames"]), float(told["fps"]), elapsed_s, first_second_s, seconds)


def record(
    simulator: Simulator, scenario: Scenario, out: str | Path, *, start: np.ndarray | None = None, overwrite: bool = False,
    resume: bool = False, stage: Stage | None = None, progress: Callable[[Progress], None] | None = None,
    report: Mapping[str, Any] | None = None, asked: Mapping[str, Any] | None = None,
) -> Recording:  # fmt: skip
    """Drive a scenario and write it to ``out``.

    Args:
        start: as Simulator.run. overwrite: replace an earlier rollout. resume: finish the one that was begun there, or begin it; every
            frame and label is that of a rollout that was never cut off. stage: works on the frames before they are written. progress:
            called after every step. report: further entries of rollout.json. asked: kept with the state, for whoever resumes it.

    Raises:
        UsageError: bad folder, duration or frame rate, or another rollout was begun there, before anything is written.
        DrivesimError: another process writes there.   RolloutStopped: it ended early.
    """
    if resume and (done := finished(out)) is not None:
        return done
    frames, fps, factor = simulator.plan(scenario).frames, simulator.settings.fps, 1 if stage is None else stage.factor
    state = RolloutState(_identity(simulator, scenario, start, stage), environment_of(simulator.device), dict(asked or {}))
    recorder = Recorder(
        out, fps, (simulator.height * factor, simulator.width * factor), frames, clip_id=f"rollout_{scenario.seed}",
        report={**describe(simulator, scenario, start), **(report or {})}, overwrite=overwrite, resume=resume, state=state,
        stopwatch=simulator.stopwatch,
    )  # fmt: skip
    timings, kept = recorder.timings, recorder.first_frame
    with recorder, _as_many_threads(recorder.earlier):
        recorder.report["threads"] = torch.get_num_threads()
        labels = simulator.labels(scenario)
        recorder.catch_up(lambda numbers: labels.at(numbers, fps))
        for step in _steps(simulator, scenario, start, stage, recorder):
            recorder.write(step)
            if progress is not None:
                done_now = step.first_frame + len(step.frames)
                left_s = timings.session_s / (done_now - kept) * (frames - done_now)
                progress(Progress(done_now, frames, done_now / fps, timings.elapsed_s, left_s, kept))
    moved = tuple(recorder.earlier.moved(state.environment)) if recorder.earlier is not None else ()
    times = (timings.elapsed_s, timings.first_second_s, timings.seconds)
    return Recording(recorder.out, recorder.video_path, recorder.streams.labelled, fps, *times, moved)


def _steps(
    simulator: Simulator, scenario: Scenario, start: np.ndarray | None, stage: Stage | None, recorder: Recorder
) -> Iterator[Step]:  # fmt: skip
    first = recorder.first_frame
    if first >= recorder.planned:
        return iter(())
    begin = first if stage is None else stage.lead(first)
    steps = simulator.run(scenario, start, first_frame=begin, journal=recorder.journal)
    return steps if stage is None else stage.steps(steps, first)


def _identity(simulator: Simulator, scenario: Scenario, start: np.ndarray | None, stage: Stage | None) -> dict[str, Any]:
    staged = None if stage is None else {"name": type(stage).__name__, **asdict(stage.settings)}
    return {**identity_of(simulator, scenario, start), "stage": staged}


@contextmanager
def _as_many_threads(earlier: RolloutState | None) -> Iterator[None]:
    """Sums are split among threads, so a resumed rollout works with as many as the one that began it."""
    before = torch.get_num_threads()
    wanted = before if earlier is None else int(earlier.environment.get("threads", before))
    if wanted != before:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)


def describe(simulator: Simulator, scenario: Scenario, start: np.ndarray | None = None) -> dict[str, Any]:
    """What rollout.json says of how a rollout was asked for."""
    checkpoint = simulator.checkpoint
    labels = {name: getattr(scenario, name) for name in LABELS}
    tracks = None if scenario.tracks is None else len(scenario.tracks)
    return {
        "checkpoint": {"preset": checkpoint.settings.get("preset"), "hash": checkpoint.hash},
        "seed": scenario.seed,
        "scenario": {
            "name": scenario.name, "duration_s": scenario.duration_s, **labels, "tracks": tracks, "profiles": sorted(scenario.profiles),
            "branch": None if scenario.branch is None else asdict(scenario.branch),
        },
        "start_frames": 0 if start is None else len(start.reshape(-1, *start.shape[-3:])),
        "settings": asdict(simulator.settings),
        "passes": simulator.passes(),
        "device": str(simulator.device),
        "threads": torch.get_num_threads(),
    }
