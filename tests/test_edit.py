"""One label changed, the rest kept: what is not changed is the same to the bit, and measures know same from other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_checkpoint import make_upsampler
from toys import write_toy_checkpoint

from drivesim import cli
from drivesim.commands.config import compose
from drivesim.errors import UsageError
from drivesim.io.check import check_records
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.records import labels_of, read_records, rows_of, write_records
from drivesim.io.video import iterate_frames
from drivesim.labels import CATEGORIES, Boxes, BoxTrack, Branch, LabelTrack, Scenario
from drivesim.models.detector import Detections
from drivesim.simulation import preview
from drivesim.simulation.edits.edit import Changes, edited
from drivesim.simulation.edits.measures import Side, agreement, box_measures, edge_map, layout, layout_measures, light_measures
from drivesim.simulation.edits.picture import edit_page
from drivesim.simulation.edits.source import exactly
from drivesim.simulation.recording.recorder import record
from drivesim.simulation.scenes.sampling import ScenarioLabels, TrackBank
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

FPS, SECONDS = 7.5, 6.4
FAST = ["measure.chance=1", "measure.instants=2", "measure.seconds=1.5", "device=cpu"]


@pytest.fixture(scope="module", autouse=True)
def small_previews() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "MIN_HEIGHT", 32)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_checkpoint(tmp_path_factory.mktemp("weights") / "toy")


@pytest.fixture(scope="module")
def base(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rollout of sampled traffic by day."""
    out = tmp_path_factory.mktemp("rollouts") / "base"
    words = ["rollout", "--minutes", str(SECONDS / 60), "--time-of-day", "day", "--crowdedness", "2", "--seed", "3", "--device", "cpu"]
    assert cli.main([*words, "--checkpoint", str(weights), "--out", str(out)]) == 0
    return out


@pytest.fixture
def edit(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Path, str]]:
    """Run the command -> its folder and what it printed."""

    def run(source: Path, *words: str, checkpoint: Path | None = weights) -> tuple[Path, str]:
        out = tmp_path / "out"
        named = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        assert cli.main(["edit", str(source), "--out", str(out), "--overwrite", *named, *words, *FAST]) == 0, capsys.readouterr().err
        return out, capsys.readouterr().out

    return run


def video(folder: Path) -> Path:
    return next((folder / "videos").glob("*.mp4"))


def frames_of(folder: Path) -> np.ndarray:
    return np.stack(list(iterate_frames(video(folder))))


def told(folder: Path, name: str = "edit.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def assert_same(first: Path, second: Path) -> None:
    """The same frames, by the bytes of their files, and the same labels."""
    assert video(first).read_bytes() == video(second).read_bytes()
    for name in ("frames", "boxes"):
        pd.testing.assert_frame_equal(pd.read_parquet(first / f"{name}.parquet"), pd.read_parquet(second / f"{name}.parquet"))


# labels that come back


def scenario_of(random: np.random.Generator, tracks: int, order: str = "shuffled") -> Scenario:
    """Tracks of odd lengths that touch the lower border, in any order; one may come back under its number."""
    made = []
    for number in random.permutation(tracks) if order == "shuffled" else range(tracks):
        begin, end = np.sort(random.uniform(0, SECONDS, 2))
        times = np.linspace(begin, end + 0.2, int(random.integers(2, 9)))
        left, top, size = random.uniform(-0.1, 0.8, len(times)), random.uniform(0.2, 0.8, len(times)), random.uniform(0.05, 0.5)
        bottom = 1.0 if random.random() < 0.5 else 0.9  # on the border two boxes are equally near
        xyxy = np.stack([left, np.minimum(top, 0.85), left + size, np.full(len(times), bottom)], axis=1).astype(np.float32)
        made.append(BoxTrack(int(number) // 2 if end < 2 else int(number) + 50, CATEGORIES[int(number) % 6], times, xyxy))
    speed = (np.array([0.0, 2.0, 5.0]), np.array([3.0, 9.0, 4.5]))
    return Scenario(SECONDS, "night", crowdedness=2.0, tracks=_apart(made), seed=1, profiles={"ego_speed_mps": speed})


def _apart(tracks: list[BoxTrack]) -> tuple[BoxTrack, ...]:
    """Two tracks may share a number only where they do not meet."""
    kept: list[BoxTrack] = []
    for track in tracks:
        times = [other.timestamp_s for other in kept if other.track_id == track.track_id]
        if all(track.timestamp_s[-1] < other[0] - 0.2 or other[-1] < track.timestamp_s[0] - 0.2 for other in times):
            kept.append(track)
    return tuple(kept)


def assert_told_alike(first: Scenario, second: Scenario, fps: float) -> None:
    """Networks are told the same at every level, beyond the last frame and before the first one, too."""
    frames = round(SECONDS * fps)
    for level in (1.875, 7.5, 30.0):
        if level > fps:
            break
        wanted = range(-1, round(frames * level / fps) + 9)
        old, new = (ScenarioLabels(one, (frames - 1) / fps).at(wanted, level).arrays(8) for one in (first, second))
        for name, values in old.items():
            np.testing.assert_array_equal(values, new[name], err_msg=f"{name} at {level} fps")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), tracks=st.integers(0, 12), fps=st.sampled_from([7.5, 30.0]))
def test_what_networks_are_told_comes_back_to_the_bit(seed: int, tracks: int, fps: float) -> None:
    asked = scenario_of(np.random.default_rng(seed), tracks)
    assert_told_alike(asked, exactly(asked.label_track(round(SECONDS * fps), fps)), fps)


@pytest.mark.parametrize("more", [{"crowdedness": 12.0}, {"ego_speed_mps": 4.2}, {"time_of_day": None}, {"ego_yaw_rate_radps": -0.3}])
@pytest.mark.parametrize("known", [True, False])
def test_constants_come_back(more: dict[str, Any], known: bool) -> None:
    asked = Scenario(SECONDS, time_of_day="day", tracks=() if known else None)
    asked = replace(asked, **more)
    assert_told_alike(asked, exactly(asked.label_track(48, FPS)), FPS)


def test_values_that_are_unknown_for_a_while_come_back() -> None:
    labels = Scenario(SECONDS, tracks=()).label_track(48, FPS)
    labels.values["ego_speed_mps"][:] = np.where(np.arange(48) % 20 < 5, np.nan, np.linspace(2, 9, 48))
    again = exactly(labels).label_track(48, FPS)
    np.testing.assert_array_equal(again.values["ego_speed_mps"], labels.values["ego_speed_mps"])


# an edit that changes nothing


def test_nothing_changed_is_the_same_clip(base: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    out, said = edit(base)
    assert "nothing changes" in said
    assert_same(base, out)
    report = told(out)
    assert report["changed"] == {} and told(out, "rollout.json")["edit"]["changed"] == {} and check_records(out) == []
    assert report["measures"]["layout"]["between"] == 1.0 and report["measures"]["boxes"]["before"] == report["measures"]["boxes"]["after"]
    assert report["measures"]["light"]["before"] == report["measures"]["light"]["after"] and "unedited" not in report["measures"]


def test_saying_what_already_is_changes_nothing(base: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    boxes = shutil.copy(base / "boxes.parquet", tmp_path / "mine.parquet")
    out, said = edit(base, "--time-of-day", "day", "--boxes", str(boxes), "--seed", "3", "--clip", "rollout_3")
    assert "nothing changes" in said and told(out)["changed"] == {}
    assert_same(base, out)


def test_a_generated_dataset_without_rollout_json(base: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    """Its clips say in clips.parquet how they were made."""
    many = Path(shutil.copytree(base, tmp_path / "many"))
    made = told(base, "rollout.json")
    (many / "rollout.json").unlink()
    records = read_records(many)
    provenance = {"kind": "generated", "checkpoint": made["checkpoint"], "seed": 3, "settings": made["settings"], "scenario": "f00d"}
    write_records(many, replace(records, clips=records.clips.assign(provenance=json.dumps(provenance))))
    out, _ = edit(many, "--clip", "rollout_3")
    assert_same(base, out)
    bare = {**provenance, "settings": None, "start": "gone.png"}
    write_records(many, replace(records, clips=records.clips.assign(provenance=json.dumps(bare))))
    said = edit(many)[1]
    assert "nobody wrote down how the clip was sampled" in said and "not the picture that it was begun from" in said


def test_boxes_that_nobody_knew(weights: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    """Without boxes the networks were told of a crowdedness alone."""
    simulator = Simulator(load_checkpoint(weights), RolloutSettings.of(load_checkpoint(weights).settings["rollout"]))
    record(simulator, Scenario(SECONDS, "night", crowdedness=7.0, seed=2), tmp_path / "blind")
    out, _ = edit(tmp_path / "blind")
    assert_same(tmp_path / "blind", out)
    boxes = told(out)["measures"]["boxes"]
    assert boxes == {"before": None, "after": None, "kept": None, "removed": None, "added": None}
    out, said = edit(tmp_path / "blind", "--crowdedness", "2")
    assert told(out)["changed"] == {"crowdedness": [7.0, 2.0]} and "boxes are unknown" in said


def test_begun_from_a_picture(weights: Path, base: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    """The picture gives the same clip, named or not; when it is gone the edit starts from the clip's first frame and says so."""
    picture = tmp_path / "start.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8))
    words = ["rollout", "--minutes", "0.05", "--seed", "5", "--checkpoint", str(weights), "--start", str(picture), "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "begun")]) == 0
    out, _ = edit(tmp_path / "begun", "--start", str(picture))
    assert_same(tmp_path / "begun", out)
    out, _ = edit(tmp_path / "begun")
    assert_same(tmp_path / "begun", out)
    picture.unlink()
    out, said = edit(tmp_path / "begun")
    assert "not the picture that it was begun from" in said and told(out, "rollout.json")["start_frames"] == 1


def test_a_branch_and_an_enlarged_clip_come_back(tmp_path: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    weights = write_toy_checkpoint(tmp_path / "toy")
    checkpoint = make_upsampler(weights)
    simulator = Simulator(checkpoint, RolloutSettings.of(checkpoint.settings["rollout"]))
    stage = Upsampler(checkpoint, UpsamplerSettings(overlap=1), simulator.device, 2)
    asked = Scenario(SECONDS, "night", tracks=traffic().tracks, seed=2, branch=Branch(4.0, 8))
    report = {"upsampling": {**asdict(stage.settings), "network": stage.name}}
    record(simulator, asked, tmp_path / "large", stage=stage, report=report)
    out, _ = edit(tmp_path / "large", checkpoint=weights)
    assert_same(tmp_path / "large", out)
    assert told(out, "rollout.json")["upsampling"] == told(tmp_path / "large", "rollout.json")["upsampling"]


# an edit that changes something


def test_another_time_of_day(base: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    out, said = edit(base, "--time-of-day", "night")
    report = told(out)
    assert report["changed"] == {"time_of_day": ["day", "night"]} and "time_of_day: day -> night" in said
    assert told(out, "rollout.json")["edit"]["changed"] == report["changed"] and told(out, "rollout.json")["seed"] == 3
    before, after = (labels_of(read_records(folder), "rollout_3") for folder in (base, out))
    assert (after.values["time_of_day"] == 1).all() and len(after.boxes) > 0
    for name in ("ego_speed_mps", "crowdedness"):
        np.testing.assert_array_equal(before.values[name], after.values[name])
    np.testing.assert_array_equal(before.boxes.xyxy, after.boxes.xyxy)
    assert not np.array_equal(frames_of(base), frames_of(out))
    assert check_records(out) == [] and report["measures"]["layout"]["between"] < 1 and len(report["measures"]["layout"]["chance"]) == 1
    assert report["measures"]["boxes"]["removed"]["boxes"] == report["measures"]["boxes"]["added"]["boxes"] == 0
    page = cv2.imread(str(out / "edit.png"))
    assert page is not None and page.shape[1] == 2 * 320


def test_several_changes_are_all_told(base: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    table = pd.DataFrame({"track_id": 8, "category": "bus", "timestamp_s": [0.0, 6.0], "x1": 0.2, "y1": 0.3, "x2": 0.6, "y2": 0.9})
    table.to_csv(tmp_path / "bus.csv", index=False)
    out, _ = edit(base, "--boxes", str(tmp_path / "bus.csv"), "--ego-speed-mps", "5", "--seed", "9")
    changed = told(out)["changed"]
    assert set(changed) == {"boxes", "ego_speed_mps", "seed"} and changed["seed"] == [3, 9] and changed["ego_speed_mps"][1] == 5.0
    labels = labels_of(read_records(out), "rollout_9")
    assert set(labels.boxes.category) == {CATEGORIES.index("bus")} and (labels.values["ego_speed_mps"] == 5).all()


def test_edits_can_be_edited_back(base: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    night = Path(shutil.move(edit(base, "--time-of-day", "night")[0], tmp_path / "night"))
    out, _ = edit(night, "--time-of-day", "day")
    assert told(out)["changed"] == {"time_of_day": ["night", "day"]}
    assert_same(base, out)


def test_another_checkpoint_on_purpose(base: Path, edit: Callable[..., tuple[Path, str]], weights: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(weights, tmp_path / "other"))
    model = told(other, "model.json")
    (other / "model.json").write_text(json.dumps({**model, "notes": "another"}))
    assert "made by another checkpoint" in edit(base, checkpoint=other)[1]


def test_cut_off_and_gone_on_with(
    base: Path, weights: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = Path(shutil.move(edit(base, "--time-of-day", "night")[0], tmp_path / "whole"))
    words = ["edit", str(base), "--time-of-day", "night", "--out", str(tmp_path / "cut"), "--checkpoint", str(weights), *FAST]
    run = Simulator.run

    def stopped(self: Simulator, *args: Any, **more: Any) -> Any:
        for number, step in enumerate(run(self, *args, **more)):
            if number == 1:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(Simulator, "run", stopped)
    assert cli.main(words) == 130
    assert "the same drivesim edit command with --resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main([*words, "--resume"]) == 0
    assert_same(whole, tmp_path / "cut")
    assert told(whole)["measures"] == told(tmp_path / "cut")["measures"]


# recordings


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "clips"
    assert cli.main(["data", "synth", "--out", str(out), "--clips", "2", "--seconds", "4", "--height", "32", "--width", "64"]) == 0
    return out


def test_a_recording_is_driven_from_its_first_frame(recordings: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    clip = read_records(recordings).clip_ids[0]
    labels = labels_of(read_records(recordings), clip)
    out, said = edit(recordings, "--clip", clip, "--ego-speed-mps", "3")
    made = read_records(out)
    assert told(out, "rollout.json")["start_frames"] == 1 and "starts from the clip's first frame" in said
    assert len(labels_of(made, made.clip_ids[0])) == len(labels)
    assert len(labels_of(made, made.clip_ids[0]).boxes) == len(labels.boxes)
    unedited = told(out)["measures"]["unedited"]
    assert set(unedited) == {"boxes", "light", "layout"} and unedited["layout"]["between"] > unedited["layout"]["chance"][0]


def test_a_first_frame_of_another_time_of_day_is_not_taken(recordings: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    clip = read_records(recordings).clip_ids[0]
    other = "day" if read_records(recordings).clip(clip)["time_of_day"] == "night" else "night"
    out, said = edit(recordings, "--clip", clip, "--time-of-day", other)
    assert told(out, "rollout.json")["start_frames"] == 0 and "a new one is made" in said
    out, _ = edit(recordings, "--clip", clip, "--time-of-day", other, "--start", "recorded")
    assert told(out, "rollout.json")["start_frames"] == 1


# crowdedness


def traffic(cars: int = 6) -> Scenario:
    """Cars side by side, all the time."""
    times, left = np.array([0.0, SECONDS]), np.linspace(0.0, 0.8, cars)
    tracks = [BoxTrack(n + 1, "car", times, np.array([[x, 0.5, x + 0.1, 0.6]] * 2, np.float32)) for n, x in enumerate(left)]
    person = BoxTrack(90, "person", times, np.array([[0.4, 0.4, 0.45, 0.6]] * 2, np.float32))
    return Scenario(SECONDS, tracks=(*tracks, person), seed=4)


@settings(max_examples=20, deadline=None)
@given(wanted=st.integers(0, 6), seed=st.integers(0, 99))
def test_fewer_vehicles_are_some_of_the_same(wanted: int, seed: int) -> None:
    asked = replace(traffic(), seed=seed)
    edit = edited(asked, Changes(crowdedness=float(wanted)), FPS)
    assert edit.after.tracks is not None and asked.tracks is not None
    assert all(any(track is old for old in asked.tracks) for track in edit.after.tracks)
    assert sum(track.category == "car" for track in edit.after.tracks) == wanted and edit.after.tracks[-1].category == "person"
    assert set(edit.changed) == (set() if wanted == 6 else {"boxes"})
    assert edited(asked, Changes(crowdedness=float(wanted)), FPS).after.tracks == edit.after.tracks


def test_more_vehicles_come_from_the_bank_and_none_goes(weights: Path) -> None:
    bank, asked = TrackBank.load(weights / "tracks.parquet"), traffic(2)
    edit = edited(asked, Changes(crowdedness=4.0), FPS, bank)
    assert edit.after.tracks is not None and asked.tracks is not None
    assert edit.after.tracks[: len(asked.tracks)] == asked.tracks
    assert len({track.track_id for track in edit.after.tracks}) == len(edit.after.tracks)
    reached = edit.changed["boxes"][1]["vehicles"]
    assert 3.0 < reached < 5.0 and (abs(reached - 4) <= 0.5 or "come to" in edit.notes[0])
    with pytest.raises(UsageError, match="holds no track bank"):
        edited(asked, Changes(crowdedness=4.0), FPS)


# measures


def detections(boxes: list[list[float]], night: float = 0.5) -> Detections:
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(xyxy, torch.full((len(boxes),), 0.9), torch.zeros(len(boxes), dtype=torch.int64), night)


def side(boxes: dict[int, list[float]], found: list[list[float]], frame: np.ndarray | None = None) -> Side:
    """One frame with cars by number."""
    xyxy = np.array(list(boxes.values()), np.float32).reshape(-1, 4)
    count = len(boxes)
    rows = Boxes(np.zeros(count, np.int64), np.array(list(boxes), np.int64), np.zeros(count, np.int64), xyxy, np.zeros(count, bool))
    labels = replace(LabelTrack.unknown(1, FPS), boxes=rows, boxes_known=np.ones(1, bool))
    picture = np.zeros((32, 64, 3), np.uint8) if frame is None else frame
    return Side(picture[None], labels, (detections(found),))


A, B, C = [0.1, 0.4, 0.3, 0.8], [0.5, 0.4, 0.7, 0.8], [0.75, 0.4, 0.95, 0.8]


def test_kept_removed_and_added_boxes_are_counted_apart() -> None:
    before, after = side({1: A, 2: B}, [A, B]), side({1: A, 3: C}, [B, C])
    measures = box_measures(before, after, threshold=0.5)
    assert (measures["before"]["recall"], measures["before"]["precision"]) == (1.0, 1.0)
    assert (measures["after"]["recall"], measures["after"]["precision"], measures["after"]["boxes"]) == (0.5, 0.5, 2)
    assert measures["kept"] == {"boxes": 1, "recall_before": 1.0, "recall_after": 0.0}
    assert measures["removed"] == {"boxes": 1, "recall_before": 1.0, "recall_after": 1.0}, "it is still there"
    assert measures["added"] == {"boxes": 1, "recall_before": 0.0, "recall_after": 1.0}


def test_one_number_in_another_place_is_no_kept_box() -> None:
    measures = box_measures(side({1: A}, [A]), side({1: C}, [C]), threshold=0.5)
    assert [measures[name]["boxes"] for name in ("kept", "removed", "added")] == [0, 1, 1]


def test_unknown_boxes_are_not_measured() -> None:
    blind = side({}, [A])
    blind = replace(blind, labels=LabelTrack.unknown(1, FPS))
    assert agreement(blind, 0.5) is None
    measures = box_measures(side({1: A}, [A]), blind, 0.5)
    assert measures["after"] is None and measures["kept"] is None and measures["before"]["recall"] == 1.0


def noise(seed: int, frames: int = 6) -> np.ndarray:
    """Blurred noise of middle brightness, uint8 (frames, 64, 128, 3)."""
    random = np.random.default_rng(seed)
    small = random.integers(40, 100, (frames, 8, 16), dtype=np.uint8)
    pictures = [cv2.resize(picture, (128, 64), interpolation=cv2.INTER_LINEAR) for picture in small]
    return np.repeat(np.stack(pictures)[..., None], 3, axis=3)


def test_layout_knows_same_from_other() -> None:
    one, other = noise(0), noise(1)
    assert layout(one, one) == pytest.approx(1.0)
    assert abs(layout(one, other)) < 0.3
    assert layout(one, np.full_like(one, 90)) == 0.0, "a flat picture has no layout"


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.3, 2.0), shift=st.floats(0, 15))
def test_layout_does_not_mind_the_light(scale: float, shift: float) -> None:
    one = noise(2, frames=2)
    lit = np.clip(np.round(one * scale + shift), 0, 255).astype(np.uint8)
    assert layout(one, lit) > 0.97
    np.testing.assert_allclose(edge_map(one[0]), edge_map(one[0] * 2), atol=1e-3)


def test_layout_kept_is_one_for_the_same_and_nought_for_chance() -> None:
    one, other = noise(3), noise(4)
    assert layout_measures(one, one, [other])["kept"] == pytest.approx(1.0)
    assert layout_measures(one, other, [other])["kept"] == pytest.approx(0.0)
    assert layout_measures(one, one, [])["kept"] is None


def test_light() -> None:
    black, white = np.zeros((32, 64, 3), np.uint8), np.full((32, 64, 3), 255, np.uint8)
    red = black.copy()
    red[..., 0] = 200
    shown = [light_measures(side({}, [], picture)) for picture in (black, white, red)]
    assert [one["brightness"] for one in shown] == pytest.approx([0.0, 1.0, 0.2126 * 200 / 255], abs=1e-3)
    assert [one["saturation"] for one in shown] == [0.0, 0.0, 1.0] and shown[0]["night"] == 0.5


def test_page() -> None:
    shown = side({1: A}, [], np.full((32, 64, 3), 100, np.uint8))
    page = edit_page([("before", shown), ("after", shown)], np.zeros(1), width=64)
    half = len(page) // 2
    assert page.shape[1] == 64 and np.array_equal(page[18:half], page[half + 18 :]), "the same pictures"
    assert not np.array_equal(page[:18], page[half : half + 18]), "under other names"


# bad input


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, weights: Path) -> Refused:
    """Run an edit that must fail with ``code``, naming all of ``named`` in one line, and leave no ``out``."""

    def run(source: Path, words: list[str], code: int, *named: str, checkpoint: Path | None = weights) -> str:
        capsys.readouterr()
        made_by = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
        assert cli.main(["edit", str(source), *out, *made_by, *words, "device=cpu"]) == code
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "a fault in drivesim" not in errors[0], errors
        for name in named:
            assert name in errors[0], errors[0]
        assert not (tmp_path / "out").exists()
        return errors[0]

    return run


def test_bad_words(base: Path, recordings: Path, refused: Refused, tmp_path: Path) -> None:
    refused(base, ["--clip", "rolout_3"], 2, "rolout_3", "did you mean rollout_3?")
    refused(recordings, [], 2, "holds 2 clips", "--clip")
    refused(tmp_path / "nowhere", [], 1, "nowhere", "not a clip dataset")
    refused(base, ["--time-of-day", "dusk"], 2, "time_of_day", "dusk")
    refused(base, ["--crowdedness", "-3"], 2, "crowdedness")
    refused(base, ["--ego-speed-mps", "99"], 2, "ego_speed_mps")
    refused(base, ["--seed", "-1"], 2, "seed")
    refused(base, ["--resume", "--overwrite"], 2, "--resume", "--overwrite")
    refused(base, ["measure.chance=-1"], 2, "measure.chance")
    refused(base, ["measure.chanse=1"], 2, "did you mean measure.chance?")
    refused(base, ["rollout.steps_image=0"], 2, "steps_image")
    refused(base, ["--start", "nothing.png"], 2, "nothing.png")


def test_out_that_is_the_dataset_or_not_ours(base: Path, recordings: Path, refused: Refused) -> None:
    before = video(base).read_bytes()
    refused(base, ["--out", str(base), "--overwrite"], 2, "is the dataset that is being edited")
    refused(base, ["--out", str(base.parent / "x" / ".." / "base"), "--overwrite"], 2, "is the dataset that is being edited")
    refused(base, ["--out", str(recordings), "--overwrite"], 2, "holds files but no rollout")
    assert video(base).read_bytes() == before


def test_bad_boxes(base: Path, refused: Refused, tmp_path: Path) -> None:
    refused(base, ["--boxes", str(tmp_path / "no.parquet")], 2, "no such file of boxes")
    row = {"track_id": 1, "category": "car", "timestamp_s": 1.0, "x1": 0.6, "y1": 0.3, "x2": 0.2, "y2": 0.9}
    sound = {**row, "x1": 0.1}
    faults = {"inverted": row, "tank": {**sound, "category": "tank"}, "outside the rollout": {**sound, "timestamp_s": 60.0}}
    for named, faulty in faults.items():
        pd.DataFrame([faulty]).to_csv(tmp_path / "bad.csv", index=False)
        refused(base, ["--boxes", str(tmp_path / "bad.csv")], 2, "bad.csv", "row 0", named)


def test_a_video_that_is_gone_or_short(base: Path, refused: Refused, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    whole = video(copied).read_bytes()
    video(copied).unlink()
    refused(copied, [], 1, "rollout_3", "no such video file")
    (copied / "videos" / "rollout_3.mp4").write_bytes(whole[: len(whole) // 2])
    refused(copied, [], 1, "rollout_3")
    (copied / "videos" / "rollout_3.mp4").write_bytes(whole)
    boxes = pd.read_parquet(copied / "boxes.parquet")
    boxes.loc[0, "x1"] = 2.0
    boxes.to_parquet(copied / "boxes.parquet")
    refused(copied, [], 1, "rollout_3", "boxes.parquet")


def test_a_checkpoint_that_is_gone_or_another(
    base: Path, weights: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    refused(base, [], 2, "was made by checkpoint toy", "not here", "--checkpoint", checkpoint=None)
    other = Path(shutil.copytree(weights, tmp_path / "toy"))
    (other / "model.json").write_text(json.dumps({**told(other, "model.json"), "notes": "another"}))
    refused(base, [], 2, "was made by checkpoint toy", "is another one", "--checkpoint", checkpoint=None)
    refused(base, [], 1, "no weights", checkpoint=tmp_path / "gone")


def test_settings_of_another_version(base: Path, refused: Refused, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    made = told(copied, "rollout.json")
    (copied / "rollout.json").write_text(json.dumps({**made, "settings": {**made["settings"], "warp": 9}}))
    refused(copied, [], 1, "settings that this drivesim does not know", "warp")
    (copied / "rollout.json").write_text(json.dumps({**made, "seed": "three"}))
    refused(copied, [], 1, "with which seed")


def test_a_stopped_rollout_is_told(base: Path, edit: Callable[..., tuple[Path, str]], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(base, tmp_path / "copied"))
    (copied / "rollout.json").write_text(json.dumps({**told(copied, "rollout.json"), "state": "stopped"}))
    assert "was stopped" in edit(copied)[1]


def test_every_flag_is_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["edit", "--help"]) == 0
    shown = {flag.replace("-", "_") for flag in re.findall(r"^  --([\w-]+)", capsys.readouterr().out, re.MULTILINE)}
    assert shown - {"help"} <= set(compose("edit", ["dataset=x", "out=y"])) and len(shown) > 10


def test_rows_of_an_edit_are_those_of_its_scenario(base: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    """Thinned traffic on disk is what ``edited`` says."""
    labels = labels_of(read_records(base), "rollout_3")
    expected = edited(exactly(labels, 3), Changes(crowdedness=0.0), FPS).after.label_track(len(labels), FPS)
    out, _ = edit(base, "--crowdedness", "0")
    made = labels_of(read_records(out), "rollout_3")
    assert len(made.boxes) < len(labels.boxes) and (made.values["crowdedness"] == 0).all()
    for old, new in zip(rows_of(expected, "x", "requested"), rows_of(made, "x", "requested"), strict=True):
        pd.testing.assert_frame_equal(old, new)


def test_settings_are_those_of_the_clip(base: Path, edit: Callable[..., tuple[Path, str]]) -> None:
    out, said = edit(base, "rollout.steps_keyframes=1")
    assert "rollout.steps_keyframes otherwise" in said
    made, again = (RolloutSettings(**told(folder, "rollout.json")["settings"]) for folder in (base, out))
    assert asdict(again) == {**asdict(made), "steps_keyframes": 1}
