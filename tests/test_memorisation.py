"""Copies of training clips are found, clips of the same world are not accused, and the pairs can be looked at."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import UsageError
from drivesim.eval.extract import Features
from drivesim.eval.footage import Shot
from drivesim.eval.memorisation import memorisation_report, nearest
from drivesim.eval.pictures import pair_sheet, strip
from drivesim.io.video import VideoError


def features(values: np.ndarray, name: str, per_drive: int = 2) -> Features:
    drives = [f"{name}{index // per_drive}" for index in range(len(values))]
    return Features(values.astype(np.float32), drives, [f"{name}-key-{index}" for index in range(len(values))])


def shots(side: Features, fails: bool = False) -> list[Shot]:
    def read(value: int) -> np.ndarray:
        if fails:
            raise VideoError("gone")
        return np.full((16, 32, 64, 3), value, np.uint8)

    named = enumerate(zip(side.keys, side.drives, strict=True))
    return [Shot(f"clip {key}", drive, 0, 7.5, key, partial(read, 40 + 3 * number)) for number, (key, drive) in named]


def world(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)) * np.arange(1, 9)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 7), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_nearest_is_the_smallest_of_all_distances(n: int, m: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, references = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    every = np.linalg.norm(queries[:, None] - references, axis=-1)
    distance, which = nearest(queries, references, block)
    assert distance == pytest.approx(every.min(axis=1), abs=1e-12)
    assert (every[np.arange(n), which] == every.min(axis=1)).all()


def test_an_equal_row_is_exactly_nothing_away() -> None:
    rows = 1e4 + np.random.default_rng(0).normal(size=(50, 6))
    distance, which = nearest(rows, rows, block=16)
    assert (distance == 0).all() and (which == np.arange(50)).all()


def test_planted_copies_are_found(tmp_path: Path) -> None:
    train, test = features(world(0, 120), "train"), features(world(1, 80), "test")
    values = world(2, 40)
    values[:10] = train.values[5:15] + 0.01
    generated = features(values, "made")
    report = memorisation_report(generated, train, test, shots(generated), shots(train), tmp_path, resamples=100)
    assert 0.25 <= report["fraction_below_p5"] <= 0.35
    assert report["interval"]["low"] > report["expected"]
    assert report["closest"][0]["distance"] < 0.1 * report["test"][0]
    for row in report["closest"][:5]:
        copied, source = (int(row[side].split()[1].split("-")[-1]) for side in ("generated", "train"))
        assert source == copied + 5
    assert len({(row["generated"], row["train"]) for row in report["closest"]}) == len(report["closest"]) == 6


def test_clips_of_the_same_world_are_not_flagged(tmp_path: Path) -> None:
    train, test, generated = (features(world(seed, 200), name) for seed, name in ((0, "train"), (1, "test"), (2, "made")))
    report = memorisation_report(generated, train, test, [], [], tmp_path, resamples=200)
    assert report["interval"]["low"] <= 0.05 <= report["interval"]["high"] + 1e-9
    assert report["generated"][3] == pytest.approx(report["test"][3], rel=0.15)
    assert [row["picture"] for row in report["closest"]] == [None] * 6
    assert report["marks"] == []


def test_scale_of_a_feature_does_not_matter(tmp_path: Path) -> None:
    sides = [world(seed, 60) for seed in range(3)]
    scale = np.array([1e-3, 1, 1e3, 1, 5, 1, 1, 1])
    plain, scaled = (
        memorisation_report(
            features(sides[2] * k, "made"), features(sides[0] * k, "train"), features(sides[1] * k, "test"), [], [], tmp_path, resamples=20
        )
        for k in (1, scale)
    )
    assert plain["generated"] == pytest.approx(scaled["generated"], rel=1e-4)
    assert plain["fraction_below_p5"] == scaled["fraction_below_p5"]


def test_pictures_show_the_generated_clip_above_the_training_clip(tmp_path: Path) -> None:
    train, test, generated = (features(world(seed, 20), name) for seed, name in ((0, "train"), (1, "test"), (2, "made")))
    report = memorisation_report(generated, train, test, shots(generated), shots(train), tmp_path, pairs=2, resamples=20)
    assert (tmp_path / "neighbours.png").stat().st_size > 1000
    for row in report["closest"]:
        picture = cv2.imread(str(tmp_path / row["picture"]))
        ours, theirs = (int(row[side].split()[1].split("-")[-1]) for side in ("generated", "train"))
        assert (picture[60, 60] == 40 + 3 * ours).all() and (picture[-60, 60] == 40 + 3 * theirs).all()
    assert any("only 20 test clips" in mark for mark in report["marks"])


def test_a_clip_that_can_no_longer_be_read_has_no_picture(tmp_path: Path) -> None:
    train, test, generated = (features(world(seed, 20), name) for seed, name in ((0, "train"), (1, "test"), (2, "made")))
    report = memorisation_report(generated, train, test, shots(generated, fails=True), shots(train), tmp_path, pairs=1, resamples=20)
    assert report["closest"][0]["picture"] is None and report["closest"][0]["distance"] > 0


def test_shared_drives_and_single_drives_are_marked(tmp_path: Path) -> None:
    train, generated = features(world(0, 20), "train"), features(world(2, 4), "made", per_drive=4)
    report = memorisation_report(generated, train, features(world(1, 70), "train"), [], [], tmp_path, resamples=20)
    assert any("10 drives are in both" in mark for mark in report["marks"])
    assert any("interval" in mark for mark in report["marks"]) and np.isnan(report["interval"]["low"])


def test_clips_that_look_different_are_marked(tmp_path: Path) -> None:
    train, test = (features(world(seed, 80), name) for seed, name in ((0, "train"), (1, "test")))
    report = memorisation_report(features(world(2, 20) + 60, "made"), train, test, [], [], tmp_path, resamples=20)
    assert report["fraction_below_p5"] == 0 and any("would hide a copy" in mark for mark in report["marks"])


def test_bad_input_is_refused(tmp_path: Path) -> None:
    good, none = features(world(0, 10), "a"), features(np.zeros((0, 8)), "b")
    with pytest.raises(UsageError, match="no training clips"):
        memorisation_report(good, none, good, [], [], tmp_path)
    with pytest.raises(UsageError, match="as many features"):
        nearest(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(UsageError, match="finite"):
        nearest(np.full((2, 3), np.nan), np.zeros((2, 3)))


def test_strips_span_the_shot() -> None:
    frames = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 64, 3), np.uint8)
    row = strip(frames, pictures=3, height=32)
    assert row.shape == (32, 3 * 64 + 2 * 4, 3)
    assert [row[0, 30, 0], row[0, 100, 0], row[0, -1, 0]] == [0, 8, 15]
    assert pair_sheet(frames, frames[:1, :, :32], ("above", "below ü"), pictures=3, height=32).shape[1] == row.shape[1]
