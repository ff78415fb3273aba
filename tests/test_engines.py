"""Workers of this machine and of a Ray cluster, some of which die: the same dataset, nothing lost and nothing twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from generations import files_of, requests, started, table, toy, words

from drivesim.cli import main
from drivesim.errors import DrivesimError
from drivesim.simulation.generation import engines
from drivesim.simulation.generation.order import Group

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'drivesim[ray]'")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    toy(folder)
    table(folder, requests(8))
    assert main(["generate", *words(folder / "scenarios.parquet", folder / "toy", folder / "undisturbed")]) == 0
    return folder


def children(pid: int) -> list[int]:
    """Processes below ``pid``, in any generation."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def killed_once(find: str, parts: Path, pid: int, done: threading.Event) -> list[int]:
    """Kill a process below ``pid`` whose command holds ``find`` as soon as a clip is finished; who was killed."""
    while not done.is_set():
        if list(parts.glob("[!.]*.json")):
            for child in children(pid):
                if find in command_of(child):
                    os.kill(child, signal.SIGKILL)
                    return [child]
        time.sleep(0.01)
    return []


def left_by(out: Path) -> dict[str, bytes]:
    """Without what a killed actor was at, which lies aside until Ray has taken notice of its death."""
    return {name: content for name, content in files_of(out).items() if not name.startswith(".unfinished")}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds worker processes through /proc, which this system lacks")
def test_a_worker_that_is_killed_costs_nothing(toys: Path, tmp_path: Path) -> None:
    out, done = tmp_path / "out", threading.Event()
    process = started(words(toys / "scenarios.parquet", toys / "toy", out, "--workers", "2"))
    died = killed_once("spawn_main", out / "parts", process.pid, done)
    told, error = process.communicate(timeout=120)
    assert died, "a worker was there to be killed"
    assert process.returncode == 0, error
    assert "8 clips" in told
    assert files_of(out) == files_of(toys / "undisturbed")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds worker processes through /proc, which this system lacks")
def test_an_actor_that_is_killed_costs_nothing(toys: Path, tmp_path: Path) -> None:
    out, done = tmp_path / "out", threading.Event()
    arguments = words(toys / "scenarios.parquet", toys / "toy", out, "--workers", "2", "--ray", "local")
    process = started(arguments)
    died = killed_once("ray::RayWorker", out / "parts", process.pid, done)
    told, error = process.communicate(timeout=240)
    assert died, f"an actor was there to be killed: {error}"
    assert process.returncode == 0, error
    assert "8 clips" in told
    assert left_by(out) == files_of(toys / "undisturbed")


def test_a_group_at_which_workers_die_again_and_again_is_given_up() -> None:
    left = {3: Group(3, tuple(requests(2)))}
    deaths = Counter({3: engines.DEATHS - 1})
    engines._give_up(left, deaths)
    with pytest.raises(DrivesimError, match=r"a worker died 3 times while it made scene_00, scene_01, .*; perhaps it was out of memory"):
        engines._give_up(left, deaths + Counter({3: 1}))


@pytest.mark.parametrize("more", [("--workers", "2"), ("--workers", "2", "--ray", "local")], ids=["workers", "ray"])
def test_a_fault_in_a_worker_is_one_line(toys: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """A file stands where the videos should go."""
    scenarios, out = toys / "scenarios.parquet", tmp_path / "out"
    assert main(["generate", *words(scenarios, toys / "toy", out)]) == 0
    for name in ("dataset.json", "parts/scene_01.json"):
        (out / name).unlink()
    for path in (out / "videos").iterdir():
        path.unlink()
    (out / "videos").rmdir()
    (out / "videos").write_text("a file where a folder should be")
    process = started(words(scenarios, toys / "toy", out, *more))
    _, error = process.communicate(timeout=240)
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert process.returncode == 1 and len(lines) == 1 and "cannot write" in lines[0], error
    assert "Traceback" not in error


def test_no_cluster_is_one_line(toys: Path, tmp_path: Path) -> None:
    process = started(words(toys / "scenarios.parquet", toys / "toy", tmp_path / "out", "--ray", "127.0.0.1:1"))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2 and "no Ray cluster at '127.0.0.1:1'" in error, error
