"""Iterator -> disk: frames and labels become a clip dataset with rollout.json and previews, as they come.

The video is written in closed segments and label rows are streamed, so whatever stops a rollout, what was made plays. A folder that is
not ours is never written to, and nothing that we did not write is ever removed. This file does not know networks or plans.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch

import drivesim
from drivesim.errors import DrivesimError
from drivesim.io.atomic import replacing, write_json
from drivesim.io.records_writer import RecordsWriter
from drivesim.io.video import SegmentedVideoWriter, VideoWriter
from drivesim.labels import LABELS, Scenario
from drivesim.simulation.preview import ContactSheet, annotate, annotated_size
from drivesim.simulation.rollout_folder import DESCRIPTION, check_folder, clear_folder
from drivesim.simulation.simulator import Simulator, Step, Stopwatch

__all__ = ["Progress", "Recorder", "Recording", "RolloutStopped", "check_folder", "record"]

FORMAT, VERSION = "drivesim-rollout", 1


class RolloutStopped(DrivesimError):
    """A rollout that ended early: the message says why, how much was made, and where it plays."""


@dataclass(frozen=True)
class Progress:
    """After every step: frames done of ``total``, seconds of video done, seconds of work, and an estimate of the seconds left."""

    frames: int
    total: int
    video_s: float
    elapsed_s: float
    left_s: float


@dataclass(frozen=True)
class Recording:
    """What was written. seconds: of work per pass. first_second_s: when the first closed segment was there to be played."""

    folder: Path
    video: Path
    frames: int
    fps: float
    elapsed_s: float
    first_second_s: float
    seconds: dict[str, float]


class Recorder:
    """Write one rollout as a clip dataset. Use as a context manager; ``write`` every Step in order.

    Args:
        out: the folder. size: (height, width) of frames. frames: how many are planned. report: what rollout.json shall say beside
            what the recorder itself knows. overwrite: replace an earlier rollout in ``out``. segment_s: length of closed segments.

    When its block ends by an error or by Ctrl-C, the frames made so far become a finished, shorter dataset; when the disk refuses them,
    the closed segments stay where they are. Either way RolloutStopped says so (errors that are not ours are passed on as they are).

    Raises:
        UsageError: ``check_folder``.   RolloutStopped: the folder cannot be written.
    """

    def __init__(
        self, out: str | Path, fps: float, size: tuple[int, int], frames: int, *, clip_id: str = "rollout",
        report: Mapping[str, Any] | None = None, overwrite: bool = False, segment_s: float = 2.0, stopwatch: Stopwatch | None = None,
    ) -> None:  # fmt: skip
        self.out, self.fps, self.size, self.planned, self.clip_id = check_folder(out, overwrite), fps, size, frames, clip_id
        self.report, self.stopwatch = dict(report or {}), stopwatch or Stopwatch()
        self.labelled, self.first_second_s, self._begin = 0, 0.0, time.perf_counter()
        self._step: Step | None = None
        self._disk_failed = False
        self._sheet = ContactSheet(frames)
        self.video_path = self.out / "videos" / f"{clip_id}.mp4"
        try:
            clear_folder(self.out)
            self.out.mkdir(parents=True, exist_ok=True)
            self._describe("running")
            self._records = RecordsWriter(self.out, creator=f"drivesim {drivesim.__version__}")
            self._video = SegmentedVideoWriter(self.video_path, fps, size, max(1, round(segment_s * fps)))
            self._preview = VideoWriter(self.out / "preview.mp4", fps, annotated_size(*size), crf=23)
        except (DrivesimError, OSError) as error:
            reason = str(error) if isinstance(error, DrivesimError) else f"cannot write {self.out}: {error.strerror or error}"
            self._withdraw()
            raise RolloutStopped(f"{reason}; choose another --out") from error

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._begin

    def write(self, step: Step) -> None:
        """Append a step.

        Raises:
            VideoError, DatasetError: the disk is full or read-only.
        """
        self._step = step
        with self._to_disk():
            with self.stopwatch.timed("encode"):
                self._video.write(step.frames)
            if self._video.segments and not self.first_second_s:
                self.first_second_s = self.elapsed_s
            self._label(step, len(step.frames))
            with self.stopwatch.timed("preview"):
                for index, frame in enumerate(step.frames):
                    number = step.first_frame + index
                    picture = annotate(frame, step.labels, index, number / self.fps)
                    self._sheet.add(number, picture)
                    self._preview.write(picture)

    def _label(self, step: Step, frames: int) -> None:
        labels = step.labels if frames == len(step.labels) else step.labels.take(range(frames), self.fps)
        self._records.append(labels, self.clip_id, "requested")
        self.labelled += frames

    @contextmanager
    def _to_disk(self) -> Iterator[None]:
        try:
            yield
        except (DrivesimError, OSError):
            self._disk_failed = True
            raise

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            try:
                self._finish("finished")
            except (DrivesimError, OSError) as failure:
                self._leave_segments(failure)
            return
        if not self._video.frames:
            self._withdraw()
        elif self._disk_failed:
            self._leave_segments(error)
        else:
            try:
                self._finish("stopped", error)
            except (DrivesimError, OSError) as failure:
                self._leave_segments(failure)
        self._explain(error)

    def _explain(self, error: BaseException) -> None:
        reason = "stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else str(error)
        if isinstance(error, DrivesimError | KeyboardInterrupt):
            seconds = self._video.frames / self.fps
            made = f"the {seconds:.1f} s made before are in {self.video_path}" if seconds else "nothing was made yet"
            raise RolloutStopped(f"{reason}; {made}") from error

    # ends

    def _finish(self, state: str, error: BaseException | None = None) -> None:
        """Join the video, put the tables in place, write the previews: a whole dataset of the frames that came."""
        if self._step is not None and self._video.frames > self.labelled:  # stopped between a frame and its labels
            self._label(self._step, self._video.frames - self.labelled)
        with self.stopwatch.timed("encode"):
            self._video.close()
        self.first_second_s = self.first_second_s or self.elapsed_s
        origin = {name: self.report[name] for name in ("checkpoint", "seed") if name in self.report}
        provenance = json.dumps({"kind": "generated", **origin})
        video, (height, width) = str(self.video_path.relative_to(self.out)), self.size
        self._records.add_clip(self.clip_id, video, self.fps, height, width, split="train", source="drivesim", provenance=provenance)
        self._records.close()
        with self.stopwatch.timed("preview"):
            self._preview.close()
            self._save_sheet()
        self._describe(state, error)

    def _save_sheet(self) -> None:
        page = self._sheet.picture()
        if page is not None:
            done, data = cv2.imencode(".png", cv2.cvtColor(page, cv2.COLOR_RGB2BGR))
            if done:
                with replacing(self.out / "preview.png") as part:
                    part.write_bytes(data.tobytes())

    def _leave_segments(self, error: BaseException) -> None:
        """The disk refuses: close what is open, keep the closed segments, say where they are."""
        self._drop_parts()
        with suppress(OSError):
            self._describe("stopped", error)
        count = len(self._video.segments)
        seconds = min(self._video.frames, count * self._video.frames_per_segment) / self.fps
        where = f"the {seconds:.1f} s made before play from {count} segments in {self._video.folder}"
        raise RolloutStopped(f"{error}; {where if count else 'no segment was complete'}") from error

    def _withdraw(self) -> None:
        """Nothing was made: leave nothing."""
        self._drop_parts()
        with suppress(OSError):
            clear_folder(self.out)
            self.out.rmdir()

    def _drop_parts(self) -> None:
        """Close the writers that were opened and let go of what they had not finished; closed segments stay."""
        for name, close in (("_video", "abandon"), ("_preview", "discard"), ("_records", "discard")):
            with suppress(DrivesimError, OSError):
                if hasattr(self, name):
                    getattr(getattr(self, name), close)()

    def _describe(self, state: str, error: BaseException | None = None) -> None:
        frames = self._video.frames if hasattr(self, "_video") else 0
        timings = {"elapsed_s": round(self.elapsed_s, 3), "first_second_s": round(self.first_second_s, 3),
                   **{f"{name}_s": round(value, 3) for name, value in self.stopwatch.seconds.items()}}  # fmt: skip
        write_json(self.out / DESCRIPTION, {
            "format": FORMAT, "version": VERSION, "state": state, "frames": frames, "planned_frames": self.planned, "fps": self.fps,
            "height": self.size[0], "width": self.size[1], "clip_id": self.clip_id, **self.report,
            "timings": timings, "versions": _versions(),
            **({"error": str(error) or type(error).__name__} if error is not None else {}),
        })  # fmt: skip


def _versions() -> dict[str, str]:
    return {"drivesim": drivesim.__version__, "torch": torch.__version__, "python": platform.python_version(), "numpy": np.__version__}


def record(
    simulator: Simulator, scenario: Scenario, out: str | Path, *, start: np.ndarray | None = None, overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None, report: Mapping[str, Any] | None = None,
) -> Recording:  # fmt: skip
    """Drive a scenario and write it to ``out``.

    Args:
        start: as Simulator.run. overwrite: replace an earlier rollout. progress: called after every step. report: further entries of
            rollout.json.

    Raises:
        UsageError: bad folder, duration or frame rate, before anything is written.   RolloutStopped: it ended early.
    """
    frames = simulator.plan(scenario).frames
    size, fps = (simulator.height, simulator.width), simulator.settings.fps
    told = {**describe(simulator, scenario, start), **(report or {})}
    recorder = Recorder(
        out, fps, size, frames, clip_id=f"rollout_{scenario.seed}", report=told, overwrite=overwrite, stopwatch=simulator.stopwatch
    )
    with recorder:
        for step in simulator.run(scenario, start):
            recorder.write(step)
            if progress is not None:
                done, elapsed = step.first_frame + len(step.frames), recorder.elapsed_s
                progress(Progress(done, frames, done / fps, elapsed, elapsed / done * (frames - done)))
    times = (recorder.elapsed_s, recorder.first_second_s, dict(simulator.stopwatch.seconds))
    return Recording(recorder.out, recorder.video_path, recorder.labelled, fps, *times)


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
        },
        "start_frames": 0 if start is None else len(start.reshape(-1, *start.shape[-3:])),
        "settings": asdict(simulator.settings),
        "device": str(simulator.device),
        "threads": torch.get_num_threads(),
    }
