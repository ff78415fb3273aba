"""Reading video: what a file holds, frames at given times, all frames in order.

Frames are asked for by time with a tolerance. A window costs one seek to the keyframe before it and one decode forward; frames that
nobody refers to and nobody asked for are not decoded at all, and only frames that were asked for become RGB. This file does not know
labels, datasets or windows.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from drivesim.errors import DrivesimError

__all__ = ["Converter", "VideoError", "VideoInfo", "all_frames", "count_frames", "iterate_frames", "opened", "probe", "read_frames"]

Size = tuple[int, int]  # (height, width)


class VideoError(DrivesimError):
    """A video that cannot be read or written: the message names the file, the reason and what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself. ``rate`` is the exact frame rate, ``fps`` the same as a float."""

    fps: float
    frames: int
    height: int
    width: int
    duration_s: float
    rate: Fraction


@dataclass(frozen=True)
class Source:
    """An open file and the units of its clock: a frame with ``pts`` p is shown (p - start) * time_base seconds after the first."""

    path: Path
    container: InputContainer
    stream: VideoStream
    rate: Fraction
    time_base: Fraction
    start: int
    size: Size

    @property
    def interval(self) -> float:
        """Ticks from one frame to the next."""
        return float(1 / (self.rate * self.time_base))

    def seconds(self, ticks: float) -> float:
        return float((ticks - self.start) * self.time_base)


def probe(path: str | Path) -> VideoInfo:
    """Size, exact rate and length of a video, from its header; nothing is decoded.

    Raises:
        VideoError: missing, empty, unreadable, without a picture, or without a positive frame rate.
    """
    with opened(path) as source:
        frames = source.stream.frames or _packets(source)
        rate, width, height = source.rate, source.stream.width, source.stream.height
        return VideoInfo(float(rate), frames, height, width, float(frames / rate), rate)


def count_frames(path: str | Path, decode: bool = False) -> int:
    """Frames that are really in the file, whatever its header says: compressed ones counted, or (``decode``) every one decoded.

    Raises:
        VideoError: unreadable, or (``decode``) damaged anywhere.
    """
    with opened(path) as source:
        return sum(1 for _ in all_frames(source)) if decode else _packets(source)


def iterate_frames(path: str | Path, size: Size | None = None) -> Iterator[np.ndarray]:
    """Every frame in order: uint8 (h, w, 3) RGB, resized to ``size`` = (height, width) as in ``read_frames``. Memory stays flat.

    Raises:
        VideoError: unreadable, truncated or damaged.
    """
    with opened(path) as source:
        convert = Converter(source, size)
        for frame in all_frames(source):
            yield convert(frame, np.empty((*convert.size, 3), np.uint8))


def read_frames(
    path: str | Path,
    timestamps_s: Sequence[float] | np.ndarray | None = None,
    tolerance: float | None = None,
    *,
    indices: Sequence[int] | np.ndarray | None = None,
    size: Size | None = None,
) -> np.ndarray:
    """The frames shown at ``timestamps_s`` (seconds after the first frame), in the order asked for; repeats are allowed.

    ``indices`` may be given instead and mean index / rate seconds. Each time gets the nearest frame, which must lie within ``tolerance``
    seconds (default: half a frame). Pixels are what libswscale makes of the decoded frame (bilinear, BT.601 unless the file says
    otherwise); with ``size`` = (height, width) it also resizes, by area, before colours are converted: within a few grey levels of
    an area resize of the RGB frame, and quicker for large frames.

    Returns:
        uint8 (n, h, w, 3) RGB.

    Raises:
        VideoError: unreadable, truncated or damaged video, or no frame within the tolerance of a time.
    """
    with opened(path) as source:
        if source.stream.height * source.stream.width <= 256 * 512:
            source.stream.codec_context.thread_count = 1  # starting threads costs more than they save, and workers have none to spare
        ticks = _wanted_ticks(source, timestamps_s, indices)
        slack = source.interval / 2 if tolerance is None else tolerance / float(source.time_base)
        convert = Converter(source, size)
        frames = np.empty((len(ticks), *convert.size, 3), np.uint8)
        order = np.argsort(ticks, kind="stable")
        for slot, frame in zip(order, _pick(source, ticks[order].tolist(), slack), strict=True):
            convert(frame, frames[slot])
        return frames


@contextmanager
def opened(path: str | Path) -> Iterator[Source]:
    """Open a video for reading; every FFmpeg error inside the block becomes a VideoError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"{path}: no such video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the video is empty (0 bytes); copy or render it again")
    try:
        with av.open(str(path)) as container:
            yield _source(path, container)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path}: unreadable, truncated or damaged video ({reason}); copy or render it again") from error


def _source(path: Path, container: InputContainer) -> Source:
    if not container.streams.video:
        raise VideoError(f"{path}: holds no video stream")
    stream = container.streams.video[0]
    rate = stream.average_rate or stream.base_rate or stream.guessed_rate
    if not rate or rate <= 0 or not stream.time_base:
        raise VideoError(f"{path}: the frame rate is {rate}, it must be above 0; re-encode the video at a constant rate")
    if not (stream.width and stream.height):
        raise VideoError(f"{path}: the video stream has no picture size; it is damaged")
    stream.thread_type = "SLICE"
    return Source(path, container, stream, Fraction(rate), stream.time_base, stream.start_time or 0, (stream.height, stream.width))


def _packets(source: Source) -> int:
    return sum(1 for packet in source.container.demux(source.stream) if packet.size and not packet.is_corrupt)


def all_frames(source: Source) -> Iterator[VideoFrame]:
    """Decode from the first frame to the last; several threads, since nothing is skipped. A file cut short ends with an error."""
    source.stream.thread_type = "AUTO"
    promised = len(_index(source)) or source.stream.frames
    held = number = 0
    for packet in source.container.demux(source.stream):
        held += packet.size > 0
        for frame in packet.decode():
            yield _sound(source, frame, number)
            number += 1
    if held < promised:
        raise VideoError(f"{source.path}: truncated after {held} of {promised} frames; copy or render the video again")


def _index(source: Source) -> Sequence[Any]:
    """The container's own list of frames (MP4) or keyframes; older PyAV does not tell it."""
    return getattr(source.stream, "index_entries", ())


def _sound(source: Source, frame: VideoFrame, number: int | None = None) -> VideoFrame:
    where = f"at {source.seconds(frame.pts or 0):.3f} s" if number is None else f"{number}"
    if frame.is_corrupt:
        raise VideoError(f"{source.path}: frame {where} is damaged; copy or render the video again")
    if (frame.height, frame.width) != source.size:
        sizes = f"{frame.height}x{frame.width}, not {source.size[0]}x{source.size[1]}"
        raise VideoError(f"{source.path}: the picture changes its size, frame {where} is {sizes}; cut the video there")
    return frame


def _wanted_ticks(
    source: Source, timestamps_s: Sequence[float] | np.ndarray | None, indices: Sequence[int] | np.ndarray | None
) -> np.ndarray:
    if (timestamps_s is None) == (indices is None):
        raise TypeError("read_frames takes either timestamps_s or indices")
    if indices is not None:
        return source.start + np.asarray(indices, np.int64) * source.interval
    times = np.asarray(timestamps_s, np.float64)
    if not np.isfinite(times).all():
        raise VideoError(f"{source.path}: a timestamp asked for is not a finite number")
    return source.start + times / float(source.time_base)


def _pick(source: Source, ticks: list[float], slack: float) -> Iterator[VideoFrame]:
    """The frame nearest to each of the rising ``ticks``; a frame within an eighth of an interval is taken without a look at the next."""
    for run in _runs(source, ticks):
        waiting, before = iter(run), None
        wanted = next(waiting, None)
        for frame in _decode_near(source, run, slack):
            while wanted is not None and _tick(frame) >= wanted - source.interval / 8:
                yield _nearest(source, (before, frame), wanted, slack)
                wanted = next(waiting, None)
            before = frame
            if wanted is None:
                break
        while wanted is not None:
            yield _nearest(source, (before,), wanted, slack)
            wanted = next(waiting, None)


def _nearest(source: Source, frames: Iterable[VideoFrame | None], wanted: float, slack: float) -> VideoFrame:
    best = min((frame for frame in frames if frame is not None), key=lambda frame: abs(_tick(frame) - wanted), default=None)
    if best is None or abs(_tick(best) - wanted) > slack * (1 + 1e-9) + 1:  # one tick: times are rounded to the file's clock
        length = f"its header tells of {source.stream.frames} frames, {float(source.stream.frames / source.rate):.3f} s"
        raise VideoError(
            f"{source.path}: no frame within {slack * float(source.time_base):.4g} s of {source.seconds(wanted):.4f} s ({length}); "
            "ask for a time inside it, or copy the video again if it is truncated"
        )
    return _sound(source, best)


def _tick(frame: VideoFrame) -> int:
    assert frame.pts is not None  # _decode_near lets no other through
    return frame.pts


def _runs(source: Source, ticks: list[float]) -> Iterator[list[float]]:
    """Cut the wanted ticks where a keyframe lies well between two of them: skipping to it is cheaper than decoding up to it."""
    keys = [entry.timestamp for entry in _index(source) if entry.is_keyframe] if len(ticks) > 1 else []
    margin = 4 * source.interval  # the index counts decoding time, which runs ahead of showing time by the depth of reordering
    run = list[float]()
    for tick in ticks:
        if run and bisect_left(keys, run[-1] + margin) < bisect_right(keys, tick - margin):
            yield run
            run = []
        run.append(tick)
    if run:
        yield run


def _decode_near(source: Source, ticks: list[float], slack: float) -> Iterator[VideoFrame]:
    """Decode from the keyframe before ``ticks[0]`` on. Frames that no other refers to are skipped unless a tick may want them."""
    decoder, skipping = source.stream.codec_context, False
    decoder.skip_frame = "DEFAULT"
    for packet in _packets_from(source, ticks[0]):
        if packet.pts is not None:
            spare = bisect_left(ticks, packet.pts - slack - 1) == bisect_right(ticks, packet.pts + slack + 1)
            if spare != skipping:
                skipping = spare
                decoder.skip_frame = "NONREF" if spare else "DEFAULT"
        yield from (frame for frame in packet.decode() if frame.pts is not None)


def _packets_from(source: Source, tick: float) -> Iterator[Packet]:
    """Packets from a keyframe shown at or before ``tick``. Seeking goes by decoding time and may land late: then step further back."""
    target, step = tick, source.interval
    while True:
        target = max(target, float(source.start))
        source.container.seek(int(target), stream=source.stream, backward=True)
        packets = source.container.demux(source.stream)
        first = next(packets)
        if first.pts is None or first.pts <= tick + 1 or target <= source.start:
            return itertools.chain([first], packets)
        target, step = target - step, step * 2


class Converter:
    """Decoded frame -> uint8 RGB rows, with one libswscale context for all frames."""

    def __init__(self, source: Source, size: Size | None) -> None:
        self.size = size or source.size
        self.interpolation = "BILINEAR" if size is None else "AREA"
        self.reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, out: np.ndarray) -> np.ndarray:
        height, width = self.size
        plane = self.reformatter.reformat(frame, width, height, "rgb24", interpolation=self.interpolation).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)  # type: ignore[call-overload]
        out[:] = rows[:, : width * 3].reshape(height, width, 3)
        return out
