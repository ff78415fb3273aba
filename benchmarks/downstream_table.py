"""The tables, the plot and the page of ``downstream.py``: means over seeds and differences taken seed by seed.

Both sides of a difference had the same labelled drives, first weights and exam. Intervals are Student's, 95%, over seeds, each of which
draws other drives: they say how much the choice of labelled clips and the training matter, and nothing of other test drives. This file
knows results, no network and no clip.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations_table import spread
from downstream_arms import ARMS, CHOSEN, COMPARISONS, SHOWN, WAYS, nights_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drivesim.errors import UsageError

__all__ = ["TARGET", "page", "plot", "rows_of", "sentence", "tabled"]

TARGET = 3.0
"""Points of average precision by night, with the fewest labelled drives, over plain augmentation."""
SAME = ("split", "data", "held_out", "most", "steps", "extra", "extra_frames", "size", "generator", "network", "exams")
LIGHTS = ("all", "day", "night")
PAGE = """# Does training on generated clips help?

**{sentence}**

{machine}, {processor}, {date}; {runs} trainings, judging included, took {minutes:.0f} minutes of processor time. N labelled drives of
`{data}`, a quarter of them by night ({nights}), are drawn anew by each seed: {seeds}, and
fewer for arms that stand beside. M = {extra} generated clips ({extra_frames} frames in all, half of the clips by night, 1 to 12 vehicles
asked for) were made by the shipped `mini` ({generator}) with its defaults. A small detector ({weights}, {height}x{width} pixels) begins
from random weights and takes {steps} steps of {batch} frames in every arm.

```console
{commands}
```

AP50 in points: vehicles of at least 12 of 128 pixels, as `drivesim evaluate` judges them. ± is the 95% interval over seeds.

{tables}

![AP50 by day and by night over the number of labelled drives, and the differences to plain augmentation]({plot})

## Differences, seed by seed

{differences}

## How generated frames are mixed in

{ways}

## What this does and does not say

- The detector that judges generated video elsewhere (docs/model-card-detector.md) played no part: it filtered no clip and gave no figure.
- `mini` and its track bank, from which the boxes of generated clips are sampled, were made with all train drives of `{data}`, pixels and
  boxes. A generated clip may carry what the N drives do not hold: N labelled clips and a generator that saw them alone would have less.
- Added simulated clips are all train drives that no N holds, with about as many frames in all as were generated: what as much more
  recording would bring.
- The test drives of `{held_out}` were seen by nobody. Recorded clips of `real, seen by the generator` were among what `mini` was trained
  on. All recorded boxes are another detector's, by day, and few: a warning lamp, no benchmark.
- Steps are few, so that one core can train all of it, and what is spent on generated frames is not spent on labelled ones. The detectors
  would go on learning, and longer training may rank the arms otherwise.{longer} Where more simulated clips bring nothing either, steps
  are what is short and not clips.
- Intervals are over seeds, which draw other drives (with few, one drive by night decides), and not over test drives.{power}
"""


def rows_of(work: Path) -> list[dict[str, Any]]:
    """What single runs say.

    Raises:
        UsageError: there are none, or they are not of one kind.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "results").glob("*.json"))]
    if not found:
        raise UsageError(f"{work} holds no finished run; make some with: downstream.py run --data CLIPS --generated CLIPS --work {work}")
    for name in SAME:
        kinds = {json.dumps(row[name], sort_keys=True) for row in found}
        if len(kinds) > 1:
            raise UsageError(f"results in {work} differ in {name}: {', '.join(sorted(kinds))}; a table needs one --work for each")
    return found


def tabled(
    rows: Sequence[Mapping[str, Any]], tried: Sequence[Mapping[str, Any]] = (), longer: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Everything that is shown, as plain values. tried: of the validation split.   longer: of more steps."""
    first = rows[0]
    told = {name: first[name] for name in (*SAME, "machine", "processor", "date")}
    return {
        **told, "values": _values(rows), "reached": _reached(rows, SHOWN), "differences": _differences(rows),
        "ways": _reached(tried, ("augmented", *WAYS)), "tried": _values(tried),
        "longer": {"steps": longer[0]["steps"], "differences": _differences(longer)} if longer else None, "runs": len(rows),
        "cpu_min": sum(sum(row["cpu_s"].values()) for row in rows) / 60,
    }  # fmt: skip


def _values(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("arm", "count", "seed", "ap50", "frames", "cpu_s")} for row in rows]


def _by_seed(rows: Sequence[Mapping[str, Any]], arm: str, count: int, exam: str, light: str) -> dict[int, float]:
    """Seed -> AP50 in points, where something was asked for."""
    mine = [row for row in rows if row["arm"] == arm and row["count"] == count]
    found = {row["seed"]: row["ap50"][exam][light] for row in mine}
    return {seed: 100 * value for seed, value in found.items() if value is not None}


def _places(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str]]:
    """(count, exam, light), few drives first."""
    counts, exams = sorted({row["count"] for row in rows}), list(rows[0]["ap50"]) if rows else []
    return [(count, exam, light) for exam in exams for count in counts for light in LIGHTS]


def _reached(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
    cells = []
    for count, exam, light in _places(rows):
        for arm in arms:
            if found := _by_seed(rows, arm, count, exam, light):
                cells.append({"arm": arm, "count": count, "exam": exam, "light": light, **asdict(spread(list(found.values())))})
    return cells


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    cells = []
    for count, exam, light in _places(rows):
        for arm, other in COMPARISONS:
            first, second = (_by_seed(rows, name, count, exam, light) for name in (arm, other))
            if seeds := sorted(set(first) & set(second)):
                found = spread([first[seed] - second[seed] for seed in seeds])
                cells.append({"arm": arm, "other": other, "count": count, "exam": exam, "light": light, **asdict(found)})
    return cells


# what is shown


def sentence(content: Mapping[str, Any]) -> str:
    """What the target asks, in words: by night, simulated, with the fewest drives first. A change whose interval holds zero is no gain."""
    at, whole = (_over_augmented(content, light) for light in ("night", "all"))
    counts = sorted(count for arm, count in at if arm == CHOSEN)
    if not counts:
        return "Not measured yet."
    told = [f"{_change(at[CHOSEN, count])} points with {count} labelled drives" for count in counts]
    by_night = f"By night, over plain augmentation, generated clips change AP50 by {', '.join(told)} (target: {TARGET:+g} with the fewest)."
    together = ", ".join(_change(whole[CHOSEN, count]) for count in counts)
    more = [f"{_change(at['simulated', count])} with {count}" for count in counts if ("simulated", count) in at]
    beside = f" As many more simulated clips change it by {', '.join(more)}." if more else ""
    return f"{_verdict(at[CHOSEN, counts[0]])} {by_night} By day and night together it is {together}.{beside}"


def _over_augmented(content: Mapping[str, Any], light: str) -> dict[tuple[str, int], Mapping[str, Any]]:
    """(arm, count) -> its difference to plain augmentation on simulated frames."""
    mine = (cell for cell in content["differences"] if (cell["exam"], cell["light"], cell["other"]) == ("simulated", light, "augmented"))
    return {(cell["arm"], cell["count"]): cell for cell in mine}


def _verdict(cell: Mapping[str, Any]) -> str:
    """Yes: the target is met. What is below it, or may be nothing, has other words."""
    low, high = cell["mean"] - cell["half"], cell["mean"] + cell["half"]
    if low > 0:
        met = "Yes, the target is met." if low >= TARGET else "Yes, the target is met in the mean; the interval reaches below it."
        return met if cell["mean"] >= TARGET else "A little: the target is missed."
    return "No, it hurts: the target is missed." if high < 0 else "No gain was found: the target is missed."


def _power(content: Mapping[str, Any]) -> str:
    """Whether this many seeds could have shown a gain of the size of the target."""
    cells = {count: cell for (arm, count), cell in _over_augmented(content, "night").items() if arm == CHOSEN}
    wide = [f"± {cell['half']:.1f} at N = {count}" for count, cell in sorted(cells.items()) if cell["half"] > TARGET]
    return f" By night\n  they are {', '.join(wide)}: a gain of {TARGET:g} points could not have been told from none there." if wide else ""


def _change(cell: Mapping[str, Any]) -> str:
    if not math.isfinite(cell["half"]):
        return f"{cell['mean']:+.1f} (one seed)"
    said = f"{cell['mean']:+.1f} ± {cell['half']:.1f}"
    return said if abs(cell["mean"]) > cell["half"] else f"{said} (may be nothing)"


def _cell(found: Mapping[str, Any] | None, sign: str = "") -> str:
    if found is None:
        return ""
    half = found["half"]
    return f"{found['mean']:{sign}.1f}" + (f" ± {half:.1f}" if half is not None and math.isfinite(half) else " (one seed)")


def _grid(cells: Sequence[Mapping[str, Any]], exam: str, titles: Mapping[tuple[str, ...], str], sign: str = "") -> str:
    """Rows of arms (arm,) or pairs of them (arm, other), columns of counts and lights."""
    mine, names = [cell for cell in cells if cell["exam"] == exam], ("arm", "other")
    if all(cell["light"] != "night" for cell in mine):
        mine = [cell for cell in mine if cell["light"] == "all"]  # nothing is known by night: all is day
    columns = sorted({(cell["count"], LIGHTS.index(cell["light"])) for cell in mine})
    titled = [f"N = {count}, {LIGHTS[light]}" for count, light in columns]
    lines = [f"| {exam} | {' | '.join(titled)} |", "|---" * (len(columns) + 1) + "|"]
    for key, title in titles.items():
        row = {(cell["count"], LIGHTS.index(cell["light"])): cell for cell in mine
               if tuple(cell[name] for name in names if name in cell) == key}  # fmt: skip
        if row:
            lines.append(f"| {title} | " + " | ".join(_cell(row.get(column), sign) for column in columns) + " |")
    return "\n".join(lines)


def page(content: Mapping[str, Any], plot_at: str, commands: str) -> str:
    """The Markdown page."""
    exams, network, size = list(content["exams"]), content["network"], content["size"]
    arms: dict[tuple[str, ...], str] = {(name,): ARMS[name].about for name in SHOWN}
    pairs: dict[tuple[str, ...], str] = {(arm, other): f"{arm} - {other}" for arm, other in COMPARISONS}
    counts = sorted({row["count"] for row in content["values"]})
    asked = {exam: "{frames} frames, drives: {drives}, boxes: {boxes}".format(**content["exams"][exam]) for exam in exams}
    told = {name: content[name] for name in ("machine", "processor", "date", "runs", "extra", "extra_frames", "data", "steps")}
    return PAGE.format(
        sentence=sentence(content), plot=plot_at, commands=commands, minutes=content["cpu_min"], generator=content["generator"][:8],
        nights=", ".join(f"{nights_of(count)} of {count}" for count in counts),
        seeds=", ".join(f"{_seeds(content, count)} at N = {count}" for count in counts),
        weights=f"{network['weights'] / 1e6:.2f}M weights", batch=network["batch"], **size, held_out="`, `".join(content["held_out"]),
        tables="\n\n".join(f"{exam}, {asked[exam]}:\n\n{_grid(content['reached'], exam, arms)}" for exam in exams),
        differences="\n\n".join(_grid(content["differences"], exam, pairs, "+") for exam in exams), ways=_ways(content),
        power=_power(content), longer=_longer(content), **told,
    )  # fmt: skip


def _seeds(content: Mapping[str, Any], count: int) -> int:
    """Most of any arm."""
    return max(Counter(row["arm"] for row in content["values"] if row["count"] == count).values())


def _ways(content: Mapping[str, Any]) -> str:
    if not content["ways"]:
        return "Only one way was run."
    grid = _grid(content["ways"], "simulated", {(name,): ARMS[name].about for name in ("augmented", *WAYS)})
    seeds = sorted({row["seed"] for row in content["tried"]})
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    told = f"Tried on the validation split ({named}); what was best by night there is the way that was chosen"
    few = " One seed tells a few points, not one or two." if len(seeds) == 1 else ""
    return f"{told}: {ARMS[CHOSEN].about}.{few}\n\n{grid}"


def _longer(content: Mapping[str, Any]) -> str:
    """What more steps change by night, where that was tried."""
    if not content["longer"]:
        return ""
    found = _over_augmented(content["longer"], "night").items()
    told = [f"{_change(cell)} points with {count} drives, {cell['seeds']} seeds" for (arm, count), cell in found if arm == CHOSEN]
    return f" In {content['longer']['steps']} steps generated clips change AP50 by night by {'; '.join(told)}."


def plot(content: Mapping[str, Any]) -> Figure:
    """AP50 and its difference to plain augmentation, by day and by night, over N; bars are 95% intervals over seeds."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, light in enumerate(("day", "night")):
        mine = [cell for cell in content["reached"] if (cell["exam"], cell["light"]) == ("simulated", light)]
        apart = [cell for cell in content["differences"]
                 if (cell["exam"], cell["light"], cell["other"]) == ("simulated", light, "augmented")]  # fmt: skip
        for number, arm in enumerate(SHOWN):
            for axes, cells in ((panels[0][column], mine), (panels[1][column], apart)):
                _line(axes, [cell for cell in cells if cell["arm"] == arm], f"C{number}", ARMS[arm].about, 1 + 0.03 * (number - 1.5))
        panels[0][column].set(title=f"simulated test drives, {light}", ylabel="AP50, points")
        panels[1][column].axhline(0, color="0.6", linewidth=0.8)
        panels[1][column].set(xlabel="N, labelled drives (a quarter by night)", ylabel="less plain augmentation, points")
    panels[1][1].axhline(TARGET, color="0.6", linewidth=0.8, linestyle="--")
    panels[1][1].set_title("dashed: the target, with the fewest drives", fontsize="small")
    lines = next((lines for axes in panels[0] if (lines := axes.get_legend_handles_labels())[0]), None)
    if lines is not None:
        figure.legend(*lines, loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    return figure


def _line(axes: Axes, cells: Sequence[Mapping[str, Any]], colour: str, label: str, beside: float) -> None:
    """Arms stand a little beside each other, so that their bars can be told apart."""
    if not cells:
        return
    counts = [cell["count"] for cell in cells]
    halves = [cell["half"] if cell["half"] is not None and math.isfinite(cell["half"]) else 0.0 for cell in cells]
    axes.errorbar([count * beside for count in counts], [cell["mean"] for cell in cells], yerr=halves, fmt="o-", color=colour, capsize=3,
                  markersize=4, label=label)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
