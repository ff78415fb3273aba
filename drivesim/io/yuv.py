"""Decoded frames that go to an encoder as they are: turning them into RGB and back costs as much again as decoding them, and rounds twice.

Only frames in the colours that every video here is written in pass so (yuv420p, BT.601, 16 to 235, which is also how untagged files are
read); others are converted like anything else that is read. This file does not know files' clocks or what frames show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from .decoding import Converter, all_frames, opened

__all__ = ["iterate_yuv"]

UNTOLD, BT470BG, SMPTE170M = 2, 5, 6
"""Matrices of ITU-T H.273 that are BT.601's, or not told."""
FULL_RANGE = 2


def iterate_yuv(path: str | Path) -> Iterator[VideoFrame]:
    """Every frame in order, for ``VideoWriter.write_decoded``; those in other colours as RGB of the right ones. Memory stays flat.

    Raises:
        VideoError: unreadable, truncated or damaged.
    """
    with opened(path) as source:
        convert = Converter(source, None)
        for frame in all_frames(source):
            yield frame if _as_written(frame) else _rgb(convert, frame)


def _as_written(frame: VideoFrame) -> bool:
    plain = frame.format.name == "yuv420p" and frame.color_range != FULL_RANGE
    return plain and frame.colorspace in (UNTOLD, BT470BG, SMPTE170M)


def _rgb(convert: Converter, frame: VideoFrame) -> VideoFrame:
    return av.VideoFrame.from_ndarray(convert(frame, np.empty((*convert.size, 3), np.uint8)), format="rgb24")
