"""``drivesim data ...``: calls what ``configs/command/data_*.yaml`` names and prints what it returns.

This file knows how results look on a screen, not how clips are made, read or checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drivesim.commands.config import call

__all__ = ["run"]


def run(command: str, flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Run one data command; returns the exit code.

    Args:
        command: ``NAME`` of ``configs/command/data_NAME.yaml``. flags: set first, None = the default. words: ``key=value`` overrides.
    """
    result = call(f"command/data_{command}", flags, words)
    if command == "check":
        return _report(result)
    for line in lines(result):
        print(line)
    return 0


def _report(result: Mapping[str, Any]) -> int:
    """Every fault on a line of its own; 1 when faults are left."""
    for fault in result["found"].values():
        print(fault)
    aside = f", {len(result['set_aside'])} clips set aside" if result["set_aside"] else ""
    print(f"{result['dataset']}: {result['faults'] or 'no'} fault{'s' * (result['faults'] != 1)}{aside}")
    return 1 if result["left"] else 0


def lines(result: Any, indent: str = "") -> list[str]:
    """A summary as text: one ``name: value`` a line, nested ones indented."""
    if not isinstance(result, Mapping):
        return [f"{indent}{line}" for line in str(result).splitlines()]
    found = []
    for name, value in result.items():
        nested = isinstance(value, Mapping)
        found.append(f"{indent}{name}:" if nested else f"{indent}{name}: {_number(value)}")
        found += lines(value, indent + "  ") if nested else []
    return found


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
