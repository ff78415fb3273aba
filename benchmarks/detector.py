"""What does the box detector find in held-out clips? Its threshold from val, its table from test, and the weights as they are shipped.

    python benchmarks/detector.py --checkpoint runs/detector --data SIM --splits test --ship drivesim/weights/detector
    python benchmarks/detector.py --data SIM SIM_LONG REAL --splits test test train --out benchmarks/results/detector.json

With ``--ship`` the threshold is set to the lowest score from which 90% of the detections on the first data set's val clips are right, and
the network is written in half precision. The table is always the judge's own: the same code as ``drivesim evaluate``'s label fidelity.
A blurred row tells how it bears soft pictures. Data sets are never pooled. The boxes of REAL are another detector's: agreement, not truth.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from drivesim.eval.boxes import JudgedFrame, match, precise_threshold, precision
from drivesim.eval.footage import Footage
from drivesim.eval.label_fidelity import JUDGE, Judge, look, other_boxes, summary, table_rows
from drivesim.io.checkpoints import save_network
from drivesim.models.detector import BoxDetector

BLUR = 1.5


def ship(judge: Judge, source: Path, data: Path, out: Path, limit: int) -> None:
    """Find the threshold on val and write float16 weights that carry it."""
    matches = match(look(Footage.open([data], "val"), judge, limit).frames)["all"]
    threshold = round(precise_threshold(matches, 0.9), 4)
    network = BoxDetector(**{**{k: v for k, v in judge.detector.recipe.items() if k != "_target_"}, "threshold": threshold})
    network.load_state_dict(judge.detector.state_dict())
    told = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))["metadata"]
    found = {"threshold": threshold, "val_precision": round(precision(matches, threshold), 4), "val_boxes": int(matches.asked.sum())}
    named = [Path(root).name for root in told.get("data", [])]
    out.mkdir(parents=True, exist_ok=True)
    path = save_network(out / "detector", network, {**told, **found, "data": named}, torch.float16)
    print(f"{path.stat().st_size / 2**20:.1f} MiB, threshold {threshold} ({found['val_boxes']} boxes on val)")


def blurred(frames: np.ndarray) -> np.ndarray:
    """Every frame softened by a Gaussian of BLUR pixels (uint8, n h w 3)."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR) for frame in frames])


def judged(judge: Judge, data: Path, split: str, limit: int) -> dict[str, Any]:
    """Rows and summaries of one data set: as it is, blurred, and by chance."""
    footage = Footage.open([data], split)
    began = time.perf_counter()
    plain = look(footage, judge, limit).frames
    rate = len(plain) / (time.perf_counter() - began)
    sides: dict[str, list[JudgedFrame]] = {"held-out": plain, "blurred": look(footage, judge, limit, change=blurred).frames}
    sides["chance"] = other_boxes(plain)[0]
    rows = [row for who, frames in sides.items() for row in table_rows(who, frames, judge.threshold)]
    whole = match(plain)["all"]
    return {
        "rows": rows, "precision": precision(whole, judge.threshold), "summary": summary(plain, judge.threshold),
        "frames_per_second": round(rate, 1),
    }  # fmt: skip


def cost(detector: BoxDetector) -> dict[str, float]:
    """Parameters in millions, and GFLOP (two per multiplication) for a frame of 128x256."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(torch.zeros(1, 3, 128, 256))
    weights = sum(weight.numel() for weight in detector.parameters())
    return {"parameters_m": round(weights / 1e6, 3), "gflop_per_frame": round(counter.get_total_flops() / 1e9, 3)}


def markdown(name: str, table: dict[str, Any]) -> str:
    lines = [f"| {name} | subset | AP50 | recall | boxes | frames |", "|---|---|---|---|---|---|"]
    for row in table["rows"]:
        cells = [_cell(row, "ap50"), _cell(row, "recall"), str(row["boxes"]), str(row["frames"])]
        lines.append(f"| {row['who']} | {row['subset']} | " + " | ".join(cells) + " |")
    told = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in table["summary"].items() if value is not None)
    return "\n".join([*lines, f"precision at the threshold {table['precision']:.3f}, {told}"])


def _cell(row: dict[str, Any], quantity: str) -> str:
    value, low, high = (row[name] for name in (quantity, f"{quantity}_low", f"{quantity}_high"))
    return "-" if value is None else f"{value:.3f}" + ("" if low is None else f" ({low:.3f}-{high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder that training wrote (default: the weights inside the package)")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets, judged one by one")
    parser.add_argument("--splits", nargs="+", required=True, help="split of each data set: one that the detector was not trained on")
    parser.add_argument("--frames", type=int, default=1500, help="most frames of each")
    parser.add_argument("--ship", type=Path, help="write weights with their threshold here, and judge those")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    source = args.checkpoint / "detector" if args.checkpoint else JUDGE
    judge = Judge.load(source)
    if args.ship:
        ship(judge, source, args.data[0], args.ship, args.frames)
        judge = Judge.load(args.ship / "detector")
    pairs = list(zip(args.data, args.splits, strict=True))
    tables = {f"{root.name} {split}": judged(judge, root, split, args.frames) for root, split in pairs}
    for name, table in tables.items():
        print(markdown(name, table))
    if args.out:
        head = {"detector": judge.hash, "threshold": judge.threshold, "date": str(date.today()), **cost(judge.detector)}
        args.out.write_text(json.dumps({**head, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
