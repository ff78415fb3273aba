"""Do made scenarios look like recorded traffic? Tracks of the generator and of the bank's recombination beside those that were recorded.

    python benchmarks/scenarios.py DATASET --plot docs/images/scenario-statistics.png --out benchmarks/results/scenarios.json

All three are cut to windows of --seconds, since a track's life can be no longer than what is seen of it. Each window of the generator and
of the bank is asked for the crowdedness of one recorded window, and for nothing else. Vehicles only: the generator makes no people. The
distance is Wasserstein's, over the interquartile range of what was recorded: 0 is the same, 1 is off by as much as the middle half is wide.
What two halves of the recorded drives are apart from each other stands beside it: nearer than that is chance.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from scipy.stats import wasserstein_distance

from drivesim.labels import CATEGORIES, MIN_VEHICLE_HEIGHT, VEHICLES, BoxTrack, Scenario
from drivesim.simulation.scenes.sampling import BANK_FPS, TrackBank, sample_scenario
from drivesim.simulation.scenes.sources import open_bank, shown_parts
from drivesim.simulation.scenes.track_bank import MAX_GAP_S
from drivesim.simulation.scenes.traffic import Pinhole, make_traffic

ASPECT = Pinhole().aspect


@dataclass(frozen=True)
class Quantity:
    """name: of a column of ``measured``.   unit: words beside it.   low, high: shown in the plot.   log: shown on a log scale."""

    name: str
    unit: str
    low: float
    high: float
    log: bool = False


QUANTITIES = (
    Quantity("height", "box height / picture", 0.02, 1, True),
    Quantity("aspect", "box width / height, in pixels", 0.3, 5, True),
    Quantity("middle", "middle of the box, across", 0, 1),
    Quantity("bottom", "lower edge, from the top", 0.4, 1),
    Quantity("shift", "speed of the middle, picture widths / s", 1e-3, 2, True),
    Quantity("growth", "growth of the height, 1 / s", -1, 1.5),
    Quantity("life", "life of a track within the window, s", 0, 10),
    Quantity("vehicles", "vehicles in a frame", 0, 16),
    Quantity("ego_speed", "speed of the recording car, m/s", 0, 25),
)

STYLES = (("black", 2.0), ("tab:blue", 1.2), ("tab:orange", 1.2))
"""Colour and width of the lines, in the order of the sources."""

Track = tuple[int, int, np.ndarray]
"""Category index, first frame, xyxy (n, 4), on the bank's grid."""


@dataclass(frozen=True)
class Window:
    """Some seconds of traffic: its tracks, how many frames it has, the speed of the recording car (frames,)."""

    tracks: list[Track]
    frames: int
    speed: np.ndarray


def recorded(bank: TrackBank, frames: int) -> list[list[Window]]:
    """The drives of a bank in windows one after the other; what is left at the end of a drive is left out."""
    drives = []
    for drive in bank.drives:
        windows = []
        for first in range(0, len(drive) - frames + 1, frames):
            traces = drive.cut(first, first + frames)
            tracks = [(trace.category, trace.first, trace.xyxy) for trace in traces if trace.category < len(VEHICLES)]
            windows.append(Window(tracks, frames, drive.speed[first : first + frames]))
        drives.append(windows)
    return drives


def window_of(scenario: Scenario, frames: int) -> Window:
    """A scenario on the same grid, by the tracks that are written to a table."""
    tracks: list[Track] = []
    for track in joined([part for whole in scenario.tracks or () for part in shown_parts(whole)]):
        times = np.arange(np.ceil(track.timestamp_s[0] * BANK_FPS - 1e-3), min(track.timestamp_s[-1] * BANK_FPS, frames - 1) + 1e-3)
        if track.category in VEHICLES and len(times) >= 2:
            tracks.append((CATEGORIES.index(track.category), int(times[0]), track.at(times / BANK_FPS)[1]))
    return Window(tracks, frames, scenario.label_track(frames, BANK_FPS).values["ego_speed_mps"])


def joined(tracks: Sequence[BoxTrack]) -> list[BoxTrack]:
    """Stretches of one vehicle put together where it is lost for no longer than MAX_GAP_S, as the bank does with recorded ones."""
    found: dict[int, list[BoxTrack]] = {}
    for track in sorted(tracks, key=lambda track: float(track.timestamp_s[0])):
        stretches = found.setdefault(track.track_id, [])
        if stretches and track.timestamp_s[0] - stretches[-1].timestamp_s[-1] <= MAX_GAP_S:
            before = stretches.pop()
            times, xyxy = np.concatenate([before.timestamp_s, track.timestamp_s]), np.concatenate([before.xyxy, track.xyxy])
            track = replace(track, timestamp_s=times, xyxy=xyxy)
        stretches.append(track)
    return [track for stretches in found.values() for track in stretches]


def crowdedness(window: Window) -> np.ndarray:
    """Vehicles that count in every frame, (frames,)."""
    count = np.zeros(window.frames)
    for _, first, xyxy in window.tracks:
        count[first : first + len(xyxy)] += xyxy[:, 3] - xyxy[:, 1] >= MIN_VEHICLE_HEIGHT
    return count


def measured(windows: Iterable[Window]) -> dict[str, np.ndarray]:
    """Quantity -> its values: of every box, of every step of a box, of every track or of every frame."""
    found: dict[str, list[np.ndarray]] = {quantity.name: [] for quantity in QUANTITIES}
    for window in windows:
        found["vehicles"].append(crowdedness(window))
        found["ego_speed"].append(window.speed[np.isfinite(window.speed)])
        for _, _, xyxy in window.tracks:
            x1, y1, x2, y2 = xyxy.astype(np.float64).T
            found["height"].append(y2 - y1)
            found["aspect"].append((x2 - x1) / (y2 - y1) * ASPECT)
            found["middle"].append((x1 + x2) / 2)
            found["bottom"].append(y2)
            found["shift"].append(np.hypot(np.diff(x1 + x2) / 2, np.diff(y1 + y2) / 2 / ASPECT) * BANK_FPS)
            found["growth"].append(np.diff(np.log(y2 - y1)) * BANK_FPS)
            found["life"].append(np.array([len(xyxy) / BANK_FPS]))
    return {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in found.items()}


def shares(windows: Iterable[Window]) -> dict[str, float]:
    """Category -> share of the boxes."""
    count = Counter(dict.fromkeys(VEHICLES, 0))
    for window in windows:
        for category, _, xyxy in window.tracks:
            count[CATEGORIES[category]] += len(xyxy)
    return {name: number / max(count.total(), 1) for name, number in count.items()}


def distance(values: np.ndarray, reference: np.ndarray, quantity: Quantity) -> float:
    """Wasserstein's, in interquartile ranges of the reference; quantities shown on a log scale are compared on it."""
    if quantity.log:
        values, reference = (np.log(np.maximum(given, quantity.low / 10)) for given in (values, reference))
    low, high = np.quantile(reference, [0.25, 0.75])
    return float(wasserstein_distance(values, reference) / max(high - low, 1e-9))


def compared(sources: dict[str, dict[str, np.ndarray]], halves: Sequence[dict[str, np.ndarray]]) -> list[dict[str, object]]:
    """A row per quantity and source: quartiles, and the distance from what was recorded. The first source is what was recorded."""
    reference, rows = next(iter(sources.values())), []
    for quantity in QUANTITIES:
        for source, values in sources.items():
            given = values[quantity.name]
            apart = distance(given, reference[quantity.name], quantity)
            if given is reference[quantity.name]:
                apart = distance(halves[0][quantity.name], halves[1][quantity.name], quantity)
            quartiles = [round(float(value), 4) for value in np.quantile(given, [0.25, 0.5, 0.75])]
            rows.append({"quantity": quantity.name, "source": source, "quartiles": quartiles, "distance": round(apart, 3), "n": len(given)})
    return rows


def table(rows: Iterable[dict[str, object]], mixes: dict[str, dict[str, float]]) -> str:
    """For the screen and for Markdown."""
    lines = ["| quantity | source | 25% | median | 75% | distance |", "|---|---|---|---|---|---|"]
    for row in rows:
        low, middle, high = row["quartiles"]  # type: ignore[misc]
        between = " (its two halves)" if row["source"] == next(iter(mixes)) else ""
        lines.append(f"| {row['quantity']} | {row['source']} | {low:.3g} | {middle:.3g} | {high:.3g} | {row['distance']:.2f}{between} |")
    told = (f"{source}: " + ", ".join(f"{name} {share:.0%}" for name, share in mix.items()) for source, mix in mixes.items())
    return "\n".join([*lines, "", "boxes by category: " + "; ".join(told)])


def plot(sources: dict[str, dict[str, np.ndarray]]) -> Figure:
    """One panel per quantity, one line per source: shares of all its values."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    for axis, quantity in zip(figure.subplots(3, 3).flat, QUANTITIES, strict=True):
        spacing: Callable[..., np.ndarray] = np.geomspace if quantity.log else np.linspace
        bins = np.arange(-0.5, quantity.high + 1) if quantity.name == "vehicles" else spacing(quantity.low, quantity.high, 41)
        for (source, values), (colour, width) in zip(sources.items(), STYLES, strict=True):
            given = np.clip(values[quantity.name], bins[0], bins[-1])
            axis.stairs(np.histogram(given, bins)[0] / max(len(given), 1), bins, label=source, color=colour, linewidth=width)
        axis.set_xlabel(quantity.unit)
        axis.set_yticks([])
        if quantity.log:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if quantity.high / quantity.low < 100 else (1.0,)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
    figure.axes[0].legend(fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="clip dataset whose train split was recorded, or a track bank")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--count", type=int, default=200, help="windows of the generator and of the bank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path, help="JSON of the table")
    args = parser.parse_args()
    bank, frames = open_bank(args.dataset), round(args.seconds * BANK_FPS)
    drives = recorded(bank, frames)
    windows = [window for drive in drives for window in drive]
    random = np.random.default_rng(args.seed)
    crowds = [float(crowdedness(windows[index]).mean()) for index in random.integers(0, len(windows), args.count)]
    seeds = [args.seed + number for number in range(args.count)]
    length = frames / BANK_FPS
    sampled = [sample_scenario(bank, length, crowdedness=crowd, seed=seed) for crowd, seed in zip(crowds, seeds, strict=True)]
    made = [make_traffic(length, crowdedness=crowd, seed=seed) for crowd, seed in zip(crowds, seeds, strict=True)]
    groups = {
        "recorded": windows, "recombined": [window_of(scenario, frames) for scenario in sampled],
        "generator": [window_of(scenario, frames) for scenario in made],
    }  # fmt: skip
    sources = {name: measured(group) for name, group in groups.items()}
    halves = [measured(window for drive in drives[start::2] for window in drive) for start in (0, 1)]
    rows, mixes = compared(sources, halves), {name: shares(group) for name, group in groups.items()}
    print(f"{len(windows)} recorded windows of {length:g} s, {args.count} of each other source\n{table(rows, mixes)}")
    if args.plot:
        plot(sources).savefig(args.plot, dpi=90)
    if args.out:
        settings = {"seconds": args.seconds, "count": args.count, "seed": args.seed, "windows": len(windows)}
        args.out.write_text(json.dumps({**settings, "categories": mixes, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
