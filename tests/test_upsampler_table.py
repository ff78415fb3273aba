"""What the upsampler's table sees of frames that were enlarged by rule, without any network."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from benchmark_scripts import benchmark
from toy_checkpoint import make_checkpoint, make_upsampler

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import UsageError
from drivesim.io.checkpoints import save_settings

upsampler = benchmark("upsampler")


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "road"
    make_road_world(folder, clips=3, seconds=3.0)
    return folder


def arguments(high: Path, **more: object) -> Namespace:
    return Namespace(**{"high": high, "low": None, "split": "train", "fps": 7.5, "windows": 2, **more})


def test_windows_are_whole_and_hold_a_clip() -> None:
    assert upsampler.Candidate(upsampler.bicubic).needs == 16
    assert upsampler.Candidate(upsampler.bicubic, frames=8, overlap=2).needs == 20
    assert upsampler.Candidate(upsampler.bicubic, frames=8, overlap=0).needs == 16
    at = upsampler.Candidate(upsampler.bicubic, 8, 2, tile=64, tile_overlap=16).borders((20, 512, 1024, 3))
    assert np.flatnonzero(at["time"]).tolist() == [5, 6, 7, 11, 12, 13]
    assert np.flatnonzero(at["rows"]).tolist() == [*range(191, 256), *range(383, 448)]


def test_crops_are_every_second_field_at_native_size() -> None:
    frames = np.zeros((2, 512, 1024, 3), np.uint8)
    frames[:, :128, :256] = 1
    pieces = upsampler.crops(frames)
    assert [piece.shape for piece in pieces] == [(2, 128, 256, 3)] * 8
    assert [int(piece.max()) for piece in pieces] == [1, 0, 0, 0, 0, 0, 0, 0]


def test_a_blink_at_window_borders_is_found(road: Path) -> None:
    def blinking(frames: np.ndarray) -> np.ndarray:
        made = upsampler.bicubic(frames)
        for first in range(6, len(made), 12):
            made[first : first + 6] = np.minimum(made[first : first + 6], 235) + 20
        return made

    ways = {"bicubic": upsampler.Candidate(upsampler.bicubic, 8, 2), "blinking": upsampler.Candidate(blinking, 8, 2)}
    found = upsampler.measured(ways, arguments(road, fps=7.0))
    rows = upsampler.border_rows(found, resamples=9)
    assert rows["bicubic"]["time / recorded"].value == pytest.approx(1, abs=0.15)
    assert rows["bicubic at the borders of blinking"] == rows["bicubic"]
    assert rows["blinking"]["time / recorded"].value > 1.3 * rows["bicubic"]["time / recorded"].value


def test_whole_frames_and_crops_are_both_judged() -> None:
    found, frames = upsampler.Found(), np.random.default_rng(0).integers(0, 256, (16, 128, 512, 3), np.uint8)
    upsampler.see(found, frames, None, "drive", upsampler.Lite0Panel())
    assert {metric: len(rows.values) for metric, rows in found.side.items()} == {
        "flicker": 1, "fvd_lite0_whole": 1, "fd_lite0_whole": 2, "fvd_lite0_crops": 1, "fd_lite0_crops": 2,
    }  # fmt: skip


def test_low_frames_must_be_of_the_same_clips(road: Path, tmp_path: Path) -> None:
    make_road_world(tmp_path / "half", clips=3, seconds=3.0, height=32, width=64)
    with pytest.raises(UsageError, match="a quarter would be 16x32"):
        next(upsampler.windows(arguments(road, low=tmp_path / "half"), 16))
    make_road_world(tmp_path / "quarter", clips=3, seconds=3.0, height=16, width=32)
    _, small, large = next(upsampler.windows(arguments(road, low=tmp_path / "quarter"), 16))
    assert small.shape == (16, 16, 32, 3) and large.shape == (16, 64, 128, 3)


def test_table_of_a_toy(road: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "toy")
    toy = make_upsampler(tmp_path / "toy")
    save_settings(toy.folder, {**toy.settings, "upsampling": {"overlap": 1, "tile_overlap": 2}})
    words = ["--high", road, "--split", "train", "--fps", "7", "--windows", "1", "--resamples", "9", "--out", tmp_path / "table.json"]
    words += ["--checkpoint", toy.folder, "--networks", "upsampler_image:1", "upsampler:2", "--tile", "9"]
    monkeypatch.setattr(sys, "argv", ["upsampler.py", *map(str, words)])
    upsampler.main()
    said, written = capsys.readouterr().out, json.loads((tmp_path / "table.json").read_text())
    assert "| bicubic |" in said and "fvd" not in said, "another rate than 7.5 fps has pixels only"
    assert set(written["rows"]["upsampler:2 - upsampler_image:1"]) == {"flicker", "psnr_db", "ssim", "change_error"}
    assert set(written["borders"]["upsampler_image:1"]) == {"rows", "rows / recorded", "columns", "columns / recorded"}
    assert "time / recorded" in written["borders"]["upsampler:2"]
    cost = [written["cost"][name]["gflop"] for name in ("bicubic", "upsampler_image:1", "upsampler:2")]
    assert 0 == cost[0] < cost[1] < cost[2]
