"""What label fidelity, drift and memorisation come to in a few lines, and their rows of result.csv.

This file reads the parts of result.json; it does not know how they were computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["label_lines", "part_lines", "part_rows"]

Result = Mapping[str, Any]
Row = tuple[str, str, float | None, float | None, float | None, int]
WHOS = ("generated", "held-out", "reconstruction", "chance")
ALONE = ("false_per_empty_frame", "time_of_day_agreement", "crowdedness_correlation")


def label_lines(result: Result) -> list[str]:
    """AP50 and recall of whoever was judged, all boxes and each subset of them; then the figures without boxes."""
    part = result.get("label_fidelity")
    if not part:
        return []
    subsets = list(dict.fromkeys(row["subset"] for row in part["rows"]))
    found = {(row["who"], row["subset"]): row for row in part["rows"]}
    lines = [f"{'AP50 / recall of requested boxes':34}" + "".join(f"{who:16}" for who in WHOS)]
    for subset in subsets:
        cells = [found.get((who, subset)) for who in WHOS]
        lines.append(f"  {subset:32}" + "".join(f"{_pair(row):16}" for row in cells).rstrip())
    for name in ALONE:
        values = [part.get(key) for key in (name, f"{name}_held_out", f"{name}_reconstruction")]
        lines.append(f"  {name.replace('_', ' '):32}" + "".join(f"{_number(value):16}" for value in values).rstrip())
    return lines


def part_lines(result: Result) -> list[str]:
    """A line on drift and one on memorisation."""
    lines = []
    drift, memory = result.get("drift"), result.get("memorisation")
    if drift:
        span = f"drift, last {drift.get('span_s', 60):g} s less first"
        told = [f"{kind} {_interval(value)}" for kind, value in drift["last_minus_first"].items()]
        events = [f"{len(found)} {kind}" for kind, found in drift["events"].items() if isinstance(found, list)]
        lines.append(f"{span}: {', '.join(told)}; {', '.join(events)}")
    if memory:
        below, expected = memory["fraction_below_p5"], memory.get("expected", 0.05)
        lines.append(f"memorisation: {below:.1%} of clips are nearer to a training clip than 95% of test clips ({expected:.0%} expected)")
    return lines


def part_rows(result: Result) -> Iterator[Row]:
    """(part, quantity, value, low, high, n): n counts boxes, frames or clips, whichever the quantity is of."""
    for name, reader in (("label_fidelity", _label_rows), ("drift", _drift_rows), ("memorisation", _memory_rows)):
        if result.get(name):
            yield from reader(result[name])


def _label_rows(part: Result) -> Iterator[Row]:
    for row in part["rows"]:
        for name in ("ap50", "recall"):
            yield "labels", f"{row['who']}_{row['subset']}_{name}", row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), row["boxes"]
    frames = max((row["frames"] for row in part["rows"]), default=0)
    for name in ALONE:
        yield "labels", name, part.get(name), None, None, frames


def _drift_rows(part: Result) -> Iterator[Row]:
    for kind, value in part["last_minus_first"].items():
        yield "drift", f"last_minus_first_{kind}", value["value"], value["low"], value["high"], int(part.get("clips", 0))


def _memory_rows(part: Result) -> Iterator[Row]:
    interval = part.get("interval") or {}
    yield ("memorisation", "fraction_below_p5", part["fraction_below_p5"], interval.get("low"), interval.get("high"),
           part.get("n", {}).get("generated", 0))  # fmt: skip


def _pair(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{_number(row['ap50'], 2)} / {_number(row['recall'], 2)}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _interval(interval: Mapping[str, Any]) -> str:
    if interval["value"] is None:
        return "unknown"
    known = all(bound is not None and math.isfinite(bound) for bound in (interval["low"], interval["high"]))
    return f"{interval['value']:.4g} [" + (f"{interval['low']:.4g}, {interval['high']:.4g}]" if known else "unknown]")
