"""Shots to features: the same rows however they are batched or cached, and what happens to shots that cannot be read."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import StandIn, noisy_clips

from drivesim.errors import DrivesimError, UsageError
from drivesim.eval import cache as caching
from drivesim.eval.cache import FeatureCache
from drivesim.eval.extract import Features, features_of
from drivesim.eval.footage import Footage, Shot

SIZE = (16, 32)


def shots(clips: int = 9, seed: int = 0, frames: int = 8) -> list[Shot]:
    return Footage.from_frames("clips", noisy_clips(clips, seed=seed), 7.5).shots(frames, 7.5)


def extract(found: list[Shot], network: StandIn, **more: object) -> Features:
    return features_of(found, network, **{"size": SIZE, "codec": "lossless", **more})  # type: ignore[arg-type]


def test_rows_are_what_the_network_says_of_each_shot_alone() -> None:
    found = shots()
    features = extract(found, StandIn())
    alone = [StandIn()(torch.from_numpy(shot.read()).permute(0, 3, 1, 2)[None])[0].numpy() for shot in found]
    assert np.allclose(features.values, alone, atol=1e-6) and features.values.dtype == np.float32
    assert features.drives == [shot.drive for shot in found] and features.keys == [shot.key for shot in found]
    assert features.shots == found and not features.skipped and len(features) == 18


def test_shots_of_one_size_are_batched_and_others_are_not_mixed() -> None:
    network = StandIn()
    mixed = Footage.from_frames("mixed", noisy_clips(4, 8) + noisy_clips(4, 8, (8, 8)), 7.5).shots(8, 7.5)
    extract(mixed, network, size=None)
    assert network.batches == [(4, 8, 3, 16, 32), (4, 8, 3, 8, 8)]


def test_frames_are_brought_to_the_protocol_s_size() -> None:
    network = StandIn()
    extract(shots(2), network, size=(8, 24))
    assert {batch[3:] for batch in network.batches} == {(8, 24)}


def test_a_shot_twice_is_seen_once() -> None:
    network, found = StandIn(), shots(2)
    features = extract([*found, *found], network)
    assert network.seen == 4 and np.array_equal(features.values[:4], features.values[4:])


def test_the_cache_gives_the_same_rows_without_the_network(tmp_path: Path) -> None:
    cache, found = FeatureCache(tmp_path), shots()
    first = extract(found, StandIn(), cache=cache)
    network = StandIn()
    again = extract(found, network, cache=FeatureCache(tmp_path))
    assert network.seen == 0 and np.array_equal(first.values, again.values)
    more = extract([*shots(2, seed=5), *found], network, cache=cache)
    assert network.seen == 4 and np.array_equal(more.values[4:], first.values)


@pytest.mark.parametrize(
    ("network", "more"),
    [
        (StandIn(hash="1" * 64), {}),
        (StandIn(preprocessing="other"), {}),
        (StandIn(), {"size": (8, 16)}),
        (StandIn(), {"codec": "h264crf18"}),
    ],
)
def test_another_network_size_or_codec_is_another_drawer(tmp_path: Path, network: StandIn, more: dict[str, object]) -> None:
    cache, found = FeatureCache(tmp_path), shots(2)
    extract(found, StandIn(), cache=cache)
    extract(found, network, cache=cache, **more)
    assert network.seen == 4


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-3] + b"\x00\x01\x02", lambda data: b""])
def test_a_damaged_cache_file_is_computed_again(tmp_path: Path, damage: object) -> None:
    cache, found = FeatureCache(tmp_path), shots(2)
    first = extract(found, StandIn(), cache=cache)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    network = StandIn()
    again = extract(found, network, cache=cache)
    assert network.seen == 4 and np.array_equal(first.values, again.values)
    extract(found, network, cache=cache)
    assert network.seen == 4, "the sound file took the damaged one's place"


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file" / "features")
    assert len(extract(shots(2), StandIn(), cache=cache)) == 4
    assert cache.failure is not None and "file" in cache.failure


def test_many_files_are_packed_into_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "MAX_FILES", 3)
    drawer = FeatureCache(tmp_path).drawer("network", "preparation", 2)
    keys = [f"{number:064x}" for number in range(10)]
    for number, key in enumerate(keys):
        drawer.add({key: np.array([number, -number], np.float32)})
    assert len(list(tmp_path.rglob("*.safetensors"))) <= 3
    assert {key: row.tolist() for key, row in drawer.rows(keys).items()} == {key: [n, -n] for n, key in enumerate(keys)}


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 2**256 - 1), st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), max_size=6))
def test_a_drawer_gives_back_what_it_was_given(tmp_path_factory: pytest.TempPathFactory, rows: dict[int, list[float]]) -> None:
    drawer = FeatureCache(tmp_path_factory.mktemp("cache")).drawer("network", "preparation", 3)
    given_rows = {f"{key:064x}": np.array(row, np.float32) for key, row in rows.items()}
    drawer.add(given_rows)
    assert {key: row.tolist() for key, row in drawer.rows(given_rows).items()} == {k: row.tolist() for k, row in given_rows.items()}


def test_the_cache_lies_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert FeatureCache().folder == tmp_path / "drivesim" / "features"


# what cannot be read


def broken() -> np.ndarray:
    raise DrivesimError("clip.mp4: truncated")


def test_a_shot_that_cannot_be_read_is_named_and_passed_over() -> None:
    found = shots(3)
    found[2] = replace(found[2], read=broken)
    features = extract(found, StandIn())
    assert features.skipped == {found[2].clip_id: "clip.mp4: truncated"}
    assert features.keys == [shot.key for number, shot in enumerate(found) if number != 2]


def test_nothing_readable_is_an_error() -> None:
    with pytest.raises(DrivesimError, match=r"none of 2 shots could be read; clip_000000: clip.mp4: truncated"):
        extract([replace(shot, read=broken) for shot in shots(1)], StandIn())


def test_other_errors_are_not_hidden() -> None:
    def wrong() -> np.ndarray:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extract([replace(shot, read=wrong) for shot in shots(1)], StandIn())


def test_a_network_that_needs_more_frames() -> None:
    with pytest.raises(UsageError, match="stand-in needs 9 frames at once, the shots have 8"):
        extract(shots(1), StandIn(min_frames=9))


def test_numbers_that_are_not_finite_are_an_error_and_not_kept(tmp_path: Path) -> None:
    class Infinite(StandIn):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            return super().__call__(frames) / 0

    with pytest.raises(DrivesimError, match="not finite"):
        extract(shots(1), Infinite(), cache=FeatureCache(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_was_computed_before_an_interruption_is_kept(tmp_path: Path) -> None:
    found = shots(20)

    class Interrupted(StandIn):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            if self.seen >= 20:
                raise KeyboardInterrupt
            return super().__call__(frames)

    with pytest.raises(KeyboardInterrupt):
        extract(found, Interrupted(), cache=FeatureCache(tmp_path))
    network = StandIn()
    extract(found, network, cache=FeatureCache(tmp_path))
    assert network.seen == 20


def test_few_shots_are_held_at_once() -> None:
    """However many shots there are, a worker holds the frames of one batch, and hardly anything waits for it."""
    lock, held, most = threading.Lock(), 0, 0

    def counted(shot: Shot) -> np.ndarray:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return shot.read()

    class Slow(StandIn):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            nonlocal held
            with lock:
                held -= len(frames)
            return super().__call__(frames)

    found = [replace(shot, read=lambda shot=shot: counted(shot)) for shot in shots(100)]
    torch.set_num_threads(2)
    try:
        assert len(extract(found, Slow())) == 200
        assert most <= 2 * 4 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_rows_do_not_depend_on_the_number_of_workers() -> None:
    found = [*shots(9), *shots(4, seed=3, frames=4)]
    alone = extract(found, StandIn())
    torch.set_num_threads(3)
    try:
        assert np.array_equal(extract(found, StandIn()).values, alone.values)
    finally:
        torch.set_num_threads(1)
