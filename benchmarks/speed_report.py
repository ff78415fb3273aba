"""Rows, tables and the plot of ``speed.py``. It knows numbers that were measured; it measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from speed_process import Whole

__all__ = ["lengths_of", "passes_of", "save_plot", "table_of_lengths", "table_of_passes", "table_of_tries", "verdict"]

REAL_TIME = 1.0
"""Seconds of work for a second of video that must not be exceeded."""
MEMORY_MIB, FIRST_SECOND_S = 1.5e9 / 2**20, 10.0


def passes_of(whole: Whole, flop: Mapping[str, float], peak: float) -> list[dict[str, Any]]:
    """One row a pass: seconds, share of the whole; for those whose operations are known also GFLOP, GFLOP/s and share of ``peak``."""
    rows: list[dict[str, Any]] = []
    for name, seconds in whole.passes.items():
        row: dict[str, Any] = {"pass": name, "seconds": seconds, "share": seconds / whole.wall_s}
        if name in flop:
            rate = flop[name] / seconds if seconds else 0.0
            row |= {"gflop": flop[name] / 1e9, "gflop_per_s": rate / 1e9, "share_of_peak": rate / peak}
        rows.append(row)
    seconds, total = sum(row["seconds"] for row in rows if "gflop" in row), sum(flop.values())
    rows.append({"pass": "networks", "seconds": seconds, "share": seconds / whole.wall_s, "gflop": total / 1e9,
                 "gflop_per_s": total / seconds / 1e9, "share_of_peak": total / seconds / peak})  # fmt: skip
    rows.append({"pass": "all", "seconds": whole.wall_s, "share": 1.0})
    return rows


def table_of_passes(found: Mapping[str, Any]) -> str:
    told, peak = found["rollout"], found["peak_flop_per_s"]
    networks = ", ".join(f"{kind} {one['network']} in {one['steps']}" for kind, one in told["passes"].items())
    lines = [f"**{told['settings']['quality']}** ({networks}), {found['video_s']:.0f} s of video, {told['threads']} threads:\n",
             "| pass | seconds | share | GFLOP | GFLOP/s | of the peak |", "|---" * 6 + "|"]  # fmt: skip
    for row in found["passes"]:
        work = f"{row['gflop']:,.0f} | {row['gflop_per_s']:.0f} | {row['share_of_peak']:.0%}" if "gflop" in row else " | | "
        lines.append(f"| {row['pass']} | {row['seconds']:.1f} | {row['share']:.0%} | {work} |")
    rates = " and ".join(f"{rate / 1e9:.0f} ({name})" for name, rate in peak.items())
    system = f"{found['system_s']:.0f} s of it the system's"
    lines.append(f"\nPeak: the larger of {rates} GFLOP/s. Processor time {found['cpu_s']:.0f} s, {system}.")
    return "\n".join([*lines, *_targets(found), ""])


def _targets(found: Mapping[str, Any]) -> list[str]:
    measured = [
        ("seconds a second of video", found["wall_s"] / found["video_s"], REAL_TIME),
        ("first playable second after, s", found["first_second_s"], FIRST_SECOND_S),
        ("peak memory, MiB", found["peak_mib"], MEMORY_MIB),
    ]
    rows = [f"| {what} | {value:.3g} | {most:.3g} | {'met' if value <= most else 'missed'} |" for what, value, most in measured]
    return ["\n| | measured | at most | |", "|---|---|---|---|", *rows]


def lengths_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The straight line through seconds of work over minutes of video, how far runs lie off it, and memory over that of the shortest."""
    if len(runs) < 2:
        return {}
    minutes, seconds = (np.array([run[name] for run in runs]) for name in ("minutes", "wall_s"))
    slope, start = np.polyfit(minutes, seconds, 1)
    off = np.abs(seconds - slope * minutes - start) / seconds
    return {"s_per_minute": float(slope), "start_s": float(start), "farthest_off": float(off.max()),
            "memory_growth": float(runs[-1]["peak_mib"] / runs[0]["peak_mib"])}  # fmt: skip


def table_of_lengths(made: Mapping[str, Any]) -> str:
    lines = ["| minutes | seconds | a second of video | processor s | first playable second after | peak memory |", "|---" * 6 + "|"]
    for run in made["runs"]:
        lines.append(
            f"| {run['minutes']:g} | {run['wall_s']:.1f} | {run['wall_s'] / run['video_s']:.2f} s | {run['cpu_s']:.0f} | "
            f"{run['first_second_s']:.1f} s | {run['peak_mib']:.0f} MiB |"
        )
    if "s_per_minute" in made:
        line = f"{made['start_s']:.1f} s and {made['s_per_minute']:.1f} s for each minute, runs at most {made['farthest_off']:.1%} off that"
        lines.append(f"\n{line}; memory of the longest over the shortest {made['memory_growth']:.2f}.")
    return "\n".join(lines)


def save_plot(made: Mapping[str, Any], path: Path) -> None:
    """Seconds and peak memory over minutes of video, side by side."""
    minutes = np.array([run["minutes"] for run in made["runs"]])
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    work, memory = figure.subplots(1, 2)
    work.plot(minutes, [run["wall_s"] for run in made["runs"]], "o", label="measured")
    reach = np.array([0.0, minutes.max()])
    if "s_per_minute" in made:
        work.plot(reach, made["start_s"] + made["s_per_minute"] * reach, "-", linewidth=1, label="straight line")
    work.plot(reach, 60 * reach, ":", color="grey", label="real time")
    work.set(xlabel="minutes of video", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    work.legend(frameon=False)
    memory.plot(minutes, [run["peak_mib"] for run in made["runs"]], "o-", linewidth=1)
    memory.axhline(MEMORY_MIB, linestyle=":", color="grey")
    memory.set(xlabel="minutes of video", ylabel="peak memory, MiB", xlim=(0, None), ylim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def verdict(low: float, high: float) -> str:
    """Of a ratio of times whose interval is low..high."""
    return "faster" if high < 1 else "slower" if low > 1 else "no difference seen"


def table_of_tries(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| tried | work | time over the default's | | |", "|---" * 5 + "|"]
    for row in rows:
        told = " | "
        if "median" in row:
            told = f"{row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}] | {verdict(row['low'], row['high'])}"
        lines.append(f"| {row['name']} | {row['work']} | {told} | {row.get('note', '')} |")
    return "\n".join(lines)
