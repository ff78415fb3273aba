"""Writing video: H.264 MP4 that browsers play and seek.

No B-frames and a keyframe every second, so that any window is found exactly and quickly. The encoder's thread count follows from the
picture size alone, never from the machine: the same frames give the same bytes. Long videos are written in ``segments``. This file does
not know labels, datasets or networks.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from .atomic import part_of, publish
from .decoding import Size, VideoError

__all__ = ["CRF", "VideoWriter", "checked", "even", "exact_rate", "open_mp4", "recode", "write_video", "writing"]

CRF = 18
FASTSTART = {"movflags": "+faststart"}
NARROW = 64
"""Pixels. On pictures this narrow x264 has not always repeated itself: 11 of 300 encodes of 16x32 differed on one machine, none of 24,000
up to 32x64 on another. Without SIMD code, which is worth nothing at such sizes, what it makes does not depend on the processor."""


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
        self.path, self.rate, self.size = Path(path), exact_rate(fps), even(Path(path), size)
        self.frames = 0
        self._part = part_of(self.path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = open_mp4(self._part)
            self._stream = _h264(self._container, self.rate, self.size, crf)

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 RGB frames (n, h, w, 3), or one frame (h, w, 3)."""
        frames = checked(self.path, frames, self.size)
        with writing(self.path):
            for picture in frames:
                self._append(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))

    def write_decoded(self, frame: VideoFrame) -> None:
        """Append a frame as ``iterate_yuv`` yields it; it becomes the encoder's and its time is overwritten.

        Raises:
            VideoError: another size, or a disk that is full or read-only.
        """
        if (frame.height, frame.width) != self.size:
            raise VideoError(f"{self.path}: frames must be {self.size[0]}x{self.size[1]}, got {frame.height}x{frame.width}")
        frame.pict_type = PictureType.NONE  # a decoded frame asks for the kind it had; the encoder is to choose
        with writing(self.path):
            self._append(frame)

    def _append(self, frame: VideoFrame) -> None:
        frame.pts, frame.time_base = self.frames, 1 / self.rate
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and let it appear. A video without frames is refused."""
        if not self.frames:
            self.discard()
            raise VideoError(f"{self.path}: no frames were written, so there is no video")
        try:
            with writing(self.path):
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
    size = even(where, (frames.shape[1], frames.shape[2]))
    frames, memory = checked(where, frames, size), io.BytesIO()
    with writing(where), av.open(memory, "w", format="mp4") as out:
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


def open_mp4(path: Path) -> OutputContainer:
    """A new MP4 whose index will stand at its front."""
    return av.open(str(path), "w", format="mp4", options=FASTSTART)


def _h264(container: OutputContainer, rate: Fraction, size: Size, crf: int) -> VideoStream:
    height, width = size
    gop = max(1, round(rate))
    threads = 1 if height * width <= 256 * 512 else 4
    options = {"preset": "veryfast", "crf": str(crf), "bf": "0", "sc_threshold": "0", "threads": str(threads)}
    if width <= NARROW:
        options["x264-params"] = "no-asm=1"
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size = gop
    stream.codec_context.time_base = 1 / rate
    return stream


def even(path: Path, size: Size) -> Size:
    """``size``, once it is one that H.264 takes.

    Raises:
        VideoError: it is not.
    """
    height, width = size
    if height % 2 or width % 2 or height < 2 or width < 2:
        raise VideoError(f"{path}: H.264 video needs an even height and width, not {height}x{width}; crop or resize the frames")
    return height, width


def checked(path: Path, frames: np.ndarray, size: Size) -> np.ndarray:
    """Frames (n, h, w, 3) of ``size``; one frame (h, w, 3) becomes n = 1.

    Raises:
        VideoError: another size or type.
    """
    frames = frames[None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8 or frames.shape[1:] != (*size, 3):
        raise VideoError(f"{path}: frames must be uint8 (n, {size[0]}, {size[1]}, 3), got {frames.dtype} {frames.shape}")
    return frames


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """FFmpeg's and the disk's errors become a VideoError that names the file."""
    try:
        yield
    except OSError as error:  # av.FFmpegError with an errno is an OSError as well
        raise VideoError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    except av.FFmpegError as error:
        raise VideoError(f"cannot write {path}: {error}") from error
