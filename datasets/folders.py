"""Output folders that appear whole or not at all: filled beside their place, then renamed. Knows paths, not what is in them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivesim.errors import DrivesimError

__all__ = ["new_folder"]


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; when the block ends well it becomes ``out``, when it raises nothing is left of it.

    Raises:
        DrivesimError: ``out`` exists and is not an empty folder, or cannot be written.
    """
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DrivesimError(f"{out} already exists and is not empty; choose another folder or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{out.name}.part-", dir=out.parent))
    except OSError as error:
        raise DrivesimError(f"cannot write {out}: {error.strerror}; choose another folder") from error
    try:
        (workplace / "new").mkdir()
        yield workplace / "new"
        if out.exists():
            out.rmdir()
        os.replace(workplace / "new", out)
    except OSError as error:
        raise DrivesimError(f"cannot write {out}: {error.strerror or error}; free space or choose another folder") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
