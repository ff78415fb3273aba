"""The video of a rollout, its label rows and its preview, written side by side as steps come.

The videos are written in closed segments and the rows are streamed, so memory does not grow with minutes. Each of the three takes from
a step what it has not yet, so that a resumed rollout may begin at whichever is shortest. This file does not know rollout.json, states
or locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2

import drivesim
from drivesim.errors import DrivesimError
from drivesim.io.atomic import replacing
from drivesim.io.records_writer import RecordsWriter
from drivesim.io.video import SegmentedVideoWriter, read_frames, whole_segments
from drivesim.labels import LabelTrack
from drivesim.simulation.device import Stopwatch
from drivesim.simulation.preview import ContactSheet, annotate, annotated_size
from drivesim.simulation.recording.folder import PREVIEW
from drivesim.simulation.simulator import Step

__all__ = ["RolloutStreams"]

ROWS_AT_ONCE = 256
"""Frames whose label rows are written anew at a time when a rollout is resumed."""
PREVIEW_CRF = 23


class RolloutStreams:
    """Three open files of the rollout in ``out``.

    Args:
        video: path of the MP4. size: (height, width). frames: how many are planned. segment: frames in each. resumed: go on behind the
            whole segments that lie there; otherwise there must be none.

    Raises:
        VideoError, DatasetError: the folder cannot be written.
    """

    def __init__(
        self, out: Path, video: Path, fps: float, size: tuple[int, int], frames: int, segment: int, stopwatch: Stopwatch, resumed: bool
    ) -> None:  # fmt: skip
        self.out, self.clip_id, self.fps, self.size, self.planned, self.segment = out, video.stem, fps, size, frames, segment
        self.timed, self.disk_failed, self.labelled = stopwatch.timed, False, 0
        self._step: Step | None = None
        self.video = self._opened(video, size, resumed)
        self.preview = self._opened(out / PREVIEW, annotated_size(*size), resumed, crf=PREVIEW_CRF)
        self.records = RecordsWriter(out, creator=f"drivesim {drivesim.__version__}")

    def _opened(self, path: Path, size: tuple[int, int], resumed: bool, **more: int) -> SegmentedVideoWriter:
        kept = whole_segments(path, self.fps, size, self.segment, self.planned) if resumed else None
        return SegmentedVideoWriter(path, self.fps, size, self.segment, kept=kept, **more)

    @property
    def first_frame(self) -> int:
        """The first frame that is still wanted."""
        return min(self.video.frames, self.preview.frames)

    @property
    def closed(self) -> int:
        """Frames in closed segments of the video."""
        return min(self.video.frames, len(self.video.segments) * self.segment)

    @property
    def complete(self) -> bool:
        """Is there a frame, and are the labels of every frame known here?"""
        known = self.labelled if self._step is None else self._step.first_frame + len(self._step.frames)
        return not self.disk_failed and 0 < self.video.frames <= known

    def catch_up(self, labels: Callable[[range], LabelTrack]) -> None:
        """Write the rows of frames whose pictures were there before. labels: frame numbers -> their labels."""
        with self._to_disk():
            for first in range(0, self.video.frames, ROWS_AT_ONCE):
                self._append(labels(range(first, min(first + ROWS_AT_ONCE, self.video.frames))))

    def write(self, step: Step) -> None:
        """Append a step.

        Raises:
            VideoError, DatasetError: the disk is full or read-only.
        """
        self._step = step
        with self._to_disk():
            with self.timed("encode"):
                self.video.write(step.frames[max(self.video.frames - step.first_frame, 0) :])
            self._label(step, step.first_frame + len(step.frames))
            with self.timed("preview"):
                for index in range(max(self.preview.frames - step.first_frame, 0), len(step.frames)):
                    self.preview.write(annotate(step.frames[index], step.labels, index, (step.first_frame + index) / self.fps))

    def _label(self, step: Step, end: int) -> None:
        """Rows up to frame ``end`` - 1, which lies in ``step``."""
        wanted = range(self.labelled - step.first_frame, end - step.first_frame)
        if len(wanted):
            self._append(step.labels if len(wanted) == len(step.labels) else step.labels.take(wanted, self.fps))

    def _append(self, labels: LabelTrack) -> None:
        with self.timed("labels"):
            self.records.append(labels, self.clip_id, "requested")
        self.labelled += len(labels)

    @contextmanager
    def _to_disk(self) -> Iterator[None]:
        try:
            yield
        except (DrivesimError, OSError):
            self.disk_failed = True
            raise

    def finish(self, **clip: Any) -> None:
        """Join the videos, put the tables in place, make the contact sheet: a whole dataset of the frames that came. Segments stay.

        clip: further columns of the clip's row.
        """
        if self._step is not None:  # stopped between a frame and its labels
            self._label(self._step, self.video.frames)
        with self.timed("encode"):
            self.video.join()
        self.records.add_clip(self.clip_id, str(self.video.path.relative_to(self.out)), self.fps, *self.size, **clip)
        self.records.put()
        with self.timed("preview"):
            if self.preview.frames:
                self.preview.join()
                self._save_sheet()

    def _save_sheet(self) -> None:
        """The contact sheet is cut from the preview, so that a resumed rollout has the same one."""
        sheet = ContactSheet(self.planned)
        for number in sorted(sheet.chosen):
            if number < self.preview.frames:
                sheet.add(number, read_frames(self.preview.path, indices=[number])[0])
        page = sheet.picture()
        if page is not None:
            done, data = cv2.imencode(".png", cv2.cvtColor(page, cv2.COLOR_RGB2BGR))
            if done:
                with replacing(self.out / "preview.png") as part:
                    part.write_bytes(data.tobytes())

    def abandon(self) -> None:
        """Close what is open, as far as the disk allows it, and let go of what is not finished; closed segments stay."""
        for close in (self.video.abandon, self.preview.abandon, self.records.discard):
            with suppress(DrivesimError, OSError):
                close()
