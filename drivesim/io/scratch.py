"""Folders for files on their way to a place: hidden, told whose they are by their name, and gone with the block or its process.

    .unfinished-<where>-<pid>-<random>

A process that is killed leaves its folder to the next one that comes there. <where> stands for the machine since it was started and its
numbering of processes, so that of two containers of one name neither takes the other's processes for dead. This file does not know what is
in the folders.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["scratch_folder", "sweep"]

PREFIX = ".unfinished-"
NAME = re.compile(re.escape(PREFIX) + r"(?:(?P<where>[0-9a-f]{12})-(?P<pid>\d+)-)?[a-z0-9_]{8}")
"""Earlier versions did not tell whose a folder is."""
FORGOTTEN_S = 7 * 24 * 3600.0
"""A folder of an owner that cannot be asked after is given up when nothing was written in it for so long. Whoever makes clips writes frames
every few seconds."""


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in ``parent`` (None = that of the system for such), after those that dead processes left there were removed; it goes
    with the block. Raises OSError."""
    beside = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(beside)
    prefix = f"{PREFIX}{_here()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=beside, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def sweep(parent: Path) -> list[str]:
    """Remove the folders in ``parent`` whose owners are certainly dead: processes of this machine that are gone, and what was forgotten.
    Returns their names."""
    found = []
    with suppress(OSError):
        found = [path for path in parent.iterdir() if NAME.fullmatch(path.name) and not path.is_symlink() and _is_left(path)]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)  # another one may be sweeping, too
    return sorted(path.name for path in found)


def _is_left(folder: Path) -> bool:
    told = NAME.fullmatch(folder.name)
    if told is not None and told["where"] == _here() and sys.platform != "win32":  # os.kill ends the process there
        return not _lives(int(told["pid"]))
    return time.time() - _last_written(folder) > FORGOTTEN_S


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process, or no number of one: not certainly dead
        return True
    return True


def _last_written(folder: Path) -> float:
    """Seconds since 1970. What cannot be looked at counts as written now."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:
        return time.time()


def _here() -> str:
    """12 hex digits: the same for processes that see each other by their numbers, and for no others."""
    told = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            told.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text())
        except OSError:
            told.append(str(uuid.getnode()))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
