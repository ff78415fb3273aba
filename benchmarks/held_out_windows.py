"""What the scripts about held-out clips share: windows of a clip dataset, shown to single networks of a checkpoint, and their PSNR.

It knows one simulator and asks it for windows instead of rollouts; what a network is put beside (linear latents, copied frames) is made
here, too. It prints nothing and does not know which script asks.

Legend: B windows   T frames   C channels   H, W height and width of frames
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
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
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.simulation.fill import Context
from drivesim.simulation.plan import FACTOR
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.simulator import Simulator

BATCH = 4
CANDIDATES = ("interpolation", "linear in latents", "nearest end again")
"""What stands between two known frames: the network's, and what needs none."""


@dataclass(frozen=True)
class Held:
    """Some windows. first: number of the first one. frames: (b, t, 3, H, W) in [-1, 1]. labels: (b, t, ...). drives: b names."""

    first: int
    frames: Tensor
    labels: dict[str, Tensor]
    drives: list[str]


@dataclass
class Judge:
    """A simulator, asked for single windows."""

    simulator: Simulator

    @classmethod
    def of(cls, checkpoint: str | Path, device: str = "cpu", quality: str | None = None) -> Judge:
        """A checkpoint with the settings it ships with."""
        loaded = load_checkpoint(checkpoint)
        return cls(Simulator(loaded, rollout_settings(loaded, quality), device))

    def windows(self, root: Path, split: str, frames: int, fps: float, limit: int, tolerance: float = 0.1) -> Iterator[Held]:
        """Disjoint held-out windows, at most ``limit``, evenly spread; none where no clip has a whole stride near ``fps``."""
        spec = WindowSpec(frames, self.simulator.height, self.simulator.width, (fps,), tolerance)
        datasets = [ClipDataset(root, split)]
        table = table_of(datasets, spec)
        if not table.windows:
            return
        shown = EveryWindow(FrameReader(datasets, spec), table, limit)
        drives = [drive_of(datasets[0], window.clip) for window in shown.windows]
        number, device = 0, self.simulator.device
        for batch in DataLoader(shown, batch_size=BATCH):
            count = len(batch["frames"])
            labels = {name: value.to(device) for name, value in batch["labels"].items()}
            yield Held(number, as_floats(batch["frames"]).to(device), labels, drives[number : number + count])
            number += count

    def encode(self, frames: Tensor) -> Tensor:
        """(b, t, 3, H, W) -> latents (b, t, c, h, w)."""
        return unfold_time(self.simulator.autoencoder.encode(fold_time(frames)), frames.shape[1])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, t, c, h, w) -> (b, t, 3, H, W)."""
        return self.simulator.autoencoder.decode(latents)

    def fill(self, name: str, number: int, latents: Tensor, mask: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Latents with the frames outside ``mask`` (t,) made by the network of that pass."""
        context = Context(latents, mask.to(latents.device).expand(latents.shape[:2]))
        windows = range(number, number + len(latents))
        return self.simulator.fill(name, [0] * len(windows), list(windows), latents.shape[1:], labels, context)

    def between(self, held: Held, latents: Tensor, stage: str) -> dict[str, Tensor]:
        """Windows of FACTOR + 1 frames and their latents, of which only the first and the last are used -> CANDIDATES, (b, t, 3, H, W)."""
        steps = torch.arange(FACTOR + 1, device=latents.device)
        network = self.simulator.interpolation
        if isinstance(network, FrameInterpolator):
            made = network(self.decode(latents[:, :1])[:, 0], self.decode(latents[:, -1:])[:, 0], held.labels, FACTOR + 1)
        else:
            made = self.decode(self.fill(stage, held.first, latents, steps % FACTOR == 0, held.labels))
        weight = (steps / FACTOR).view(-1, 1, 1, 1)
        linear = latents[:, :1] * (1 - weight) + latents[:, -1:] * weight
        copied = held.frames[:, torch.where(steps > FACTOR // 2, FACTOR, 0)]
        return dict(zip(CANDIDATES, (made, self.decode(linear), copied), strict=True))


def drive_of(dataset: ClipDataset, clip: int) -> str:
    """Name of a clip's drive: its provenance's, else the clip's own."""
    row = dataset.records.clips.iloc[clip]
    return str(json.loads(row["provenance"] or "{}").get("drive", row["clip_id"]))


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """(b, t, 3, H, W) twice, in [-1, 1] -> dB per frame (b, t), at most 100 (a standing car's frames can be equal)."""
    return peak_signal_noise_ratio(made, true, data_range=(-1.0, 1.0), reduction="none", dim=(2, 3, 4)).clamp(max=100.0)


def mean_and_error(values: list[float]) -> dict[str, float]:
    """Mean dB of windows, its standard error over them, and their number."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"psnr_db": float(np.mean(values)) if values else float("nan"), "error": error, "windows": len(values)}


def psnr_table(tables: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown of title -> row -> ``mean_and_error``."""
    lines = ["| PSNR in dB | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]
    for name in next(iter(tables.values())):
        cells = [f"{t[name]['psnr_db']:.2f} +- {t[name]['error']:.2f} ({t[name]['windows']:.0f})" for t in tables.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def without_nan(content: Any) -> Any:
    """The same with None for NaN, which JSON has no word for."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and np.isnan(content) else content


def machine() -> dict[str, str]:
    """When and on what numbers were measured, for JSON and the first line of a table."""
    return {"date": str(date.today()), "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"}
