"""Decoded frames handed to the encoder as they are: they show the same, are no worse, and nothing of the source's habits comes along."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from drivesim.io.video import VideoError, VideoWriter, count_frames, iterate_frames, iterate_yuv, write_video

SIZE, COUNT = (64, 128), 40


def pictures() -> np.ndarray:
    """A soft coloured ramp that moves: uint8 (n, h, w, 3)."""
    across, down, time = np.arange(SIZE[1])[None, None], np.arange(SIZE[0])[None, :, None], np.arange(COUNT)[:, None, None]
    waves = [128 + 90 * np.sin((across + 2 * time) / 20), 128 + 90 * np.cos((down + time) / 15), 100 + across * 0.5 + 0 * time + 0 * down]
    return np.stack(np.broadcast_arrays(*waves), axis=-1).astype(np.uint8)


def foreign(path: Path, space: int, full: bool = False) -> Path:
    """B-frames and one key frame for all, colours by the matrix and range told: what other encoders write."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "3", "g": "100", "crf": "10", "x264-params": "threads=1"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuvj420p" if full else "yuv420p"
        stream.codec_context.colorspace = space
        for picture in pictures():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=space, dst_color_range=2 if full else 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def passed(source: Path, out: Path) -> Path:
    with VideoWriter(out, 10, SIZE) as writer:
        for frame in iterate_yuv(source):
            writer.write_decoded(frame)
    return out


def read(path: Path) -> np.ndarray:
    return np.stack(list(iterate_frames(path))).astype(np.float64)


@pytest.mark.parametrize(("space", "full"), [(5, False), (1, False), (5, True)], ids=["BT.601", "BT.709", "full range"])
def test_frames_show_the_same(tmp_path: Path, space: int, full: bool) -> None:
    source = foreign(tmp_path / "source.mp4", space, full)
    write_video(tmp_path / "drawn.mp4", iterate_frames(source), 10)
    told, way_over_rgb, direct = (read(path) for path in (source, tmp_path / "drawn.mp4", passed(source, tmp_path / "direct.mp4")))
    assert np.abs(told - pictures()).mean() < 4, "the source is read in its own colours"
    assert np.abs(direct - told).mean() <= np.abs(way_over_rgb - told).mean() + 0.05
    assert np.abs(direct - told).mean() < 2


def test_only_colours_that_are_written_here_pass(tmp_path: Path) -> None:
    formats = [{frame.format.name for frame in iterate_yuv(foreign(tmp_path / f"{space}{full}.mp4", space, full))}
               for space, full in ((5, False), (1, False), (5, True))]  # fmt: skip
    assert formats == [{"yuv420p"}, {"rgb24"}, {"rgb24"}]


def test_the_encoder_chooses_its_own_key_frames(tmp_path: Path) -> None:
    out = passed(foreign(tmp_path / "source.mp4", 5), tmp_path / "out.mp4")
    with av.open(str(out)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
        assert not container.streams.video[0].codec_context.has_b_frames
    assert keys == [number % 10 == 0 for number in range(COUNT)], "one a second"


def test_a_truncated_source_is_told(tmp_path: Path) -> None:
    source = write_video(tmp_path / "whole.mp4", pictures(), 10) and tmp_path / "whole.mp4"
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        passed(cut, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "source.mp4", pictures(), 10)
    with VideoWriter(tmp_path / "out.mp4", 10, (32, 32)) as writer:
        with pytest.raises(VideoError, match="32x32, got 64x128"):
            writer.write_decoded(next(iterate_yuv(tmp_path / "source.mp4")))
        writer.write(np.zeros((32, 32, 3), np.uint8))
    assert count_frames(tmp_path / "out.mp4") == 1
