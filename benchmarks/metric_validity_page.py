"""Tables and plot of ``metric_validity.py``: how many floors each distance is, by corruption and grade. It measures nothing itself.

result: what ``metric_validity.summary`` gives, metric -> {"floor": ..., corruption: ...}.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from drivesim.eval.corruptions import CORRUPTIONS


def table(result: dict[str, dict]) -> str:
    """Markdown: how many floors each distance is at each grade; bold where it grows with every grade and is seen in all splits."""
    lines = ["| corruption | parameter | grades | " + " | ".join(result) + " |", "|---" * (3 + len(result)) + "|"]
    for kind in ("pictures", "order"):
        floors = [result[metric]["floor"][kind] for metric in result]
        cells = " | ".join(f"{floor['mean']:.3g} ± {floor['sd']:.2g}" for floor in floors)
        lines.append(f"| none: floor of {kind} | | | {cells} |")
    for name, corruption in CORRUPTIONS.items():
        cells = []
        for metric in result:
            row = result[metric][name]
            text = " / ".join(f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in row["floors"])
            cells.append(f"**{text}**" if row["grows"] and row["seen"] else text)
        grades = " / ".join("clip" if grade == 0 and name == "shuffle" else str(grade) for grade in corruption.grades if grade is not None)
        lines.append(f"| {name} | {corruption.parameter if grades else ''} | {grades} | {' | '.join(cells)} |")
    return "\n".join(lines)


def smoke_table(found: dict[tuple[str, int], dict[str, float]], metrics: Sequence[str]) -> str:
    """Markdown: distances of damaged windows from the same windows undamaged, a grade after the other."""
    lines = ["| corruption | " + " | ".join(metrics) + " |", "|---" * (1 + len(metrics)) + "|"]
    for name, corruption in CORRUPTIONS.items():
        grades = range(1, len(corruption.grades) + 1)
        cells = [" / ".join(f"{found[name, grade][metric]:.3g}" for grade in grades) for metric in metrics]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(result: dict[str, dict], out: Path) -> None:
    """How many floors each distance is at each grade, one panel for each kind of distance."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 1, sharex=True), ("frechet", "kernel"), strict=True):
        for metric, colour, shift in ((f"fd_lite0 {kind}", "tab:blue", -0.2), (f"fvd_lite0 {kind}", "tab:orange", 0.2)):
            for place, name in enumerate(CORRUPTIONS):
                floors = np.maximum(result[metric][name]["floors"], 0.1)
                x = place + shift + np.linspace(-0.12, 0.12, len(floors))
                axes.plot(x, floors, "o-", color=colour, markersize=4, label=metric if place == 0 else None)
            floor = result[metric]["floor"]["order"]
            spread = floor["sd"] / floor["mean"]
            axes.axhspan(max(0.1, 1 - spread), 1 + spread, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(yscale="log", ylabel=f"{kind} distance, floors")
        axes.set_xticks(range(len(CORRUPTIONS)), list(CORRUPTIONS))
        axes.legend(frameon=False, loc="upper right")
    figure.suptitle("damaged held-out clips against other drives: three grades each, floor = undamaged (band: deviation over splits)")
    figure.savefig(out, dpi=110)


def between_markers(page: str, name: str, text: str) -> str:
    """The page with what stands between ``<!-- name -->`` and ``<!-- /name -->`` replaced."""
    before, rest = page.split(f"<!-- {name} -->")
    after = rest.split(f"<!-- /{name} -->")[1]
    return f"{before}<!-- {name} -->\n{text}\n<!-- /{name} -->{after}"
