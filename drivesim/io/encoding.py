"""Writing video: H.264 MP4 that browsers play and seek, whole files or closed segments joined at the end.

No B-frames and a keyframe every second, so that any window is found exactly and quickly. The encoder's thread count follows from the
picture size alone, never from the machine: the same frames give the same bytes. This file does not know labels, datasets or networks.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from .atomic import part_of, publish, replacing
from .decoding import Size, VideoError, probe

__all__ = ["SegmentedVideoWriter", "VideoWriter", "concat_segments", "exact_rate", "recode", "write_video"]

CRF = 18
FASTSTART = {"movflags": "+faststart"}


def exact_rate(fps: float | Fraction) -> Fraction:
    """The fraction a frame rate stands for: 7.5 -> 15/2, 1.875 -> 15/8, 29.97 -> 30000/1001.

    Raises:
        VideoError: not a finite number above 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"the frame rate must be a number above 0, not {fps}")
    if isinstance(fps, Fraction):
        return fps
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    return broadcast if abs(broadcast - fps) < 1e-4 else Fraction(fps).limit_denominator(1000)


class VideoWriter:
    """Write one MP4 (libx264, yuv420p, faststart) that appears at ``path`` when closed; after an error nothing is left of it.

    size: (height, width), both even.   Use as a context manager, or call ``close`` or ``discard``.

    Raises:
        VideoError: odd size, bad rate, frames of another size or type, or a disk that is full or read-only.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, size: Size, crf: int = CRF) -> None:
        self.path, self.rate, self.size = Path(path), exact_rate(fps), _even(Path(path), size)
        self.frames = 0
        self._part = part_of(self.path)
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = _mp4(self._part)
            self._stream = _h264(self._container, self.rate, self.size, crf)

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 RGB frames (n, h, w, 3), or one frame (h, w, 3)."""
        frames = _checked(self.path, frames, self.size)
        with _writing(self.path):
            for picture in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = self.frames, 1 / self.rate
                self._container.mux(self._stream.encode(frame))
                self.frames += 1

    def close(self) -> None:
        """Finish the file and let it appear. A video without frames is refused."""
        if not self.frames:
            self.discard()
            raise VideoError(f"{self.path}: no frames were written, so there is no video")
        try:
            with _writing(self.path):
                self._container.mux(self._stream.encode(None))
                self._container.close()
                publish(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def discard(self) -> None:
        """Give up: close the encoder and remove the unfinished file."""
        try:
            self._container.close()
        except av.FFmpegError:
            self.frames = 0  # the disk is full: the trailer could not be written either, and the part goes anyway
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close() if kind is None else self.discard()


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float | Fraction, crf: int = CRF) -> int:
    """Write uint8 RGB frames (h, w, 3) as an MP4; frames may be an iterator of any length. Returns how many were written.

    Raises:
        VideoError: no frames, odd or changing size, bad rate, or a disk that is full or read-only.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError(f"{path}: no frames were given, so there is no video")
    with VideoWriter(path, fps, (first.shape[0], first.shape[1]), crf) as writer:
        for frame in chain([first], frames):
            writer.write(frame)
    return writer.frames


def recode(frames: np.ndarray, fps: float | Fraction, crf: int = CRF) -> np.ndarray:
    """uint8 RGB frames (n, h, w, 3) as they come back from an MP4 that ``write_video`` would make of them; nothing touches the disk.

    Raises:
        VideoError: no frames, odd size, another type, or bad rate.
    """
    where, rate = Path("frames in memory"), exact_rate(fps)
    if not len(frames):
        raise VideoError(f"{where}: no frames were given, so there is no video")
    size = _even(where, (frames.shape[1], frames.shape[2]))
    frames, memory = _checked(where, frames, size), io.BytesIO()
    with _writing(where), av.open(memory, "w", format="mp4") as out:
        _encode(out, _h264(out, rate, size, crf), frames, rate)
    memory.seek(0)
    with av.open(memory, "r") as written:
        stream = written.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24", interpolation="BILINEAR") for frame in written.decode(stream)])


def _encode(container: OutputContainer, stream: VideoStream, frames: np.ndarray, rate: Fraction) -> None:
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = number, 1 / rate
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


class SegmentedVideoWriter:
    """Write a long video as closed segments under ``<path>.segments/``, each by a fresh encoder, joined to one MP4 by ``close``.

    Killed at any point, every segment there is whole and plays; ``concat_segments`` joins what a killed run left. Segments are removed
    once the joined file is in place. ``segments`` lists the closed ones, ``frames`` counts the frames taken.

    Raises:
        VideoError: as VideoWriter, or when ``<path>.segments/`` still holds an earlier run's segments.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, size: Size, frames_per_segment: int, crf: int = CRF) -> None:
        if frames_per_segment < 1:
            raise VideoError(f"a segment must hold at least 1 frame, not {frames_per_segment}")
        self.path, self.rate, self.size, self.crf = Path(path), exact_rate(fps), _even(Path(path), size), crf
        self.folder = self.path.with_name(self.path.name + ".segments")
        self.frames_per_segment, self.frames, self.segments = frames_per_segment, 0, list[Path]()
        self._open: VideoWriter | None = None
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.glob("*.mp4")):
            raise VideoError(f"{self.folder} holds the segments of an unfinished run; move it away or choose another folder")

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 RGB frames (n, h, w, 3); segments are closed as they fill."""
        frames = _checked(self.path, frames, self.size)
        while len(frames):
            if self._open is None:
                self._open = VideoWriter(self.folder / f"{len(self.segments):06d}.mp4", self.rate, self.size, self.crf)
            room = self.frames_per_segment - self._open.frames
            self._open.write(frames[:room])
            self.frames += len(frames[:room])
            frames = frames[room:]
            if self._open.frames == self.frames_per_segment:
                self._close_segment()

    def close(self) -> Path:
        """Close the last segment, join all into ``path`` and remove them."""
        self._close_segment()
        concat_segments(self.segments, self.path)
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


def concat_segments(segments: Sequence[str | Path], out: str | Path) -> Path:
    """Join videos of one size, rate and encoder setting without encoding again: one faststart MP4 with every frame of each.

    Raises:
        VideoError: no segments, an unreadable one, or one that differs in size, rate or encoder settings.
    """
    paths, out = [Path(segment) for segment in segments], Path(out)
    if not paths:
        raise VideoError(f"{out}: no segments to join")
    rate = probe(paths[0]).rate
    with _writing(out), replacing(out) as part, av.open(str(paths[0])) as first, _mp4(part) as joined:
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


def _mp4(path: Path) -> OutputContainer:
    return av.open(str(path), "w", format="mp4", options=FASTSTART)


def _h264(container: OutputContainer, rate: Fraction, size: Size, crf: int) -> VideoStream:
    height, width = size
    gop = max(1, round(rate))
    threads = 1 if height * width <= 256 * 512 else 4
    options = {"preset": "veryfast", "crf": str(crf), "bf": "0", "sc_threshold": "0", "threads": str(threads)}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size = gop
    stream.codec_context.time_base = 1 / rate
    return stream


def _even(path: Path, size: Size) -> Size:
    height, width = size
    if height % 2 or width % 2 or height < 2 or width < 2:
        raise VideoError(f"{path}: H.264 video needs an even height and width, not {height}x{width}; crop or resize the frames")
    return height, width


def _checked(path: Path, frames: np.ndarray, size: Size) -> np.ndarray:
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8 or frames.shape[1:] != (*size, 3):
        raise VideoError(f"{path}: frames must be uint8 (n, {size[0]}, {size[1]}, 3), got {frames.dtype} {frames.shape}")
    return frames


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """FFmpeg's and the disk's errors become a VideoError that names the file."""
    try:
        yield
    except OSError as error:  # av.FFmpegError with an errno is an OSError as well
        raise VideoError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    except av.FFmpegError as error:
        raise VideoError(f"cannot write {path}: {error}") from error
