"""One side of a comparison: where clips come from, which shots they give, and everything that can be wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.footage import Footage
from drivesim.io.records import labels_of, read_records, write_records
from drivesim.io.video import read_frames, write_video


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 24 frames at 7.5 fps; the last one is split "val"."""
    out = tmp_path_factory.mktemp("footage") / "world"
    make_road_world(out, clips=4, seconds=3.2, height=32, width=64)
    return out


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "copy"))


def noise(clips: int, frames: int = 20, height: int = 16, width: int = 32, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8) for _ in range(clips)]


def provenance(root: Path, **origin: object) -> None:
    """Rewrite every clip's provenance."""
    records = read_records(root)
    write_records(root, records.__class__(root, records.clips.assign(provenance=json.dumps(origin)), records.boxes, records.frames))


# where clips come from


def test_a_dataset_tells_kind_drives_split_and_labels(world: Path) -> None:
    side = Footage.open([world], "train")
    assert (side.name, side.kind, side.split, len(side.clips)) == ("world", "simulated", "train", 3)
    assert side.drives == sorted(clip.clip_id for clip in side.clips)
    assert side.records is not None and len(labels_of(side.records, side.clips[0].clip_id)) == 24


def test_a_drive_named_in_the_provenance_is_the_drive(copy: Path) -> None:
    provenance(copy, kind="real", drive="one")
    side = Footage.open([copy])
    assert side.kind == "real" and side.drives == ["one"]


def test_a_folder_of_videos_is_clips_of_unknown_kind(world: Path) -> None:
    side = Footage.open([world / "videos"])
    assert (side.kind, len(side.clips), side.records) == ("unknown", 4, None)


def test_dataset_folder_and_memory_give_the_same_frames(world: Path) -> None:
    dataset, folder = Footage.open([world]), Footage.open([world / "videos"])
    arrays = [read_frames(path, indices=range(24)) for path in sorted((world / "videos").iterdir())]
    memory = Footage.from_frames("memory", arrays, 7.5)
    for shots in zip(*(side.shots(16, 7.5) for side in (dataset, folder, memory)), strict=True):
        frames = [shot.read() for shot in shots]
        assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])
        assert shots[0].key == shots[1].key, "the same bytes have the same key wherever they lie"


def test_clips_of_one_name_in_two_datasets_are_told_apart(world: Path, copy: Path) -> None:
    side = Footage.open([world, copy], "val")
    assert len({clip.clip_id for clip in side.clips}) == len(side.drives) == 2
    assert side.records is not None
    for clip in side.clips:
        assert len(labels_of(side.records, clip.clip_id)) == 24


def test_a_rollout_from_given_pictures_says_so(copy: Path) -> None:
    provenance(copy, kind="generated", checkpoint={"preset": "mini", "hash": "abc"})
    (copy / "rollout.json").write_text(json.dumps({"start_frames": 5}))
    clip = Footage.open([copy]).clips[0]
    assert (clip.given, clip.context_frames, clip.checkpoint) == (1, 2, "abc")


@pytest.mark.parametrize(("origin", "first"), [({"context_frames": 2}, 2), ({"context_frames": 2, "given_frames": 0}, 0), ({}, 0)])
def test_given_frames_are_not_judged(copy: Path, origin: dict[str, int], first: int) -> None:
    provenance(copy, kind="generated", **origin)
    assert {shot.first_frame for shot in Footage.open([copy]).shots(16, 7.5)} == {first}


# shots


def test_shots_of_a_clip_share_no_frame_and_keep_the_stride() -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], (100, 4, 4, 3))
    shots = Footage.from_frames("ramp", [ramp], 30).shots(8, 7.5)
    assert [shot.first_frame for shot in shots] == [0, 32, 64]
    assert all(shot.fps == 7.5 for shot in shots)
    assert shots[1].read()[:, 0, 0, 0].tolist() == list(range(32, 64, 4))


def test_single_frames_come_once_a_second_from_any_rate() -> None:
    shots = Footage.from_frames("clip", noise(1, frames=60), 25).shots(1, None, every_s=1.0)
    assert [shot.first_frame for shot in shots] == [0, 25, 50]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 3))
def test_a_limit_takes_every_drive_before_any_twice_and_is_nested(windows: list[int], limit: int, seed: int) -> None:
    clips = [frames for number, count in enumerate(windows) for frames in noise(1, 4 * count, 2, 2, number)]
    side = Footage.from_frames("clips", clips, 7.5)
    chosen, more = (side.shots(4, 7.5, limit=most, seed=seed) for most in (limit, limit + 1))
    assert len(chosen) == min(limit, sum(windows))
    assert {shot.key for shot in chosen} <= {shot.key for shot in more}
    taken = {drive: sum(shot.drive == drive for shot in chosen) for drive in side.drives}
    held = dict(zip(side.drives, windows, strict=True))
    most = max(taken.values())
    assert all(count >= min(most - 1, held[drive]) for drive, count in taken.items())
    assert [shot.key for shot in chosen] == [shot.key for shot in side.shots(4, 7.5, limit=limit, seed=seed)]


def test_keys_follow_content_and_place() -> None:
    first, second = noise(2)
    same = [Footage.from_frames(name, [first], 7.5).shots(8, 7.5) for name in "ab"]
    assert [shot.key for shot in same[0]] == [shot.key for shot in same[1]]
    assert len({shot.key for shot in Footage.from_frames("both", [first, second], 7.5).shots(8, 7.5)}) == 4
    assert same[0][0].key != Footage.from_frames("a", [first], 7.5).shots(4, 7.5)[0].key


# bad input


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither a dataset\.json nor an MP4"):
        Footage.open([tmp_path])


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        Footage.open([tmp_path / "nowhere"])


def test_a_split_that_is_not_there_names_those_that_are(world: Path) -> None:
    with pytest.raises(UsageError, match=r"no clips of split 'test'; it has train \(3\), val \(1\)"):
        Footage.open([world], "test")


def test_a_damaged_video_is_named_and_the_others_stay(copy: Path) -> None:
    video = sorted((copy / "videos").iterdir())[1]
    video.write_bytes(video.read_bytes()[:200])
    folder = Footage.open([copy / "videos"])
    assert list(folder.skipped) == [video.stem] and len(folder.clips) == 3
    shot = next(shot for shot in Footage.open([copy]).shots(16, 7.5) if shot.clip_id == video.stem)
    with pytest.raises(DrivesimError, match=video.stem):
        shot.read()


def test_a_missing_video_is_skipped_by_name(copy: Path) -> None:
    video = sorted((copy / "videos").iterdir())[0]
    video.unlink()
    assert "missing or empty" in Footage.open([copy]).skipped[video.stem]


def test_a_dataset_without_any_video(copy: Path) -> None:
    shutil.rmtree(copy / "videos")
    with pytest.raises(UsageError, match="none of its 4 clips can be used"):
        Footage.open([copy])


def test_real_and_simulated_clips_are_never_pooled(world: Path, copy: Path) -> None:
    provenance(copy, kind="real")
    with pytest.raises(UsageError, match=r"several kinds: simulated \(4 clips\), real \(4 clips\)"):
        Footage.open([world, copy])


def test_mixed_sizes_and_rates_are_named(tmp_path: Path) -> None:
    for number, (size, fps) in enumerate([(16, 7.5), (32, 7.5), (16, 7.5)]):
        write_video(tmp_path / f"{number}.mp4", noise(1, 8, size, 32)[0], fps)
    with pytest.raises(UsageError, match=r"several sizes: 16x32 \(2 clips\), 32x32 \(1 clips\)"):
        Footage.open([tmp_path]).require_uniform()
    (tmp_path / "1.mp4").unlink()
    write_video(tmp_path / "1.mp4", noise(1, 8, 16, 32)[0], 30)
    with pytest.raises(UsageError, match=r"several frame rates: 7.5 fps \(2 clips\), 30 fps \(1 clips\)"):
        Footage.open([tmp_path]).require_uniform()


def test_clips_that_hold_no_window_say_why(world: Path) -> None:
    side = Footage.open([world], "val")
    assert list(side.left_out(32, 7.5)) == ["shorter than the 32 frames a window at 7.5 fps needs"]
    assert list(side.left_out(4, 5.0)) == ["7.5 fps has no whole-number stride near 5 fps"]
    assert side.shots(32, 7.5) == [] and side.left_out(16, 7.5) == {}


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([np.full((4, 2, 2, 3), np.nan, np.float32)], "hold NaN"),
        ([np.zeros((4, 2, 2, 3), np.float32)], "must be uint8"),
        ([np.zeros((4, 2, 2), np.uint8)], "must be uint8"),
        ([np.zeros((0, 2, 2, 3), np.uint8)], "must be uint8"),
        ([], "empty"),
    ],
)
def test_frames_in_memory_are_checked(frames: list[np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Footage.from_frames("memory", frames, 7.5)


def test_drives_in_memory_are_one_a_clip() -> None:
    assert Footage.from_frames("memory", noise(2), 7.5, ["a", "a"]).drives == ["a"]
    with pytest.raises(UsageError, match="1 drives were named for 2 clips"):
        Footage.from_frames("memory", noise(2), 7.5, ["a"])


def test_a_drive_of_two_datasets_stays_one_drive(world: Path, copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    for root in (copy, other):
        provenance(root, kind="real", drive="street")
    side = Footage.open([copy, other])
    assert side.drives == ["street"] and len({clip.clip_id for clip in side.clips}) == 8
