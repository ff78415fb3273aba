"""The errors a user is meant to see: one sentence that names the bad thing and the mend. The roof prints them without a traceback."""

from __future__ import annotations

__all__ = ["DrivesimError", "UsageError"]


class DrivesimError(Exception):
    """Something failed for a reason the user can act on (exit code 1)."""


class UsageError(DrivesimError):
    """The command itself was wrong: an unknown flag, a value out of range (exit code 2)."""
