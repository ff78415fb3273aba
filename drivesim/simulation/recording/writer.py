"""Iterator -> disk: frames and labels become a clip dataset with rollout.json, as they come.

Whatever stops a rollout, what was made plays, and a later run goes on behind the last closed segment. A folder that is not ours is never
written to, and nothing that we did not write is ever removed. This file does not know networks or plans, nor how videos and tables are
written (``streams``).
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

import drivesim
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import write_json
from drivesim.labels import LabelTrack
from drivesim.simulation.device import Stopwatch
from drivesim.simulation.recording import folder
from drivesim.simulation.recording.journal import Journal, JournalError
from drivesim.simulation.recording.state import RolloutState, read_state
from drivesim.simulation.recording.streams import RolloutStreams
from drivesim.simulation.recording.timings import Timings
from drivesim.simulation.simulator import Step

__all__ = ["Recorder", "RolloutStopped"]

FORMAT, VERSION = "drivesim-rollout", 1


class RolloutStopped(DrivesimError):
    """A rollout that ended early: the message says why, how much was made, where it plays, and how to go on."""


class Recorder:
    """Write one rollout as a clip dataset. Use as a context manager; ``write`` every Step in order, from ``first_frame`` on.

    Args:
        out: the folder. size: (height, width) of frames. frames: how many are planned. report: what rollout.json shall say beside
            what the recorder itself knows. overwrite: replace an earlier rollout in ``out``. resume: go on with the unfinished one
            there, which must have been begun with the same ``state``; begin anew where there is none. segment_s: length of segments.

    When its block ends by an error or by Ctrl-C, the frames made so far become a finished, shorter dataset; when the disk refuses them,
    the closed segments stay where they are. Either way RolloutStopped says so (errors that are not ours are passed on as they are), and
    the state stays, so that the rollout can be resumed. ``journal`` is where its keyframes are kept; ``earlier`` is the state of the
    rollout that is being resumed, None for a new one.

    Raises:
        UsageError: ``check_folder``, or a rollout to resume that was asked for otherwise, or that is finished.
        DrivesimError: another process writes there, or its state is unreadable.   RolloutStopped: the folder cannot be written.
    """

    def __init__(
        self, out: str | Path, fps: float, size: tuple[int, int], frames: int, *, clip_id: str = "rollout",
        report: Mapping[str, Any] | None = None, overwrite: bool = False, resume: bool = False, state: RolloutState | None = None,
        segment_s: float = 2.0, stopwatch: Stopwatch | None = None,
    ) -> None:  # fmt: skip
        may_replace = overwrite or resume
        self.out, self.fps, self.size, self.planned = folder.check_folder(out, may_replace), fps, size, frames
        self.clip_id, self.report, self.stopwatch = clip_id, dict(report or {}), stopwatch or Stopwatch()
        self.video_path, self.journal, self.timings = self.out / "videos" / f"{clip_id}.mp4", Journal(self.out), Timings(self.stopwatch)
        self._segment = max(1, round(segment_s * fps))
        own = {"clip_id": clip_id, "frames": frames, "size": list(size), "fps": fps, "segment_frames": self._segment}
        asked = state or RolloutState({}, {}, {})
        self._state = RolloutState({**asked.identity, **own}, asked.environment, asked.asked)
        self._streams: RolloutStreams | None = None
        self._lock = self._locked()
        try:
            folder.check_folder(self.out, may_replace)  # again, now that nobody else can write there
            self.earlier = self._found() if resume else None
        except DrivesimError:
            self._lock.release()
            raise
        self.streams = self._opened()

    # beginning

    def _locked(self) -> folder.FolderLock:
        try:
            return folder.FolderLock(self.out)
        except OSError as error:
            with suppress(OSError):
                self.out.rmdir()
            raise RolloutStopped(f"cannot write {self.out}: {error.strerror or error}; choose another --out") from error

    def _found(self) -> RolloutState | None:
        if folder.is_finished(self.out):
            raise UsageError(f"{self.out} is finished: there is nothing to resume")
        earlier = read_state(self.out)
        if earlier is not None:
            earlier.check_same(self.out, self._state.identity)
        return earlier

    def _opened(self) -> RolloutStreams:
        resumed = self.earlier is not None
        try:
            self._take_over() if resumed else self._begin()
            self._streams = RolloutStreams(
                self.out, self.video_path, self.fps, self.size, self.planned, self._segment, self.stopwatch, resumed
            )
            self._describe("running")
        except (DrivesimError, OSError) as error:
            reason = str(error) if isinstance(error, DrivesimError) else f"cannot write {self.out}: {error.strerror or error}"
            if not resumed:
                self._withdraw()
                raise RolloutStopped(f"{reason}; choose another --out") from error
            self._lock.release()
            raise RolloutStopped(f"{reason}; what was made before stays, {self._how_to_go_on}") from error
        return self._streams

    def _begin(self) -> None:
        folder.clear_folder(self.out)
        self._describe("running")
        self._state.save(self.out)

    def _take_over(self) -> None:
        told = folder.described(self.out)
        self.timings.take_over(told.get("timings", {}))
        self.report["resumes"] = int(told.get("resumes", 0)) + 1
        self._describe("running")  # before the shorter dataset goes that a stopped rollout is
        folder.clear_results(self.out)

    @property
    def first_frame(self) -> int:
        """The first frame that ``write`` needs."""
        return self.streams.first_frame

    def catch_up(self, labels: Callable[[range], LabelTrack]) -> None:
        """Write the rows of frames whose pictures an earlier run left. labels: frame numbers -> their labels."""
        self.streams.catch_up(labels)

    # going on

    def write(self, step: Step) -> None:
        """Append a step; what is there already is left out.

        Raises:
            VideoError, DatasetError: the disk is full or read-only.
        """
        closed = self.streams.closed
        self.streams.write(step)
        if self.streams.closed > closed:
            self.timings.played()
            with suppress(OSError):  # it tells how far the rollout is, which nothing depends on
                self._describe("running")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._end()
            else:
                self._stop(error)
        finally:
            self._lock.release()

    # ends

    def _end(self) -> None:
        try:
            self._finish("finished")
        except (DrivesimError, OSError) as failure:
            self._leave_segments(failure)
        with suppress(OSError):  # the next --resume tidies up
            folder.clear_work(self.out)

    def _stop(self, error: BaseException) -> None:
        if not self.streams.video.frames and self.earlier is None:
            self._withdraw()
            self._explain(error, "nothing was made yet")
        elif isinstance(error, JournalError) or not self.streams.complete:
            self._leave_segments(error)
        else:
            try:
                self._finish("stopped", error)
            except (DrivesimError, OSError) as failure:
                self._leave_segments(failure)
            where = f"the {self.streams.closed / self.fps:.1f} s made before are in {self.video_path}"
            self._explain(error, f"{where}; {self._how_to_go_on}")

    def _explain(self, error: BaseException, made: str) -> None:
        """Errors of other kinds are passed on as they are."""
        if isinstance(error, DrivesimError | OSError | KeyboardInterrupt):
            raise RolloutStopped(f"{_reason(error)}; {made}") from error

    @property
    def _how_to_go_on(self) -> str:
        return f"go on with: drivesim rollout --resume --out {shlex.quote(str(self.out))}"

    def _finish(self, state: str, error: BaseException | None = None) -> None:
        """A whole dataset of the frames that came; segments and state stay."""
        origin = {name: self.report[name] for name in ("checkpoint", "seed") if name in self.report}
        provenance = json.dumps({"kind": "generated", **origin})
        self.streams.finish(split="train", source="drivesim", provenance=provenance)
        self.timings.played()
        self._describe(state, error)

    def _leave_segments(self, error: BaseException) -> None:
        """The disk refuses: close what is open, keep the closed segments, say where they are."""
        self.streams.abandon()
        with suppress(OSError):
            self._describe("stopped", error)
        count, seconds = len(self.streams.video.segments), self.streams.closed / self.fps
        where = f"the {seconds:.1f} s made before play from {count} segments in {self.streams.video.folder}"
        self._explain(error, f"{where if count else 'no segment was complete'}; {self._how_to_go_on}")

    def _withdraw(self) -> None:
        """Nothing was made: leave nothing."""
        if self._streams is not None:
            self._streams.abandon()
        with suppress(OSError):
            folder.clear_folder(self.out)
            (self.out / folder.DESCRIPTION).unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):
            self.out.rmdir()

    def _describe(self, state: str, error: BaseException | None = None) -> None:
        frames = 0 if self._streams is None else self._streams.closed
        write_json(self.out / folder.DESCRIPTION, {
            "format": FORMAT, "version": VERSION, "state": state, "frames": frames, "planned_frames": self.planned, "fps": self.fps,
            "height": self.size[0], "width": self.size[1], "clip_id": self.clip_id, **self.report,
            "timings": self.timings.as_json(), "versions": _versions(),
            **({"error": _reason(error)} if error is not None else {}),
        })  # fmt: skip


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    return f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__


def _versions() -> dict[str, str]:
    return {"drivesim": drivesim.__version__, "torch": torch.__version__, "python": platform.python_version(), "numpy": np.__version__}
