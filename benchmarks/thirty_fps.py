"""Is interpolated motion neither frozen nor jumpy, and how close does it come to what was left out? Both rungs: 1.875 -> 7.5 -> 30 fps.

    python benchmarks/thirty_fps.py --checkpoint mini --data SIM SIM_30FPS REAL --splits test test val \\
        --generated rollouts/a rollouts/b --out thirty_fps.json

Held-out windows of five frames are encoded, their inner frames made again from their ends: by the interpolation network, by linear
interpolation of latents, and by copying the nearest end. Motion is optical flow (``evenness.py``): ``pace`` is the mean step over a quarter
of the way between the known frames, put beside the recording's own pace at that rung (target 0.8 to 1.25; generated windows beside the
first dataset that has the rung); ``ends / middle`` is steps that touch a known frame over those that do not. ``--generated``: folders that
`drivesim rollout --fps 7.5` or `--fps 30` wrote, read from their videos at multiples of the pass's own windows. A dataset serves a rung at
a whole stride within --tolerance of its rate; the network is told the true rate. Nothing is pooled over datasets. PSNR rewards blur.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evenness import Motion, outer_interval, pace_interval, relative_pace, step_ratios, within
from held_out_windows import CANDIDATES, Judge, machine, mean_and_error, psnr, psnr_table, without_nan
from torch import Tensor

from drivesim.eval.clips import Clip
from drivesim.eval.footage import Footage
from drivesim.shapes import as_bytes
from drivesim.simulation.plan import FACTOR

RUNGS = {7.5: "interpolation_1", 30.0: "interpolation_2"}
"""Frame rate -> the pass that makes it."""
TARGET = (0.8, 1.25)
LEAST_FLOW = 1 / 512
"""Windows whose recorded mean step is shorter (frame widths: half a pixel of 256) hardly move: they are in no share of windows."""
RECORDED, DECODED, GENERATED = "recorded", "recorded, encoded and decoded", "generated"
Motions = dict[str, Motion]


@torch.inference_mode()
def held_out(judge: Judge, root: Path, split: str, fps: float, limit: int, tolerance: float) -> tuple[Motions, dict[str, list[float]]]:
    """Motion and PSNR of the inner frames, by row; empty where the dataset has no window at that rate."""
    motions: Motions = {}
    quality: dict[str, list[float]] = {}
    for held in judge.windows(root, split, FACTOR + 1, fps, limit, tolerance):
        latents = judge.encode(held.frames)
        decoded, candidates = judge.decode(latents), judge.between(held, latents, RUNGS[fps])
        for name, frames in {RECORDED: held.frames, DECODED: decoded, **candidates}.items():
            for window, drive in zip(_pictures(frames), held.drives, strict=True):
                motions.setdefault(name, Motion()).see(window, drive)
        for name, frames in {"autoencoder alone": decoded, **candidates}.items():
            quality.setdefault(name, []).extend(psnr(frames, held.frames)[:, 1:FACTOR].mean(1).tolist())
    return motions, quality


def _pictures(frames: Tensor) -> np.ndarray:
    """(b, t, 3, H, W) in [-1, 1] -> uint8 (b, t, H, W, 3)."""
    return as_bytes(frames).permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()


def generated(folders: list[Path], fps: float, limit: int) -> Motion:
    """Motion of the windows of that rung in rollouts' videos, at most ``limit``, evenly spread."""
    places = [(folder, *place) for folder in folders for clip in Footage.open([folder]).clips for place in made_windows(clip, fps)]
    chosen = np.linspace(0, len(places) - 1, min(limit, len(places))).round().astype(int)
    found = Motion()
    for folder, clip, frames in (places[number] for number in chosen):
        found.see(clip.read(frames), f"{folder.name}/{clip.drive}")
    return found


def made_windows(clip: Clip, fps: float) -> Iterator[tuple[Clip, np.ndarray]]:
    """Frame numbers (FACTOR + 1,) of every window that the pass to ``fps`` made: neighbours share an end, the first begins at frame 0."""
    stride = round(clip.fps / fps)
    if stride < 1 or not math.isclose(stride * fps, clip.fps, rel_tol=1e-3):
        return
    for first in range(0, clip.frames - FACTOR * stride, FACTOR * stride):
        yield clip, first + stride * np.arange(FACTOR + 1)


def described(motions: Motions, reference: Motion) -> dict[str, dict[str, Any]]:
    """Row -> its numbers, beside ``reference``."""
    return {name: _described(name, found, reference) for name, found in motions.items()}


def _described(name: str, found: Motion, reference: Motion) -> dict[str, Any]:
    same = found.drives == reference.drives and name != RECORDED
    ratios = step_ratios(found.array(), reference.array(), LEAST_FLOW) if same else np.empty(0)
    return {
        "windows": len(found.rows), "drives": len(set(found.drives)), "step_widths": float(found.array()[:, :-1].mean()),
        "pace": asdict(pace_interval(found)), "ends_to_middle": asdict(outer_interval(found)),
        "beside_recorded": None if name == RECORDED else asdict(relative_pace(found, reference)),
        "windows_within": within(ratios, *TARGET), "windows_moving": len(ratios),
    }  # fmt: skip


def motion_table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown of one rung of one dataset."""
    low, high = TARGET
    lines = [f"| frames between | step, widths | pace | pace / recorded | ends / middle | windows {low:g} to {high:g} | windows (drives) |"]
    lines.append("|---" * 7 + "|")
    for name, row in found.items():
        beside = _told(row["beside_recorded"])
        share = f"{row['windows_within']:.0%} of {row['windows_moving']}" if row["windows_moving"] else ""
        lines.append(f"| {name} | {row['step_widths']:.4f} | {_told(row['pace'])} | {beside} | {_told(row['ends_to_middle'])} | {share} | "
                     f"{row['windows']} ({row['drives']}) |")  # fmt: skip
    return "\n".join(lines)


def _told(interval: dict[str, Any] | None) -> str:
    if interval is None:
        return ""
    spread = "" if math.isnan(interval["low"]) else f" [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"{interval['value']:.2f}{spread}"


def measured(judge: Judge, args: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, float]]]]:
    """Motion and PSNR, each by "dataset split, from -> to fps"; generated windows stand in the first dataset of their rung."""
    motions: dict[str, dict[str, Any]] = {}
    quality: dict[str, dict[str, dict[str, float]]] = {}
    for fps in RUNGS:
        extra = generated(args.generated, fps, args.windows)
        for root, split in zip(args.data, args.splits, strict=True):
            found, dB = held_out(judge, root, split, fps, args.windows, args.tolerance)
            if not found:
                continue
            title = f"{root.name} {split}, {fps / FACTOR:g} -> {fps:g} fps"
            if extra.rows:
                found[GENERATED], extra = extra, Motion()
            motions[title] = described(found, found[RECORDED])
            quality[title] = {name: mean_and_error(values) for name, values in dB.items()}
    return motions, quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets, judged one by one")
    parser.add_argument("--splits", nargs="+", required=True, help="held-out split of each dataset")
    parser.add_argument("--generated", nargs="*", type=Path, default=[], help="folders of rollouts at 7.5 or 30 fps")
    parser.add_argument("--windows", type=int, default=32, help="most windows per dataset and rung")
    parser.add_argument("--tolerance", type=float, default=0.2, help="how far a dataset's rate may lie from a rung's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    judge = Judge.of(args.checkpoint, args.device)
    motions, quality = measured(judge, args)
    weights, told = judge.simulator.checkpoint.hash, machine()
    print(f"{told['machine']}, {told['date']}, weights {weights[:12]}")
    for title, rows in motions.items():
        print(f"\n{title}\n\n{motion_table(rows)}")
    print(f"\nInner frames of held-out windows, mean +- standard error (windows):\n\n{psnr_table(quality)}")
    if args.out:
        content = {"checkpoint": weights, **told, "candidates": CANDIDATES, "motion": motions, "psnr": quality}
        args.out.write_text(json.dumps(without_nan(content), indent=1))


if __name__ == "__main__":
    main()
