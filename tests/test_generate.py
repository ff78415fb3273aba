"""Many scenarios become one dataset: finished ones are skipped, cut-off ones are made again, and nothing depends on who made what."""

from __future__ import annotations

import json
import signal
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generations import files_of, requests, started, table, toy, wait_for, with_duration, words
from toy_checkpoint import make_upsampler

from drivesim.cli import main
from drivesim.errors import DrivesimError
from drivesim.io.checkpoints import WEIGHTS, file_hash
from drivesim.io.places import Place
from drivesim.io.records import check_records, labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.simulation.agreement import FILTER, Tally
from drivesim.simulation.generation.maker import Maker, resolved, seed_of_try
from drivesim.simulation.generation.order import Order, _difference, groups, of_shard
from drivesim.simulation.simulator import Simulator


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation")
    toy(folder)
    table(folder, requests())
    return folder


@pytest.fixture(scope="module")
def undisturbed(toys: Path) -> Path:
    out = toys / "undisturbed"
    assert main(["generate", *words(toys / "scenarios.parquet", toys / "toy", out)]) == 0
    return out


def run(toys: Path, out: Path | str, *more: str, scenarios: Path | None = None) -> int:
    return main(["generate", *words(scenarios or toys / "scenarios.parquet", toys / "toy", out, *more)])


def test_a_table_becomes_a_dataset(undisturbed: Path) -> None:
    records = read_records(undisturbed)
    assert check_records(undisturbed, deep=True) == []
    assert records.clip_ids == [request.scenario_id for request in requests()]
    for request in requests():
        clip, track = records.clip(request.scenario_id), labels_of(records, request.scenario_id)
        assert clip["frames"] == round(request.scenario.duration_s * 7.5) and clip["time_of_day"] == request.scenario.time_of_day
        assert track.boxes_known.all()
        if request.scenario.tracks:
            wanted = request.scenario.label_track(len(track), 7.5)
            assert np.array_equal(track.boxes.xyxy, wanted.boxes.xyxy)
        told = json.loads(clip["provenance"])
        assert told["kind"] == "generated" and told["seed"] == request.scenario.seed and told["scenario"] == request.content
        assert clip["agreement_frames"] > 0
    assert {"agreement_iou", "agreement_score"} <= set(records.boxes) and records.boxes["agreement_score"].notna().any()
    assert set(records.boxes["provenance"]) == {"requested"}


def test_clips_are_those_of_rollouts(toys: Path, undisturbed: Path) -> None:
    """Alone or beside others, a scenario gives the same pictures."""
    maker = Maker(order_of(toys, undisturbed))
    for request in requests()[:2]:
        simulator: Simulator = maker.simulator(None)
        alone = np.concatenate([step.frames for step in simulator.run(resolved(request, maker.bank))])
        kept = read_frames(undisturbed / "videos" / f"{request.scenario_id}.mp4", indices=range(len(alone)))
        assert np.abs(np.stack(list(kept)).astype(int) - alone).mean() < 6, "as good as the codec leaves it"


def order_of(toys: Path, out: Path) -> Order:
    told = json.loads((out / "generation.json").read_text())
    fields = {name: value for name, value in told.items() if name not in ("format", "version")}
    return Order(str(out), str(toys / "toy"), detector=str(FILTER), **fields)


def test_asked_again_nothing_is_made(toys: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(undisturbed)
    monkeypatch.setattr("drivesim.commands.generate.here", lambda *_: pytest.fail("all clips are finished"))
    assert run(toys, undisturbed) == 0
    assert files_of(undisturbed) == before


def test_scenarios_that_came_later_are_added(toys: Path, tmp_path: Path, undisturbed: Path) -> None:
    first = table(tmp_path, requests()[:4])
    assert run(toys, tmp_path / "out", scenarios=first) == 0
    assert len(read_records(tmp_path / "out").clips) == 4
    assert run(toys, tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == files_of(undisturbed)


@pytest.mark.parametrize("lost", ["parts/scene_03.json", "videos/scene_02.mp4", "parts/scene_01.boxes.parquet", "dataset.json"])
def test_what_is_lost_is_made_again_to_the_bit(toys: Path, tmp_path: Path, undisturbed: Path, lost: str) -> None:
    out = tmp_path / "out"
    for name, content in files_of(undisturbed).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    (out / lost).unlink()
    assert run(toys, out) == 0
    assert files_of(out) == files_of(undisturbed)


def test_killed_and_gone_on_with(toys: Path, tmp_path: Path, undisturbed: Path) -> None:
    out = tmp_path / "out"
    process = started(words(toys / "scenarios.parquet", toys / "toy", out))
    wait_for(out / "parts", 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "dataset.json").exists(), "killed before the end"
    assert run(toys, out) == 0
    assert files_of(out) == files_of(undisturbed)
    assert list(out.glob(".unfinished-*")) == [], "what the killed one was at is gone"


def test_shards_make_the_same_dataset(toys: Path, tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(toys, out, "--shard", "2/3") == 0
    assert "4 of 6 clips are still to come" in capsys.readouterr().out and not (out / "dataset.json").exists()
    assert run(toys, out, "--shard", "1/3") == run(toys, out, "--shard", "3/3") == 0
    assert files_of(out) == files_of(undisturbed)


def test_anywhere_that_fsspec_reaches(toys: Path, undisturbed: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/out"
    Place(url.removesuffix("/out")).write("scenarios.parquet", (toys / "scenarios.parquet").read_bytes())
    assert main(["generate", *words(url.removesuffix("/out") + "/scenarios.parquet", toys / "toy", url)]) == 0
    for name, content in files_of(undisturbed).items():
        assert Place(url).read(name) == content, name


def test_groups_and_shards_divide_the_table() -> None:
    asked = [replace(request, fps=(None, 30.0)[number % 2]) for number, request in enumerate(requests(9))]
    made = groups(asked, 2)
    assert sorted(request.scenario_id for group in made for request in group.requests) == [request.scenario_id for request in asked]
    assert all(len({request.fps for request in group.requests}) == 1 and len(group.requests) <= 2 for group in made)
    for count in (1, 2, 7):
        parts = [group.number for number in range(count) for group in of_shard(made, f"{number + 1}/{count}")]
        assert sorted(parts) == [group.number for group in made]


def judged(monkeypatch: pytest.MonkeyPatch, f1: dict[int, float]) -> list[int]:
    """Agreement by the seed of the clip's noise; returns the seeds that were looked at, as they come."""
    seen: list[int] = []

    def good(maker: Any, clip: Any) -> bool:
        seen.append(clip.scenario.seed)
        right = round(100 * f1.get(clip.scenario.seed, 1.0))
        clip.agreement.tally = Tally(right, 100 - right, 100 - right, 1)
        return bool(clip.agreement.tally.f1 >= maker.order.min_agreement)

    monkeypatch.setattr(Maker, "_good", good)
    return seen


def test_clips_that_disagree_are_made_again_and_then_dropped(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(monkeypatch, {1: 0.2, 2: 0.1, seed_of_try(2, 2): 0.3, seed_of_try(1, 2): 0.9})
    assert run(toys, tmp_path / "out", "--min-agreement", "0.5") == 0
    told = capsys.readouterr().out
    assert "1 clips made again with success, 1 dropped (scene_02)" in told
    records = read_records(tmp_path / "out")
    assert records.clip_ids == [f"scene_{number:02d}" for number in (0, 1, 3, 4, 5)]
    assert json.loads(records.clip("scene_01")["provenance"])["seed"] == seed_of_try(1, 2) != 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())["clips"]
    assert [(entry["state"], entry["tries"]) for entry in manifest[:3]] == [("made", 1), ("made", 2), ("dropped", 2)]
    assert not (tmp_path / "out" / "videos" / "scene_02.mp4").exists()
    assert check_records(tmp_path / "out", deep=True) == []


def test_every_clip_stays_without_a_limit(undisturbed: Path) -> None:
    manifest = json.loads((undisturbed / "manifest.json").read_text())["clips"]
    assert {(entry["state"], entry["tries"]) for entry in manifest} == {("made", 1)}


FAULTS = {
    "nothing there": (("--checkpoint", "nosuch"), "nosuch"),
    "shard": (("--shard", "4/3"), "--shard must be I/N"),
    "workers": (("--workers", "0"), "workers must be a whole number from 1"),
    "agreement": (("--min-agreement", "2"), "min-agreement must lie in 0..1"),
    "batch": (("generation.batch=0",), "batch must be a whole number from 1"),
    "key": (("generation.bach=2",), "did you mean generation.batch"),
    "fps": (("--fps", "9"), "scenario scene_00: fps must be one of"),
    "place": (("--out", "nosuch://a/b"), "plug-in"),
    "both": (("--overwrite", "--resume"), "give one of them"),
    "overwritten shards": (("--overwrite", "--shard", "1/2"), "--overwrite would remove what other shards have made"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_usage_is_one_line_and_writes_nothing(toys: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    more, message = FAULTS[name]
    assert main(["generate", *words(toys / "scenarios.parquet", toys / "toy", tmp_path / "out"), *more]) in (1, 2)
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_place_of_something_else_is_left_alone(toys: Path, tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    assert run(toys, tmp_path / "mine") == 2
    assert "holds thesis.tex and no generation" in capsys.readouterr().err
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine" / "thesis.tex"]
    before = files_of(undisturbed)
    assert run(toys, undisturbed, "rollout.steps_keyframes=3") == 2
    assert "was begun with settings.steps_keyframes 2, not 3" in capsys.readouterr().err
    longer = table(tmp_path, [with_duration(requests()[0], 5.0), *requests()[1:]])
    assert run(toys, undisturbed, scenarios=longer) == 2
    assert "holds the clip scene_00 of another scenario" in capsys.readouterr().err
    fewer = table(tmp_path, requests()[:5])
    assert run(toys, undisturbed, scenarios=fewer) == 2
    assert "holds the clip scene_05, which the table does not name" in capsys.readouterr().err
    assert files_of(undisturbed) == before


def test_overwritten_it_is_that_of_a_new_place(toys: Path, tmp_path: Path) -> None:
    out, fewer = tmp_path / "out", table(tmp_path, requests()[:2])
    assert run(toys, out, "rollout.steps_keyframes=1", scenarios=table(tmp_path, requests()[:3])) == 0
    fewer = table(tmp_path, requests()[:2])
    assert run(toys, out, "--overwrite", scenarios=fewer) == 0
    assert run(toys, tmp_path / "new", scenarios=fewer) == 0
    assert files_of(out) == files_of(tmp_path / "new")


def test_another_version_or_other_weights_are_refused(toys: Path, undisturbed: Path) -> None:
    order = order_of(toys, undisturbed)
    with pytest.raises(DrivesimError, match=r"runs drivesim .*, the generation 0\.0\.0; install the same"):
        Maker(replace(order, drivesim="0.0.0"))
    with pytest.raises(DrivesimError, match="other weights here"):
        Maker(replace(order, checkpoint_hash="0" * 64))
    assert _difference(Place(undisturbed), order.identity | {"format": "x"}, order) is not None


def test_a_damaged_part_is_named(toys: Path, tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for name, content in files_of(undisturbed).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content[:-7] if name == "parts/scene_04.frames.parquet" else content)
    assert run(toys, out) == 1
    assert "scene_04.frames.parquet is damaged; remove parts/scene_04.json" in capsys.readouterr().err
    (out / "parts" / "scene_04.json").unlink()
    assert run(toys, out) == 0
    assert files_of(out) == files_of(undisturbed)


def test_the_detector_that_filters_is_not_the_judge() -> None:
    assert FILTER.parent.name == "detector_filter"
    assert file_hash(FILTER.with_suffix(".safetensors")) != file_hash(WEIGHTS / "detector" / "detector.safetensors")


def test_a_start_that_is_not_there_is_told_before_anything_is_made(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = [requests()[0], replace(requests()[1], start=str(tmp_path / "photo.jpg"))]
    assert run(toys, tmp_path / "out", scenarios=table(tmp_path, some)) == 2
    assert "scenario scene_01" in (told := capsys.readouterr().err) and "photo.jpg: no such picture" in told
    assert not (tmp_path / "out").exists()


def test_a_clip_that_was_generated_is_edited_as_it_was_made(toys: Path, tmp_path: Path) -> None:
    """Enlarged, and alone in its group, so that an edit that changes nothing gives the same bytes."""
    checkpoint = toy(tmp_path)
    make_upsampler(checkpoint)
    some = table(tmp_path, requests()[:2])
    arguments = [*words(some, checkpoint, tmp_path / "made", "--upsample"), "generation.batch=1", "upsampling.overlap=1"]
    assert main(["generate", *arguments]) == 0
    records = read_records(tmp_path / "made")
    told = json.loads(records.clip("scene_01")["provenance"])
    assert told["upsampling"]["network"].startswith("upsampler") and told["threads"] == 1
    assert records.clip("scene_01")["height"] == 4 * 32
    edit = ["edit", str(tmp_path / "made"), "--clip", "scene_01", "--out", str(tmp_path / "same"), "--checkpoint", str(checkpoint)]
    assert main(edit) == 0
    again = next((tmp_path / "same" / "videos").glob("*.mp4"))
    before = np.stack(list(read_frames(records.video_path("scene_01"), indices=range(15))))
    assert np.array_equal(np.stack(list(read_frames(again, indices=range(15)))), before)
