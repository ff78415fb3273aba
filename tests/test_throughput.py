"""How fast a stage trains: what is counted, what is timed, and a network that is compiled on the way."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from drivesim.errors import UsageError
from drivesim.training.stage_module import StageModule
from drivesim.training.throughput import Compile, Throughput, matrix_peak

BATCH = {"frames": torch.ones(3, 1, 2, 4, 4)}


class Stage:
    """What the callbacks ask of a module: a device, and a place for numbers."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def log_dict(self, values: dict[str, float]) -> None:
        self.logged.append(values)


def test_counted_once_timed_after_and_told() -> None:
    """A matrix product of 2 x 8 x 4 is 128 operations; every batch takes a second by the clock that is handed in."""
    ticks, stage, trainer = count(), Stage(), SimpleNamespace(precision="32-true", is_global_zero=True)
    speed = Throughput(every_n_batches=2, peak=lambda device, dtype: 1280.0, clock=lambda: float(next(ticks)))
    speed.on_train_start(trainer, stage)  # type: ignore[arg-type]
    for number in range(3):
        speed.on_train_batch_start(trainer, stage, BATCH, number)  # type: ignore[arg-type]
        torch.mm(torch.ones(2, 8), torch.ones(8, 4))
        speed.on_train_batch_end(trainer, stage, None, BATCH, number)  # type: ignore[arg-type]
    assert speed.flops == 128
    assert stage.logged == [
        {"speed/windows_per_s": 3.0, "speed/gflop_per_s": pytest.approx(128e-9), "speed/share_of_peak": pytest.approx(0.1)}
    ]
    assert speed.told.startswith("3 windows/s") and "10% of" in speed.told


def test_the_peak_is_positive() -> None:
    assert matrix_peak(torch.device("cpu"), torch.float32, seconds=0.0) > 1e8


def test_compiled_after_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    network = nn.Linear(2, 2)
    monkeypatch.setattr(nn.Linear, "compile", lambda self, **how: asked.append(how))
    stage = StageModule(network, optimization=None, ema_decay=0.9, seed=0)  # type: ignore[arg-type]
    for callback in (Compile(None), Compile("default")):
        for number in range(2):
            callback.on_train_batch_end(None, stage, None, BATCH, number)  # type: ignore[arg-type]
    assert asked == [{"mode": "default"}]


def test_a_mode_that_is_none() -> None:
    with pytest.raises(UsageError, match="max-autotune"):
        Compile("fastest")
