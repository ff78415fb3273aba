"""``drivesim report``: calls what ``configs/command/report.yaml`` names, says where the page lies and what is missing in it.

This file does not know how a page is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drivesim.commands.config import as_override, call

__all__ = ["run"]


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Write one page; returns the exit code.

    Args:
        flags: by the names of ``configs/command/report.yaml``, None = the default; ``folders`` is a list. words: ``key=value`` overrides.

    Raises:
        UsageError: a folder or size that cannot be.   DrivesimError: whatever the parts raise.
    """
    folders = "folders=[" + ",".join(as_override("", folder)[1:] for folder in flags.get("folders") or []) + "]"
    others = {name: value for name, value in flags.items() if name != "folders"}
    result = call("command/report", others, [folders, *words])
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"{result['out']}: {result['clips']} clip{'s' * (result['clips'] != 1)}, {result['mb']:.1f} MiB, open it in any browser")
    return 0
