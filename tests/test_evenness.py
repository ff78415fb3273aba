"""Ratios of motion against windows whose motion is known, and the table of interpolation of toy weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmark_scripts import benchmark
from toys import write_toy_checkpoint

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.eval.clips import Clip

evenness, thirty_fps = benchmark("evenness"), benchmark("thirty_fps")


def motion(rows: list[list[float]], drives: str) -> evenness.Motion:
    return evenness.Motion([np.array(row) for row in rows], list(drives))


def sliding(positions: list[int]) -> np.ndarray:
    """A blurred texture that slides to each position, uint8 (n, 64, 128, 3)."""
    rng = np.random.default_rng(0)
    coarse = np.repeat(np.repeat(rng.integers(0, 255, (17, 33), np.uint8), 4, 0), 4, 1)[:64, :128, None].repeat(3, 2)
    return np.stack([np.roll(coarse, shift, axis=1) for shift in positions])


def test_steady_motion_has_pace_and_evenness_one() -> None:
    row = evenness.motion(sliding([0, 1, 2, 3, 4]))
    assert row.shape == (5,)
    assert evenness.pace(row[None]) == pytest.approx(1, abs=0.15)
    assert evenness.outer_to_inner(row[None]) == pytest.approx(1, abs=0.05)


def test_one_jump_has_pace_one_too_but_no_evenness() -> None:
    row = evenness.motion(sliding([0, 0, 0, 4, 4]))
    assert evenness.pace(row[None]) == pytest.approx(1, abs=1e-3)
    assert evenness.outer_to_inner(row[None]) == pytest.approx(0, abs=1e-3)


def test_ratios_are_of_sums_over_windows() -> None:
    rows = np.array([[1.0, 1, 1, 1, 4], [4.0, 2, 2, 4, 8]])
    assert evenness.pace(rows) == pytest.approx((16 / 8) / (12 / 8))
    assert evenness.outer_to_inner(rows) == pytest.approx((10 / 4) / (6 / 4))
    assert np.isnan(evenness.pace(np.zeros((2, 5))))


def test_steps_beside_recorded_ones_leave_standing_windows_out() -> None:
    made, recorded = np.array([[1.0, 1, 1, 1, 4], [9.0, 9, 9, 9, 9]]), np.array([[2.0, 2, 2, 2, 8], [0.01, 0.01, 0.01, 0.01, 0.01]])
    assert evenness.step_ratios(made, recorded, least=0.1).tolist() == [0.5]
    assert evenness.within([0.5, 0.9, 1.2], 0.8, 1.25) == pytest.approx(2 / 3)
    assert np.isnan(evenness.within([], 0.8, 1.25))


def test_windows_of_the_same_drives_are_drawn_together() -> None:
    recorded = motion([[1.0, 1, 1, 1, 4], [5.0, 5, 5, 5, 4], [2.0, 2, 2, 2, 4]], "abc")
    half = evenness.Motion([row * np.array([0.5, 0.5, 0.5, 0.5, 1]) for row in recorded.rows], recorded.drives)
    together = evenness.relative_pace(half, recorded, resamples=50)
    assert (together.value, together.low, together.high) == pytest.approx((0.5, 0.5, 0.5))
    apart = evenness.relative_pace(evenness.Motion(half.rows[:2], ["x", "y"]), recorded, resamples=50)
    assert apart.low < apart.value < apart.high


@pytest.mark.parametrize(("fps", "rate", "firsts"), [(7.5, 7.5, [0, 4]), (30.0, 30.0, [0, 4]), (30.0, 7.5, []), (7.5, 30.0, [])])
def test_windows_of_a_rollout_are_those_of_the_pass(fps: float, rate: float, firsts: list[int]) -> None:
    clip = Clip("made", "made", "generated", rate, 9, (8, 16), np.zeros((9, 8, 16, 3), np.uint8))
    assert [frames.tolist() for _, frames in thirty_fps.made_windows(clip, fps)] == [list(range(first, first + 5)) for first in firsts]


def test_keyframe_windows_of_thirty_fps_are_four_apart() -> None:
    clip = Clip("made", "made", "generated", 30.0, 33, (8, 16), np.zeros((33, 8, 16, 3), np.uint8))
    assert [frames.tolist() for _, frames in thirty_fps.made_windows(clip, 7.5)] == [[0, 4, 8, 12, 16], [16, 20, 24, 28, 32]]


def test_table_of_a_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    weights, out = write_toy_checkpoint(tmp_path / "toy"), tmp_path / "table.json"
    make_road_world(tmp_path / "road", clips=3, seconds=2.0)
    words = ["--checkpoint", weights, "--data", tmp_path / "road", "--splits", "train", "--windows", "2", "--generated", tmp_path / "road"]
    monkeypatch.setattr(sys, "argv", ["thirty_fps.py", *map(str, words), "--out", str(out)])
    thirty_fps.main()
    said, written = capsys.readouterr().out, json.loads(out.read_text())
    title = "road train, 1.875 -> 7.5 fps"
    assert title in said and "| generated |" in said
    assert list(written["motion"]) == [title]
    assert written["motion"][title]["nearest end again"]["ends_to_middle"]["value"] == pytest.approx(0, abs=0.05)
    assert set(written["psnr"][title]) == {"autoencoder alone", *thirty_fps.CANDIDATES}
