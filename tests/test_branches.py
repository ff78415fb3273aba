"""Futures that branch off one drive: the same until they part, by labels, by pictures and on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generations import car, files_of
from toys import write_toy_checkpoint

from drivesim.cli import main
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation.edits.branches import futures, parted

FPS, PART_S = 7.5, 4.8


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_checkpoint(tmp_path_factory.mktemp("branches") / "toy")


@pytest.fixture(scope="module")
def made(toy: Path) -> Path:
    out = toy.parent / "made"
    assert rollout(toy, out, "--branches", "3") == 0
    return out


def rollout(toy: Path, out: Path, *more: str) -> int:
    return main(["rollout", "--checkpoint", str(toy), "--minutes", "0.2", "--out", str(out), *more])


def track(number: int, begin: float, end: float, category: str = "car") -> BoxTrack:
    return replace(car(number), category=category, timestamp_s=np.array([begin, end]))


def test_who_is_there_stays_and_who_comes_is_the_others() -> None:
    stem = Scenario(20.0, "day", tracks=(track(1, 0.0, 9.0), track(2, 6.0, 8.0)), seed=1)
    other = Scenario(20.0, "day", tracks=(track(1, 0.0, 12.0, "bus"), track(7, 5.1, 7.0, "truck")), seed=2)
    future = parted(stem, other, 5.0)
    assert future.tracks is not None and len({one.track_id for one in future.tracks}) == len(future.tracks)
    assert [(one.category, one.timestamp_s[0]) for one in future.tracks] == [("car", 0.0), ("truck", 5.1)]
    assert parted(replace(stem, tracks=None), other, 5.0).tracks is None


def test_speed_is_the_stems_and_becomes_the_others() -> None:
    times = np.arange(0.0, 20.0)
    stem = Scenario(20.0, tracks=(), profiles={"ego_speed_mps": (times, 5 + 0 * times)})
    other = Scenario(20.0, tracks=(), profiles={"ego_speed_mps": (times, 5 + times)})
    found, values = parted(stem, other, 4.8).profiles["ego_speed_mps"]
    assert np.all(np.diff(found) > 0)
    assert np.all(values[found <= 4.8] == 5.0)
    assert np.allclose(values[found >= 6.8], 5 + found[found >= 6.8])
    assert np.all(np.diff(values) >= 0), "no jump"


def test_the_first_future_is_the_stem_and_every_other_has_its_own_noise() -> None:
    stem = Scenario(20.0, "day", tracks=(car(),), seed=3)
    found = futures(stem, 4, 5.0, None)
    assert found[0] is stem
    assert len({one.branch.seed for one in found[1:] if one.branch}) == 3 and all(one.tracks == stem.tracks for one in found)
    assert futures(stem, 2, 5.0, None)[1].branch == found[1].branch, "however many there are"


def test_branches_on_disk(made: Path) -> None:
    frames, labels = [], []
    for number in (1, 2, 3):
        records = read_records(made / f"branch_{number}")
        clip_id = records.clip_ids[0]
        frames.append(np.stack(list(read_frames(records.video_path(clip_id), indices=range(90)))))
        labels.append(labels_of(records, clip_id))
    shared, part = 32, round(PART_S * FPS)  # frames before the decoder looks past the last keyframe that they share
    for one, track in zip(frames[1:], labels[1:], strict=True):
        assert np.array_equal(one[:shared], frames[0][:shared])
        assert not np.array_equal(one[part + 8 :], frames[0][part + 8 :])
        same = track.boxes.frame <= part
        assert np.array_equal(track.boxes.xyxy[same], labels[0].boxes.xyxy[labels[0].boxes.frame <= part])
    assert not np.array_equal(frames[1][part + 8 :], frames[2][part + 8 :])
    told = json.loads((made / "branch_2" / "rollout.json").read_text())["scenario"]["branch"]
    assert told["at_s"] == pytest.approx(PART_S)
    assert (made / "branches.png").stat().st_size > 1000
    assert json.loads((made / "branch_1" / "rollout.json").read_text())["scenario"]["branch"] is None


def test_one_branch_is_made_again_alone(toy: Path, made: Path, tmp_path: Path) -> None:
    assert rollout(toy, tmp_path / "second", "branches=3", "branch=2") == 0
    name = next((made / "branch_2" / "videos").glob("*.mp4")).name
    assert (tmp_path / "second" / "videos" / name).read_bytes() == (made / "branch_2" / "videos" / name).read_bytes()


def test_branches_are_gone_on_with(toy: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shutil.rmtree(out / "branch_3")
    (out / "branches.png").unlink()
    assert rollout(toy, out, "--branches", "3") == 2
    assert "already holds branches; go on with --resume" in capsys.readouterr().err
    assert main(["rollout", "--resume", "--out", str(out)]) == 0
    before, now = files_of(made), files_of(out)
    assert now.keys() == before.keys()
    assert all(now[name] == before[name] for name in before if name.endswith((".parquet", ".mp4", ".png")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--branches", "0"), "branches must be a whole number from 1"),
        (("--branches", "2", "--branch-at", "11.9"), "no keyframe window after 11.9 s"),
        (("--branches", "2", "--branch-at", "-1"), "branch_at must be seconds from 0"),
        (("branches=2", "branch=3"), "branch must be a number from 1 to 2"),
    ],
)
def test_bad_usage_is_one_line(toy: Path, tmp_path: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollout(toy, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1


def test_a_folder_of_something_else_is_left_alone(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert rollout(toy, tmp_path, "--branches", "2") == 2
    assert "holds notes.txt" in capsys.readouterr().err and list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]
