"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed over it.

This file knows paths and bytes. It does not know what is in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["part_of", "publish", "replacing", "write_json"]


def part_of(path: Path) -> Path:
    """Where the unfinished form of ``path`` lies: the same folder, so that the rename cannot cross file systems."""
    return path.with_name(f".{path.name}.part")


def publish(part: Path, path: Path) -> None:
    """Flush ``part`` to the disk and let it take the place of ``path``."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well it becomes ``path``, when it raises nothing is left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        yield part
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, indented, in the given order."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
