"""``drivesim data stats``: what a clip dataset holds and which training stages it serves, as a table and a picture.

This file knows the windows of the stages; it does not train.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drivesim.errors import DrivesimError
from drivesim.io.atomic import replacing
from drivesim.io.fetching import folder_to_write
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError
from drivesim.labels import CATEGORIES, LABELS

from .augment import PLAIN
from .clips import ClipDataset, served, table_of
from .windows import WindowSpec

__all__ = ["STAGES", "heat_map", "stats"]

STAGES: dict[str, tuple[int, tuple[float, ...]]] = {
    "autoencoder and image (1 frame)": (1, ()),
    "decoder (6 frames)": (6, ()),
    "prediction (10 frames, 1.875 fps)": (10, (1.875,)),
    "interpolation (5 frames, 7.5 fps)": (5, (7.5,)),
    "interpolation (5 frames, 30 fps)": (5, (30.0,)),
}
"""Stage -> frames of its window and their rate."""
TILES, TILE = 12, (96, 192)


def stats(dataset: str | Path, out: str | Path | None = None, split: str | None = None) -> dict[str, Any]:
    """Count what is in ``dataset`` and draw it to ``out`` (None = ``<dataset>/stats.png``).

    Returns:
        Clips, hours, frames, boxes, counts by rate, size, split and time of day, what is known of each label, and what each stage gets.

    Raises:
        DatasetError: not a clip dataset.   UsageError: no ``out`` for a dataset that is not on this disk.
        DrivesimError: the picture cannot be written.
    """
    path = Path(out) if out is not None else folder_to_write(dataset, "say with --out where the picture goes") / "stats.png"
    clips = ClipDataset(dataset, split)
    found = {"dataset": str(dataset), **_count(clips)}
    figure = _figure(clips, found)
    try:
        with replacing(path) as part:
            figure.savefig(part, dpi=100, format="png")
    except OSError as error:
        raise DrivesimError(f"cannot write {path}: {error.strerror or error}; choose another place with --out") from error
    return {**found, "picture": str(path)}


def _count(clips: ClipDataset) -> dict[str, Any]:
    rows = clips.records.clips
    sizes = rows["width"].astype(str) + "x" + rows["height"].astype(str)
    boxes = _boxes(clips)
    return {
        "clips": len(clips),
        "hours": float(rows["duration_s"].sum() / 3600),
        "frames": int(clips.lengths.sum()),
        "boxes": len(boxes),
        "frame rates": _counted(rows["fps"].map("{:g}".format)),
        "sizes": _counted(sizes),
        "splits": _counted(rows["split"].fillna("none")),
        "times of day": _counted(rows["time_of_day"].fillna("unknown")),
        "categories": _counted(boxes["category"]),
        "labels": {name: _described(values) for name, values in _numbers(clips).items()},
        "clips left out": {clips.clip_ids[clip]: reason for clip, reason in clips.faults.items()},
        "stages": {name: _serves(clips, frames, rates) for name, (frames, rates) in STAGES.items()},
    }


def _serves(clips: ClipDataset, frames: int, rates: tuple[float, ...]) -> dict[str, Any]:
    report = served([clips], table_of([clips], WindowSpec(frames, 64, 128, rates)))[0]
    return {"clips": report.clips, "windows": report.windows, **{f"left out: {why}": len(ids) for why, ids in report.left_out.items()}}


def _counted(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}


def _boxes(clips: ClipDataset) -> pd.DataFrame:
    boxes = clips.records.boxes
    return boxes[boxes["clip_id"].isin(clips.clip_ids)]


def _numbers(clips: ClipDataset) -> dict[str, np.ndarray]:
    """Label -> float (all frames of all sound clips), NaN = unknown."""
    sound = [clip for clip in range(len(clips)) if clip not in clips.faults]
    names = [name for name, label in LABELS.items() if not label.values]
    return {name: np.concatenate([np.zeros(0), *(clips.labels(clip).values[name] for clip in sound)]) for name in names}


def _described(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "unknown"
    return f"{known.min():.3g} .. {known.max():.3g}, mean {known.mean():.3g}, known in {len(known) / len(values):.0%} of frames"


def heat_map(boxes: pd.DataFrame, height: int = 64, width: int = 128) -> np.ndarray:
    """How many boxes cover each cell of the picture: float (height, width)."""
    corners = np.zeros((height + 1, width + 1))
    x1, x2 = (np.clip(np.rint(boxes[name] * width), 0, width).astype(int) for name in ("x1", "x2"))
    y1, y2 = (np.clip(np.rint(boxes[name] * height), 0, height).astype(int) for name in ("y1", "y2"))
    for rows, columns, sign in ((y1, x1, 1), (y2, x2, 1), (y1, x2, -1), (y2, x1, -1)):
        np.add.at(corners, (rows, columns), sign)
    return corners.cumsum(0).cumsum(1)[:height, :width]


def _figure(clips: ClipDataset, found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(14, 8.5), layout="constrained")
    places = figure.subplot_mosaic([["rates", "crowd", "speed", "yaw"], ["heat", "heat", "kinds", "stages"], ["sheet"] * 4, ["sheet"] * 4])
    numbers = _numbers(clips)
    figure.suptitle(f"{found['dataset']}: {found['clips']} clips, {found['hours']:.2f} h, {found['frames']} frames, {found['boxes']} boxes")
    _bars(places["rates"], {f"{rate} fps": count for rate, count in found["frame rates"].items()} | found["times of day"], "clips")
    for place, name in (("crowd", "crowdedness"), ("speed", "ego_speed_mps"), ("yaw", "ego_yaw_rate_radps")):
        known = numbers[name][np.isfinite(numbers[name])]
        bins = list(np.arange(known.max(initial=0) + 2) - 0.5) if name == "crowdedness" else 24
        places[place].hist(known, bins=bins, color="0.35")
        places[place].set_title(f"{name} [{LABELS[name].unit}], frames" if len(known) else f"{name}: unknown", fontsize=9)
    places["heat"].imshow(heat_map(_boxes(clips)), extent=(0, 1, 1, 0), aspect=0.5, cmap="magma")
    places["heat"].set_title("boxes over the picture", fontsize=9)
    _bars(places["kinds"], {name: found["categories"].get(name, 0) for name in CATEGORIES}, "boxes")
    _bars(places["stages"], {name.replace(" (", "\n("): stage["clips"] for name, stage in found["stages"].items()}, "clips served")
    places["sheet"].imshow(_contact_sheet(clips))
    places["sheet"].axis("off")
    return figure


def _bars(axes: Axes, counts: dict[str, int], title: str) -> None:
    bars = axes.barh(list(counts), list(counts.values()), color="0.35")
    axes.bar_label(bars, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)


def _contact_sheet(clips: ClipDataset) -> np.ndarray:
    """Middle frames of clips spread over the dataset, six to a row; grey where a clip cannot be read."""
    sound = [clip for clip in range(len(clips)) if clip not in clips.faults]
    chosen = [sound[k] for k in np.unique(np.linspace(0, len(sound) - 1, TILES).round().astype(int))] if sound else []
    tiles = [_middle(clips, clip) for clip in chosen]
    tiles += [np.full((*TILE, 3), 255, np.uint8)] * (-len(tiles) % 6 or (6 if not tiles else 0))
    return np.vstack([np.hstack(tiles[k : k + 6]) for k in range(0, len(tiles), 6)])


def _middle(clips: ClipDataset, clip: int) -> np.ndarray:
    try:
        return PLAIN.picture(clips.frames(clip, np.array([clips.lengths[clip] // 2])), *TILE)[0]
    except (VideoError, DatasetError):
        return np.full((*TILE, 3), 128, np.uint8)
