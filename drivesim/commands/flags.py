"""What every command's flags are made of: options whose defaults live in configs/, and ``key=value`` words."""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = ["Words", "flag"]

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the command's configuration.", show_default=False)
]


def flag(default: str, text: str, *names: str, **more: Any) -> Any:
    """An option whose default lives in configs/: the help shows it, and None here means "not given"."""
    return typer.Option(*names, help=f"{text}  [default: {default}]", show_default=False, **more)
