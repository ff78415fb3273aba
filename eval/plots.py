"""The plot of a comparison: each protocol's distances beside their floor, ceiling and baselines, with intervals.

This file draws a result; it computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drivesim.io.atomic import replacing

__all__ = ["plot_distances"]

COLOURS = {"generated": "tab:blue", "frozen": "tab:orange", "ceiling": "tab:green", "floor": "tab:gray"}
TITLES = {"frechet": "Frechet distance", "kernel": "kernel distance (unbiased MMD², no unit)"}


def plot_distances(result: Mapping[str, Any], path: Path) -> None:
    """One row of panels a protocol, Frechet distance left, kernel distance right; written to ``path`` as PNG, 1440 pixels wide."""
    protocols = result["protocols"]
    figure = Figure(figsize=(12, 0.8 + 1.9 * len(protocols)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(protocols), 2, squeeze=False)
    for row, (name, part) in zip(panels, protocols.items(), strict=True):
        for panel, kind in zip(row, TITLES, strict=True):
            _panel(panel, _points(part, kind))
            panel.set_xlabel(TITLES[kind])
        row[0].set_title(f"{name}, N = {min(part['n_real'], part['n_generated'])}", loc="left", fontsize=10)
    with replacing(path) as part_of_file:
        figure.savefig(part_of_file, format="png")


def _points(part: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    """Name -> interval, from top to bottom."""
    found = {"generated": part[kind], **{name: values[kind] for name, values in part["baselines"].items()}}
    found |= {what: part[what][kind] for what in ("ceiling", "floor") if part[what]}
    return found


def _panel(panel: Axes, points: Mapping[str, Mapping[str, Any]]) -> None:
    for height, (name, interval) in enumerate(reversed(list(points.items()))):
        value, low, high = (interval[key] for key in ("value", "low", "high"))
        if value is None:
            panel.text(0.01, height, "refused", transform=panel.get_yaxis_transform(), va="center", color="tab:red")
            continue
        reach = [[max(0.0, value - low)], [max(0.0, high - value)]] if low is not None and high is not None else None
        panel.errorbar([value], [height], xerr=reach, fmt="o", capsize=4, color=COLOURS.get(name, "tab:purple"))
    panel.set_yticks(range(len(points)), list(points)[::-1])
    panel.set_ylim(-0.6, len(points) - 0.4)
    panel.axvline(0, color="black", linewidth=0.6)
    panel.grid(axis="x", alpha=0.3)
