"""Whether generated clips help: which clips a run sees and how they are mixed, equal work for all, judging, the tables in closed form."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark
from toys import write_toy_checkpoint

from drivesim.datasets.clips import ClipDataset
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import UsageError
from drivesim.models.detector import BoxDetector, Detections

arms, clips, training = benchmark("downstream_arms"), benchmark("downstream_clips"), benchmark("downstream_training")
table, script = benchmark("downstream_table"), benchmark("downstream")
TOY = training.Size(32, 64)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three train clips by day and two by night; one val clip, by night, with traffic."""
    root = tmp_path_factory.mktemp("road") / "clips"
    make_road_world(root, clips=6, seconds=2.0, seed=1)
    return root


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    wish = clips.Wish(str(write_toy_checkpoint(folder / "toy")), frames=9)
    clips.make(folder / "clips", 2, wish)
    return folder / "clips"


# generated clips


def test_generated_clips_are_a_data_set_half_of_it_by_night(generated: Path) -> None:
    dataset = ClipDataset(generated)
    rows = dataset.records.clips
    assert list(rows["time_of_day"]) == ["day", "night"] and list(rows["frames"]) == [9, 9] and not dataset.faults
    assert set(dataset.records.boxes["provenance"]) == {"requested"}
    told = json.loads(rows["provenance"].iloc[1])
    assert told["kind"] == "generated" and told["crowdedness"] == clips.CROWDEDNESS[0] and told["drive"] == "generated_0001"


def test_only_what_is_missing_is_made_and_to_the_same_frames(generated: Path) -> None:
    first, second = (ClipDataset(generated).video(clip) for clip in (0, 1))
    before, stood = second.read_bytes(), first.stat().st_mtime_ns
    second.write_bytes(before[: len(before) // 2])
    clips.make(generated, 2, clips.Wish(str(generated.parent / "toy"), frames=9))
    assert second.read_bytes() == before and first.stat().st_mtime_ns == stood


def test_clips_of_another_wish_are_refused(generated: Path, tmp_path: Path) -> None:
    toy = generated.parent / "toy"
    with pytest.raises(UsageError, match="differ in frames"):
        clips.make(generated, 2, clips.Wish(str(toy), frames=13))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "mine.mp4").touch()
    with pytest.raises(UsageError, match="nothing says how they were made"):
        clips.make(tmp_path, 2, clips.Wish(str(toy), frames=9))


def test_a_checkpoint_without_tracks_is_refused(generated: Path, tmp_path: Path) -> None:
    toy = write_toy_checkpoint(tmp_path / "toy")
    (toy / "tracks.parquet").unlink()
    with pytest.raises(UsageError, match="no track bank"):
        clips.make(tmp_path / "out", 2, clips.Wish(str(toy), frames=9))


# which clips


def test_more_drives_hold_those_of_fewer(road: Path) -> None:
    dataset = ClipDataset(road, "train")
    light = dict(zip(dataset.clip_ids, dataset.records.clips["time_of_day"], strict=True))
    for seed in range(4):
        few, many = (training.drives_for(dataset, days, 1, seed) for days in (1, 2))
        assert set(few) < set(many) and [light[clip] for clip in many] == ["day", "day", "night"]
    assert len({tuple(training.drives_for(dataset, 1, 1, seed)) for seed in range(8)}) > 1
    with pytest.raises(UsageError, match="2 clips by night, and 3 are wanted"):
        training.drives_for(dataset, 1, 3, 0)


def test_what_is_added_is_of_the_light_asked_for_or_what_no_seed_labels(
    road: Path, generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = training.Kept(generated, None)
    shop = script.Workshop(road, generated, [], script.Plan(3, len(kept), 12, TOY))
    nights = shop.extra(arms.ARMS["nights_quarter"], 2, 0)
    assert 0 < sum(nights.usable > 0) < len(kept)
    assert set(nights.records.clips["time_of_day"][nights.usable > 0]) == {"night"}
    labelled, others = shop.clips(2, 0), shop.extra(arms.ARMS["simulated"], 2, 0)
    assert ((labelled.usable > 0) != (others.usable > 0)).all() and others.usable.max() == 4, "12 frames of 3 drives"
    assert shop.extra(arms.ARMS["augmented"], 2, 0) is None
    monkeypatch.setattr(script, "nights_of", lambda count: 2)
    with pytest.raises(UsageError, match="no drive is left to add"):
        shop.extra(arms.ARMS["simulated"], 5, 0)


def test_kept_clips_are_the_chosen_ones_and_their_first_frames(road: Path) -> None:
    plain, memory = ClipDataset(road, "train"), dict[Path, np.ndarray]()
    kept = training.Kept(road, "train", [plain.clip_ids[1]], 5, memory)
    assert kept.usable.tolist() == [0, 5, 0, 0, 0]
    assert np.array_equal(kept.frames(1, np.array([3, 0])), plain.frames(1, np.array([3, 0]))) and list(memory) == [plain.video(1)]
    plain.video(1).rename(moved := plain.video(1).with_suffix(".away"))
    try:
        assert np.array_equal(kept.frames(1, np.array([4])), memory[plain.video(1)][4:5])  # not read again
    finally:
        moved.rename(plain.video(1))


def test_a_quarter_of_the_labelled_drives_is_by_night() -> None:
    assert [arms.nights_of(count) for count in (2, 4, 12, 24)] == [1, 1, 3, 6]


# training


@pytest.mark.parametrize("name", arms.ARMS)
def test_all_arms_take_equally_many_steps(name: str, road: Path) -> None:
    arm, kept = arms.ARMS[name], training.Kept(road, "train")
    recipe = training.Recipe(7, arm.augmented, arm.share, arm.first)
    streams = training._samples(kept, kept if arm.extra else None, recipe, TOY, 0)
    assert sum(steps for _, steps in streams) == 7
    assert sum(len(batch["frames"]) for batch in training._batches(streams)) == 7 * training.BATCH


@pytest.mark.parametrize(("share", "wanted"), [(None, 0.5), (0.25, 0.25), (0.5, 0.5)])
def test_the_share_of_extra_frames(share: float | None, wanted: float, road: Path) -> None:
    first, extra = training.Kept(road, "train", longest=4), training.Kept(road, "train", longest=4)
    ((samples, _),) = training._samples(first, extra, training.Recipe(5, share=share), TOY, 0)
    rng = np.random.default_rng(0)
    drawn = np.mean([samples.table.draw(rng).dataset for _ in range(2000)])
    assert drawn == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / 2000))


def test_extra_clips_that_come_first_come_alone(road: Path) -> None:
    kept, extra = training.Kept(road, "train"), training.Kept(road, "val")
    (before, long), (after, rest) = training._samples(kept, extra, training.Recipe(10, first=0.4), TOY, 0)
    assert (long, rest) == (4, 6)
    assert before.reader.datasets == [extra] and after.reader.datasets == [kept]


def test_training_follows_from_its_seed(road: Path) -> None:
    def trained(seed: int, augmented: bool = True) -> torch.Tensor:
        detector = training.train(training.Kept(road, "train"), None, training.Recipe(2, augmented), TOY, seed)
        return torch.cat([weight.flatten() for weight in detector.parameters()])

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1)) and not torch.equal(trained(0), trained(0, augmented=False))


# judging


class Knowing(BoxDetector):
    """Finds what it was told, frame by frame."""

    def __init__(self, answers: Sequence[np.ndarray]) -> None:
        super().__init__((8,), (1,), 8)
        self.answers = list(answers)

    def detect(self, frames: torch.Tensor, threshold: float | None = None, limit: int = 64) -> list[Detections]:
        mine = [torch.from_numpy(self.answers.pop(0)) for _ in frames]
        return [Detections(xyxy, torch.ones(len(xyxy)), torch.zeros(len(xyxy), dtype=torch.int64), 1.0) for xyxy in mine]


def test_who_knows_the_labels_finds_everything_and_who_knows_nothing_finds_nothing(road: Path) -> None:
    exam = training.Exam.of("road", [road], "val", TOY, None)
    assert exam.frames.dtype == torch.uint8 and exam.frames.shape[1:] == (3, 32, 64) and len(exam.asked) == len(exam.frames)
    assert exam.size()["boxes"] > 0 and exam.size()["drives"] == 1
    found = exam.ap50(Knowing([frame.asked for frame in exam.asked]))
    assert found["all"] == pytest.approx(1) and found["night"] == pytest.approx(1) and math.isnan(found["day"])
    assert exam.ap50(Knowing([frame.asked[:0] for frame in exam.asked]))["all"] == 0


# all of it


def test_two_arms_from_clips_to_page(road: Path, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    words = ["run", "--data", str(road), "--generated", str(generated), "--split", "val", "--work", str(work), "--counts", "2", "--most",
             "2", "--seeds", "0", "1", "--steps", "3", "--size", "32", "64", "--only", "augmented", arms.CHOSEN, "simulated"]  # fmt: skip
    script.run(script.parsed(words))
    assert len(list((work / "results").glob("*.json"))) == 6
    monkeypatch.setattr(script, "train", None)  # what is done is not made again
    script.run(script.parsed(words))
    with pytest.raises(UsageError, match="was made with steps = 3, not 4"):
        script.run(script.parsed([*words[:-4], "--steps", "4", *words[-4:]]))
    out = {name: tmp_path / "docs" / f"{name}.out" for name in ("results", "page")} | {"plot": tmp_path / "docs" / "images" / "plot.png"}
    script.table(script.parsed(["table", "--work", str(work), *(part for name, path in out.items() for part in (f"--{name}", str(path)))]))
    text = out["page"].read_text(encoding="utf-8")
    assert "(images/plot.png)" in text and "python benchmarks/downstream.py clips" in text and "{" not in text
    assert json.loads(out["results"].read_text())["runs"] == 6 and out["plot"].stat().st_size > 0


def test_unknown_arms_are_named(tmp_path: Path) -> None:
    words = ["run", "--data", "x", "--generated", "y", "--work", str(tmp_path), "--only", "plane"]
    with pytest.raises(UsageError, match="no arm named plane; there are plain, augmented"):
        script.run(script.parsed(words))


# tables


def result(arm: str, seed: int, night: float | None, count: int = 4, **more: Any) -> dict[str, Any]:
    found = {"simulated": {"all": 0.5, "day": 0.5, "night": night}}
    return {
        "arm": arm, "count": count, "seed": seed, "ap50": found, "frames": {"labelled": 9, "extra": 8}, "cpu_s": {"train": 30, "judge": 30},
        "split": "test", "data": "sim", "held_out": ["sim test"], "most": 24, "steps": 3, "extra": 2, "extra_frames": 18,
        "size": {"height": 32, "width": 64}, "generator": "0123456789", "network": {"weights": 1000, "batch": 4}, "machine": "none",
        "processor": "none", "date": "2026-01-01", "exams": {"simulated": {"frames": 1, "drives": 1, "boxes": 1}}, **more,
    }  # fmt: skip


def night(content: dict[str, Any], arm: str, other: str = "augmented") -> dict[str, Any]:
    (cell,) = (c for c in content["differences"] if (c["arm"], c["other"], c["light"]) == (arm, other, "night"))
    return cell


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds differ by tens of points, the pairs by four: unpaired, nothing could be said."""
    base = (0.1, 0.3, 0.6)
    rows = [result("augmented", seed, base[seed]) for seed in range(3)]
    rows += [result(arms.CHOSEN, seed, base[seed] + 0.04 + 0.001 * (seed - 1)) for seed in range(3)]
    content = table.tabled(rows)
    cell = night(content, arms.CHOSEN)
    assert cell["mean"] == pytest.approx(4.0) and cell["half"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert cell["seeds"] == 3 and content["cpu_min"] == pytest.approx(6)
    reached = next(c for c in content["reached"] if (c["arm"], c["light"]) == ("augmented", "night"))
    assert reached["mean"] == pytest.approx(100 / 3)


def test_only_common_seeds_are_paired_and_what_was_not_asked_for_is_left_out() -> None:
    rows = [result("augmented", 0, 0.2), result("augmented", 1, 0.9), result(arms.CHOSEN, 0, 0.1), result(arms.CHOSEN, 2, 0.5)]
    cell = night(table.tabled(rows), arms.CHOSEN)
    assert cell["mean"] == pytest.approx(-10) and cell["seeds"] == 1 and math.isnan(cell["half"])
    nothing = [result("augmented", 0, None), result(arms.CHOSEN, 0, None)]
    assert {c["light"] for c in table.tabled(nothing)["differences"]} == {"all", "day"}


@pytest.mark.parametrize(
    ("gains", "verdict", "said"),
    [
        ((0.05, 0.051, 0.049), "Yes, the target is met.", "+5.0 ± 0.2 points with 4"),
        ((0.04, 0.031, 0.029), "Yes, the target is met in the mean; the interval reaches below it.", "+3.3 ± 1.5 points with 4"),
        ((0.02, 0.021, 0.019), "A little: the target is missed.", "+2.0 ± 0.2 points with 4"),
        ((-0.05, -0.051, -0.049), "No, it hurts", "-5.0 ± 0.2 points with 4"),
        ((0.3, -0.1, 0.0), "No gain was found", "(may be nothing) points with 4"),
    ],
)  # fmt: skip
def test_the_sentence_says_no_more_than_was_measured(gains: Sequence[float], verdict: str, said: str) -> None:
    rows = [result("augmented", seed, 0.4) for seed in range(3)]
    rows += [result(arms.CHOSEN, seed, 0.4 + gain) for seed, gain in enumerate(gains)]
    rows += [result("augmented", seed, 0.4, count=24) for seed in range(3)]
    rows += [result(arms.CHOSEN, seed, 0.9, count=24) for seed in range(3)]  # more drives are not what the target asks
    told = table.sentence(table.tabled(rows))
    assert told.startswith(verdict) and said in told and "+50.0 ± 0.0 points with 24" in told
    assert ("could not have been told" in table._power(table.tabled(rows))) == ("may be nothing" in said)


def test_one_seed_and_no_pair_are_told() -> None:
    pair = [result("augmented", 0, 0.2), result(arms.CHOSEN, 0, 0.3)]
    told = table.sentence(table.tabled(pair))
    assert told.startswith("No gain was found") and "+10.0 (one seed) points with 4" in told
    assert table.sentence(table.tabled(pair[:1])) == "Not measured yet."


def test_more_steps_are_told_where_they_were_tried() -> None:
    few = [result("augmented", 0, 0.2), result(arms.CHOSEN, 0, 0.3)]
    many = [result(arm, seed, value, steps=30) for arm, value in (("augmented", 0.5), (arms.CHOSEN, 0.4)) for seed in range(3)]
    assert table._longer(table.tabled(few)) == ""
    told = table._longer(table.tabled(few, longer=many))
    assert "In 30 steps" in told and "-10.0 ± 0.0 points with 4 drives, 3 seeds" in told


def test_results_of_two_kinds_make_no_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no finished run"):
        table.rows_of(tmp_path)
    (tmp_path / "results").mkdir()
    for seed, steps in enumerate((3, 4)):
        (tmp_path / "results" / f"{seed}.json").write_text(json.dumps(result("augmented", seed, 0.2, steps=steps)))
    with pytest.raises(UsageError, match="differ in steps: 3, 4"):
        table.rows_of(tmp_path)


def test_comparisons_name_what_there_is() -> None:
    assert {name for pair in arms.COMPARISONS for name in pair} <= set(arms.ARMS) and set(arms.SHOWN) <= set(arms.ARMS)
    assert arms.CHOSEN in arms.WAYS and not {"augmented", "simulated"} & set(arms.WAYS)
