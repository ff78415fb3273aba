"""Freezes, cuts and repeats in videos that were built with them, and none in drives that were built without."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import UsageError
from drivesim.eval.events import CELLS, EventFinder, EventRules, find_events, fingerprint
from drivesim.io.video import iterate_frames, write_video

FPS = 10.0


def moving(frames: int, seed: int = 0, step: int = 4) -> np.ndarray:
    """A soft texture that slides sideways by ``step`` pixels a frame and comes back after 256 / step frames: uint8 (frames, 64, 128, 3)."""
    rng = np.random.default_rng([seed, 7])
    rows, columns = np.arange(64)[:, None], 2 * np.pi * np.arange(256) / 256
    picture = np.full((64, 256), 128.0)
    for wave in range(1, 6):
        picture += 20 * np.sin(wave * columns + rng.uniform(0, 6.3) + rows * rng.uniform(-0.1, 0.1))
    wide = np.clip(picture, 0, 255).astype(np.uint8)[..., None].repeat(3, -1)
    return np.stack([np.roll(wide, -step * frame, 1)[:, :128] for frame in range(frames)])


def held(frame: np.ndarray, frames: int, noise: int = 0) -> np.ndarray:
    rng = np.random.default_rng(3)
    wander = rng.integers(-noise, noise + 1, (frames, *frame.shape))
    return np.clip(frame.astype(int) + wander, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("roads") / "world"
    make_road_world(root, clips=4, seconds=20)
    return sorted(root.glob("videos/*.mp4"))


def test_fingerprint_of_a_flat_picture_is_its_luma() -> None:
    assert fingerprint(np.full((64, 128, 3), 77, np.uint8)) == pytest.approx(77, rel=1e-5)
    assert fingerprint(np.zeros((37, 91, 3), np.uint8)).shape == (CELLS[0] * CELLS[1],)


def test_a_freeze_is_found_where_it_is() -> None:
    video = moving(60)
    frozen = np.concatenate([video[:20], held(video[20], 15), video[21:]])
    (freeze,) = find_events(frozen, FPS).freezes
    assert (freeze.start_s, freeze.end_s) == (2.0, 3.5)
    assert not find_events(video, FPS).freezes


@pytest.mark.parametrize(("frames", "found"), [(9, 0), (10, 1)])
def test_a_freeze_lasts_at_least_its_seconds(frames: int, found: int) -> None:
    video = moving(40)
    assert len(find_events(np.concatenate([video[:20], held(video[20], frames), video[21:]]), FPS).freezes) == found


def test_noise_does_not_hide_a_freeze_and_a_slow_fade_is_none() -> None:
    video = moving(30)
    assert len(find_events(np.concatenate([video, held(video[-1], 20, noise=6)]), FPS).freezes) == 1
    wide = moving(1)[0].astype(np.float32)
    fade = [(wide + 0.9 * frame).clip(0, 255).astype(np.uint8) for frame in range(80)]
    assert not find_events(fade, FPS).freezes


def test_a_freeze_is_found_through_the_codec(drives: list[Path], tmp_path: Path) -> None:
    frames = list(iterate_frames(drives[0]))
    write_video(tmp_path / "frozen.mp4", [*frames[:30], *[frames[30]] * 20, *frames[30:60]], 7.5)
    (freeze,) = find_events(iterate_frames(tmp_path / "frozen.mp4"), 7.5).freezes
    assert freeze.start_s == pytest.approx(30 / 7.5, abs=0.15) and freeze.end_s == pytest.approx(51 / 7.5, abs=0.15)


def test_a_cut_is_found_where_it_is() -> None:
    events = find_events(np.concatenate([moving(30, step=1), moving(30, seed=1, step=1)]), FPS)
    assert [cut.time_s for cut in events.cuts] == [3.0]
    assert events.cuts[0].times_median >= 5
    assert not events.freezes and not events.repeats


def test_a_flash_is_two_cuts_and_a_jump_out_of_a_standstill_is_unbounded() -> None:
    video = moving(40, step=1)
    video[20] = 255
    assert [cut.time_s for cut in find_events(video, FPS).cuts] == [2.0, 2.1]
    (cut,) = find_events(np.concatenate([held(moving(1)[0], 30), held(moving(1, seed=2)[0], 30)]), FPS).cuts
    assert cut.times_median == np.inf


def test_a_loop_is_found_with_its_source() -> None:
    video = moving(60)
    looped = np.concatenate([video, video[15:45]])
    (repeat,) = find_events(looped, FPS).repeats
    assert (repeat.start_s, repeat.end_s, repeat.of_s) == (6.0, 9.0, 1.5)


def test_many_rounds_of_a_loop_are_one_stretch() -> None:
    (repeat,) = find_events(np.concatenate([moving(30)] * 5), FPS).repeats
    assert (repeat.start_s, repeat.end_s, repeat.of_s) == (3.0, 15.0, 0.0)


def test_a_loop_is_found_through_the_codec(drives: list[Path], tmp_path: Path) -> None:
    frames = list(iterate_frames(drives[0]))[:90]
    write_video(tmp_path / "looped.mp4", [*frames, *frames[20:70]], 7.5)
    (repeat,) = find_events(iterate_frames(tmp_path / "looped.mp4"), 7.5).repeats
    assert repeat.of_s == pytest.approx(20 / 7.5, abs=0.5) and repeat.start_s == pytest.approx(90 / 7.5, abs=0.5)
    assert repeat.start_s - repeat.of_s == pytest.approx(70 / 7.5)


def test_a_still_picture_does_not_repeat_itself() -> None:
    events = find_events(held(moving(1)[0], 100, noise=4), FPS)
    assert len(events.freezes) == 1 and not events.repeats and not events.cuts


def test_history_bounds_what_is_remembered() -> None:
    gone = np.concatenate([moving(30), moving(64, seed=1), moving(30)])
    assert len(find_events(gone, FPS).repeats) == 1
    assert not find_events(gone, FPS, EventRules(history=60)).repeats
    kept = np.concatenate([moving(64, seed=1), moving(30), moving(30, seed=2), moving(30)])
    (repeat,) = find_events(kept, FPS, EventRules(history=64)).repeats
    assert (repeat.start_s, repeat.end_s, repeat.of_s) == (12.4, 15.4, 6.4)


def test_nothing_happens_on_a_sound_drive(drives: list[Path]) -> None:
    for drive in drives:
        events = find_events(iterate_frames(drive), 7.5)
        assert events.rows() == {"freezes": [], "cuts": [], "repeats": []}
        assert events.duration_s == pytest.approx(20)


def test_a_splice_of_two_drives_is_one_cut(drives: list[Path]) -> None:
    spliced = itertools.chain(itertools.islice(iterate_frames(drives[0]), 60), iterate_frames(drives[1]))
    assert [cut.time_s for cut in find_events(spliced, 7.5).cuts] == [60 / 7.5]


def test_it_can_be_asked_at_any_time() -> None:
    finder = EventFinder(FPS)
    assert finder.events().rows() == {"freezes": [], "cuts": [], "repeats": []}
    for frame in held(moving(1)[0], 25):
        finder.see(frame)
    assert finder.events().freezes[0].end_s == finder.events().duration_s == 2.5
    for frame in moving(30, seed=5):
        finder.see(frame)
    assert [freeze.end_s for freeze in finder.events().freezes] == [2.5]


def test_rows_are_json_numbers() -> None:
    rows = find_events(np.concatenate([held(moving(1)[0], 30), held(moving(1, seed=2)[0], 30)]), FPS).rows()
    assert rows["cuts"] == [{"time_s": 3.0, "times_median": None}]
    assert rows["freezes"] == [{"start_s": 0.0, "end_s": 3.0}, {"start_s": 3.0, "end_s": 6.0}]


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="fps"):
        find_events([], 0)
    with pytest.raises(UsageError, match="uint8"):
        find_events([np.zeros((4, 4, 3), np.float32)], FPS)
    with pytest.raises(UsageError, match="freeze_s"):
        EventRules(freeze_s=-1)
