"""A rollout's folder: whether a rollout may be written there, and what in it is ours to replace.

A folder is ours when it holds a rollout.json. This file knows names of files; it does not know what is in them, beyond rollout.json's
state and clip.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from drivesim.errors import UsageError
from drivesim.io.atomic import part_of

__all__ = ["DESCRIPTION", "check_folder", "clear_folder"]

DESCRIPTION = "rollout.json"
OURS = ("dataset.json", "clips.parquet", "frames.parquet", "boxes.parquet", "preview.png", "preview.mp4", "report.html", DESCRIPTION)
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
    described = out / DESCRIPTION
    if not described.is_file():
        if any(out.iterdir()):
            raise UsageError(f"{out} holds files but no rollout; choose a new or empty folder for --out")
        return out
    if not overwrite:
        state = _state(described)
        raise UsageError(f"{out} already holds a rollout ({state}); choose another --out, or pass --overwrite to replace it")
    return out


def _state(described: Path) -> str:
    try:
        found = json.loads(described.read_text(encoding="utf-8"))
        return f"{found['state']}, {found['frames']} of {found['planned_frames']} frames"
    except (OSError, ValueError, KeyError, TypeError):
        return "its rollout.json is unreadable"


def clear_folder(out: Path) -> None:
    """Remove what a recorder wrote there, and nothing else; folders only when that leaves them empty. Not ours: nothing happens."""
    described = out / DESCRIPTION
    if not described.is_file():
        return
    try:
        clip_id = str(json.loads(described.read_text(encoding="utf-8"))["clip_id"])
    except (ValueError, KeyError, TypeError):
        clip_id = "rollout"
    videos = out / "videos"
    video = videos / f"{Path(clip_id).name}.mp4"
    segments = video.with_name(video.name + ".segments")
    ours = [*(out / name for name in OURS), video, *segments.glob("[0-9]" * 6 + ".mp4")]
    for path in [*ours, *map(part_of, ours), *segments.glob(".*.mp4.part")]:
        path.unlink(missing_ok=True)
    if (out / EVALUATION / "result.json").is_file():
        shutil.rmtree(out / EVALUATION)
    for folder in (segments, videos):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
