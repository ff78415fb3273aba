"""Long videos in closed segments: whatever stops the writing, what was closed plays, and a later run goes on behind it.

Every segment is made by a fresh encoder, so its bytes depend on its own frames alone: a video written in one go and one written in
several are the same. This file does not know labels, datasets or networks.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from .atomic import replacing
from .decoding import Size, VideoError, count_frames, probe
from .encoding import CRF, VideoWriter, checked, even, exact_rate, open_mp4, writing

__all__ = ["SegmentedVideoWriter", "concat_segments", "segments_folder", "whole_segments"]

NAME = "[0-9]" * 6 + ".mp4"


def segments_folder(path: str | Path) -> Path:
    """Where the segments of the video ``path`` lie while it is written."""
    return Path(path).with_name(Path(path).name + ".segments")


class SegmentedVideoWriter:
    """Write a long video as closed segments under ``<path>.segments/``, joined to one MP4 by ``join`` (they stay) or ``close`` (they go).

    Killed at any point, every segment there is whole and plays; ``concat_segments`` joins what a killed run left, and a writer given
    ``kept`` (``whole_segments``) goes on behind it. ``segments`` lists the closed ones, ``frames`` counts the frames taken, kept ones
    included.

    Raises:
        VideoError: as VideoWriter, or when ``<path>.segments/`` still holds an earlier run's segments and ``kept`` is None.
    """

    def __init__(
        self, path: str | Path, fps: float | Fraction, size: Size, frames_per_segment: int, crf: int = CRF,
        kept: Sequence[Path] | None = None,
    ) -> None:  # fmt: skip
        if frames_per_segment < 1:
            raise VideoError(f"a segment must hold at least 1 frame, not {frames_per_segment}")
        self.path, self.rate, self.size, self.crf = Path(path), exact_rate(fps), even(Path(path), size), crf
        self.folder, self.frames_per_segment = segments_folder(self.path), frames_per_segment
        self.segments = list(kept or ())
        self.frames = probe(self.segments[-1]).frames + (len(self.segments) - 1) * frames_per_segment if self.segments else 0
        self._open: VideoWriter | None = None
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_others(strict=kept is None)

    def _remove_others(self, strict: bool) -> None:
        others = sorted(set(self.folder.glob("*.mp4")) - set(self.segments))
        if others and strict:
            raise VideoError(f"{self.folder} holds the segments of an unfinished run; move it away or choose another folder")
        for path in [*(path for path in others if path.match(NAME)), *self.folder.glob(".*.mp4.part")]:
            path.unlink()

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 RGB frames (n, h, w, 3); segments are closed as they fill."""
        frames = checked(self.path, frames, self.size)
        while len(frames):
            if self._open is None:
                self._open = VideoWriter(self.folder / f"{len(self.segments):06d}.mp4", self.rate, self.size, self.crf)
            room = self.frames_per_segment - self._open.frames
            self._open.write(frames[:room])
            self.frames += len(frames[:room])
            frames = frames[room:]
            if self._open.frames == self.frames_per_segment:
                self._close_segment()

    def join(self) -> Path:
        """Close the last segment and join all into ``path``; the segments stay."""
        self._close_segment()
        return concat_segments(self.segments, self.path)

    def close(self) -> Path:
        """Close the last segment, join all into ``path`` and remove them."""
        self.join()
        shutil.rmtree(self.folder)
        return self.path

    def abandon(self) -> None:
        """Stop without joining: the closed segments stay, and the open one is closed too, where the disk still allows it."""
        with suppress(VideoError):  # we are here because of an error already; a second one must not hide it
            self._close_segment()

    def _close_segment(self) -> None:
        if self._open is not None:
            segment, self._open = self._open, None
            segment.close()
            self.segments.append(segment.path)

    def __enter__(self) -> SegmentedVideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def whole_segments(path: str | Path, fps: float | Fraction, size: Size, frames_per_segment: int, frames: int) -> list[Path]:
    """Those segments of an unfinished video ``path`` that a run of ``frames`` frames in all can go on behind.

    They are counted from the first one on; one that is missing, damaged, cut short or of another size or rate ends the list.
    """
    found: list[Path] = []
    for number, first in enumerate(range(0, frames, frames_per_segment)):
        segment = segments_folder(path) / f"{number:06d}.mp4"
        if not _is_whole(segment, exact_rate(fps), size, min(frames_per_segment, frames - first)):
            break
        found.append(segment)
    return found


def _is_whole(segment: Path, rate: Fraction, size: Size, frames: int) -> bool:
    try:
        info = probe(segment)
        known_rate = info.rate == rate or info.frames == 1  # one frame has no rate of its own
        return known_rate and (info.height, info.width) == size and info.frames == count_frames(segment) == frames
    except VideoError:
        return False


def concat_segments(segments: Sequence[str | Path], out: str | Path) -> Path:
    """Join videos of one size, rate and encoder setting without encoding again: one faststart MP4 with every frame of each.

    Raises:
        VideoError: no segments, an unreadable one, or one that differs in size, rate or encoder settings.
    """
    paths, out = [Path(segment) for segment in segments], Path(out)
    if not paths:
        raise VideoError(f"{out}: no segments to join")
    rate = probe(paths[0]).rate
    with writing(out), replacing(out) as part, av.open(str(paths[0])) as first, open_mp4(part) as joined:
        template = first.streams.video[0]
        stream = joined.add_stream_from_template(template)
        stream.time_base = template.time_base
        shown = 0
        for path in paths:
            shown += _append(path, joined, stream, rate, template, shown)
    return out


def _append(path: Path, joined: OutputContainer, stream: VideoStream, rate: Fraction, like: VideoStream, shown: int) -> int:
    """Copy one segment's packets behind ``shown`` frames; returns how many it held."""
    frames = 0
    with av.open(str(path)) as container:
        source = _same_kind(path, container, rate, like)
        tick = 1 / (rate * source.time_base)  # type: ignore[operator]
        start = source.start_time or 0
        for packet in container.demux(source):
            if packet.dts is None or packet.pts is None:
                continue
            offset = round(shown * tick) - start
            packet.pts, packet.dts, packet.duration = packet.pts + offset, packet.dts + offset, round(tick)
            packet.stream = stream
            joined.mux(packet)
            frames += 1
    return frames


def _same_kind(path: Path, container: InputContainer, rate: Fraction, like: VideoStream) -> VideoStream:
    source = container.streams.video[0]
    same_settings = source.codec_context.extradata == like.codec_context.extradata
    if not same_settings or (source.width, source.height, source.time_base) != (like.width, like.height, like.time_base):
        raise VideoError(f"{path}: its size or encoder settings differ from the first segment's, so it cannot be joined")
    if source.frames > 1 and source.average_rate != rate:
        raise VideoError(f"{path}: its rate {source.average_rate} differs from the first segment's {rate}, so it cannot be joined")
    return source
