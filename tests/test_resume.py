"""Nothing is lost: a rollout that was killed, interrupted or out of disk plays as far as it came, and ``--resume`` makes of it what it
would have been: every decoded frame and every label row."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from toy_checkpoint import make_checkpoint
from toys import write_toy_checkpoint

from drivesim import cli
from drivesim.errors import DrivesimError, UsageError
from drivesim.io import atomic
from drivesim.io.check import check_records
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.io.video import count_frames, iterate_frames, probe
from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation import preview
from drivesim.simulation.recording.folder import FolderLock
from drivesim.simulation.recording.journal import Journal
from drivesim.simulation.recording.recorder import RolloutStopped, finished, record
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator, Step

SECONDS, FPS, SEGMENT, FRAMES = 5.6, 7.5, 15, 42
POINTS = 20
WATCHED = ("io/", "simulation/rollout_", "simulation/recorder", "simulation/journal", "simulation/simulator", "simulation/timings")
TABLES = ("clips", "frames", "boxes")


@pytest.fixture(scope="module", autouse=True)
def small_previews() -> Iterator[None]:
    """Previews of the pictures' own size, which is quick, and no threads that a copy of this process would lack."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preview, "MIN_HEIGHT", 32)
        yield
    cv2.setNumThreads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Of 64x128 pixels."""
    folder = tmp_path_factory.mktemp("weights") / "toy"
    make_checkpoint(folder, decode_frames=10, steps_keyframes=1)
    settings = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**settings, "height": 64, "width": 128}))
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 32x64 pixels, with traffic."""
    return write_toy_checkpoint(tmp_path_factory.mktemp("weights") / "toy")


@pytest.fixture(scope="module")
def machine(checkpoint: Checkpoint) -> Simulator:
    return Simulator(checkpoint, RolloutSettings.of(checkpoint.settings["rollout"]))


def drive(duration_s: float = SECONDS, seed: int = 5, **labels: Any) -> Scenario:
    times = np.array([0.0, duration_s])
    tracks = [BoxTrack(7, "car", times, np.array([[0.1, 0.4, 0.3, 0.7], [0.5, 0.4, 0.9, 0.9]], np.float32)),
              BoxTrack(8, "person", times / 2, np.array([[0.7, 0.4, 0.8, 0.9], [0.2, 0.4, 0.3, 0.9]], np.float32))]  # fmt: skip
    return Scenario(duration_s, **{"time_of_day": "night", "ego_speed_mps": 9.0, **labels}, tracks=tuple(tracks), seed=seed)


@dataclass(frozen=True)
class Made:
    """All that a rollout is worth."""

    frames: np.ndarray
    preview: np.ndarray
    sheet: bytes
    tables: dict[str, pd.DataFrame]
    files: set[str]

    @classmethod
    def of(cls, out: Path) -> Made:
        video = next((out / "videos").glob("*.mp4"))
        pictures = [np.stack(list(iterate_frames(path))) for path in (video, out / "preview.mp4")]
        tables = {name: pd.read_parquet(out / f"{name}.parquet") for name in TABLES}
        files = {str(path.relative_to(out)) for path in out.rglob("*")}
        return cls(pictures[0], pictures[1], (out / "preview.png").read_bytes(), tables, files)


def assert_same(out: Path, whole: Made) -> None:
    made = Made.of(out)
    np.testing.assert_array_equal(made.frames, whole.frames)
    np.testing.assert_array_equal(made.preview, whole.preview)
    for name in TABLES:
        pd.testing.assert_frame_equal(made.tables[name], whole.tables[name], check_exact=True)
    assert made.sheet == whole.sheet and made.files == whole.files
    assert json.loads((out / "rollout.json").read_text())["state"] == "finished" and check_records(out) == []


def in_a_copy(work: Callable[[], object]) -> int:
    """Start ``work`` in a copy of this process; returns its number. It ends by itself after some minutes at most."""
    number = os.fork()
    if number == 0:
        signal.alarm(300)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return number


def was_killed(number: int) -> bool:
    status = os.waitpid(number, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class Lines:
    """Counts the lines of recording and file code that are run, and kills this process before line ``last``."""

    def __init__(self, last: int | None = None) -> None:
        self.count, self.last = 0, last

    def __call__(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        path = frame.f_code.co_filename.rpartition("drivesim/")[2]
        return self._line if path.startswith(WATCHED) else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        self.count += event == "line"
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._line

    def watch(self, work: Callable[[], object]) -> int:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        finally:
            sys.settrace(before)
        return self.count


@dataclass(frozen=True)
class Uninterrupted:
    made: Made
    lines: int


@pytest.fixture(scope="module")
def whole(machine: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    out = tmp_path_factory.mktemp("whole") / "out"
    lines = Lines().watch(lambda: record(machine, drive(), out))
    return Uninterrupted(Made.of(out), lines)


def cut_off(machine: Simulator, out: Path, line: int, **more: Any) -> bool:
    return was_killed(in_a_copy(lambda: Lines(line).watch(lambda: record(machine, drive(), out, resume=True, **more))))


@pytest.fixture(scope="module")
def killed(machine: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rollout that was killed in its third segment."""
    out = tmp_path_factory.mktemp("killed") / "half"

    def work() -> None:
        record(machine, drive(), out, progress=lambda now: os.kill(os.getpid(), signal.SIGKILL) if now.frames > 2 * SEGMENT + 5 else None)

    assert was_killed(in_a_copy(work))
    assert [path.name for path in segments(out)] == ["000000.mp4", "000001.mp4"]
    return out


@pytest.fixture
def half(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "half"))


def segments(out: Path) -> list[Path]:
    return sorted(out.glob("videos/*.segments/*.mp4"))


def assert_plays(out: Path) -> None:
    """Whatever shows as a video is one, and the segments are whole."""
    for path in out.rglob("[!.]*.mp4"):
        assert count_frames(path, decode=True) == probe(path).frames > 0
    counts = [probe(path).frames for path in segments(out)]
    assert counts == [min(SEGMENT, FRAMES - SEGMENT * number) for number in range(len(counts))]


# killed


@pytest.mark.parametrize("point", range(POINTS))
def test_killed_anywhere(point: int, machine: Simulator, whole: Uninterrupted, tmp_path: Path) -> None:
    """In every twentieth of a run, at a random line; every second time the resumed run is killed, too."""
    out, chance = tmp_path / "out", random.Random(point)
    assert cut_off(machine, out, int((point + chance.random()) / POINTS * whole.lines) + 1)
    assert_plays(out)
    if point % 2:
        cut_off(machine, out, chance.randrange(1, max(2, int((POINTS - point) / POINTS * whole.lines))))
        assert_plays(out)
    record(machine, drive(), out, resume=True)
    assert_same(out, whole.made)


@pytest.mark.parametrize("seconds", [0.05, 0.25, 0.6])
def test_killed_from_outside(seconds: float, machine: Simulator, whole: Uninterrupted, tmp_path: Path) -> None:
    number = in_a_copy(lambda: record(machine, drive(), tmp_path / "out"))
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)
    was_killed(number)
    record(machine, drive(), tmp_path / "out", resume=True)
    assert_same(tmp_path / "out", whole.made)


def test_overwriting_is_cut_off(machine: Simulator, tmp_path: Path) -> None:
    """Whatever is left of the old rollout, it is not taken for the new one, nor for a finished one."""
    new = drive(0.5)
    record(machine, drive(0.5, seed=9), tmp_path / "old")
    copies = [Path(shutil.copytree(tmp_path / "old", tmp_path / name)) for name in "abcdef"]
    lines = Lines().watch(lambda: record(machine, new, copies[0], overwrite=True))
    expected = Made.of(copies[0])
    for number, out in enumerate(copies[1:]):
        work = lambda out=out: record(machine, new, out, overwrite=True)  # noqa: E731
        at = int((number + 0.5) / 10 * lines)
        assert was_killed(in_a_copy(lambda at=at, work=work: Lines(at).watch(work)))
        told = json.loads((out / "rollout.json").read_text())
        if told["state"] == "finished":
            assert told["seed"] == 9 and check_records(out) == []
        else:
            record(machine, new, out, resume=True)
            assert_same(out, expected)


# stopped


def test_ctrl_c(machine: Simulator, whole: Uninterrupted, tmp_path: Path) -> None:
    """Twice: the second try begins behind the two segments that the first one closed."""
    out = tmp_path / "out"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for frames, seconds in ((10, "1.3"), (40, "5.3")):
        with pytest.raises(RolloutStopped, match=rf"Ctrl-C; the {seconds} s .* go on with: drivesim rollout --resume --out"):
            record(machine, drive(), out, resume=True, progress=lambda now, frames=frames: stop() if now.frames >= frames else None)
        assert check_records(out) == [], "a shorter dataset"
        assert json.loads((out / "rollout.json").read_text())["state"] == "stopped"
    record(machine, drive(), out, resume=True)
    assert_same(out, whole.made)
    assert json.loads((out / "rollout.json").read_text())["resumes"] == 2


@pytest.mark.parametrize(
    ("place", "calls"),
    [("encoding", 0), ("encoding", 4), ("atomic", 1), ("atomic", 4), ("records_writer", 1)],
)
def test_a_full_disk(
    place: str, calls: int, machine: Simulator, whole: Uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Videos, journal and tables are refused in turn; once there is room, the rest is made."""
    out, left = tmp_path / "out", iter(range(calls))
    place = f"drivesim.io.{place}.publish"
    publish = atomic.publish

    def full(part: Path, path: Path) -> None:
        if path.name != "rollout.json" and next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        publish(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.raises(RolloutStopped, match="No space left"):
            record(machine, drive(), out)
    for path in out.rglob("[!.]*.mp4"):
        assert count_frames(path, decode=True) == probe(path).frames > 0
    assert not list(out.glob("**/*.part"))
    record(machine, drive(), out, resume=True)
    assert_same(out, whole.made)


# damaged, moved, of another time


def test_damaged_segments_are_made_again(machine: Simulator, half: Path, whole: Uninterrupted) -> None:
    """The first one is cut short; and what the clock says of files does not matter."""
    first = segments(half)[0]
    first.write_bytes(first.read_bytes()[:-200])
    (first.parent / "000002.mp4").write_bytes(b"half-writ")
    for path in half.rglob("*"):
        os.utime(path, (4e9, 4e9))
    record(machine, drive(), half, resume=True)
    assert_same(half, whole.made)


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "another"])
def test_damaged_latents_are_made_again(damage: str, machine: Simulator, half: Path, whole: Uninterrupted) -> None:
    first, second = sorted(half.glob("state/*.safetensors"))[:2]
    content = bytearray(second.read_bytes())
    content[-5] ^= 64
    {"gone": second.unlink, "cut": lambda: second.write_bytes(content[:-9]), "changed": lambda: second.write_bytes(content),
     "another": lambda: shutil.copy(first, second)}[damage]()  # fmt: skip
    assert Journal(half).load(1) is None
    record(machine, drive(), half, resume=True)
    assert_same(half, whole.made)


def test_a_journal_gives_back_what_it_got(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number, dtype in enumerate((torch.float32, torch.bfloat16)):
        latents = torch.randn(2, 4, 3, 5).to(dtype).transpose(2, 3)
        journal.save(number, latents)
        assert torch.equal(journal.load(number), latents)  # type: ignore[arg-type]
    assert journal.load(2) is None


@pytest.mark.parametrize(
    ("spoil", "named"),
    [({"version": 2}, "version 2 is not drivesim-rollout-state version 1"), ({"format": "x"}, "x version"), ({"asked": 3}, "unreadable")],
)
def test_state_of_another_version(spoil: dict[str, Any], named: str, machine: Simulator, half: Path) -> None:
    state = half / "state/state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), **spoil}))
    refused(DrivesimError, named, half, lambda: record(machine, drive(), half, resume=True))


def refused(kind: type[Exception], named: str, out: Path, work: Callable[[], object]) -> None:
    before = seen(out)
    with pytest.raises(kind, match=named):
        work()
    assert seen(out) == before, "nothing is touched"


def seen(out: Path) -> dict[str, tuple[int, str]]:
    """Every file with its time and content."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".rollout.lock"]
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


@pytest.mark.parametrize(
    ("scenario", "named"),
    [
        (drive(seed=6), r"was begun with .*seed 5 \(now 6\)"),
        (drive(8.0), r"scenario\.duration_s 5\.6 \(now 8\.0\), scenario\.boxes"),
        (drive(time_of_day="day"), r"scenario\.time_of_day night \(now day\)"),
        (replace(drive(), tracks=drive().tracks[:1]), r"scenario\.boxes \w{8}\.\.\. \(now \w{8}\.\.\.\)"),  # type: ignore[index]
        (replace(drive(), profiles={"ego_speed_mps": (np.arange(3.0), np.ones(3))}), r"scenario\.profiles"),
    ],
)  # fmt: skip
def test_another_scenario_is_refused(scenario: Scenario, named: str, machine: Simulator, half: Path) -> None:
    refused(UsageError, named, half, lambda: record(machine, scenario, half, resume=True))


def test_other_weights_settings_and_pictures_are_refused(checkpoint: Checkpoint, machine: Simulator, half: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(checkpoint.folder, tmp_path / "other"))
    with open(other / "model.json", "a") as file:
        file.write(" ")
    settings = machine.settings
    refused(UsageError, "with checkpoint ", half, lambda: record(Simulator(load_checkpoint(other), settings), drive(), half, resume=True))
    changed = Simulator(checkpoint, replace(settings, batch=3))
    refused(UsageError, r"with settings\.batch 8 \(now 3\)", half, lambda: record(changed, drive(), half, resume=True))
    start = np.zeros((64, 128, 3), np.uint8)
    refused(UsageError, r"with start none \(now ", half, lambda: record(machine, drive(), half, start=start, resume=True))


def test_as_many_threads_as_before_and_the_rest_is_told(
    machine: Simulator, half: Path, whole: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    state, threads = half / "state/state.json", []
    told = json.loads(state.read_text())
    told["environment"] |= {"threads": 2, "torch": "1.0"}
    state.write_text(json.dumps(told))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    made = record(machine, drive(), half, resume=True)
    assert threads == [2, 1] and len(made.moved) == 1 and made.moved[0].startswith("torch 1.0 (now ")
    assert_same(half, whole.made)


# one at a time, anew, and done


def test_one_process_at_a_time(machine: Simulator, half: Path, whole: Uninterrupted) -> None:
    lock = FolderLock(half)
    for how in ("resume", "overwrite"):
        work = lambda how=how: record(machine, drive(), half, **{how: True})  # noqa: E731
        refused(DrivesimError, rf"half is being written by another process \({os.getpid()}\)", half, work)
    lock.release()
    record(machine, drive(), half, resume=True)
    assert_same(half, whole.made)


def test_without_state_it_begins_anew(machine: Simulator, half: Path, whole: Uninterrupted, tmp_path: Path) -> None:
    shutil.rmtree(half / "state")
    record(machine, drive(), half, resume=True)
    assert_same(half, whole.made)
    record(machine, drive(), tmp_path / "new", resume=True)
    assert_same(tmp_path / "new", whole.made)


def test_a_finished_one_is_left_alone(machine: Simulator, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = record(machine, drive(1.0), out)
    before = seen(out)
    again = record(machine, drive(), out, resume=True)
    assert (again.frames, again.video, again.fps) == (made.frames, made.video, made.fps)
    assert again.elapsed_s == pytest.approx(made.elapsed_s, abs=0.1) and again.seconds.keys() == made.seconds.keys()
    assert seen(out) == before
    assert finished(tmp_path) is None


# beginning in the middle


@pytest.mark.parametrize(("fps", "firsts"), [(1.875, (1, 8, 9)), (7.5, (10, 36, 37, 41)), (30.0, (127, 145, 166))])
def test_from_any_frame_on_the_frames_are_the_same(fps: float, firsts: tuple[int, ...], weights: Path, tmp_path: Path) -> None:
    """To the bit, with a journal and without, though later windows are led back to the first."""
    checkpoint = load_checkpoint(weights)
    settings = RolloutSettings.of(checkpoint.settings["rollout"], fps=fps, batch=3, anchor=0.5)
    machine, journal = Simulator(checkpoint, settings), Journal(tmp_path)
    frames = np.concatenate([step.frames for step in machine.run(drive(5.6), journal=journal)])
    for first in firsts:
        steps = list(machine.run(drive(5.6), first_frame=first, journal=journal if first != firsts[-2] else None))
        assert steps[0].first_frame == first and [len(step.labels) for step in steps] == [len(step.frames) for step in steps]
        np.testing.assert_array_equal(np.concatenate([step.frames for step in steps]), frames[first:])
    assert list(machine.run(drive(5.6), first_frame=len(frames), journal=journal)) == []


@dataclass(frozen=True)
class Smear:
    """A stage that enlarges, and whose frames hold something of the three frames before them."""

    settings: RolloutSettings = field(default_factory=RolloutSettings)
    factor: int = 2

    def lead(self, first_frame: int) -> int:
        return max(first_frame - 3, 0)

    def steps(self, steps: Iterator[Step], first_frame: int) -> Iterator[Step]:
        recent: list[np.ndarray] = []
        for step in steps:
            smeared = []
            for frame in step.frames:
                recent = [*recent, frame.repeat(2, 0).repeat(2, 1)][-4:]
                smeared.append(np.mean(recent, axis=0).astype(np.uint8))
            wanted = range(max(first_frame - step.first_frame, 0), len(smeared))
            if len(wanted):
                yield Step(np.stack(smeared)[wanted.start :], step.labels.take(wanted, step.labels.fps), step.first_frame + wanted.start)


def test_a_stage_in_between(machine: Simulator, tmp_path: Path) -> None:
    lines = Lines().watch(lambda: record(machine, drive(), tmp_path / "whole", stage=Smear()))
    assert cut_off(machine, tmp_path / "out", int(0.7 * lines), stage=Smear())
    refused(UsageError, "stage", tmp_path / "out", lambda: record(machine, drive(), tmp_path / "out", resume=True))
    record(machine, drive(), tmp_path / "out", resume=True, stage=Smear())
    assert_same(tmp_path / "out", Made.of(tmp_path / "whole"))
    assert probe(tmp_path / "out/videos/rollout_5.mp4").height == 128


# the command


def test_the_command(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, refused, finished from another folder without another word, and then left alone."""
    monkeypatch.chdir(weights.parent)
    out = str(tmp_path / "drive")
    words = ["rollout", "--minutes", "0.08", "--seed", "3", "--checkpoint", "toy", "--crowdedness", "1.5", "rollout.decode_frames=12"]
    lines = Lines().watch(lambda: cli.main([*words, "--out", str(tmp_path / "whole")]))
    assert was_killed(in_a_copy(lambda: Lines(int(0.6 * lines)).watch(lambda: cli.main([*words, "--out", out]))))
    monkeypatch.chdir(tmp_path)
    for more, named in (
        (["--seed", "4", "--minutes", "0.2"], "seed 3 (now 4), scenario.duration_s 4.8 (now 12.0)"), (["--overwrite"], "give one of them"),
    ):
        capsys.readouterr()
        assert cli.main(["rollout", "--resume", "--out", out, *more]) == 2
        said = capsys.readouterr().err
        assert named in said and said.count("error: ") == 1 and "Traceback" not in said
    assert cli.main([*words, "--out", out]) == 2 and "go on with --resume" in capsys.readouterr().err
    assert cli.main(["rollout", "--resume", "--out", out]) == 0
    assert_same(Path(out), Made.of(tmp_path / "whole"))
    before = seen(Path(out))
    capsys.readouterr()
    assert cli.main(["rollout", "--resume", "--out", out, "--checkpoint", "nowhere"]) == 0
    assert "drive is finished, 4.8 s of video: nothing to do" in capsys.readouterr().out and seen(Path(out)) == before
    assert cli.main(["rollout", "--resume"]) == 2 and "--resume needs --out" in capsys.readouterr().err
    assert cli.main([*words, "--checkpoint", str(weights), "--resume", "--out", str(tmp_path / "new")]) == 0
    assert "new holds no state to resume: beginning anew" in capsys.readouterr().out
    assert_same(tmp_path / "new", Made.of(tmp_path / "whole"))
