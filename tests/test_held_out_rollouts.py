"""Spans of recordings in an order that may be cut anywhere, driven once, by as many processes as like, into folders of one identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import benchmark
from toys import write_toy_checkpoint

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import UsageError
from drivesim.io.checkpoints import load_checkpoint, save_settings
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.simulator import Simulator

rollouts = benchmark("held_out_rollouts")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drives, and two folders of weights."""
    root = tmp_path_factory.mktemp("world")
    make_road_world(root / "held", clips=5, seconds=5.5, height=32, width=64)
    for name in ("weights", "others"):
        checkpoint = load_checkpoint(write_toy_checkpoint(root / name))
        save_settings(checkpoint.folder, {**checkpoint.settings, "notes": name})
    return root


def redriven(world: Path, out: Path, weights: str = "weights", **task: Any) -> Any:
    checkpoint = load_checkpoint(world / weights)
    return rollouts.Redriven(out, Simulator(checkpoint, rollout_settings(checkpoint, fps=7.5)), rollouts.Task(**task))


def test_any_first_part_of_the_order_is_even() -> None:
    drives = [name for name in "abcdef" for _ in range(5)]
    nights = [name in "abc" for name in drives]
    order = rollouts.in_turn(drives, nights)
    assert sorted(order) == list(range(30)) and order == rollouts.in_turn(drives, nights)
    for turn in range(5):
        part = order[6 * turn : 6 * turn + 6]
        assert {drives[place] for place in part} == set("abcdef")
        assert [nights[place] for place in part] == [False, True] * 3


def test_spans_are_seeded_by_their_place_among_all(world: Path) -> None:
    found = rollouts.spans([world / "held"], "train", 17)
    assert sorted(span.seed for span in found) == list(range(len(found))) and len({span.name for span in found}) == len(found)
    assert all(span.first >= rollouts.KEYFRAME_STRIDE for span in found)
    with pytest.raises(UsageError, match="holds 104 frames; take fewer"):
        rollouts.spans([world / "held"], "train", 100)


def test_a_folder_of_other_weights_or_settings_is_refused(world: Path, tmp_path: Path) -> None:
    redriven(world, tmp_path / "made")
    redriven(world, tmp_path / "made")
    with pytest.raises(UsageError, match="differ in request;"):
        redriven(world, tmp_path / "made", request="nothing")
    with pytest.raises(UsageError, match="differ in checkpoint;"):
        redriven(world, tmp_path / "made", weights="others")
    (tmp_path / "made" / rollouts.STAMP).unlink()
    (tmp_path / "made" / "videos").mkdir()
    (tmp_path / "made" / "videos" / "a.mp4").touch()
    with pytest.raises(UsageError, match="nothing says how"):
        redriven(world, tmp_path / "made")


def test_what_another_process_is_at_is_left_to_it(world: Path, tmp_path: Path) -> None:
    clips = redriven(world, tmp_path / "made", frames=17)
    span = rollouts.spans([world / "held"], "train", 17)[0]
    with rollouts.claimed(tmp_path / "made" / "videos" / f".{span.name}.lock", wait=True):
        assert not clips._made(span, wait=False) and not clips.done(span)
    assert clips._made(span, wait=False) and clips.done(span) and clips.seconds([span]) > 0


def test_asking_for_nothing_empties_the_road_and_keeps_the_light(world: Path, tmp_path: Path) -> None:
    spans = rollouts.spans([world / "held"], "train", 17)[:2]
    sides = [redriven(world, tmp_path / request, frames=17, request=request) for request in rollouts.REQUESTS]
    for clips in sides:
        clips.make(spans)
    full, empty = (clips.opened(spans).records for clips in sides)
    assert len(full.boxes) and not len(empty.boxes) and empty.frames["boxes_known"].all() and (empty.frames["crowdedness"] == 0).all()
    assert full.clips["time_of_day"].tolist() == empty.clips["time_of_day"].tolist() == ["day", "night"]
