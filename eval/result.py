"""What ``drivesim evaluate`` leaves behind: result.json (everything), result.csv (one number a line), and a table for the screen.

This file knows how results are written; it does not know how they are computed.
"""

from __future__ import annotations

import csv
import math
import platform
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import drivesim
from drivesim.errors import DrivesimError
from drivesim.io.atomic import replacing, write_json

from .summary import label_lines, part_lines, part_rows

__all__ = ["FORMAT", "VERSION", "heading", "rows", "table", "write_result"]

FORMAT, VERSION = "drivesim-evaluation", 1
KINDS = ("frechet", "kernel")
BESIDE = ("floor", "ceiling")
PARTS = ("drift", "label_fidelity", "memorisation")
Row = tuple[str, str, float | None, float | None, float | None, int]
"""(protocol, quantity, value, low, high, n)"""


def heading(seconds: float) -> dict[str, Any]:
    """The first entries of result.json: what was run, with what, on what, and for how long."""
    return {
        "format": FORMAT, "version": VERSION, "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "drivesim": drivesim.__version__, "torch": torch.__version__, "machine": _machine(),
        "command": " ".join(sys.argv), "seconds": round(seconds, 3),
    }  # fmt: skip


def write_result(result: Mapping[str, Any], out: Path) -> None:
    """result.json and result.csv under ``out``, each whole or not at all; numbers that are not finite become null.

    Raises:
        DrivesimError: the folder cannot be written.
    """
    try:
        write_json(out / "result.json", _finite(result))
        with replacing(out / "result.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(("protocol", "quantity", "value", "low", "high", "n"))
            lines.writerows(rows(result))
    except OSError as error:
        raise DrivesimError(f"cannot write {out}: {error.strerror or error}; free space or choose another --out") from error


def rows(result: Mapping[str, Any]) -> Iterator[Row]:
    """Every number: (protocol or part, "frechet" | "floor_kernel" | "generated_all_ap50" | ..., value, low, high, n)."""
    for name, part in result["protocols"].items():
        number = min(part["n_real"], part["n_generated"])
        for kind in KINDS:
            yield _row(name, kind, part[kind], number)
        for what in BESIDE:
            if part[what]:
                yield from (_row(name, f"{what}_{kind}", part[what][kind], part[what]["n"]) for kind in KINDS)
        for what, baseline in part["baselines"].items():
            yield from (_row(name, f"{what}_{kind}", baseline[kind], part["n_real"]) for kind in KINDS)
    yield from part_rows(result)


def table(result: Mapping[str, Any]) -> list[str]:
    """Lines for the screen: a line a protocol and distance, then the other parts, then what is weak about any of them."""
    return [*_distances(result), *label_lines(result), *part_lines(result), *_marks(result)]


def _distances(result: Mapping[str, Any]) -> list[str]:
    if not result["protocols"]:
        return []
    header = ("protocol", "distance", "value [95% over drives]", "floor", "ceiling", "frozen", "N")
    body = [line for name, part in result["protocols"].items() for line in _lines(name, part)]
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [header, *body]]


def _marks(result: Mapping[str, Any]) -> list[str]:
    marks = [f"! {mark}" for mark in result["marks"]]
    marks += [f"! {name}: {mark}" for name, part in result["protocols"].items() for mark in part["marks"]]
    return marks + [f"! {mark}" for part in PARTS if result.get(part) for mark in result[part].get("marks", ())]


def _lines(name: str, part: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    number = f"{part['n_real']}" if part["n_real"] == part["n_generated"] else f"{part['n_real']} / {part['n_generated']}"
    for kind in KINDS:
        beside = [_number((part[what] or {}).get(kind)) for what in BESIDE]
        frozen = _number(part["baselines"].get("frozen", {}).get(kind))
        yield (name if kind == KINDS[0] else "", kind.capitalize(), _interval(part[kind]), *beside, frozen, number)


def _row(protocol: str, quantity: str, interval: Mapping[str, Any], number: int) -> Row:
    return protocol, quantity, interval["value"], interval["low"], interval["high"], number


def _number(interval: Mapping[str, Any] | None) -> str:
    return "-" if interval is None or interval["value"] is None else _short(interval["value"])


def _interval(interval: Mapping[str, Any]) -> str:
    if interval["value"] is None:
        return "refused"
    if interval["low"] is None or interval["high"] is None:
        return f"{_short(interval['value'])} [unknown]"
    return f"{_short(interval['value'])} [{_short(interval['low'])}, {_short(interval['high'])}]"


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"


def _finite(content: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has no words for."""
    if isinstance(content, Mapping):
        return {str(name): _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _machine() -> str:
    return f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads, Python {platform.python_version()}"
