"""Folders of files on their way: gone with their block, and with their process where that was killed; those of the living stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivesim.io import scratch
from drivesim.io.places import Place
from drivesim.io.scratch import FORGOTTEN_S, scratch_folder, sweep

NEIGHBOUR = """
import sys, time
from pathlib import Path
from drivesim.io.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "clip.mp4").write_bytes(b"half a video")
    print(folder.name, flush=True)
    sys.stdin.read()
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="nobody asks after a process there")


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that works in a folder of its own, and the folder."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, tmp_path / process.stdout.readline().strip()
    process.kill()
    process.communicate()


def left(parent: Path, name: str, age_s: float = 0.0) -> Path:
    """A folder with a file in it, last written so long ago."""
    folder = parent / name
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(b"half a video")
    for path in (folder / "clip.mp4", folder):
        os.utime(path, (time.time() - age_s,) * 2)
    return folder


def gone() -> int:
    """The number of a process that there is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_goes_with_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "file").write_text("")
        assert folder.parent == tmp_path and folder.name.startswith(".unfinished-") and f"-{os.getpid()}-" in folder.name
        with scratch_folder(tmp_path) as second:
            assert second != folder and folder.is_dir()
        assert not second.exists()
    assert list(tmp_path.iterdir()) == []
    with scratch_folder() as elsewhere:
        assert elsewhere.is_dir()
    assert not elsewhere.exists()


@posix
def test_what_a_killed_process_left_goes_when_the_next_one_comes(tmp_path: Path, neighbour: tuple[subprocess.Popen[str], Path]) -> None:
    process, folder = neighbour
    assert (folder / "clip.mp4").exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert folder.is_dir()
    with Place(tmp_path).scratch() as own:
        assert list(tmp_path.iterdir()) == [own]


@posix
def test_a_living_neighbour_keeps_its_folder_however_old(tmp_path: Path, neighbour: tuple[subprocess.Popen[str], Path]) -> None:
    _, folder = neighbour
    for path in (folder / "clip.mp4", folder):
        os.utime(path, (0, 0))
    with Place(tmp_path).scratch():
        assert (folder / "clip.mp4").read_bytes() == b"half a video"
    assert sweep(tmp_path) == [] and folder.is_dir()


def test_of_other_machines_only_what_is_long_forgotten_goes(tmp_path: Path) -> None:
    fresh = left(tmp_path, f".unfinished-{'0' * 12}-{gone()}-abcdefg1", FORGOTTEN_S - 3600)
    old = left(tmp_path, f".unfinished-{'0' * 12}-{os.getpid()}-abcdefg2", FORGOTTEN_S + 3600)
    busy = left(tmp_path, f".unfinished-{'0' * 12}-{gone()}-abcdefg3", FORGOTTEN_S + 3600)
    (busy / "clip.mp4").write_bytes(b"another frame")
    os.utime(busy, (0, 0))
    assert sweep(tmp_path) == [old.name]
    assert fresh.is_dir() and busy.is_dir() and not old.exists()


def test_folders_of_earlier_versions_go_by_their_age(tmp_path: Path) -> None:
    fresh, old = left(tmp_path, ".unfinished-ab_12345"), left(tmp_path, ".unfinished-ab_12346", FORGOTTEN_S + 3600)
    assert sweep(tmp_path) == [old.name] and fresh.is_dir()


@posix
def test_nothing_else_is_touched(tmp_path: Path) -> None:
    dead = f".unfinished-{scratch._here()}-{gone()}-abcdefgh"
    kept = [left(tmp_path, name, 2 * FORGOTTEN_S) for name in ("parts", ".unfinished-affairs", ".hidden", f"x{dead}", f"{dead}.bak")]
    (tmp_path / dead).symlink_to(tmp_path / "parts")
    assert sweep(tmp_path) == [] and all((folder / "clip.mp4").exists() for folder in kept)
    (tmp_path / dead).unlink()
    left(tmp_path, dead)
    assert sweep(tmp_path) == [dead] and all(folder.is_dir() for folder in kept)
    assert sweep(tmp_path / "not there") == []


@posix
def test_somebody_elses_process_counts_as_living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    folder = left(tmp_path, f".unfinished-{scratch._here()}-{gone()}-abcdefgh", 2 * FORGOTTEN_S)
    monkeypatch.setattr(os, "kill", forbidden)
    assert sweep(tmp_path) == [] and folder.is_dir()
    huge = left(tmp_path, f".unfinished-{scratch._here()}-{10**30}-abcdefgh")
    monkeypatch.undo()
    assert sweep(tmp_path) == [folder.name] and huge.is_dir()
