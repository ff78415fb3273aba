"""Frames and labels on disk: a valid clip dataset, and whatever stops it, what was made plays."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toy_checkpoint import make_checkpoint

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.check import check_records
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import SegmentedVideoWriter, VideoError, iterate_frames, probe
from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation.preview import ContactSheet, annotate, annotated_size
from drivesim.simulation.recording.recorder import Progress, Recorder, RolloutStopped, check_folder, record
from drivesim.simulation.recording.streams import RolloutStreams
from drivesim.simulation.scenes.sampling import ScenarioLabels
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator, Step

SIZE, FPS = (32, 64), 7.5


def drive(duration_s: float = 8.0) -> Scenario:
    times = np.array([0.0, duration_s])
    car = BoxTrack(7, "car", times, np.array([[0.1, 0.4, 0.3, 0.7], [0.5, 0.4, 0.9, 0.9]], np.float32))
    return Scenario(duration_s, time_of_day="night", tracks=(car,), seed=5)


def steps(frames: int = 60, size: int = 16, noisy: bool = False) -> Iterator[Step]:
    """What a simulator would yield, without one."""
    labels, random = ScenarioLabels(drive(), last_s=frames / FPS), np.random.default_rng(0)
    for first in range(0, frames, size):
        numbers = range(first, min(first + size, frames))
        pictures = [np.full((*SIZE, 3), 60 + 2 * number, np.uint8) for number in numbers]
        if noisy:
            pictures = [random.integers(0, 255, (*SIZE, 3), dtype=np.uint8) for _ in numbers]
        yield Step(np.stack(pictures), labels.at(numbers, FPS), first)


def recorder(out: Path, frames: int = 60, **more: object) -> Recorder:
    return Recorder(out, FPS, SIZE, frames, report={"seed": 5}, **more)  # type: ignore[arg-type]


def write_all(out: Path, given: Iterator[Step], error: BaseException | None = None, **more: object) -> None:
    """Record the steps, and then raise ``error`` inside the recorder's block."""
    with recorder(out, **more) as writer:
        for step in given:
            writer.write(step)
        if error is not None:
            raise error


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def dataset_files(folder: Path) -> set[str]:
    """Those that are not needed for going on only."""
    return {name for name in files(folder) if not name.startswith("state/") and ".segments/" not in name}


WHOLE = {
    "rollout.json", "dataset.json", "clips.parquet", "frames.parquet", "boxes.parquet", "videos/rollout.mp4", "preview.png", "preview.mp4",
}  # fmt: skip


def test_a_rollout_is_a_clip_dataset(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_all(out, steps())
    assert files(out) == WHOLE
    assert check_records(out) == []
    records = read_records(out)
    labels = labels_of(records, "rollout")
    assert len(labels) == 60 and labels.fps == FPS and labels.boxes_known.all()
    expected = drive().label_track(60, FPS)
    assert np.allclose(labels.boxes.xyxy, expected.boxes.xyxy, atol=1e-6) and (labels.boxes.track_id == 7).all()
    assert set(records.boxes["provenance"]) == {"requested"} and set(records.clips["time_of_day"]) == {"night"}
    shown = [float(frame.mean()) for frame in iterate_frames(out / "videos/rollout.mp4")]
    assert np.allclose(shown, 60 + 2 * np.arange(60), atol=3)
    told = json.loads((out / "rollout.json").read_text())
    assert (told["state"], told["frames"], told["planned_frames"], told["seed"]) == ("finished", 60, 60, 5)
    assert {"drivesim", "torch", "python"} <= told["versions"].keys() and {"encode_s", "elapsed_s"} <= told["timings"].keys()


def test_previews(tmp_path: Path) -> None:
    write_all(tmp_path / "out", steps())
    info = probe(tmp_path / "out/preview.mp4")
    assert (info.frames, (info.height, info.width)) == (60, annotated_size(*SIZE))
    step = next(steps())
    drawn = annotate(step.frames[0], step.labels, 0, 0.0)
    assert drawn.shape == (*annotated_size(*SIZE), 3) and drawn.dtype == np.uint8
    empty = annotate(step.frames[0], drive().label_track(1, FPS).take([0], FPS), 0, 0.0)
    assert np.array_equal(drawn, empty) and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 3, "boxes and letters are drawn in"
    sheet = ContactSheet(1000, columns=4, rows=3)
    for number in range(1000):
        sheet.add(number, drawn)
    assert sheet.picture().shape == (3 * drawn.shape[0], 4 * drawn.shape[1], 3)  # type: ignore[union-attr]
    assert ContactSheet(3).picture() is None


def test_folders_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    assert check_folder(foreign) == foreign, "an empty folder will do"
    (foreign / "cat.jpg").write_text("meow")
    with pytest.raises(UsageError, match="holds files but no rollout"):
        recorder(foreign, overwrite=True)
    with pytest.raises(UsageError, match="is a file"):
        recorder(foreign / "cat.jpg")
    assert files(foreign) == {"cat.jpg"}


def test_an_earlier_rollout_is_replaced_only_on_request(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for overwrite in (False, True):
        write_all(out, steps(16), frames=16, overwrite=overwrite, clip_id="second" if overwrite else "first")
        (out / "notes.txt").write_text("mine")
        (out / "videos" / "mine.mp4").write_text("mine")
        if not overwrite:
            (out / "evaluation").mkdir()
            (out / "evaluation" / "result.json").write_text("{}")
    assert files(out) == (WHOLE - {"videos/rollout.mp4"}) | {"videos/second.mp4", "videos/mine.mp4", "notes.txt"}
    with pytest.raises(UsageError, match=r"already holds a rollout \(finished, 16 of 16 frames\).*--overwrite"):
        recorder(out)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DrivesimError("the network's answer is not finite")])
def test_a_stopped_rollout_is_a_shorter_dataset(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    with pytest.raises(RolloutStopped, match=r"(Ctrl-C|not finite); the 4\.3 s made before are in .*rollout\.mp4"):
        write_all(out, steps(32), error)
    assert dataset_files(out) == WHOLE and check_records(out) == []
    assert probe(out / "videos/rollout.mp4").frames == len(labels_of(read_records(out), "rollout")) == 32
    told = json.loads((out / "rollout.json").read_text())
    assert (told["state"], told["frames"], told["planned_frames"]) == ("stopped", 32, 60) and "error" in told


def test_stopped_between_a_frame_and_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    label = RolloutStreams._label

    def interrupted(self: RolloutStreams, step: Step, end: int) -> None:
        if step.first_frame == 16:
            monkeypatch.undo()
            raise KeyboardInterrupt
        label(self, step, end)

    monkeypatch.setattr(RolloutStreams, "_label", interrupted)
    with pytest.raises(RolloutStopped, match="Ctrl-C"):
        write_all(out, steps())
    assert check_records(out) == [] and len(labels_of(read_records(out), "rollout")) == 32


def test_nothing_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RolloutStopped, match="nothing was made yet"):
        write_all(tmp_path / "out", iter(()), DrivesimError("no weights"))
    assert not (tmp_path / "out").exists()


def test_foreign_errors_pass_but_keep_the_video(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_all(tmp_path / "out", steps(16), ZeroDivisionError())
    assert check_records(tmp_path / "out") == []


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 KiB: what a full disk looks like to a program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_leaves_playable_segments(tmp_path: Path, small_files: None) -> None:
    out = tmp_path / "out"
    with pytest.raises(RolloutStopped, match=r"cannot write .*; the \d+\.\d s made before play from \d+ segments in"):
        write_all(out, steps(600, noisy=True))
    segments = sorted((out / "videos/rollout.mp4.segments").glob("*.mp4"))
    assert segments and all(probe(path).frames == 15 for path in segments[:-1])
    assert json.loads((out / "rollout.json").read_text())["state"] == "stopped"
    assert not [name for name in files(out) if name.endswith(".part")], "nothing half-written"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RolloutStopped, match=r"cannot write .*choose another --out"):
        recorder(tmp_path / "file" / "out")


def test_killed_at_any_point_what_was_made_plays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_recorder import Path, recorder, steps
        with recorder(Path({str(out)!r})) as writer:
            for step in steps():
                writer.write(step)
                print(step.first_frame, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) not in ("32\n", ""):
            pass
        os.kill(process.pid, signal.SIGKILL)
    assert line
    segments = sorted((out / "videos/rollout.mp4.segments").glob("*.mp4"))
    assert len(segments) >= 3 and [len(list(iterate_frames(path))) for path in segments[:3]] == [15, 15, 15]
    with pytest.raises(UsageError, match=r"already holds a rollout \(running"):
        recorder(out)
    write_all(out, steps(), overwrite=True)
    assert files(out) == WHOLE and check_records(out) == []


def test_record_does_it_all(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "toy")
    simulator = Simulator(checkpoint, RolloutSettings.of(checkpoint.settings["rollout"], decode_frames=16))
    seen: list[Progress] = []
    done = record(simulator, drive(5.0), tmp_path / "out", progress=seen.append, report={"command": "drivesim rollout"})
    assert [one.frames for one in seen] == [16, 32, 38] and seen[-1].left_s == 0 and seen[0].total == 38
    assert done.frames == 38 and done.video == tmp_path / "out/videos/rollout_5.mp4" and 0 < done.first_second_s <= done.elapsed_s
    assert {"image", "keyframes", "interpolation", "decode", "encode"} <= done.seconds.keys()
    assert check_records(tmp_path / "out") == []
    told = json.loads((tmp_path / "out/rollout.json").read_text())
    assert told["checkpoint"]["hash"] == checkpoint.hash and told["command"] == "drivesim rollout" and told["scenario"]["tracks"] == 1
    with pytest.raises(UsageError, match="already holds a rollout"):
        record(simulator, drive(5.0), tmp_path / "out")


def test_a_video_that_cannot_be_written_keeps_its_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = SegmentedVideoWriter.write

    def full(self: SegmentedVideoWriter, frames: np.ndarray) -> None:
        if self.frames:
            raise VideoError("no space")
        write(self, frames)

    monkeypatch.setattr(SegmentedVideoWriter, "write", full)
    with pytest.raises(RolloutStopped, match=r"no space; the 2\.0 s made before play from 1 segments"):
        write_all(tmp_path / "out", steps(size=15))
