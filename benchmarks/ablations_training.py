"""Training for ``ablations.py``: the stages of ``drivesim train``, run in this process, and what they cost.

A variant's folder is a checkpoint folder that begins as a copy of the networks it shares with others. This file does not know what is
compared (``ablations_variants``), nor how it is judged.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
from ablations_variants import FPS, HEIGHT, SHARED, STAGES, WIDTH, Plan, Variant
from torch.utils.flop_counter import FlopCounterMode

from drivesim.commands.config import compose
from drivesim.commands.train import run
from drivesim.errors import UsageError
from drivesim.io.atomic import write_json

__all__ = ["Cost", "Workshop", "common"]

COUNTED = 5
"""Batches whose operations are counted; the mean stands for all."""
FOREVER = 10**9


class Cost(L.Callback):
    """Writes ``path`` when training ends: steps, windows and frames a step, weights, GFLOP, seconds of this process's processor time.

    Operations are those of matrix products and convolutions as they are called, forward and backward.
    """

    def __init__(self, path: str) -> None:
        self.path, self.gflop = Path(path), list[float]()
        self._counter: FlopCounterMode | None = None
        self._began = 0.0
        self._shape: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.process_time()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._shape = list(batch["frames" if "frames" in batch else "latents"].shape)
        if len(self.gflop) < COUNTED:
            self._counter = FlopCounterMode(display=False).__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.gflop.append(self._counter.get_total_flops() / 1e9)
            self._counter = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        a_step, weights = sum(self.gflop) / len(self.gflop), list(pl_module.network.parameters())  # type: ignore[union-attr, operator]
        write_json(self.path, {
            "steps": trainer.global_step, "windows_a_step": self._shape[0], "frames_a_window": self._shape[1],
            "weights": sum(weight.numel() for weight in weights), "trained_weights": sum(w.numel() for w in weights if w.requires_grad),
            "gflop_a_step": a_step, "gflop": a_step * trainer.global_step, "cpu_s": time.process_time() - self._began,
        })  # fmt: skip


def common(stage: str, folder: Path, data: Sequence[Path], seed: int, steps: int, cost: Path) -> list[str]:
    """Words of every training run: small, on one CPU, in single precision; no validation, nothing written but the networks and ``cost``."""
    return [
        f"experiment=mini/{stage}", f"data=[{','.join(map(str, data))}]", f"out={folder}", f"seed={seed}", f"trainer.max_steps={steps}",
        "trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "trainer.limit_val_batches=0",
        "+trainer.enable_progress_bar=false", "datamodule.workers=0", f"preset.height={HEIGHT}", f"preset.width={WIDTH}",
        f"preset.keyframe_fps={FPS}", "preset.autoencoder.widths=[24,48,96]", "preset.autoencoder.blocks=1", "module.ema_decay=0.98",
        f"module.optimization.warmup_steps={min(20, max(1, steps // 4))}", f"callbacks.last.every_n_steps={FOREVER}", *_bare(),
        f"+callbacks.cost={{_target_: ablations_training.Cost, path: '{cost}'}}", *STAGES[stage],
    ]  # fmt: skip


@cache
def _bare() -> tuple[str, ...]:
    """Words that leave out whatever else runs beside the training loop."""
    config = compose("train")
    kept = {"callbacks": ("last", "export"), "loggers": ("csv",)}
    return tuple(f"~{group}.{name}" for group, names in kept.items() for name in config[group] if name not in names)


@dataclass(frozen=True)
class Workshop:
    """Where things are trained. out: of everything.   data: clip datasets.   plan: steps."""

    out: Path
    data: tuple[Path, ...]
    plan: Plan

    def shared(self, name: str) -> Path:
        """A checkpoint folder of SHARED, trained if it is not there yet.

        Raises:
            UsageError: it was trained for another number of steps.
        """
        folder = self.out / "shared" / name
        for stage, words in SHARED[name].items():
            self._train(stage, folder, 0, self.plan.of(stage, shared=True), words)
        return folder

    def made(self, name: str, variant: Variant, seed: int) -> tuple[Path, dict[str, Any]]:
        """Train a variant: its checkpoint folder, and what its training cost: {"shared": {stage: cost}, "own" and "image": cost
        or nothing}.

        Raises:
            UsageError: see ``shared``.
        """
        folder, cost, words = self.out / "work" / f"{name}-{seed}", dict[str, Any](), list(variant.words)
        if variant.shared:
            source = self.shared(variant.shared)
            folder.mkdir(parents=True, exist_ok=True)
            for path in (path for path in source.iterdir() if path.is_file() and not (folder / path.name).exists()):
                shutil.copyfile(path, folder / path.name)
            used = (stage for stage in SHARED[variant.shared] if stage not in variant.without)
            cost["shared"] = {stage: json.loads((source / f"cost_{stage}.json").read_text()) for stage in used}
            words.append(f"first_stage.latents={source / 'latents'}")
        if variant.stage:
            cost["own"] = self._train(variant.stage, folder, seed, self.plan.of(variant.stage, shared=False), words, "own")
        if variant.image:
            cost["image"] = self._train("2_image", folder, seed, self.plan.of("2_image", shared=True), variant.image)
        return folder, cost

    def _train(self, stage: str, folder: Path, seed: int, steps: int, words: Sequence[str], name: str = "") -> dict[str, Any]:
        """Train unless it is done; what it cost. What was begun and not finished begins anew."""
        path = folder / f"cost_{name or stage}.json"
        if not path.exists():
            print(f"-- {stage} in {folder}: {steps} steps", flush=True)
            shutil.rmtree(folder / "runs" / stage, ignore_errors=True)
            run([*common(stage, folder, self.data, seed, steps, path), *words], multirun=False, show=False)
            if not path.exists():  # pixels: the identity has nothing to learn
                write_json(path, {"steps": steps, "gflop": 0.0, "cpu_s": 0.0})
        cost: dict[str, Any] = json.loads(path.read_text())
        if cost["steps"] != steps:
            raise UsageError(f"{path}: trained for {cost['steps']} steps, not {steps}; take another --out, or remove {folder}")
        return cost


if str(Path(__file__).parent) not in sys.path:  # the configuration names Cost by its module
    sys.path.append(str(Path(__file__).parent))
