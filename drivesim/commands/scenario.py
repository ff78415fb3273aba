"""``drivesim scenario ...``: calls what ``configs/command/scenario_*.yaml`` names and prints what it returns.

This file knows how results look on a screen, not how scenarios are made, sampled or drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drivesim.commands.config import call
from drivesim.commands.data import lines

__all__ = ["run"]


def run(command: str, flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Run one scenario command; returns the exit code.

    Args:
        command: ``NAME`` of ``configs/command/scenario_NAME.yaml``. flags: set first, None = the default. words: ``key=value`` overrides.
    """
    for line in lines(call(f"command/scenario_{command}", flags, words)):
        print(line)
    return 0
