"""The pictures of README and model card, from what training and rollouts left on disk.

    python benchmarks/figures.py rollouts rollouts/day rollouts/night --out docs/images/rollouts.jpg
    python benchmarks/figures.py redriven WORK/made/fast_0_65_recorded_* --out docs/images/held_out_fast.jpg
    python benchmarks/figures.py curves runs/mini --out docs/images/training.png
    python benchmarks/figures.py sheet rollouts/futures --out docs/images/branches.jpg
    python benchmarks/figures.py upsampling SIM_512X1024 --out docs/images/upsampling.jpg

``rollouts``: two rows for each rollout, frames evenly spread over it, plain above and with boxes below. ``redriven``: a row for each of
some clips that mini_quality made of held-out labels, frames 0, 2, 4, 6, 8, 20, 40 and 64. ``sheet``: branches.png, smaller. ``curves``:
training loss (smoothed) and validation loss of every stage in a checkpoint folder's runs/. ``upsampling``: pieces of held-out frames, from
left to right a quarter of their size enlarged bicubically, by mini's upsampler, and as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from drivesim.datasets.clips import ClipDataset
from drivesim.io.checkpoints import load_checkpoint
from drivesim.simulation.preview import annotate
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings


def rollout_rows(root: Path, columns: int, width: int) -> list[np.ndarray]:
    """Two strips (h, columns * width, 3) of the first clip of ``root``."""
    dataset = ClipDataset(root)
    track, rate = dataset.labels(0), float(dataset.frame_rates[0])
    chosen = np.linspace(0, dataset.lengths[0] - 1, columns).round().astype(int)
    frames = dataset.frames(0, chosen)
    plain = [cv2.resize(frame, (width, width // 2), interpolation=cv2.INTER_AREA) for frame in frames]
    drawn = [annotate(frame, track, int(number), number / rate) for frame, number in zip(frames, chosen, strict=True)]
    drawn = [cv2.resize(picture, (width, picture.shape[0] * width // picture.shape[1]), interpolation=cv2.INTER_AREA) for picture in drawn]
    return [np.hstack(plain), np.hstack(drawn)]


def rollouts(roots: list[Path], out: Path, columns: int = 6, width: int = 256) -> None:
    sheet = np.vstack([row for root in roots for row in rollout_rows(root, columns, width)])
    cv2.imwrite(str(out), np.ascontiguousarray(sheet[..., ::-1]))


def redriven(root: Path, out: Path, rows: int = 7, shown: tuple[int, ...] = (0, 2, 4, 6, 8, 20, 40, 64)) -> None:
    dataset = ClipDataset(root)
    clips = np.linspace(0, len(dataset) - 1, rows).round().astype(int).tolist()
    sheet = np.vstack([np.hstack(list(dataset.frames(clip, np.array(shown)))) for clip in clips])
    cv2.imwrite(str(out), np.ascontiguousarray(sheet[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])


def sheet(folder: Path, out: Path, width: int = 1600) -> None:
    """What ``drivesim rollout --branches`` drew, ``width`` pixels wide."""
    page = cv2.imread(str(folder / "branches.png"))
    assert page is not None, f"{folder} holds no branches.png"
    small = cv2.resize(page, (width, round(page.shape[0] * width / page.shape[1])), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(out), small, [cv2.IMWRITE_JPEG_QUALITY, 82])


def curves(folder: Path, out: Path) -> None:
    stages = sorted(path.parent for path in folder.glob("runs/*/metrics.csv"))
    figure = Figure(figsize=(4 * len(stages), 3), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        rows = pd.read_csv(stage / "metrics.csv")
        train, validation = (rows[rows["name"] == name].set_index("step")["value"] for name in ("train/loss", "val/loss"))
        smooth = train.ewm(halflife=10).mean()
        axes.plot(smooth.index, smooth, label="training", linewidth=1)
        axes.plot(validation.index, validation, "o-", label="validation", markersize=3)
        hours = (rows["time_s"].max() - rows["time_s"].min()) / 3600
        axes.set(title=f"{stage.name}, {hours:.2f} h", xlabel="step", ylabel="loss")
        axes.set_ylim(0, float(np.nanquantile(smooth, 0.98)) * 1.1)
        axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


def upsampling(root: Path, out: Path, size: tuple[int, int] = (176, 320)) -> None:
    """One row for each test clip: the piece of its middle frame with the most detail, of eight frames made together."""
    dataset, checkpoint = ClipDataset(root, "test"), load_checkpoint("mini")
    upsampler = Upsampler(checkpoint, UpsamplerSettings.of(checkpoint.settings["upsampling"]))
    rows = []
    for clip in range(len(dataset)):
        large = dataset.frames(clip, dataset.lengths[clip] // 2 + np.arange(8))
        height, width = large.shape[1:3]
        small = np.stack([cv2.resize(frame, (width // 4, height // 4), interpolation=cv2.INTER_AREA) for frame in large])
        made = list(upsampler.stream(iter([small])))[4]
        bicubic = cv2.resize(small[4], (width, height), interpolation=cv2.INTER_CUBIC)
        place = _most_detail(np.abs(large[4].astype(np.float32) - bicubic).mean(2), size)
        rows.append(np.hstack([picture[place] for picture in (bicubic, made, large[4])]))
    cv2.imwrite(str(out), np.ascontiguousarray(np.vstack(rows)[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])


def _most_detail(detail: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice]:
    """Where a window of ``size`` holds the most of (H, W)."""
    sums = cv2.boxFilter(detail, -1, size[::-1], normalize=False, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    inside = sums[: detail.shape[0] - size[0], : detail.shape[1] - size[1]]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return slice(top, top + size[0]), slice(left, left + size[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rollouts", "redriven", "sheet", "curves", "upsampling"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.what == "rollouts":
        rollouts(arguments.folders, arguments.out)
    else:
        draw: dict[str, Callable[[Path, Path], None]] = {"redriven": redriven, "sheet": sheet, "upsampling": upsampling, "curves": curves}
        draw[arguments.what](arguments.folders[0], arguments.out)


if __name__ == "__main__":
    main()
