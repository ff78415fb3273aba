"""What every export shares: which frames of which clips leave, what is said of them, and how their pictures are written.

Frames that nobody looked at for boxes are left out, since "no box" would be read as "no vehicle"; a clip that cannot be read costs only
itself. Both are counted. This file does not know any foreign format.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError, iterate_frames
from drivesim.labels import Boxes, LabelTrack

from ..clips import ClipDataset
from .bulk_labels import BulkLabels

__all__ = ["Footage", "OutgoingClip", "one_of", "write_picture"]


@dataclass(frozen=True)
class OutgoingClip:
    """A clip and the frames of it that leave.

    frames: int64 (n,), rising, each ``every`` behind the last but for gaps.   row: of clips.parquet.
    occlusion: hidden share of every box of ``track``, float64 (boxes,) in 0..1, NaN = unknown.
    truncated: whether the picture's border cuts it, float64 (boxes,): 0, 1, NaN = unknown.
    voices: who says so, int64 (boxes,): a place in ``words``, -1 = nobody knows.
    """

    position: int
    row: Mapping[Any, Any]
    track: LabelTrack
    frames: np.ndarray
    every: int
    occlusion: np.ndarray
    truncated: np.ndarray
    voices: np.ndarray
    words: Sequence[str]

    @property
    def clip_id(self) -> str:
        return str(self.row["clip_id"])

    @cached_property
    def name(self) -> str:
        """The clip's id where it can be a file's name, else something like it and as unique."""
        plain = re.sub(r"[^\w.-]+", "_", self.clip_id).lstrip(".") or "clip"
        return plain if plain == self.clip_id else f"{plain}_{zlib.crc32(self.clip_id.encode()):08x}"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.row["height"]), int(self.row["width"])

    @property
    def split(self) -> str:
        return self.row["split"] if isinstance(self.row["split"], str) else "train"

    @property
    def fps(self) -> float:
        """Rate of the frames that leave."""
        return self.track.fps / self.every

    def runs(self) -> list[np.ndarray]:
        """``frames``, cut where some between them do not leave."""
        return np.split(self.frames, np.flatnonzero(np.diff(self.frames) > self.every) + 1)

    @property
    def licence(self) -> str | None:
        return self.row["licence"] if isinstance(self.row["licence"], str) else None

    @cached_property
    def provenance(self) -> list[str | None]:
        """Who says so, box by box; None = nobody knows."""
        return [self.words[voice] if voice >= 0 else None for voice in self.voices.tolist()]

    @property
    def one_voice(self) -> str | None:
        """Who says so of every box; None = nobody, or several."""
        return self.words[self.voices[0]] if len(self.voices) and (self.voices == self.voices[0]).all() and self.voices[0] >= 0 else None

    def at(self, frame: int) -> slice:
        """Where a frame's boxes lie among the clip's."""
        first, behind = np.searchsorted(self.track.boxes.frame, [frame, frame + 1])
        return slice(int(first), int(behind))

    def boxes(self, frame: int) -> Boxes:
        rows = self.at(frame)
        return self.track.boxes.where(np.arange(rows.start, rows.stop))

    def corners(self, frame: int) -> np.ndarray:
        """A frame's boxes in pixels, float64 (n, 4): left, top, right and bottom edge, 0 at the picture's left and upper edge."""
        height, width = self.size
        return self.boxes(frame).xyxy.astype(np.float64) * [width, height, width, height]


class Footage:
    """A clip dataset on its way out: every ``every``-th frame of every clip, where its boxes are known.

    Raises:
        UsageError: ``every`` below 1.
        DatasetError: not a clip dataset.
    """

    def __init__(self, dataset: str | Path, split: str | None = None, every: int = 1) -> None:
        if every < 1:
            raise UsageError(f"every must be at least 1, not {every}")
        self.dataset, self.every = ClipDataset(dataset, split), every
        self.unknown = 0
        self.unreadable: list[str] = []

    @property
    def name(self) -> str:
        return self.dataset.name

    def clips(self, unknown: bool = False) -> Iterator[OutgoingClip]:
        """Clips with at least one frame that leaves. unknown: frames without known boxes leave, too."""
        labels, rows = BulkLabels(self.dataset.records), self.dataset.records.clips.to_dict("records")
        for position, clip_id in enumerate(self.dataset.clip_ids):
            if position in self.dataset.faults:
                self.unreadable.append(clip_id)
                continue
            track = labels.track(position)
            frames = np.arange(0, len(track), self.every)
            known = track.boxes_known[frames]
            self.unknown += int((~known).sum())
            frames = frames if unknown else frames[known]
            if len(frames):
                boxes = labels.rows(position)
                hidden, cut, voices = (labels.columns[name][boxes] for name in ("occlusion", "truncated", "provenance"))
                yield OutgoingClip(position, rows[position], track, frames, self.every, hidden, cut, voices, labels.words)

    def write_pictures(self, clip: OutgoingClip, paths: Mapping[int, Path]) -> bool:
        """Write frame -> file, decoding the clip once; False, with nothing left of it, where it turns out to be unreadable."""
        for folder in {path.parent for path in paths.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        missing = set(paths)
        try:
            for frame, picture in enumerate(iterate_frames(self.dataset.video(clip.position))):
                if frame in missing:
                    write_picture(paths[frame], picture)
                    missing.remove(frame)
            if missing:
                raise VideoError(f"{clip.clip_id}: the video ends before frame {min(missing)}")
        except VideoError:
            self.unreadable.append(clip.clip_id)
            for path in paths.values():
                path.unlink(missing_ok=True)
            return False
        return True

    def left_out(self) -> dict[str, Any]:
        """What did not leave, for an export's summary."""
        return {"frames without known boxes": self.unknown, "clips that cannot be read": self.unreadable}

    def require(self, frames: int) -> None:
        """Refuse an export without a frame, which no training could load.

        Raises:
            DatasetError: ``frames`` is 0.
        """
        if not frames:
            raise DatasetError(
                f"{self.dataset.root}: no frame to export: {self.unknown} frames without known boxes, {len(self.unreadable)} clips that "
                "cannot be read; see: drivesim data check, drivesim data stats"
            )


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed.

    Raises:
        UsageError: it is not.
    """
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB (h, w, 3) as the kind that the suffix names; JPEG at quality 95.

    Raises:
        DrivesimError: it cannot be encoded.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    fine, data = cv2.imencode(path.suffix, picture[:, :, ::-1], quality)
    if not fine:
        raise DrivesimError(f"cannot encode {path.name} as {path.suffix}; try pictures=png")
    path.write_bytes(data.tobytes())
