"""The door to video files. Reading lives in ``decoding``, writing in ``encoding``; everything above imports from here."""

from __future__ import annotations

from .decoding import VideoError, VideoInfo, count_frames, iterate_frames, probe, read_frames
from .encoding import SegmentedVideoWriter, VideoWriter, concat_segments, exact_rate, recode, write_video

__all__ = [
    "SegmentedVideoWriter", "VideoError", "VideoInfo", "VideoWriter", "concat_segments", "count_frames", "exact_rate", "iterate_frames",
    "probe", "read_frames", "recode", "write_video",
]  # fmt: skip
