"""How close do the shipped networks come to held-out clips? PSNR beside the baselines that need no network.

    python benchmarks/held_out.py --checkpoint mini --data SIM REAL --splits test val --out held_out.json

Per dataset (never pooled): the autoencoder alone (the ceiling), prediction from two real context frames against repeating the last of
them, interpolation against linear interpolation of latents and against copying the nearest end. PSNR rewards blur and punishes a sharp
car in the wrong place, so it is a floor to clear and not a measure of realism; Frechet distances are another script's matter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from held_out_windows import CANDIDATES, Judge, machine, mean_and_error, psnr, psnr_table, without_nan

Rows = dict[str, list[float]]
HORIZONS = (1, 4, 8)


def autoencoder(judge: Judge, root: Path, split: str, limit: int) -> Rows:
    rows: Rows = {"autoencoder": []}
    for held in judge.windows(root, split, 8, 7.5, limit):
        rows["autoencoder"] += psnr(judge.decode(judge.encode(held.frames)), held.frames).mean(1).tolist()
    return rows


def prediction(judge: Judge, root: Path, split: str, limit: int) -> Rows:
    size = int(judge.simulator.prediction.frames)
    names = [f"{who}, keyframe +{step}" for who in ("prediction", "last frame again") for step in HORIZONS if step + 1 < size]
    rows: Rows = {name: [] for name in names}
    mask = torch.arange(size) < 2
    for held in judge.windows(root, split, size, judge.simulator.keyframe_fps, limit):
        frames = held.frames
        quality = psnr(judge.decode(judge.fill("keyframes", held.first, judge.encode(frames), mask, held.labels)), frames)
        copied = psnr(frames[:, 1:2].expand_as(frames), frames)
        for step in HORIZONS:
            if step + 1 < size:
                rows[f"prediction, keyframe +{step}"] += quality[:, 1 + step].tolist()
                rows[f"last frame again, keyframe +{step}"] += copied[:, 1 + step].tolist()
    return rows


def interpolation(judge: Judge, root: Path, split: str, limit: int) -> Rows:
    rows: Rows = {name: [] for name in CANDIDATES}
    for held in judge.windows(root, split, 5, 7.5, limit):
        for name, candidate in judge.between(held, judge.encode(held.frames), "interpolation_1").items():
            rows[name] += psnr(candidate, held.frames)[:, 1:4].mean(1).tolist()
    return rows


MEASURES: tuple[Callable[[Judge, Path, str, int], Rows], ...] = (autoencoder, prediction, interpolation)


@torch.inference_mode()
def measured(judge: Judge, root: Path, split: str, limit: int) -> dict[str, dict[str, float]]:
    """Row -> mean dB, its standard error over windows, and their number."""
    return {name: mean_and_error(values) for measure in MEASURES for name, values in measure(judge, root, split, limit).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets, judged one by one")
    parser.add_argument("--splits", nargs="+", required=True, help="held-out split of each dataset")
    parser.add_argument("--windows", type=int, default=64, help="most windows per measure and dataset")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    judge = Judge.of(args.checkpoint)
    tables = {
        f"{root.name} {split}": measured(judge, root, split, args.windows) for root, split in zip(args.data, args.splits, strict=True)
    }
    weights, told = judge.simulator.checkpoint.hash, machine()
    print(f"{told['machine']}, {told['date']}, weights {weights[:12]}")
    print(psnr_table(tables))
    if args.out:
        args.out.write_text(json.dumps({"checkpoint": weights, **told, "tables": without_nan(tables)}, indent=1))


if __name__ == "__main__":
    main()
