"""The plot of drift: both distances and every signal over the minutes, one panel each, with what happened marked in the first.

This file draws a report; it computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from drivesim.io.atomic import replacing

__all__ = ["plot_drift"]

DISTANCES = {"kernel": "kernel distance to real frames\n(unbiased MMD², no unit)", "frechet": "Frechet distance to real frames"}
UNITS = {
    "brightness": "brightness\n(mean luma, 0..1)",
    "sharpness": "sharpness\n(variance of the Laplacian)",
    "colourfulness": "colourfulness (M3)",
    "saturation": "saturation (0..1)",
    "exposure": "exposure\n(log-average luma, 0..1)",
    "temporal_difference": "temporal difference\n(mean change a frame, 0..1)",
    "flow_magnitude": "optical flow\n(frame widths a frame)",
}
COLUMNS = 3
EVENTS = {"freezes": "tab:cyan", "cuts": "tab:red", "repeats": "tab:purple"}


def plot_drift(report: Mapping[str, Any], path: Path) -> None:
    """Write ``path`` as PNG, 1560 pixels wide. Bands: 5% to 95% of the clips (blue) and of the real drives (grey)."""
    names = [*DISTANCES, *report["signals"]]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(13, 0.6 + 2.5 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel, name in zip(panels, names, strict=False):
        if name in DISTANCES:
            _distance(panel, report, name)
        else:
            _signal(panel, report["signals"][name])
        panel.set_ylabel({**DISTANCES, **UNITS}.get(name, name), fontsize=8)
        panel.set_xlabel("time in the clip (s)", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.3)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    _mark_events(panels[0], report["events"])
    figure.suptitle(f"clips: {report['clips']}, bins of {report['rules']['bin_s']:g} s, {report['network']['name']}", fontsize=10)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _distance(panel: Axes, report: Mapping[str, Any], name: str) -> None:
    bins = report["bins"]
    panel.plot([(row["start_s"] + row["end_s"]) / 2 for row in bins], [row[name] for row in bins], "o-", markersize=3, color="tab:blue")
    change = report["last_minus_first"][name]
    known = "unknown" if not np.isfinite([change["low"], change["high"]]).all() else f"{change['low']:.3g}, {change['high']:.3g}"
    panel.set_title(f"last minus first {report['span_s']:g} s: {change['value']:.3g} [{known}]", fontsize=8)
    panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))


def _signal(panel: Axes, signal: Mapping[str, Any]) -> None:
    times = signal["times_s"]
    real = signal["real"]
    panel.fill_between(times, signal["low"], signal["high"], alpha=0.25, color="tab:blue", linewidth=0)
    panel.plot(times, signal["mean"], color="tab:blue", label="generated")
    panel.axhline(real["mean"], color="black", linestyle="--", linewidth=1, label="real")
    if np.isfinite([real["low"], real["high"]]).all():
        panel.axhspan(real["low"], real["high"], color="grey", alpha=0.15, linewidth=0)
    panel.set_title(f"last over first: {signal['last_over_first']['value']:.3g}", fontsize=8)
    panel.legend(fontsize=7, loc="best")


def _mark_events(panel: Axes, events: Mapping[str, Any]) -> None:
    """Stretches and moments along the lower edge; the legend counts them."""
    for place, (kind, colour) in enumerate(EVENTS.items()):
        height = 0.02 + 0.04 * place
        for row in events[kind]:
            start, end = (row["time_s"],) * 2 if kind == "cuts" else (row["start_s"], row["end_s"])
            panel.plot([start, end], [height] * 2, transform=panel.get_xaxis_transform(), color=colour, marker="|", linewidth=3)
        panel.plot([], [], color=colour, linewidth=3, label=f"{len(events[kind])} {kind}")
    panel.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0.0, 0.16))
