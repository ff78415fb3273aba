"""Do rollouts obey their labels? Night against day, crowded against empty, one seed against the next, over several seeds each.

    python benchmarks/labels_obeyed.py --checkpoint mini --seeds 8 --seconds 8 --out labels_obeyed.json

Within a pair only the label in question differs: same seed, same noise. Brightness is measured in the pictures. The number of vehicles is
that of the boxes asked for, so it says what the networks were told; whether they drew it is seen from how much more the picture of the
crowded drive differs from the empty one inside the boxes than outside of them (a ratio of 1 means: boxes draw nothing).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from drivesim.eval.paired import Comparison, compare
from drivesim.eval.signals import measure
from drivesim.io.checkpoints import load_checkpoint
from drivesim.labels import Boxes, LabelTrack, Scenario, count_vehicles
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.settings import QUALITIES
from drivesim.simulation.simulator import Simulator, pick_device

COLUMNS = {
    "day": "brightness, day",
    "night": "brightness, night",
    "empty": "vehicles, empty",
    "crowded": "vehicles, crowded",
    "boxes": "change inside / outside boxes",
    "other_seed": "difference to the next seed",
    "motion": "change from frame to frame",
}


def drive(simulator: Simulator, scenario: Scenario) -> tuple[np.ndarray, list[LabelTrack]]:
    """uint8 frames (T, H, W, 3) of a short rollout and the labels written with them."""
    steps = list(simulator.run(scenario))
    return np.concatenate([step.frames for step in steps]), [step.labels for step in steps]


def vehicles(tracks: list[LabelTrack]) -> float:
    """Mean number of vehicles per frame that the labels name."""
    return float(np.concatenate([count_vehicles(track.boxes, len(track)) for track in tracks]).mean())


def coverage(boxes: Boxes, frames: int, height: int, width: int) -> np.ndarray:
    """bool (T, H, W): inside any box."""
    inside = np.zeros((frames, height, width), bool)
    for frame, (x1, y1, x2, y2) in zip(boxes.frame, boxes.xyxy, strict=True):
        inside[frame, int(y1 * height) : int(np.ceil(y2 * height)), int(x1 * width) : int(np.ceil(x2 * width))] = True
    return inside


def inside_to_outside(crowded: np.ndarray, empty: np.ndarray, tracks: list[LabelTrack]) -> float:
    """Mean absolute change of the picture inside the boxes asked for, over that outside."""
    inside = np.concatenate([coverage(track.boxes, len(track), *crowded.shape[1:3]) for track in tracks])
    change = np.abs(crowded.astype(np.int16) - empty).mean(axis=-1)
    return float(change[inside].mean() / max(change[~inside].mean(), 1e-6)) if inside.any() else float("nan")


def one_seed(simulator: Simulator, bank: TrackBank, seconds: float, crowd: float, seed: int) -> tuple[dict[str, float], np.ndarray]:
    """The row of one seed (without other_seed), and its day video."""
    base = sample_scenario(bank, seconds, time_of_day="day", seed=seed)
    day, _ = drive(simulator, base)
    night, _ = drive(simulator, replace(base, time_of_day="night"))
    full = sample_scenario(bank, seconds, time_of_day="day", crowdedness=crowd, seed=seed)
    crowded, told = drive(simulator, full)
    empty, told_empty = drive(simulator, replace(full, crowdedness=0.0, tracks=()))
    signals = measure(day)
    row = {
        "day": float(signals.brightness.mean()),
        "night": float(measure(night).brightness.mean()),
        "empty": vehicles(told_empty),
        "crowded": vehicles(told),
        "boxes": inside_to_outside(crowded, empty, told),
        "motion": float(signals.temporal_difference.mean()),
    }
    return row, day


def table(rows: list[dict[str, float]]) -> str:
    """Markdown: a row per seed and the mean."""
    mean = {name: float(np.nanmean([row[name] for row in rows])) for name in COLUMNS}
    lines = ["| seed | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in [*((str(seed), row) for seed, row in enumerate(rows)), ("mean", mean)]:
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in COLUMNS) + " |")
    return "\n".join(lines)


def verdict(rows: list[dict[str, float]]) -> dict[str, Comparison]:
    """How many seeds obey, per label, and how likely that is by chance."""
    column = {name: [row[name] for row in rows] for name in COLUMNS}
    return {
        "day is brighter than night": compare(column["day"], column["night"]),
        "crowded holds more vehicles than empty": compare(column["crowded"], column["empty"]),
        "the picture changes more inside the boxes than outside": compare(column["boxes"], [1.0] * len(rows)),
        "two seeds differ by more than 1% of the range": compare(column["other_seed"], [0.01] * len(rows)),
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--quality", choices=QUALITIES, help="default: as `drivesim rollout`")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--crowdedness", type=float, default=12.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args(words)
    checkpoint = load_checkpoint(arguments.checkpoint)
    settings = rollout_settings(checkpoint, arguments.quality)
    simulator, bank = Simulator(checkpoint, settings, pick_device(arguments.device)), TrackBank.load(checkpoint.tracks)
    made = [one_seed(simulator, bank, arguments.seconds, arguments.crowdedness, seed) for seed in range(arguments.seeds)]
    rows, videos = [row for row, _ in made], [video for _, video in made]
    for row, video, other in zip(rows, videos, videos[1:] + videos[:1], strict=True):
        row["other_seed"] = float(np.abs(video.astype(np.int16) - other).mean() / 255)
    print(table(rows), "", *(f"{name}: {found}" for name, found in verdict(rows).items()), sep="\n")
    if arguments.out:
        found = {name: asdict(comparison) for name, comparison in verdict(rows).items()}
        asked = {"seconds": arguments.seconds, "crowdedness": arguments.crowdedness}
        asked |= {"checkpoint": checkpoint.hash, "quality": settings.quality}
        arguments.out.write_text(json.dumps({**asked, "rows": rows, "verdict": found}, indent=2))


if __name__ == "__main__":
    main()
