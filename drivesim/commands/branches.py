"""``drivesim rollout --branches N``: one folder for each future, and a sheet that shows them under each other.

Every branch is a rollout like any other, made by the same command with ``branch=K``. This file does not know how one is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from drivesim.commands.config import as_override
from drivesim.errors import UsageError
from drivesim.io.atomic import write_json
from drivesim.simulation.edits.branches import branch_sheet

__all__ = ["DESCRIPTION", "begun_with", "run_branches"]

DESCRIPTION = "branches.json"


def begun_with(out: Path) -> dict[str, Any] | None:
    """Settings by dotted key that the branches in ``out`` were asked for with; None where there are none.

    Raises:
        UsageError: they cannot be read.
    """
    if not (out / DESCRIPTION).is_file():
        return None
    try:
        return dict(json.loads((out / DESCRIPTION).read_text(encoding="utf-8"))["asked"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out / DESCRIPTION}: unreadable ({type(error).__name__}); choose another --out") from error


def run_branches(
    config: DictConfig, asked: Mapping[str, Any], out: Path, run: Callable[[Mapping[str, Any], Sequence[str]], int]
) -> int:  # fmt: skip
    """Make ``config.branches`` rollouts in ``out``/branch_1, ...; returns the exit code.

    Args:
        asked: every setting, by dotted key. run: makes one rollout of flags and words.

    Raises:
        UsageError: ``out`` holds something else.
    """
    count, begun = int(config.branches), begun_with(out)
    names = [f"branch_{number}" for number in range(1, count + 1)]
    strangers = sorted({path.name for path in out.iterdir()} - {DESCRIPTION, "branches.png", *names}) if out.is_dir() else []
    if strangers:
        raise UsageError(f"{out} holds {strangers[0]}, which is none of {count} branches; choose a new or empty folder for --out")
    if begun is not None and not (config.resume or config.overwrite):
        raise UsageError(f"{out} already holds branches; go on with --resume, choose another --out, or pass --overwrite to replace them")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DESCRIPTION, {"format": "drivesim-branches", "version": 1, "branches": names, "asked": dict(asked)})
    folders = [out / name for name in names]
    for number, folder in enumerate(folders, 1):
        print(f"branch {number} of {count}:")
        own = {"out": folder, "overwrite": bool(config.overwrite), "resume": bool(config.resume), "branch": number}
        code = run({}, [as_override(name, value) for name, value in {**asked, **own}.items()])
        if code:
            return code
    at_s = _parting(folders)
    branch_sheet(folders, at_s, out / "branches.png")
    print(f"{count} futures, the same until {at_s:.1f} s: {out / 'branches.png'}")
    return 0


def _parting(folders: Sequence[Path]) -> float:
    """Where the last branch parts, as its rollout.json says."""
    told = json.loads((folders[-1] / "rollout.json").read_text(encoding="utf-8"))
    return float(told["scenario"]["branch"]["at_s"])
