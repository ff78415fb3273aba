"""A callback for training runs in other processes: what every batch held and what its loss was, one line of JSON a batch and process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L


class BatchLog(L.Callback):
    """Appends to ``folder/<rank>.jsonl``: {"number": of the batch among those of all processes, "windows": hash, "loss": value}."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        told = [batch["latents"], *(batch["labels"][name] for name in sorted(batch["labels"]))]
        windows = hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in told)).hexdigest()
        number = (pl_module.batches - 1) * trainer.world_size + trainer.global_rank  # type: ignore[operator]
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps({"number": number, "windows": windows, "loss": loss}) + "\n")
