"""A rollout's folder: whether a rollout may be written there, who is writing it, and what in it is ours to replace.

A folder is ours when it holds a rollout.json. This file knows names of files; it does not know what is in them, beyond rollout.json's
state and clip.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import part_of, write_json
from drivesim.io.video import segments_folder

if sys.platform != "win32":
    import fcntl

__all__ = [
    "DESCRIPTION", "PREVIEW", "STATE", "FolderLock", "check_folder", "clear_folder", "clear_results", "clear_work", "described",
    "is_finished",
]  # fmt: skip

DESCRIPTION = "rollout.json"
STATE = "state"
"""Folder of what a killed rollout goes on from; it goes when the rollout is finished."""
LOCK = ".rollout.lock"
PREVIEW = "preview.mp4"
OURS = ("dataset.json", "clips.parquet", "frames.parquet", "boxes.parquet", "preview.png", PREVIEW, "report.html", "edit.json", "edit.png")
EVALUATION = "evaluation"
"""What `drivesim evaluate` found out about a rollout; it goes with it, or it would stand beside another one."""


def check_folder(out: str | Path, overwrite: bool = False) -> Path:
    """May a rollout be written to ``out``? Missing, empty, or (``overwrite``) holding an earlier rollout.

    Raises:
        UsageError: a file, somebody else's folder, or a rollout that ``overwrite`` was not given for.
    """
    out = Path(out)
    if not out.exists() and not out.is_symlink():
        return out
    if not out.is_dir():
        raise UsageError(f"{out} is a file; --out must name a folder")
    if not (out / DESCRIPTION).is_file():
        started = {LOCK, part_of(out / DESCRIPTION).name}  # all that a rollout killed in its first moment leaves
        if {path.name for path in out.iterdir()} - started:
            raise UsageError(f"{out} holds files but no rollout; choose a new or empty folder for --out")
        return out
    if not overwrite:
        going_on = "go on with --resume, " if (out / STATE).is_dir() and not is_finished(out) else ""
        mend = f"{going_on}choose another --out, or pass --overwrite to replace it"
        raise UsageError(f"{out} already holds a rollout ({_state(out)}); {mend}")
    return out


def described(out: Path) -> dict[str, Any]:
    """What rollout.json says; nothing where it is missing or unreadable."""
    try:
        told = json.loads((out / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def is_finished(out: Path) -> bool:
    return described(out).get("state") == "finished"


def _state(out: Path) -> str:
    told = described(out)
    if not {"state", "frames", "planned_frames"} <= told.keys():
        return "its rollout.json is unreadable"
    return f"{told['state']}, {told['frames']} of {told['planned_frames']} frames"


def clear_folder(out: Path) -> None:
    """Remove what a recorder wrote there but rollout.json, and nothing else; folders only when that leaves them empty.

    rollout.json is marked first: should this be cut off in the middle, nobody takes the rest for a finished or a resumable rollout.
    Not ours: nothing happens.
    """
    if not (out / DESCRIPTION).is_file():
        return
    write_json(out / DESCRIPTION, {**described(out), "state": "being replaced"})
    clear_work(out)
    clear_results(out)


def clear_results(out: Path) -> None:
    """Remove the dataset and what was made from it; dataset.json first: without it the rest is no dataset."""
    video = _video(out)
    ours = [*(out / name for name in OURS), video]
    for path in [*ours, *map(part_of, [*ours, out / DESCRIPTION])]:
        path.unlink(missing_ok=True)
    if (out / EVALUATION / "result.json").is_file():
        shutil.rmtree(out / EVALUATION)
    _remove_if_empty(video.parent)


def clear_work(out: Path) -> None:
    """Remove what a rollout needs only until it is finished: its state (state.json first: without it the rest is nothing) and segments."""
    state = out / STATE
    (state / "state.json").unlink(missing_ok=True)
    work = {state: "*.safetensors", segments_folder(_video(out)): "[0-9]*.mp4", segments_folder(out / PREVIEW): "[0-9]*.mp4"}
    for folder, pattern in work.items():
        for path in [*folder.glob(pattern), *folder.glob(".*.part")]:
            path.unlink(missing_ok=True)
        _remove_if_empty(folder)


def _video(out: Path) -> Path:
    return out / "videos" / f"{Path(str(described(out).get('clip_id', 'rollout'))).name}.mp4"


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


class FolderLock:
    """Held by one process at a time. The system lets go of it when the process ends, however it ends. The folder is made if it is missing.

    Raises:
        DrivesimError: another process holds it.   OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        while True:  # until the file that was locked is still the one that others find
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+")  # noqa: SIM115  # held until release
            self._lock(folder)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
                    break
            self._file.close()
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _lock(self, folder: Path) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            who = f"another process ({holder})" if holder else "another process"
            raise DrivesimError(f"{folder} is being written by {who}; wait until it ends, or choose another --out") from None
        except OSError:
            return  # a file system without locks: nobody can be kept out there

    def release(self) -> None:
        """Let go, and leave no trace."""
        if not self._file.closed:
            self.path.unlink(missing_ok=True)
            self._file.close()
