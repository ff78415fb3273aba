"""The plots of mini_quality: what label guidance buys and costs, and the drift of two versions in one picture. It computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drivesim.io.atomic import replacing

__all__ = ["plot_before_after", "plot_guidance"]

TITLES = {
    "kernel": "kernel distance to recorded frames", "sharpness": "sharpness (variance of the Laplacian)",
    "flow_magnitude": "optical flow (frame widths a frame)", "saturation": "saturation (0 to 1)",
}  # fmt: skip
COLOURS = ("tab:orange", "tab:blue")


def plot_guidance(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A point for each guidance scale, joined by what guidance is about: AP50 of requested boxes over the distance of frames, with
    intervals over drives. A scale of 1 is no guidance, and begins every line."""
    figure = Figure(figsize=(6.5, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    none = [row for row in rows if row["label_guidance"] == 1]
    for number, about in enumerate(dict.fromkeys(row["guided_labels"] for row in rows)):
        colour = f"C{number}"
        line = [*none, *(row for row in rows if row["guided_labels"] == about and row["label_guidance"] != 1)]
        across, up = [row["frechet"] for row in line], [row["figures"]["ap50"] for row in line]
        places = [[interval["value"] for interval in side] for side in (across, up)]
        axes.plot(*places, color=colour, linewidth=1, label=f"about {about.replace('+', ' and ')}")
        for row, x, y in zip(line, across, up, strict=True):
            axes.errorbar(x["value"], y["value"], xerr=_reach(x), yerr=_reach(y), fmt="o", capsize=3, color=colour)
            axes.annotate(f"{row['label_guidance']:g}", (x["value"], y["value"]), textcoords="offset points", xytext=(6, 6))
    axes.set_xlabel(f"Frechet distance of frames to recordings (fd_lite0, N = {min(row['n'] for row in rows)}); less is better")
    axes.set_ylabel("AP50 of requested boxes; more is better")
    axes.set_title("label guidance, by its scale", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _reach(interval: Mapping[str, Any]) -> np.ndarray | None:
    """Lengths below and above the value, (2, 1); None where the interval is unknown."""
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    return None if low is None or high is None or np.isnan([low, high]).any() else np.maximum([[value - low], [high - value]], 0)


def plot_before_after(sides: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Drift of each side (name -> what ``long`` found of all its rollouts), the later one last: distance, sharpness, flow, saturation."""
    figure = Figure(figsize=(11, 6.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(2, 2).flatten(), TITLES, strict=True):
        for (who, found), colour in zip(sides.items(), COLOURS, strict=False):
            _line(axes, found, name, f"{who}, {found['clips']} rollouts", colour)
        if name != "kernel":
            _recorded(axes, list(sides.values())[-1]["signals"][name]["real"])
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_xlabel("time in the rollout (s)", fontsize=8)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _line(axes: Axes, found: Mapping[str, Any], name: str, label: str, colour: str) -> None:
    if name == "kernel":
        bins = found["bins"]
        axes.plot([(row["start_s"] + row["end_s"]) / 2 for row in bins], [row["kernel"] for row in bins], "o-", markersize=3, color=colour,
                  label=label)  # fmt: skip
        return
    signal = found["signals"][name]
    low, high = (np.array(signal[part], float) for part in ("low", "high"))  # None, where a band is unknown, becomes NaN
    axes.plot(signal["times_s"], signal["mean"], color=colour, label=label)
    axes.fill_between(signal["times_s"], low, high, alpha=0.2, color=colour, linewidth=0)


def _recorded(axes: Axes, real: Mapping[str, Any]) -> None:
    axes.axhline(real["mean"], color="black", linestyle="--", linewidth=1, label="recorded")
    if real["low"] is not None and real["high"] is not None:
        axes.axhspan(real["low"], real["high"], color="grey", alpha=0.15, linewidth=0)
