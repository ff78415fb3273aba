"""How close do the shipped networks come to held-out clips? PSNR beside the baselines that need no network.

    python benchmarks/held_out.py --checkpoint mini --data SIM REAL --splits test val --out held_out.json

Per dataset (never pooled): the autoencoder alone (the ceiling), prediction from two real context frames against repeating the last of
them, interpolation against linear interpolation of latents and against copying the nearest end. PSNR rewards blur and punishes a sharp
car in the wrong place, so it is a floor to clear and not a measure of realism; Frechet distances are another script's matter.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional.image import peak_signal_noise_ratio

from drivesim.datasets.clips import ClipDataset, EveryWindow, FrameReader, table_of
from drivesim.datasets.windows import WindowSpec
from drivesim.io.checkpoints import load_checkpoint
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.simulation.fill import Context, Filler
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator

Rows = dict[str, list[float]]
HORIZONS = (1, 4, 8)


@dataclass
class Judge:
    """A simulator, asked for single windows."""

    simulator: Simulator

    def windows(self, root: Path, split: str, frames: int, fps: float, limit: int) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
        """Disjoint held-out windows: (number of the first, frames (b, t, 3, H, W) in [-1, 1], labels)."""
        spec = WindowSpec(frames, self.simulator.height, self.simulator.width, (fps,))
        datasets = [ClipDataset(root, split)]
        table = table_of(datasets, spec)
        if not table.windows:
            return
        number = 0
        for batch in DataLoader(EveryWindow(FrameReader(datasets, spec), table, limit), batch_size=4):
            yield number, as_floats(batch["frames"]), batch["labels"]
            number += len(batch["frames"])

    def encode(self, frames: Tensor) -> Tensor:
        return unfold_time(self.simulator.autoencoder.encode(fold_time(frames)), frames.shape[1])

    def fill(self, name: str, number: int, latents: Tensor, mask: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Latents with the frames outside ``mask`` (t,) made by the network of that pass."""
        simulator = self.simulator
        filler = Filler(simulator.schedule, simulator.checkpoint.settings["parameterization"], 0, simulator.device)
        network = simulator.prediction if name == "keyframes" else simulator.interpolation
        context = Context(latents, mask.expand(latents.shape[:2]))
        windows = range(number, number + len(latents))
        return filler(network, name, list(windows), latents.shape[1:], labels, simulator.settings.of_pass(name), context)


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """(b, t, 3, H, W) twice, in [-1, 1] -> dB per frame (b, t), at most 100 (a standing car's frames can be equal)."""
    return peak_signal_noise_ratio(made, true, data_range=(-1.0, 1.0), reduction="none", dim=(2, 3, 4)).clamp(max=100.0)


def autoencoder(judge: Judge, root: Path, split: str, limit: int) -> Rows:
    rows: Rows = {"autoencoder": []}
    for _, frames, _ in judge.windows(root, split, 8, 7.5, limit):
        rows["autoencoder"] += psnr(judge.simulator.autoencoder.decode(judge.encode(frames)), frames).mean(1).tolist()
    return rows


def prediction(judge: Judge, root: Path, split: str, limit: int) -> Rows:
    size = int(judge.simulator.prediction.frames)
    names = [f"{who}, keyframe +{step}" for who in ("prediction", "last frame again") for step in HORIZONS if step + 1 < size]
    rows: Rows = {name: [] for name in names}
    mask = torch.arange(size) < 2
    for number, frames, labels in judge.windows(root, split, size, judge.simulator.keyframe_fps, limit):
        made = judge.fill("keyframes", number, judge.encode(frames), mask, labels)
        quality = psnr(judge.simulator.autoencoder.decode(made), frames)
        copied = psnr(frames[:, 1:2].expand_as(frames), frames)
        for step in HORIZONS:
            if step + 1 < size:
                rows[f"prediction, keyframe +{step}"] += quality[:, 1 + step].tolist()
                rows[f"last frame again, keyframe +{step}"] += copied[:, 1 + step].tolist()
    return rows


def interpolation(judge: Judge, root: Path, split: str, limit: int) -> Rows:
    rows: Rows = {name: [] for name in ("interpolation", "linear in latents", "nearest end again")}
    mask = torch.tensor([True, False, False, False, True])
    weight = torch.linspace(0, 1, 5)[:, None, None, None]
    for number, frames, labels in judge.windows(root, split, 5, 7.5, limit):
        latents = judge.encode(frames)
        made = judge.fill("interpolation_1", number, latents, mask, labels)
        linear = latents[:, :1] * (1 - weight) + latents[:, -1:] * weight
        decode = judge.simulator.autoencoder.decode
        copied = frames[:, [0, 0, 0, 4, 4]]
        candidates = {"interpolation": decode(made), "linear in latents": decode(linear), "nearest end again": copied}
        for name, candidate in candidates.items():
            rows[name] += psnr(candidate, frames)[:, 1:4].mean(1).tolist()
    return rows


MEASURES: tuple[Callable[[Judge, Path, str, int], Rows], ...] = (autoencoder, prediction, interpolation)


@torch.inference_mode()
def measured(judge: Judge, root: Path, split: str, limit: int) -> dict[str, dict[str, float]]:
    """Row -> mean dB, its standard error over windows, and their number."""
    table = {}
    for measure in MEASURES:
        for name, values in measure(judge, root, split, limit).items():
            error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
            table[name] = {"psnr_db": float(np.mean(values)) if values else float("nan"), "error": error, "windows": len(values)}
    return table


def markdown(tables: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| PSNR in dB | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]
    for name in next(iter(tables.values())):
        cells = [f"{t[name]['psnr_db']:.2f} +- {t[name]['error']:.2f} ({t[name]['windows']:.0f})" for t in tables.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def without_nan(content: Any) -> Any:
    """The same with None for NaN, which JSON has no word for."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    return None if isinstance(content, float) and np.isnan(content) else content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets, judged one by one")
    parser.add_argument("--splits", nargs="+", required=True, help="held-out split of each dataset")
    parser.add_argument("--windows", type=int, default=64, help="most windows per measure and dataset")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    settings = RolloutSettings.of(checkpoint.settings.get("rollout", {}))
    judge = Judge(Simulator(checkpoint, settings))
    tables = {
        f"{root.name} {split}": measured(judge, root, split, args.windows) for root, split in zip(args.data, args.splits, strict=True)
    }
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, {date.today()}, weights {checkpoint.hash[:12]}")
    print(markdown(tables))
    if args.out:
        args.out.write_text(json.dumps({"checkpoint": checkpoint.hash, "date": str(date.today()), "tables": without_nan(tables)}, indent=1))


if __name__ == "__main__":
    main()
