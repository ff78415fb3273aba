"""Made frames beside the recorded ones they were made from: offline distances, PSNR, SSIM and flicker, all with intervals over drives.

A side is rows by metric: a distance's rows are features, a mean's rows are numbers, one a window. Whatever is compared was made from the
same recordings, so drives are drawn for all sides together (a paired bootstrap), and differences of two sides have intervals of their own.
Features see uint8 frames as they are, with no codec between: these are "lossless" numbers. This file does not know what made the frames.

Legend: T frames of a window   H, W height and width   N rows   D features
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from drivesim.eval.frechet import frechet_distance
from drivesim.eval.intervals import Interval, frechet_over_drives, over_drives
from drivesim.eval.networks.lite0 import Lite0Clips, Lite0Frames
from drivesim.eval.signals import change_error, flicker

FRAME_STRIDE = 8
"""Of a window's frames at 7.5 fps every so many-th is a row of the frame distance: a second apart, as in the protocol ``fd_lite0``."""
MEANS = ("psnr_db", "ssim", "flicker", "change_error")
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


@dataclass
class Rows:
    """Rows of one metric. values: each (D,) of features, or a number.   drives: of the rows."""

    values: list[Any] = field(default_factory=list)
    drives: list[str] = field(default_factory=list)

    def add(self, values: Iterable[Any], drive: str) -> None:
        found = list(values)
        self.values += found
        self.drives += [drive] * len(found)

    def array(self) -> np.ndarray:
        return np.asarray(self.values, np.float64)


class Side(dict[str, Rows]):
    """Metric -> rows. Names of distances begin with ``fvd_`` or ``fd_``; all other metrics are means."""

    def add(self, metric: str, values: Iterable[Any], drive: str) -> None:
        self.setdefault(metric, Rows()).add(values, drive)

    def see_pixels(self, made: np.ndarray, true: np.ndarray | None, drive: str) -> None:
        """One window of consecutive frames, uint8 (T, H, W, 3), T >= 3; ``true`` None: these are the recorded ones."""
        for metric, value in window_measures(made, true).items():
            self.add(metric, [value], drive)


class Lite0Panel:
    """The offline judges of clips and of frames, over one pass of their network."""

    def __init__(self) -> None:
        self.clips, self.frames = Lite0Clips(), Lite0Frames()

    @torch.inference_mode()
    def see(self, side: Side, frames: np.ndarray, drive: str, name: str) -> None:
        """uint8 (16, H, W, 3) at 7.5 fps -> a row of ``fvd_lite0_<name>`` and rows of ``fd_lite0_<name>``; the network sees 128x256."""
        pooled, grid = self.clips.lite0(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous())
        side.add(f"fvd_lite0_{name}", self.clips.describe(self.clips.project(pooled, grid)[None]).numpy(), drive)
        side.add(f"fd_lite0_{name}", self.frames.project(pooled[::FRAME_STRIDE]).numpy(), drive)


def window_measures(made: np.ndarray, true: np.ndarray | None) -> dict[str, float]:
    """uint8 (T, H, W, 3), T >= 3 -> means over frames: flicker, and where ``true`` is given PSNR, SSIM and change error."""
    inner = range(1, len(made) - 1)
    found = {"flicker": float(np.mean([flicker(made[t - 1], made[t], made[t + 1]) for t in inner]))}
    if true is None:
        return found
    pairs = list(zip(made, true, strict=True))
    changes = [change_error(made[t - 1], made[t], true[t - 1], true[t]) for t in range(1, len(made))]
    return {
        "psnr_db": float(np.mean([psnr(*pair) for pair in pairs])), "ssim": float(np.mean([ssim(*pair) for pair in pairs])), **found,
        "change_error": float(np.mean(changes)),
    }  # fmt: skip


def psnr(made: np.ndarray, true: np.ndarray) -> float:
    """Two uint8 frames -> dB, at most 100."""
    error = float(np.square(made.astype(np.float32) - true).mean())
    return min(100.0, 10 * math.log10(255**2 / error)) if error else 100.0


def ssim(made: np.ndarray, true: np.ndarray) -> float:
    """Structural similarity of two uint8 frames (h, w, 3) (Wang et al., IEEE TIP 2004), as torchmetrics has it in a twelfth of the time.

    Gaussian window of 11 pixels and deviation 1.5, frames reflected at their borders, mean over pixels and channels.
    """
    x, y = made.astype(np.float32), true.astype(np.float32)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return float(similar.mean(dtype=np.float64))


def _blurred(frame: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(frame, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA, borderType=cv2.BORDER_REFLECT_101)


def is_distance(metric: str) -> bool:
    return metric.startswith(("fvd_", "fd_"))


def judged(side: Side, recorded: Side, resamples: int = 1000) -> dict[str, Interval]:
    """Metric -> its value for one side: a distance from ``recorded``, or a mean."""
    found = {}
    for metric, rows in side.items():
        if is_distance(metric):
            true = recorded[metric]
            found[metric] = frechet_over_drives(
                rows.array(), rows.drives, true.array(), true.drives, resamples=resamples, paired=True
            )  # fmt: skip
        else:
            values = rows.array()
            found[metric] = over_drives(_mean_of(values), rows.drives, rows.drives, resamples=resamples, paired=True)
    return found


def differences(first: Side, second: Side, recorded: Side, resamples: int = 1000) -> dict[str, Interval]:
    """Metric -> first - second, with the interval of the difference: drives are drawn for all three sides at once.

    Raises:
        ValueError: the sides were not made from the same windows.
    """
    found = {}
    for metric in first.keys() & second.keys():
        one, two = first[metric], second[metric]
        true = recorded[metric] if is_distance(metric) else one
        if not one.drives == two.drives == true.drives:
            raise ValueError(f"{metric}: sides that are subtracted must be made from the same windows")
        a, b, c = one.array(), two.array(), true.array()
        statistic = _distance_difference(a, b, c) if is_distance(metric) else _mean_of(a - b)
        found[metric] = over_drives(statistic, one.drives, one.drives, resamples=resamples, paired=True)
    return found


def _mean_of(values: np.ndarray) -> Any:
    return lambda first, _: values[first].mean()


def _distance_difference(one: np.ndarray, two: np.ndarray, true: np.ndarray) -> Any:
    return lambda first, _: frechet_distance(one[first], true[first]) - frechet_distance(two[first], true[first])


def fidelity_table(rows: dict[str, dict[str, Interval]], metrics: Sequence[str]) -> str:
    """Markdown: a row each, a column for each metric; intervals of 95% over drives."""
    lines = ["| frames | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(str(found.get(metric, "")) for metric in metrics) + " |" for name, found in rows.items()]
    return "\n".join(lines)


def as_json(rows: dict[str, dict[str, Interval]]) -> dict[str, dict[str, Any]]:
    """The same as plain numbers."""
    return {name: {metric: asdict(interval) for metric, interval in found.items()} for name, found in rows.items()}


def metrics_of(sides: Iterable[Side]) -> list[str]:
    """Every metric that any side has: distances first, then means in the order of MEANS."""
    there = {metric: None for side in sides for metric in side}
    return [metric for metric in there if is_distance(metric)] + [metric for metric in MEANS if metric in there]


def weak(recorded: Side, minimum: int) -> list[str]:
    """What to say of distances from few windows."""
    rows = {metric: len(found.values) for metric, found in recorded.items() if metric.startswith("fvd_")}
    marks = [f"{metric}: {n} windows, the protocol refuses fewer than {minimum}; read it as an order at best"
             for metric, n in rows.items() if n < minimum]  # fmt: skip
    drives = {drive for found in recorded.values() for drive in found.drives}
    if len(drives) == 1:
        return [*marks, "one drive only: the intervals are unknown"]
    return marks + ([f"only {len(drives)} drives: the intervals are rough"] if len(drives) < 8 else [])
