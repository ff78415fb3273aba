"""The tables of ``ablations.py``: means over seeds, paired differences, the paper's numbers beside ours, one plot.

A difference is taken seed by seed: both sides saw the same batches and are judged on the same windows with the same draws. Intervals are
Student's, 95%, over seeds; they say nothing of other clips. This file knows numbers and names, no network.

The paper: Blattmann et al. 2023, Table 1 right (FVD and FID of a smaller model), Table 3 (decoder, upsampler). Its distances are from other
networks and data: compare directions, not sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from ablations_variants import VARIANTS
from matplotlib.figure import Figure
from scipy import stats

from drivesim.errors import UsageError

__all__ = ["COMPARISONS", "Comparison", "Spread", "compared", "markdown", "plot", "rows_of", "spread", "verdict"]

Place = tuple[str, str]
"""(variant, how it was asked)."""
PREDICTION = "2 frames"
DIFFERS = "differs"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and the half width of its interval, NaN from one seed."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        known = math.isfinite(self.half) and self.half > 1e-9 * abs(self.mean)  # else it is the same number each time
        return f"{self.mean:.4g} ± {self.half:.2g}" if known else f"{self.mean:.4g}"


@dataclass(frozen=True)
class Comparison:
    """One against another. paper: metric -> the paper's values of both, in that order.   why: what is to be said of it."""

    title: str
    first: Place
    second: Place
    paper: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    why: str = ""


def _video(title: str, first: str, second: str = "carried", asked: str = PREDICTION, **more: Any) -> Comparison:
    return Comparison(title, (first, asked), (second, asked), **more)


COMPARISONS = (
    _video("pixel space - latents", "pixel", paper={"fvd": (639.56, 534.17), "fd": (59.70, 48.26)}),
    _video("pixel space - latents, nothing known", "pixel", asked="0 frames", paper={"fvd": (639.56, 534.17), "fd": (59.70, 48.26)}),
    _video("end to end - image pre-trained", "end_to_end", paper={"fvd": (1155.10, 534.17), "fd": (71.26, 48.26)}),
    _video("end to end - image pre-trained, nothing known", "end_to_end", asked="0 frames",
           paper={"fvd": (1155.10, 534.17), "fd": (71.26, 48.26)}),
    _video("attention only - attention and convolution", "attention_only", "slots", paper={"fvd": (704.41, 534.17), "fd": (50.01, 48.26)}),
    _video("attention only - attention and convolution, nothing known", "attention_only", "slots", asked="0 frames",
           paper={"fvd": (704.41, 534.17), "fd": (50.01, 48.26)}),
    Comparison("context guidance 2 - none", ("carried", "guidance 2"), ("carried", PREDICTION),
               {"fvd": (508.82, 534.17), "fd": (54.16, 48.26)},
               "guidance enlarges what context brings, and at this budget context brings little (see 0 known frames - 2)."),
    _video("context in slots - carried", "slots"),
    _video("context by encoder - carried", "encoder"),
    _video("context without noise - with", "noise_none"),
    _video("context without noise - with, third window", "noise_none", asked="third window"),
    _video("unfrozen - frozen", "unfrozen"),
    _video("unfrozen - frozen, nothing known", "unfrozen", asked="0 frames"),
    Comparison("1 known frame - 2", ("carried", "1 frame"), ("carried", PREDICTION)),
    Comparison("0 known frames - 2", ("carried", "0 frames"), ("carried", PREDICTION)),
    Comparison("video decoder - stage 1's", ("decoder_video", "reconstruction"), ("decoder_stage_1", "reconstruction"),
               {"fvd": (32.94, 390.88), "fd": (9.17, 7.61)},
               "our stage 1 has seen clips of the same kind, and its decoder has not flickered by much; the paper's was made for images."),
    Comparison("video decoder - image decoder trained on", ("decoder_video", "reconstruction"), ("decoder_image", "reconstruction")),
    Comparison("video upsampler - image upsampler", ("upsampler_video", "enlarged"), ("upsampler_image", "enlarged"),
               {"fvd": (45.39, 165.98), "fd": (19.85, 19.71)},
               "neither is better than the bicubic frames it starts from yet: there is little to hold together over time."),
    Comparison("video upsampler - bicubic", ("upsampler_video", "enlarged"), ("bicubic", "enlarged")),
    Comparison("12 latent channels - 8", ("latents_12", "reconstruction"), ("latents_8", "reconstruction")),
    Comparison("16 latent channels - 8", ("latents_16", "reconstruction"), ("latents_8", "reconstruction")),
    Comparison("12 latent channels - 8, samples", ("latents_12", "samples"), ("latents_8", "samples")),
    Comparison("16 latent channels - 8, samples", ("latents_16", "samples"), ("latents_8", "samples")),
)  # fmt: skip


def spread(values: Sequence[float]) -> Spread:
    """Student's interval of a mean."""
    if len(values) < 2:
        return Spread(float(np.mean(values)), math.nan, len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Spread(float(np.mean(values)), half, len(values))


def verdict(difference: Spread, paper: tuple[float, float] | None) -> str:
    """same | differs | within noise; higher | lower where the paper says nothing; unknown from one seed."""
    if not math.isfinite(difference.half):
        return "unknown: one seed"
    if abs(difference.mean) <= difference.half:
        return "within noise"
    if paper is None:
        return "higher" if difference.mean > 0 else "lower"
    return "same" if difference.mean * (paper[0] - paper[1]) > 0 else DIFFERS


Found = dict[Place, dict[int, dict[str, float]]]
"""place -> seed -> metric -> value."""


def rows_of(results: Sequence[Mapping[str, Any]]) -> Found:
    """What single results say.

    Raises:
        UsageError: there are none, or they are not of one kind: other steps, windows or clips.
    """
    if not results:
        raise UsageError("no finished variant here; make some with: ablations.py run --data CLIPS --out FOLDER")
    for name in ("steps", "windows", "data", "held_out"):
        kinds = {str(result[name]) for result in results}
        if len(kinds) > 1:
            raise UsageError(f"results differ in {name}: {', '.join(sorted(kinds))}; a table needs one --out for each")
    found: Found = {}
    for result in results:
        for asked, metrics in result["judged"].items():
            found.setdefault((result["variant"], asked), {})[result["seed"]] = metrics
    return found


def compared(found: Found) -> list[dict[str, Any]]:
    """Every comparison both sides of which are there: metric -> difference and verdict, the paper's difference beside it."""
    rows = []
    for comparison in COMPARISONS:
        first = found.get(comparison.first, {})
        second = _seeds(found, comparison.second, set(first))
        seeds = sorted(set(first) & set(second))
        if not seeds:
            continue
        metrics: dict[str, Any] = {}
        for metric in next(iter(first.values())):
            difference = spread([first[seed][metric] - second[seed][metric] for seed in seeds])
            paper = comparison.paper.get(metric)
            metrics[metric] = {**asdict(difference), "verdict": verdict(difference, paper), "second": _mean(second, metric),
                               "paper": paper and list(paper)}  # fmt: skip
        rows.append({"title": comparison.title, "first": comparison.first, "second": comparison.second, "metrics": metrics,
                     "why": comparison.why})  # fmt: skip
    return rows


def _seeds(found: Found, place: Place, seeds: set[int]) -> dict[int, dict[str, float]]:
    """Values at a place; what has nothing of its own to train is the same for all ``seeds``."""
    rows = found.get(place, {})
    return {seed: row for row in rows.values() for seed in seeds} if VARIANTS[place[0]].stage is None else rows


def _mean(rows: Mapping[int, dict[str, float]], metric: str) -> float:
    return float(np.mean([row[metric] for row in rows.values()]))


# what is shown


def markdown(found: Found, comparisons: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Three tables: what every variant reaches, what differs, what it cost."""
    kinds = {"Video": ("video",), "Decoders and upsamplers": ("decoder", "upsampler"), "Latent channels": ("latents",)}
    parts = [f"## {title}\n\n{_reached(found, kind)}" for title, kind in kinds.items() if any(_kind(place) in kind for place in found)]
    return "\n\n".join([*parts, f"## Differences\n\n{_differences(comparisons)}", f"## Cost\n\n{_costs(costs)}"])


def _kind(place: Place) -> str:
    return VARIANTS[place[0]].kind


def _reached(found: Found, kinds: Sequence[str]) -> str:
    rows = {place: seeds for place, seeds in found.items() if _kind(place) in kinds}
    metrics = list(dict.fromkeys(metric for seeds in rows.values() for row in seeds.values() for metric in row))
    lines = [f"| variant | asked | {' | '.join(metrics)} | seeds |", "|---" * (len(metrics) + 3) + "|"]
    for name, asked in sorted(rows, key=lambda place: list(VARIANTS).index(place[0])):
        seeds = rows[name, asked]
        cells = [str(spread([row[metric] for row in seeds.values()])) if metric in next(iter(seeds.values())) else "" for metric in metrics]
        lines.append(f"| `{name}`: {VARIANTS[name].about} | {asked} | {' | '.join(cells)} | {len(seeds)} |")
    return "\n".join(lines)


def _differences(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Distances, one row a comparison with the paper's beside them; then what is no distance."""
    distances = [row for row in comparisons if "fvd" in row["metrics"]]
    lines = ["| first - second | fvd | paper | direction | fd | paper | direction | kvd | kd |", "|---" * 9 + "|"]
    for row in distances:
        cells = [cell for metric in ("fvd", "fd") for cell in _beside_the_paper(row["metrics"][metric])]
        lines.append(f"| {' | '.join([row['title'], *cells, *(_said(row['metrics'][metric]) for metric in ('kvd', 'kd'))])} |")
    lines += ["", "| first - second | metric | difference |", "|---|---|---|"]
    for row in comparisons:
        rest = (metric for metric in row["metrics"] if metric not in ("fvd", "kvd", "fd", "kd", "ap50_recorded"))
        lines += [f"| {row['title']} | {metric} | {_said(row['metrics'][metric])} |" for metric in rest]
    notes = [f"- {row['title']}: {row['why']}" for row in comparisons if row["why"]]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _beside_the_paper(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    paper = "" if cell["paper"] is None else "{:.2f} ({:g} - {:g})".format(cell["paper"][0] - cell["paper"][1], *cell["paper"])
    return str(Spread(cell["mean"], cell["half"], cell["seeds"])), paper, cell["verdict"]


def _said(cell: Mapping[str, Any]) -> str:
    return f"{Spread(cell['mean'], cell['half'], cell['seeds'])}, {cell['verdict']}"


def _costs(costs: Mapping[str, Mapping[str, Any]]) -> str:
    titles = ("variant", "steps", "windows x frames a step", "trained weights", "GFLOP a step", "TFLOP", "processor seconds",
              "TFLOP before, shared")  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, cost in costs.items():
        shared = sum(stage["gflop"] for stage in cost.get("shared", {}).values()) / 1e3
        lines.append(f"| `{name}` | {_cost(cost.get('own'))} | {shared:.2f} |")
        if "image" in cost:
            lines.append(f"| `{name}`, image network on it | {_cost(cost['image'])} | {cost['own']['gflop'] / 1e3:.2f} |")
    return "\n".join(lines)


def _cost(own: Mapping[str, Any] | None) -> str:
    return "| | | | |" if own is None else (
        f"{own['steps']} | {own['windows_a_step']} x {own['frames_a_window']} | {own['trained_weights'] / 1e6:.2f}M | "
        f"{own['gflop_a_step']:.1f} | {own['gflop'] / 1e3:.2f} | {own['cpu_s']:.0f}"
    )  # fmt: skip


def plot(comparisons: Sequence[Mapping[str, Any]]) -> Figure:
    """Relative differences with their intervals, the paper's beside them; left what clips say, right what frames say."""
    rows = [row for row in comparisons if "fvd" in row["metrics"]][::-1]
    figure = Figure(figsize=(11, 0.36 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (metric, title) in zip(panels, {"fvd": "clips (the paper: FVD)", "fd": "frames (the paper: FID)"}.items(), strict=True):
        for place, row in enumerate(rows):
            cell = row["metrics"][metric]
            ours, half = (100 * cell[name] / cell["second"] for name in ("mean", "half"))
            axes.errorbar(ours, place, xerr=half if math.isfinite(half) else None, fmt="o", color="C0", markersize=4, capsize=2,
                          label="ours, 95% over seeds" if not place else None)  # fmt: skip
            if cell["paper"] is not None:
                first, second = cell["paper"]
                axes.plot(100 * (first / second - 1), place, "D", color="C1", fillstyle="none", markersize=5)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set(title=title, xlabel="difference in % of the second")
        axes.set_xscale("symlog", linthresh=10)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(rows)), [row["title"] for row in rows])
    panels[0].plot([], [], "D", color="C1", fillstyle="none", label="the paper")
    panels[0].legend(frameon=False, fontsize="small")
    return figure
