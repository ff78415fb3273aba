"""Videos and datasets enlarged on disk: labels kept, cut-off work gone on with to the same frames, other folders left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy_checkpoint import make_checkpoint, make_upsampler

from drivesim.cli import main
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint
from drivesim.io.records import check_records, read_records
from drivesim.io.video import VideoError, iterate_frames, probe, write_video
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings
from drivesim.simulation.upsample_videos import upsample_dataset, upsample_file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("toy")
    make_checkpoint(folder)
    return make_upsampler(folder)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "road"
    make_road_world(folder, clips=2, seconds=2, fps=7.5, height=16, width=32, seed=0)
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """31 frames at 10 fps, so that two segments of two seconds are needed."""
    path = tmp_path / "drive.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (31, 16, 32, 3), np.uint8), 10.0)
    return path


def nothing(done: int) -> None:
    pass


def upsampler(checkpoint: Checkpoint, seed: int = 0) -> Upsampler:
    return Upsampler(checkpoint, UpsamplerSettings(overlap=1), seed=seed)


def frames(path: Path) -> np.ndarray:
    return np.stack(list(iterate_frames(path)))


def stopped_after(count: int) -> Callable[[int], None]:
    def told(done: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return told


def test_a_video_becomes_a_dataset_of_one_clip_without_labels(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "large", nothing)
    info = probe(tmp_path / "large" / "videos" / "drive.mp4")
    assert (info.frames, info.height, info.width, info.fps) == (31, 64, 128, 10.0)
    assert check_records(tmp_path / "large", deep=True) == []
    assert not len(read_records(tmp_path / "large").boxes)


def test_a_dataset_keeps_its_labels_and_says_what_was_done(checkpoint: Checkpoint, clips: Path, tmp_path: Path) -> None:
    before = read_records(clips)
    upsample_dataset(upsampler(checkpoint), checkpoint, before, tmp_path / "large", nothing)
    after = read_records(tmp_path / "large")
    assert check_records(tmp_path / "large", deep=True) == []
    assert after.boxes.equals(before.boxes) and after.frames.equals(before.frames)
    assert after.clips["height"].tolist() == [64, 64] and after.clips["width"].tolist() == [128, 128]
    assert json.loads(after.clips["provenance"][0])["upsampled"] == {"network": "upsampler_fast", "checkpoint": checkpoint.hash}


@pytest.mark.parametrize("cut", [1, 20, 21, 30])
def test_cut_off_and_begun_again_it_is_the_same_video(checkpoint: Checkpoint, video: Path, tmp_path: Path, cut: int) -> None:
    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "whole", nothing)
    with pytest.raises(KeyboardInterrupt):
        upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "cut", stopped_after(cut))
    seen: list[int] = []
    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "cut", seen.append)
    assert seen[0] == (20 if cut >= 20 else 0) or seen[0] in (1, 21, 30), "closed segments stay"
    assert np.array_equal(frames(tmp_path / "cut" / "videos" / "drive.mp4"), frames(tmp_path / "whole" / "videos" / "drive.mp4"))


def test_what_is_done_is_not_done_again(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "large", nothing)
    made = tmp_path / "large" / "videos" / "drive.mp4"
    written = made.stat().st_mtime_ns
    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "large", nothing)
    assert made.stat().st_mtime_ns == written


def test_a_folder_of_another_seed_is_refused(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "large", nothing)
    with pytest.raises(UsageError, match="begun with another seed"):
        upsample_file(upsampler(checkpoint, seed=1), checkpoint, video, tmp_path / "large", nothing)


def test_somebody_elses_folder_is_refused(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(UsageError, match="holds other files"):
        upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "mine", nothing)


def test_a_truncated_video_ends_in_an_error_that_names_it(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        upsample_file(upsampler(checkpoint), checkpoint, cut, tmp_path / "large", nothing)


def test_the_command_works_alone(checkpoint: Checkpoint, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["upsample", str(video), "--out", str(tmp_path / "large"), "--checkpoint", str(checkpoint.folder), "upsampling.overlap=1"]
    assert main(words) == 0
    assert "1 clip in" in capsys.readouterr().out
    assert probe(tmp_path / "large" / "videos" / "drive.mp4").height == 64


def test_the_command_names_what_is_wrong(checkpoint: Checkpoint, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "large"), "--checkpoint", str(checkpoint.folder)]
    assert main(["upsample", str(tmp_path / "none.mp4"), *out]) == 2
    assert "none.mp4: no such video" in capsys.readouterr().err
    assert main(["upsample", str(video), *out, "upsampling.levl=0"]) == 2
    assert "did you mean upsampling.level" in capsys.readouterr().err


def test_a_rollout_is_enlarged_as_it_is_made(checkpoint: Checkpoint, tmp_path: Path) -> None:
    words = ["rollout", "--minutes", "0.05", "--checkpoint", str(checkpoint.folder), "upsampling.overlap=1"]
    assert main([*words, "--out", str(tmp_path / "small")]) == 0
    assert main([*words, "--out", str(tmp_path / "large"), "--upsample"]) == 0
    small, large = read_records(tmp_path / "small"), read_records(tmp_path / "large")
    assert large.clips["height"][0] == 4 * small.clips["height"][0] == 128
    assert large.frames is not None and large.frames.drop(columns="clip_id").equals(small.frames.drop(columns="clip_id"))
    assert check_records(tmp_path / "large", deep=True) == []
    assert json.loads((tmp_path / "large" / "rollout.json").read_text())["upsampling"]["network"] == "upsampler_fast"


def test_without_an_upsampler_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path / "toy")
    assert main(["rollout", "--minutes", "0.05", "--checkpoint", str(tmp_path / "toy"), "--upsample", "--out", str(tmp_path / "out")]) == 1
    assert "holds no upsampler" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_kept_out(checkpoint: Checkpoint, video: Path, tmp_path: Path) -> None:
    def told(done: int) -> None:
        with pytest.raises(DrivesimError, match="is being written by another process"):
            upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "large", nothing)

    upsample_file(upsampler(checkpoint), checkpoint, video, tmp_path / "large", told)
