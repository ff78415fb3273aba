"""The picture of a label report: average precision and recall of requested boxes by subset, each side beside the others.

This file knows the report's table only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["plot_labels"]

SUBSETS = {"all": "all", "day": "day", "night": "night", "small": "12-24 px", "medium": "24-48 px", "large": "> 48 px"}
COLOURS = {"held-out": "#4c72b0", "reconstruction": "#8da0cb", "generated": "#dd8452", "chance": "#aaaaaa"}
QUANTITIES = {"ap50": "average precision at an IoU of 0.5", "recall": "recall at the detector's threshold"}


def plot_labels(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report as ``label_report`` gives it into a PNG; bars without boxes are left out, whiskers are intervals over drives."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(QUANTITIES), sharey=True)
    for axis, (quantity, title) in zip(axes, QUANTITIES.items(), strict=True):
        _bars(axis, report["rows"], quantity)
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("share (0 to 1)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), frameon=False, fontsize=9)
    figure.suptitle("Requested vehicles that a detector finds (heights at 128x256)", fontsize=11)
    figure.savefig(path, dpi=110)


def _bars(axis: Any, rows: Sequence[Mapping[str, Any]], quantity: str) -> None:
    there = [who for who in COLOURS if any(row["who"] == who for row in rows)]
    wide = 0.8 / max(len(there), 1)
    for number, who in enumerate(there):
        found = {row["subset"]: row for row in rows if row["who"] == who and row[quantity] is not None}
        names = [name for name in SUBSETS if name in found]
        at = np.array([list(SUBSETS).index(name) for name in names]) + (number - (len(there) - 1) / 2) * wide
        heights = [found[name][quantity] for name in names]
        axis.bar(at, heights, wide, color=COLOURS[who], label=who, yerr=_whiskers(found, names, quantity), error_kw={"linewidth": 1})
    axis.set_xticks(range(len(SUBSETS)), list(SUBSETS.values()))
    axis.set_ylim(0, 1.02)
    axis.grid(axis="y", alpha=0.3)


def _whiskers(found: Mapping[str, Mapping[str, Any]], names: Sequence[str], quantity: str) -> np.ndarray:
    """Lengths below and above each bar, (2, bars)."""
    lengths = np.zeros((2, len(names)))
    for column, name in enumerate(names):
        low, high, value = (found[name][key] for key in (f"{quantity}_low", f"{quantity}_high", quantity))
        if low is not None and high is not None:
            lengths[:, column] = max(value - low, 0.0), max(high - value, 0.0)
    return lengths
