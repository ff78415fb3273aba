"""The door to video files. Reading lives in ``decoding`` and ``yuv``, writing in ``encoding``, long videos in ``segments``; everything
above imports from here."""

from __future__ import annotations

from .decoding import VideoError, VideoInfo, count_frames, iterate_frames, probe, read_frames
from .encoding import VideoWriter, exact_rate, recode, write_video
from .segments import SegmentedVideoWriter, concat_segments, segments_folder, whole_segments
from .yuv import iterate_yuv

__all__ = [
    "SegmentedVideoWriter", "VideoError", "VideoInfo", "VideoWriter", "concat_segments", "count_frames", "exact_rate", "iterate_frames",
    "iterate_yuv", "probe", "read_frames", "recode", "segments_folder", "whole_segments", "write_video",
]  # fmt: skip
