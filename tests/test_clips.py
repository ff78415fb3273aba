"""Windows: which there are, that they hold the frames and labels they claim, and that a broken clip costs only itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.datasets.augment import Augment
from drivesim.datasets.clips import ClipDataset, EveryWindow, FrameReader, RandomWindows, served, table_of
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.windows import Listing, WindowSpec, WindowTable
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.io.video import iterate_frames


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=4, seconds=6, height=32, width=64)
    return root


@given(st.floats(5, 60), st.integers(1, 400), st.integers(1, 10), st.sampled_from([1.875, 7.5, 30.0, None]), st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_listed_windows_are_those_that_fit(rate: float, length: int, frames: int, fps: float | None, seed: int) -> None:
    """The vectorised listing against counting by hand."""
    listing = Listing(np.array([rate]), np.array([length]), frames, fps)
    stride = 1 if fps is None else max(1, round(rate / fps))
    fits = fps is None or abs(rate / stride / fps - 1) <= 0.1
    by_hand = sum(1 for start in range(length) if fits and start + (frames - 1) * stride < length)
    assert listing.windows == by_hand
    assert (listing.why_not(0) is None) == (by_hand > 0)
    starts = [listing.nth(number, 0).start for number in range(listing.disjoint)]
    assert starts == list(range(0, by_hand, frames * stride))
    if by_hand:
        window = listing.draw(np.random.default_rng(seed), 0, 0.2)
        assert 0 <= window.start <= window.indices(frames)[-1] < length
        assert window.speed == window.stride / stride
        assert 0.8 - 1e-6 <= window.speed <= 1.2 + 1e-6


def test_real_rates_serve_the_stages_they_can() -> None:
    rates, lengths = np.array([7.5, 10, 25, 29.98, 30]), np.full(5, 1000)
    fits = {fps: Listing(rates, lengths, 5, fps).fits.tolist() for fps in (1.875, 7.5, 30.0)}
    assert fits == {1.875: [True] * 5, 7.5: [True, False, False, True, True], 30.0: [False, False, False, True, True]}


def test_every_window_holds_its_frames_and_labels(world: Path) -> None:
    clips = ClipDataset(world)
    spec = WindowSpec(4, 32, 64, (1.875,))
    windows = EveryWindow(FrameReader([clips], spec), table_of([clips], spec))
    films = [np.stack(list(iterate_frames(clips.video(clip)))) for clip in range(len(clips))]
    assert [window.start for window in windows.windows] == [0, 16, 32] * 4
    for number, window in enumerate(windows.windows):
        sample = windows[number]
        np.testing.assert_array_equal(sample["frames"].permute(0, 2, 3, 1).numpy(), films[window.clip][window.indices(4)])
        speed = clips.labels(window.clip).values["ego_speed_mps"][window.indices(4)]
        np.testing.assert_array_equal(sample["labels"]["ego_speed_mps"].numpy(), speed)
        assert sample["labels"]["fps"].tolist() == [1.875] * 4
    assert sample["labels"]["boxes"].shape == (4, 32, 6)


def test_any_rate_gives_consecutive_frames(world: Path) -> None:
    clips = ClipDataset(world, "train")
    table = table_of([clips], WindowSpec(6, 16, 32))
    window = table.every()[1]
    assert window.stride == 1
    assert window.fps == 7.5
    assert table.windows == 3 * 40


def test_random_windows_follow_from_seed_and_number(world: Path) -> None:
    clips = ClipDataset(world, "train")
    spec = WindowSpec(3, 16, 32, (7.5,))
    first, second, other = (
        RandomWindows(FrameReader([clips], spec, Augment(0.5, 0.1, 0.1)), table_of([clips], spec), 8, seed) for seed in (1, 1, 2)
    )
    assert all((first[k]["frames"] == second[k]["frames"]).all() for k in (0, 5, 1000))
    assert any((first[k]["frames"] != other[k]["frames"]).any() for k in range(3))
    assert (first[0]["frames"] != first[8]["frames"]).any(), "the next epoch is another"


def test_speed_augmentation_rescales_ego_motion(tmp_path: Path) -> None:
    make_road_world(tmp_path / "fast", clips=1, seconds=4, fps=30, height=16, width=32)
    clips = ClipDataset(tmp_path / "fast")
    spec = WindowSpec(3, 16, 32, (3.0,))
    windows = RandomWindows(FrameReader([clips], spec), table_of([clips], spec), 40, speed=0.2)
    table = windows.table
    drawn = [table.draw(np.random.default_rng([0, number]), 0.2) for number in range(40)]
    assert {window.stride for window in drawn} == {8, 9, 10, 11, 12}
    for number in range(10):
        labels, window = windows[number]["labels"], drawn[number]
        said = clips.labels(0).values["ego_speed_mps"][window.indices(3)] * window.stride / 10
        np.testing.assert_allclose(labels["ego_speed_mps"].numpy(), said, rtol=1e-6)
        assert labels["fps"].tolist() == [3.0] * 3


def test_weights_share_the_draws() -> None:
    rates, lengths = [np.ones(3), np.ones(1), np.ones(1)], [np.full(3, 50), np.full(1, 9), np.zeros(1)]
    table = WindowTable(WindowSpec(2, 8, 8), rates, lengths, [0.5, 0.25, 0.25])
    drawn = [table.draw(np.random.default_rng(number)).dataset for number in range(600)]
    assert drawn.count(2) == 0, "what cannot serve is not drawn"
    assert drawn.count(0) / 600 == pytest.approx(2 / 3, abs=0.06)
    with pytest.raises(UsageError, match="weights"):
        WindowTable(WindowSpec(2, 8, 8), [np.ones(1)], [np.full(1, 9)], [0.5, 0.5])


def test_a_limit_spreads_over_all_clips(world: Path) -> None:
    clips = ClipDataset(world)
    table = table_of([clips], WindowSpec(1, 16, 32))
    assert {window.clip for window in table.every(8)} == {0, 1, 2, 3}
    assert len(table.every()) == table.disjoint == 4 * 45


def test_broken_clips_are_passed_over_and_counted(tmp_path: Path) -> None:
    make_road_world(tmp_path / "c", clips=4, seconds=3, height=32, width=64)
    cut, gone, empty = sorted((tmp_path / "c" / "videos").glob("*.mp4"))[:3]
    cut.write_bytes(cut.read_bytes()[:900])
    gone.unlink()
    empty.write_bytes(b"")
    clips = ClipDataset(tmp_path / "c")
    spec = WindowSpec(2, 32, 64, (7.5,))
    assert set(clips.faults) == {1, 2}, "known from the start; the truncated one shows when it is read"
    table = table_of([clips], spec)
    report = served([clips], table)[0]
    assert report.clips == 2
    assert report.left_out == {"the video is missing or empty": ["road000_0001", "road000_0002"]}
    windows = RandomWindows(FrameReader([clips], spec), table, 8)
    assert all(windows[number]["frames"].shape == (2, 3, 32, 64) for number in range(8))
    assert clips.broken == ["road000_0000"]
    every = EveryWindow(FrameReader([clips], spec), table)
    assert all(every[number]["frames"].shape == (2, 3, 32, 64) for number in range(len(every)))


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    make_road_world(tmp_path / "c", clips=1, seconds=3, height=32, width=64)
    video = next((tmp_path / "c" / "videos").glob("*.mp4"))
    video.write_bytes(video.read_bytes()[:900])
    clips = ClipDataset(tmp_path / "c")
    spec = WindowSpec(2, 32, 64)
    with pytest.raises(DatasetError, match=r"no clip of .* can be read"):
        RandomWindows(FrameReader([clips], spec), table_of([clips], spec), 1)[0]


def test_shared_clips_without_frame_rows(shared_data: Path) -> None:
    clips = ClipDataset(shared_data / "real")
    spec = WindowSpec(10, 128, 256, (1.875,))
    table = table_of([clips], spec)
    sample = EveryWindow(FrameReader([clips], spec), table)[0]
    assert sample["frames"].shape == (10, 3, 128, 256)
    assert sample["labels"]["boxes_known"].all()
    assert served([clips], table)[0].clips == 4
