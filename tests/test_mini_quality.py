"""Figures of mini_quality in closed form, recorded frames at the ceiling, and all parts at toy size: made once, kept, and refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark
from standins import StandIn
from toys import write_toy_checkpoint

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.boxes import JudgedFrame
from drivesim.eval.extract import Features
from drivesim.eval.footage import Footage
from drivesim.eval.label_fidelity import Judge
from drivesim.io.checkpoints import load_checkpoint, save_network, save_settings
from drivesim.io.video import write_video
from drivesim.models.detector import Detections

rollouts, sets, distances = (benchmark(name) for name in ("held_out_rollouts", "mini_quality_sets", "mini_quality_distances"))
labels, looks, table = (benchmark(f"mini_quality_{name}") for name in ("labels", "look", "table"))
mini_quality = benchmark("mini_quality")
DRIVES = [f"drive{number % 5}" for number in range(40)]


@dataclass
class OneCar:
    """A detector that always finds the same car, and night where a picture is dark."""

    threshold: float = 0.5
    downsample: int = 8

    def detect(self, frames: torch.Tensor, low: float, most: int) -> list[Detections]:
        place = torch.tensor([[0.4, 0.4, 0.6, 0.7]])
        return [Detections(place, torch.tensor([0.9]), torch.tensor([0]), float(frame.float().mean() < 80)) for frame in frames]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drives to train on, four held out, toy weights with a keyframe network of one call."""
    root = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("seen", "held")):
        make_road_world(root / name, clips=5, seconds=5.5, height=32, width=64, seed=seed)
    checkpoint = load_checkpoint(write_toy_checkpoint(root / "weights"))
    save_network(checkpoint.folder / "prediction_fast", checkpoint.network("prediction"), {"stage": "toy"})
    save_settings(checkpoint.folder, {**checkpoint.settings, "prediction_fast": {"calls": 1}})
    write_toy_checkpoint(root / "slow")
    return root


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that judge without work."""
    networks = {name: StandIn(name=name) for name in ("lite0-clips", "lite0-frames")}
    for module in ("mini_quality_sets", "mini_quality_long"):
        monkeypatch.setattr(benchmark(module), "feature_network", networks.__getitem__)
    monkeypatch.setattr(mini_quality.Judge, "load", lambda: Judge(OneCar(), "0" * 64))  # type: ignore[arg-type]


def bench_of(world: Path, work: Path) -> Any:
    return sets.Bench(load_checkpoint(world / "weights"), [world / "held"], "train", [world / "seen"], work, resamples=20)


def words(world: Path, work: Path, *more: object) -> list[str]:
    sizes = "--split train --windows 3 --frames 17 --longer-windows 2 --longer-frames 33 --fast-windows 2 --judged-frames 12"
    sweep = "--stage-windows 2 --empty-spans 1 --guidance-spans 2 --scales 1 2 --seeds 2 --minutes 0.08 --resamples 9"
    named = ["--checkpoint", world / "weights", "--data", world / "held", "--train", world / "seen", "--work", work, "--cache", work / "c"]
    return [*map(str, named), *sizes.split(), *sweep.split(), *map(str, more)]


# closed forms


def features(values: np.ndarray) -> Features:
    return Features(values, DRIVES, [str(number) for number in range(len(values))])


def shifted(*shifts: float) -> Any:
    """Made rows, and test rows, for each shift of all five features."""
    test = np.random.default_rng(0).standard_normal((40, 5))
    return [sets.Aligned(features(test + shift), features(test)) for shift in shifts]


def test_what_equals_the_test_side_is_at_no_distance() -> None:
    (same,) = shifted(0)
    train = features(same.recorded.values + 1)
    found = distances.to_floor(same, train, 20)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-6)
    assert np.isnan(distances.to_floor(same, same.recorded, 20).value)  # nothing over nothing


def test_distance_over_the_floor_is_that_of_the_squared_shifts() -> None:
    (made,) = shifted(3)
    assert distances.to_floor(made, features(made.recorded.values + 1), 20).value == pytest.approx(9)
    assert distances.to_floor(made, made.made, 20).value == pytest.approx(1)


def test_one_kind_over_the_other_is_paired() -> None:
    once, twice, thrice = shifted(0.5, 1, 2)
    for one, other, ratio in ((once, once, 1), (thrice, twice, 4), (once, twice, 0.25)):
        found = distances.to_other(one, other, 20)
        assert (found.value, found.low, found.high) == pytest.approx((ratio,) * 3)
    elsewhere = replace(once, recorded=Features(once.recorded.values, DRIVES, ["other"] * 40))
    with pytest.raises(UsageError, match="same moments"):
        distances.to_other(elsewhere, once, 20)


def frame(asked: int, found: int, drive: str = "a", **more: Any) -> JudgedFrame:
    """The first ``asked`` of five places are asked for, the first ``found`` are found."""
    places = np.array([[0.2 * x, 0.4, 0.2 * x + 0.15, 0.7] for x in range(5)], np.float32)
    score = np.linspace(0.9, 0.8, 5, dtype=np.float32)[:found]
    told = {"night": 0.0, "night_found": 0.1, "clip_id": drive, "crowdedness": float(asked), **more}
    return JudgedFrame(drive, places[:asked], np.zeros(asked, bool), places[:found], score, **told)


def scene(shares: float = 1.0) -> list[JudgedFrame]:
    return [frame(n := 1 + number % 5, int(n * shares), f"drive{number % 4}", clip_id=f"clip{number % 8}") for number in range(40)]


def test_recorded_frames_reach_the_ceiling_and_differ_in_nothing() -> None:
    made, recorded = labels.seen_beside(scene(), scene(), 0.5)
    ratio = labels.ratio(made, recorded)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))
    assert {name: made.interval(name).value for name in labels.MEASURES} == pytest.approx({"ap50": 1, "time_of_day": 1, "crowdedness": 1})
    for told in labels.differences(made, recorded).values():
        assert [told["points"][name] for name in ("value", "low", "high")] == pytest.approx([0, 0, 0])


def test_fewer_found_boxes_are_points_less() -> None:
    half, recorded = labels.seen_beside(scene(0.5), scene(), 0.5)
    told = labels.differences(half, recorded)["ap50"]
    assert told["other"] == pytest.approx(1) and told["points"]["value"] == pytest.approx(100 * (told["one"] - 1)) and told["one"] < 0.6


def test_time_of_day_is_right_by_clips_and_not_by_frames() -> None:
    dark = [frame(1, 1, "a", night=1.0, night_found=found, clip_id="long") for found in (0.9, 0.9, 0.9, 0.2)]
    seen = labels.Seen([*dark, frame(1, 1, "b", night=1.0, night_found=0.1, clip_id="short")], 0.5)
    assert seen.time_of_day(np.arange(5)) == pytest.approx(0.5)
    assert np.isnan(labels.Seen([frame(1, 1, night=float("nan"))], 0.5).time_of_day(np.arange(1)))


def test_made_frames_are_not_asked_for_what_was_hidden() -> None:
    hidden = replace(frame(2, 1), ignore=np.array([False, True]))
    made, recorded = labels.seen_beside([frame(2, 1)], [hidden], 0.5)
    assert made.ap50(np.arange(1)) == recorded.ap50(np.arange(1)) == pytest.approx(1)


def test_frames_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DrivesimError, match="do not belong together"):
        labels.seen_beside(scene(), scene()[1:], 0.5)
    with pytest.raises(DrivesimError, match="nobody knows the boxes"):
        labels.seen_beside([frame(1, 1)], [frame(1, 1, known=False)], 0.5)


# recorded frames in place of made ones


def test_recordings_that_pass_for_made_clips_are_at_the_ceiling(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(self: Any, span: Any) -> None:
        frames = span.dataset.frames(span.clip, np.arange(span.first + self.first, span.first + span.frames))
        write_video(self.video(span), frames, 7.5)

    monkeypatch.setattr(rollouts.Redriven, "_drive", copied)
    bench = bench_of(world, tmp_path)
    for context in (0, 2):
        pair = bench.pair(rollouts.Task(context, 33), 4, "full")
        assert [clip.frames for clip in pair.made.clips] == [33 - bool(context)] * 4
        found = distances.against_floor(bench, pair)
        assert found["judges"]["fvd_lite0"]["n"] == 8
        for judge in found["judges"].values():
            assert judge["ratio"]["value"] < 0.2 and judge["train"]["same_time_of_day"] == 1
        sides = bench.aligned(pair, sets.CLIPS)
        for ours, theirs in zip(sides.made.shots, sides.recorded.shots, strict=True):
            assert np.abs(ours.read().astype(int) - theirs.read()).mean() < 4  # coded twice
    same = distances.relative(bench, pair, pair)
    assert {name: told["ratio"]["value"] for name, told in same.items()} == pytest.approx({"fvd_lite0": 1, "fd_lite0": 1})
    assert pair.first(2.2).length_s == pytest.approx(16 / 7.5)


def test_a_train_side_that_is_too_small_or_the_same_is_refused(world: Path, tmp_path: Path) -> None:
    bench = bench_of(world, tmp_path)
    shots = bench.recordings.shots(16, 7.5)
    with pytest.raises(UsageError, match="take fewer windows"):
        distances.matched(bench.recordings, shots, bench.recordings, shots[1:])
    with pytest.raises(UsageError, match="has no labels"):
        distances.matched(bench.recordings, shots, replace(bench.recordings, records=None), shots)
    chosen, alike = distances.matched(bench.recordings, shots, bench.recordings, shots[::-1])
    assert alike == {"same_time_of_day": 1, "vehicles_apart": 0} and {shot.key for shot in chosen} == {shot.key for shot in shots}
    with pytest.raises(UsageError, match="shares its drive"):
        distances._train(replace(bench, train=bench.data), bench.recordings)


# all parts, and their table


def test_every_part_is_made_once_and_kept(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = {name: looks.DAMAGE[name] for name in ("blur 2", "light times 1.15")}  # each damage has its own test
    monkeypatch.setattr(looks, "DAMAGE", damage)
    out, work = tmp_path / "table.json", tmp_path / "work"
    mini_quality.main(words(world, work, "--real", world / "seen", "--out", out))
    said, written = capsys.readouterr().out, json.loads(out.read_text())
    parts = {row["part"] for row in written["rows"]}
    good, long = {"good, 0 context", "good, 2 context"}, {"long", "long, day", "long, night"}
    assert parts == {*good, "fast", "labels", "guidance", "stages", "look", *long}
    assert {"cosine with blur 2", "waves of 2 to 4 pixels, over those of recordings"} <= {row["what"] for row in written["rows"]}
    assert {row["met"] for row in written["rows"] if "made over train" in row["what"]} == {None}  # 4 windows say nothing
    assert "fvd_lite0, made over train, first 10 s (2.27 s spans)" in said and "cost of a frame, fast over full" in said
    assert set(written["parts"]) == set(mini_quality.PARTS) and written["parts"]["fast"]["found"]["cost"]["fast"]["calls"]["keyframes"] == 1
    swept = [row["what"] for row in written["rows"] if row["part"] == "guidance"]
    assert swept == [f"AP50 at a scale of {how}" for how in ("1", "2, about all", "2, about boxes and crowdedness")]
    assert all((work / "plots" / name).is_file() for name in ("guidance.png", "drift_all/drift.png", "good_0/neighbours.png"))
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.mp4")}
    mini_quality.main(words(world, work, "--real", world / "seen", "--part", *mini_quality.PARTS, "--compare", work))
    said = capsys.readouterr().out
    assert said.count("kept from") == len(mini_quality.PARTS) and (work / "plots" / "drift_before_after.png").is_file()
    mini_quality.main(words(world, work, "--part", "labels", "--judged-frames", "9"))
    assert "labels: " in (said := capsys.readouterr().out) and "kept" not in said
    assert before == {path: path.stat().st_mtime_ns for path in work.rglob("*.mp4")}


def test_verdicts_of_a_steady_and_of_a_drifting_rollout() -> None:
    def change(low: float | None, high: float | None) -> dict[str, Any]:
        return {"value": 0.1, "low": low, "high": high}

    assert table._steady(change(-0.1, 0.2), 0.1) and table._steady(change(0.05, 0.2), 1.0) and table._steady(change(-0.3, -0.1), 1.0)
    assert table._steady(change(0.05, 0.2), 0.5) is False and table._steady(change(None, None), 1.0) is None


def test_a_row_says_whether_its_target_is_met() -> None:
    interval = {"value": 2.5, "low": 2.0, "high": 3.0}
    assert table._row("good", "x", interval, "<= 2", table._most(interval, 2)).line() == "| good | x | 2.5 [2, 3] | <= 2 | missed |  |"
    assert "| unknown |" in table._row("good", "x", None, "<= 2", table._most(None, 2)).line()
    assert "| met |" in table._row("labels", "x", interval, ">= 2", table._least(interval, 2)).line()


def test_bad_input_is_one_error(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no networks of few calls"):
        mini_quality.main([*words(world, tmp_path, "--part", "fast"), "--checkpoint", str(world / "slow")])
    with pytest.raises(UsageError, match="nothing has been judged"):
        mini_quality.main(words(world, tmp_path, "--part", "table"))
    with pytest.raises(UsageError, match=r"no results/long\.json"):
        mini_quality.main(words(world, tmp_path, "--part", "table", "--compare", tmp_path))
    with pytest.raises(SystemExit):
        mini_quality.parse(words(world, tmp_path, "--windows", "0"))
    assert "--windows is too small" in capsys.readouterr().err
    stale = {"good": {"inputs": {"checkpoint": "0" * 64}}}
    with pytest.raises(UsageError, match=r"good is of other weights \(00000000\)"):
        table.rows_of(stale, "1" * 64)


def test_footage_of_one_light_only(world: Path, tmp_path: Path) -> None:
    long = benchmark("mini_quality_long")
    recordings = bench_of(world, tmp_path).recordings
    sides = {light: long._of_light(recordings, light) for light in long.LIGHTS}
    assert sum(len(side.clips) for side in sides.values()) == len(recordings.clips) and all(len(side.clips) for side in sides.values())
    with pytest.raises(UsageError, match="no recording by night"):
        long._of_light(replace(sides["day"], clips=sides["day"].clips), "night")
    with pytest.raises(UsageError, match="--seeds"):
        long.drives(tmp_path, 0)
    assert isinstance(recordings, Footage) and long.rules_for(5).span_s == 60 and long.rules_for(1).span_s == 30
