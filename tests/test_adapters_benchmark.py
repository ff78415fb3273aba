"""What benchmarks/adapters.py measures with is what it says: sound datasets, and both sides make the same number of frames. No timing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmark_scripts import benchmark

from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources.kitti import import_kitti
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.io.records import read_records
from drivesim.io.video import probe

adapters, fixtures = benchmark("adapters"), benchmark("adapters_fixtures")


def test_datasets_are_blown_up_and_enlarged_whole(tmp_path: Path) -> None:
    make_road_world(tmp_path / "few", clips=2, seconds=1, height=32, width=64)
    large = adapters.enlarged(tmp_path / "few", tmp_path / "large", (64, 128))
    many = adapters.blown_up(large, tmp_path / "many", 5)
    assert check_dataset(many)["faults"] == 0
    few, grown = read_records(tmp_path / "few"), read_records(many)
    assert len(grown.clips) == 5 and set(grown.clips["height"]) == {64}
    first = (few.boxes["clip_id"] == few.clip_ids[0]).sum()
    assert (grown.boxes["clip_id"].isin(["clip00000", "clip00002", "clip00004"])).sum() == 3 * first


def test_bare_encoding_makes_the_frames_that_an_import_makes(tmp_path: Path) -> None:
    made = fixtures.kitti(tmp_path / "kitti", 2)
    adapters.bare(made.sources, made.fps, tmp_path / "bare")
    import_kitti(made.root, tmp_path / "out", progress=False)
    ours, plain = (sorted(path for path in (tmp_path / name).rglob("*.mp4")) for name in ("out", "bare"))
    for mine, other in zip(ours, plain, strict=True):
        assert probe(mine) == probe(other)
        assert 0.8 < mine.stat().st_size / other.stat().st_size < 1.25, "the same encoder settings"


def test_ratios_are_of_the_rounds(tmp_path: Path) -> None:
    turns: list[str] = []

    def run(name: str, out: Path) -> None:
        turns.append(name)
        out.mkdir()

    found = adapters.rounds_of(lambda out: run("plain", out), lambda out: run("ours", out), 3, tmp_path)
    assert turns == ["plain", "ours"] * 4 and len(found["ratios"]) == 3 and not list(tmp_path.iterdir())
    assert found["ratio"] == np.median(found["ratios"])
