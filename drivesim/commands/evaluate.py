"""``drivesim evaluate``: calls what ``configs/command/evaluate.yaml`` names, prints its table and where the result lies.

This file knows how a result looks on a screen, not how clips are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drivesim.commands.config import as_override, call

__all__ = ["run"]


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Judge and print; returns the exit code.

    Args:
        flags: by the names of ``configs/command/evaluate.yaml``, None = not given; several values as a list.
        words: ``key=value`` overrides, applied after them.

    Raises:
        UsageError: a value that cannot be.   DrivesimError: whatever the parts raise.
    """
    given = [_word(name, value) for name, value in flags.items() if value is not None and value != []]
    result = call("command/evaluate", {}, [*given, *words])
    for line in result["table"]:
        print(line)
    print(f"result: {result['out']}")
    return 0


def _word(name: str, value: Any) -> str:
    """One ``key=value`` word; several values as a list, each quoted."""
    if not isinstance(value, list | tuple):
        return as_override(name, value)
    return f"{name}=[" + ",".join(as_override("", entry)[1:] for entry in value) + "]"
