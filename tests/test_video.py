"""Videos: what is written is what is read, the right frame for every time, and one clear message for every bad file."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from drivesim.io.video import (
    SegmentedVideoWriter,
    VideoError,
    VideoWriter,
    concat_segments,
    count_frames,
    exact_rate,
    iterate_frames,
    probe,
    read_frames,
    write_video,
)

SIZE = (32, 64)


def moving(frames: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Frames that all differ: a bright bar that walks over a gradient. uint8 (n, h, w, 3)."""
    height, width = size
    ramp = np.linspace(20, 120, width)[None, :, None] * np.ones((height, 1, 3))
    clip = np.repeat(ramp[None], frames, axis=0)
    for index in range(frames):
        clip[index, :, (3 * index) % (width - 4) : (3 * index) % (width - 4) + 4] = 240
        clip[index, : height // 4] = 16 + 2 * (index % 100)
    return clip.astype(np.uint8)


def encode(path: Path, frames: np.ndarray, rate: int, options: dict[str, str]) -> Path:
    """An MP4 as foreign encoders write them: B-frames, long and open groups of pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"preset": "medium", "bf": "4", "g": "23", "x264-params": "b-pyramid=normal:open-gop=1:b-adapt=0:threads=1"}
    return encode(tmp_path_factory.mktemp("foreign") / "open_gop.mp4", moving(97), 10, options)


RATES = [(7.5, Fraction(15, 2)), (1.875, Fraction(15, 8)), (30, Fraction(30)), (29.97, Fraction(30000, 1001)), (10, Fraction(10))]


@pytest.mark.parametrize(("fps", "rate"), [*RATES, (23.976, Fraction(24000, 1001)), (25034 / 835, Fraction(25034, 835))])
def test_rates_are_exact(fps: float, rate: Fraction) -> None:
    assert exact_rate(fps) == rate


@pytest.mark.parametrize("fps", [0, -7.5, float("nan"), float("inf")])
def test_a_rate_that_cannot_be(tmp_path: Path, fps: float) -> None:
    with pytest.raises(VideoError, match="frame rate must be a number above 0"):
        write_video(tmp_path / "a.mp4", moving(2), fps)
    assert not list(tmp_path.iterdir())


def test_written_is_read(tmp_path: Path) -> None:
    frames = moving(23)
    assert write_video(tmp_path / "a.mp4", iter(frames), 7.5) == 23
    info = probe(tmp_path / "a.mp4")
    assert (info.rate, info.fps, info.frames, info.height, info.width) == (Fraction(15, 2), 7.5, 23, *SIZE)
    assert info.duration_s == pytest.approx(23 / 7.5)
    back = np.stack(list(iterate_frames(tmp_path / "a.mp4")))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 3


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128], [0, 0, 0], [255, 255, 255]], np.uint8)
    write_video(tmp_path / "a.mp4", (np.broadcast_to(colour, (*SIZE, 3)) for colour in colours), 2)
    back = read_frames(tmp_path / "a.mp4", indices=range(6))
    assert np.abs(back.mean((1, 2)) - colours).max() < 4


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", moving(12), 7.5)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_every_window_of_our_own_video_is_exact(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(40), 7.5)
    assert_windows_exact(tmp_path / "a.mp4", 40)


def test_every_window_of_an_open_gop_with_b_frames_is_exact(foreign: Path) -> None:
    """The slow, obvious twin: decode everything, then index."""
    assert_windows_exact(foreign, 97)


def test_windows_of_recorded_clips_are_exact(shared_data: Path) -> None:
    for path in (shared_data / "real/videos/udacity_pr_night1.mp4", shared_data / "sim/videos/md00000.mp4"):
        assert_windows_exact(path, probe(path).frames)


def assert_windows_exact(path: Path, count: int) -> None:
    everything = np.stack(list(iterate_frames(path)))
    assert len(everything) == count
    generator = np.random.default_rng(0)
    for _ in range(25):
        stride, length = int(generator.integers(1, 14)), int(generator.integers(1, 9))
        start = int(generator.integers(0, count))
        indices = np.arange(start, min(count, start + stride * length), stride)
        indices = generator.permutation(indices) if generator.random() < 0.3 else indices
        np.testing.assert_array_equal(read_frames(path, indices=indices), everything[indices])


def test_frames_by_time(foreign: Path) -> None:
    everything = np.stack(list(iterate_frames(foreign)))
    np.testing.assert_array_equal(read_frames(foreign, [0.31, 0.0, 0.28, 0.31]), everything[[3, 0, 3, 3]])
    np.testing.assert_array_equal(read_frames(foreign, [5.004], tolerance=0.005), everything[[50]])
    np.testing.assert_array_equal(read_frames(foreign, [2.26], tolerance=0.5), everything[[23]])
    with pytest.raises(VideoError, match=r"open_gop.mp4: no frame within 0.005 s of 5.0300 s"):
        read_frames(foreign, [5.03], tolerance=0.005)
    assert read_frames(foreign, []).shape == (0, *SIZE, 3)


@pytest.mark.parametrize("indices", [[96, 97], [-1], [500]])
def test_frames_past_the_end_are_refused(foreign: Path, indices: list[int]) -> None:
    with pytest.raises(VideoError, match=r"97 frames, 9.700 s"):
        read_frames(foreign, indices=indices)


def test_a_time_that_is_no_number(foreign: Path) -> None:
    with pytest.raises(VideoError, match="not a finite number"):
        read_frames(foreign, [0.0, float("nan")])


def test_resizing_is_by_area(tmp_path: Path) -> None:
    """Close to OpenCV's area resize of the full frames."""
    write_video(tmp_path / "a.mp4", moving(5, (64, 128)), 5, crf=4)
    full = read_frames(tmp_path / "a.mp4", indices=[1, 4])
    small = read_frames(tmp_path / "a.mp4", indices=[1, 4], size=SIZE)
    wanted = np.stack([cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA) for frame in full])
    assert np.abs(small.astype(int) - wanted).mean() < 2.5


def test_bad_files_have_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone.mp4: no such video"):
        probe(tmp_path / "gone.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty.mp4: the video is empty \(0 bytes\)"):
        read_frames(tmp_path / "empty.mp4", indices=[0])
    (tmp_path / "text.mp4").write_text("this is no video" * 50)
    with pytest.raises(VideoError, match=r"text.mp4: unreadable, truncated or damaged video"):
        list(iterate_frames(tmp_path / "text.mp4"))


def test_a_truncated_video_is_found(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", np.random.default_rng(0).integers(0, 255, (30, *SIZE, 3), np.uint8), 10)
    whole = (tmp_path / "whole.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    assert probe(cut).frames == 30  # the header, at the front, knows nothing of the cut
    assert count_frames(cut) < 30
    with pytest.raises(VideoError, match=r"cut.mp4"):
        read_frames(cut, indices=range(30))
    with pytest.raises(VideoError, match=r"cut.mp4"):
        count_frames(cut, decode=True)
    cut.write_bytes(whole[:200])
    with pytest.raises(VideoError, match=r"cut.mp4"):
        probe(cut)


@pytest.mark.parametrize("size", [(31, 64), (32, 63), (0, 64)])
def test_odd_sizes_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(VideoError, match="even height and width"):
        VideoWriter(tmp_path / "a.mp4", 10, size)


def test_frames_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"uint8 \(n, 32, 64, 3\), got float64"), VideoWriter(tmp_path / "a.mp4", 10, SIZE) as writer:
        writer.write(moving(1).astype(float))
    with pytest.raises(VideoError, match="no frames"):
        write_video(tmp_path / "a.mp4", iter(()), 10)
    with pytest.raises(VideoError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 10, SIZE):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match=r"cannot write .*a.mp4"):
        write_video(tmp_path / "file" / "a.mp4", moving(2), 10)


@pytest.mark.parametrize(("fps", "rate"), RATES)
@pytest.mark.parametrize("count", [1, 10, 33])
def test_segments_join_without_a_seam(tmp_path: Path, fps: float, rate: Fraction, count: int) -> None:
    frames = moving(count)
    with SegmentedVideoWriter(tmp_path / "long.mp4", fps, SIZE, 10) as writer:
        writer.write(frames[:4])
        writer.write(frames[4:])
        assert all(probe(segment).frames == 10 for segment in writer.segments)
    info = probe(tmp_path / "long.mp4")
    assert (info.frames, info.rate) == (count, rate)
    assert count_frames(tmp_path / "long.mp4", decode=True) == count
    with av.open(str(tmp_path / "long.mp4")) as container:
        shown = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert len(set(np.diff(shown))) <= 1
    assert sorted(shown) == shown
    back = read_frames(tmp_path / "long.mp4", indices=range(count))
    assert np.abs(back.astype(int) - frames).mean() < 3
    assert [path.name for path in tmp_path.iterdir()] == ["long.mp4"]
    head = (tmp_path / "long.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")


def test_segments_that_do_not_belong_together(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving(4), 10)
    write_video(tmp_path / "b.mp4", moving(4, (64, 64)), 10)
    write_video(tmp_path / "c.mp4", moving(4), 7.5)
    for other in ("b", "c"):
        with pytest.raises(VideoError, match=rf"{other}.mp4: its .* cannot be joined"):
            concat_segments([tmp_path / "a.mp4", tmp_path / f"{other}.mp4"], tmp_path / "out.mp4")
    with pytest.raises(VideoError, match="no segments"):
        concat_segments([], tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_an_error_leaves_the_segments(tmp_path: Path) -> None:
    def record(*pieces: np.ndarray) -> None:
        with SegmentedVideoWriter(tmp_path / "long.mp4", 10, SIZE, 4) as writer:
            for frames in pieces:
                writer.write(frames)

    with pytest.raises(VideoError, match="got float64"):
        record(moving(6), moving(3).astype(float))
    segments = sorted((tmp_path / "long.mp4.segments").glob("*.mp4"))
    assert [probe(segment).frames for segment in segments] == [4, 2]
    with pytest.raises(VideoError, match="segments of an unfinished run"):
        SegmentedVideoWriter(tmp_path / "long.mp4", 10, SIZE, 4)
    assert probe(concat_segments(segments, tmp_path / "long.mp4")).frames == 6


def run_writer(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    script = f"""
        import os, resource, signal, numpy as np
        from drivesim.io.video import SegmentedVideoWriter, VideoError
        noise = np.random.default_rng(0).integers(0, 255, (26, 32, 64, 3), np.uint8)
        writer = SegmentedVideoWriter({str(tmp_path / "long.mp4")!r}, 10, (32, 64), 8)
        {body}
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False)


def test_killed_at_any_point_the_segments_play(tmp_path: Path) -> None:
    done = run_writer(tmp_path, "writer.write(noise); os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL, done.stderr
    segments = sorted((tmp_path / "long.mp4.segments").glob("*.mp4"))
    assert [count_frames(segment, decode=True) for segment in segments] == [8, 8, 8]
    assert probe(concat_segments(segments, tmp_path / "long.mp4")).frames == 24


def test_a_full_disk_ends_with_a_message_and_playable_segments(tmp_path: Path) -> None:
    body = """
        writer.write(noise[:16])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with writer:
                writer.write(noise[16:])
                writer.write(noise)
        except VideoError as error:
            print("said:", error)
    """
    done = run_writer(tmp_path, textwrap.indent(textwrap.dedent(body), "        ").strip())
    assert "said: cannot write" in done.stdout, done.stdout + done.stderr
    segments = sorted((tmp_path / "long.mp4.segments").glob("*.mp4"))
    assert [count_frames(segment, decode=True) for segment in segments[:2]] == [8, 8]
    assert all(count_frames(segment, decode=True) for segment in segments)
    assert not list((tmp_path / "long.mp4.segments").glob("*.part"))


def test_a_picture_that_changes_its_size_is_refused_where_it_does(tmp_path: Path) -> None:
    """Two raw H.264 streams one behind the other, as a camera leaves them when its resolution is switched."""
    path = tmp_path / "switched.h264"
    parts = []
    for number, size in enumerate(((32, 64), (48, 64))):
        part = tmp_path / f"{number}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=10, options={"bf": "0", "threads": "1"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(VideoError, match=r"switched\.h264: the picture changes its size, frame \d is (32|48)x64, not (32|48)x64; cut"):
        list(iterate_frames(path))
