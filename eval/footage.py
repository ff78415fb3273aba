"""The one door through which both sides of a comparison come: footage, and the shots that are judged at once.

A shot is a window of one clip at a whole-number stride near the rate asked for; shots of a clip share no frame. Real, simulated and
generated clips are never pooled on one side. This file does not know networks, codecs or distances.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.fetching import local_folder
from drivesim.io.records import DatasetRecords
from drivesim.rates import whole_stride

from .clips import Clip, clips_in_memory, open_clips

__all__ = ["Footage", "Shot"]


@dataclass(frozen=True)
class Shot:
    """One window of one clip. ``read`` gives its frames, uint8 (t, h, w, 3) RGB at the clip's own size; it may raise VideoError.

    fps: the rate it plays at.   key: the same for the same bytes and frame numbers, wherever the clip lies.   frames: how many it holds.
    """

    clip_id: str
    drive: str
    first_frame: int
    fps: float
    key: str
    read: Callable[[], np.ndarray]
    frames: int = 1


@dataclass(frozen=True)
class Footage:
    """One side of a comparison.

    kind: real | simulated | generated | unknown (folders of videos and arrays do not say).   skipped: clip id -> why it was left out.
    records: labels of the clips that have any, under the same clip ids (``drivesim.io.records.labels_of``); None = no labels.
    """

    name: str
    kind: str
    clips: tuple[Clip, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    records: DatasetRecords | None = None
    paths: tuple[str | Path, ...] = ()
    split: str | None = None

    @classmethod
    def open(cls, paths: Sequence[str | Path], split: str | None = None, name: str | None = None) -> Footage:
        """Clip datasets, folders of MP4 videos (each file a clip and a drive), or single videos; folders may be fsspec URLs.

        split: of clip datasets, None = every clip; folders of videos have no splits.

        Raises:
            DatasetError: a dataset that cannot be read.   UsageError: no clips, or real and simulated ones together.
        """
        places = [local_folder(path, dataset=False) for path in paths]
        if not places:
            raise UsageError("no folder was given; give a clip dataset or a folder of MP4 videos")
        opened = open_clips(places, split)
        title = name or " + ".join(path.resolve().name for path in places)
        if not opened.clips:
            clip_id, reason = next(iter(opened.skipped.items()))
            raise UsageError(f"{title}: none of its {len(opened.skipped)} clips can be used; {clip_id}: {reason}")
        return cls(title, _one_kind(title, opened.clips), tuple(opened.clips), opened.skipped, opened.records, tuple(paths), split)

    @classmethod
    def from_frames(cls, name: str, frames: Iterable[np.ndarray], fps: float, drives: Sequence[str] | None = None) -> Footage:
        """Clips in memory: an iterable of uint8 (t, h, w, 3) RGB, all at ``fps``; ``drives``: one name a clip.

        Raises:
            UsageError: no clips, NaN, another type or shape.
        """
        return cls(name, "unknown", tuple(clips_in_memory(frames, fps, drives)))

    @property
    def drives(self) -> list[str]:
        """Names of the drives, sorted."""
        return sorted({clip.drive for clip in self.clips})

    @property
    def sizes(self) -> Counter[tuple[int, int]]:
        """(height, width) -> clips."""
        return Counter(clip.size for clip in self.clips)

    @property
    def rates(self) -> Counter[float]:
        """Frames a second, to two digits -> clips."""
        return Counter(round(clip.fps, 2) for clip in self.clips)

    @property
    def lossy(self) -> bool:
        """Whether any frame has been through a video file: every format that clips come in loses something."""
        return any(isinstance(clip.content, Path) for clip in self.clips)

    def shots(
        self, frames: int, fps: float | None, every_s: float | None = None, limit: int | None = None, seed: int = 0
    ) -> list[Shot]:
        """Disjoint windows of ``frames`` frames at ``fps`` (None = each clip's own), in the order of the clips.

        every_s: windows begin no closer together than this.   limit: at most so many, spread over as many drives as there are, which
        follows from ``seed`` alone. Frames that were given to the generator are in no window.
        """
        places = [(clip, *place) for clip in self.clips for place in _places(clip, frames, fps, every_s)]
        if limit is not None and limit < len(places):
            places = [places[number] for number in _spread([clip.drive for clip, *_ in places], limit, seed)]
        return [_shot(clip, start, stride, frames) for clip, start, stride in places]

    def left_out(self, frames: int, fps: float | None) -> dict[str, list[str]]:
        """Reason -> ids of clips that hold no such window."""
        reasons: dict[str, list[str]] = {}
        for clip in self.clips:
            if not _places(clip, frames, fps, None):
                reasons.setdefault(_why_not(clip, frames, fps), []).append(clip.clip_id)
        return reasons

    def require_uniform(self) -> None:
        """One size and one rate: a side that mixes them is several generators, or an accident.

        Raises:
            UsageError: names sizes or rates and how many clips have each.
        """
        sizes = {f"{height}x{width}": count for (height, width), count in self.sizes.items()}
        rates = {f"{rate:g} fps": count for rate, count in self.rates.items()}
        for what, found in (("sizes", sizes), ("frame rates", rates)):
            if len(found) > 1:
                told = ", ".join(f"{name} ({count} clips)" for name, count in found.items())
                raise UsageError(f"{self.name}: its clips have several {what}: {told}; judge each kind apart")


def _one_kind(name: str, clips: Sequence[Clip]) -> str:
    kinds = Counter(clip.kind for clip in clips)
    if len(kinds) > 1:
        told = ", ".join(f"{kind} ({count} clips)" for kind, count in kinds.items())
        raise UsageError(f"{name}: pools clips of several kinds: {told}; judge each kind apart")
    return next(iter(kinds))


def _places(clip: Clip, frames: int, fps: float | None, every_s: float | None) -> list[tuple[int, int]]:
    """(first frame, stride) of the windows of a clip."""
    stride = 1 if fps is None else whole_stride(clip.fps, fps)
    if stride is None:
        return []
    step = max(frames * stride, round((every_s or 0) * clip.fps))
    return [(start, stride) for start in range(clip.given, clip.frames - (frames - 1) * stride, step)]


def _why_not(clip: Clip, frames: int, fps: float | None) -> str:
    stride = 1 if fps is None else whole_stride(clip.fps, fps)
    if stride is None:
        return f"{clip.fps:g} fps has no whole-number stride near {fps:g} fps"
    return f"shorter than the {(frames - 1) * stride + 1} frames a window at {clip.fps:g} fps needs"


def _spread(drives: Sequence[str], limit: int, seed: int) -> list[int]:
    """``limit`` positions, one of each drive before a second of any; sorted."""
    order = np.random.default_rng(seed).permutation(len(drives))
    taken: Counter[str] = Counter()
    turn = np.empty(len(drives), np.int64)
    for number in order:
        turn[number] = taken[drives[number]]
        taken[drives[number]] += 1
    rank = np.empty(len(drives), np.int64)
    rank[order] = np.arange(len(drives))
    return sorted(np.lexsort((rank, turn))[:limit].tolist())


def _shot(clip: Clip, start: int, stride: int, frames: int) -> Shot:
    indices = start + stride * np.arange(frames)
    key = hashlib.sha256(f"{clip.digest} {clip.fps:.6f} {start} {stride} {frames}".encode()).hexdigest()
    return Shot(clip.clip_id, clip.drive, start, clip.fps / stride, key, partial(clip.read, indices), frames)
