"""What every training stage shares: one network with its running average, AdamW with warm-up and cosine, and counted randomness.

Every random number of a step comes from a counter (seed, batch), so a run that was killed and resumed draws what it would have drawn.
Batches are counted over all processes, round by round: n processes draw, batch for batch, what one process draws that takes n times as many
batches a step. This file does not know what is learned: losses live in ``diffusion_module.py`` and ``autoencoder_module.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn

from drivesim.errors import DrivesimError, UsageError
from drivesim.training.ema import averaged_copy, decay_at, update_average
from drivesim.training.freeze import weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.muon import Muon, split_groups

__all__ = ["NonFiniteLossError", "Part", "StageModule", "generator_for", "time_left_s"]

Batch = dict[str, Any]
_STREAMS = ("train", "validation", "pictures")


def _timer(trainer: L.Trainer) -> Timer | None:
    return next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]


def time_left_s(trainer: L.Trainer) -> float | None:
    """Seconds left in the time box; None without one."""
    timer = _timer(trainer)
    left = timer.time_remaining() if timer is not None else None
    return None if left is None else max(left, 0.0)


@dataclass(frozen=True)
class Part:
    """A network to export. prefix: of its weights in the module's state. without: prefixes of weights that lie in a neighbour's file, and
    its name."""

    prefix: str
    network: nn.Module
    without: Mapping[str, str] = field(default_factory=dict)


class NonFiniteLossError(DrivesimError):
    """The loss or its gradient is not a number; the message names the step."""


def generator_for(seed: int, stream: str, number: int) -> torch.Generator:
    """Random numbers of one batch, on the CPU: they depend on the counter alone, not on the device or on what was drawn before."""
    counter = np.random.SeedSequence([seed, _STREAMS.index(stream), number])
    return torch.Generator().manual_seed(int(counter.generate_state(1, np.uint64)[0] >> np.uint64(1)))


class StageModule(L.LightningModule):
    """A stage trains ``network``; ``average`` is its running average and what is validated, sampled from and exported.

    Args:
        network: the trained network.
        optimization: AdamW and the learning rate's course.
        ema_decay: decay of the average, reached through a warm-up.
        seed: of every random draw.
        helpers: names of submodules that are used but not trained; they are left out of checkpoints.
    """

    def __init__(self, network: nn.Module, optimization: Optimization, ema_decay: float, seed: int, helpers: Iterable[str] = ()) -> None:
        super().__init__()
        self.network, self.average = network, averaged_copy(network)
        self.optimization, self.ema_decay, self.seed = optimization, ema_decay, seed
        self.batches = 0
        """Training batches taken so far by this process, also across restarts."""
        self._helpers = tuple(f"{name}." for name in helpers)

    # what a stage says about itself

    def parts(self) -> dict[str, Part]:
        """What is exported: name in the checkpoint folder -> part."""
        raise NotImplementedError

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Rows of frames to look at: name -> floats (rows, columns, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def windows(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """Windows as recorded, and as the averaged network makes them: both floats (b, t, 3, H, W) in [-1, 1]. index: of the draws.

        Raises:
            UsageError: the stage makes no windows.
        """
        raise UsageError(f"{type(self).__name__} makes no windows that could be judged: train it with quality=null")

    def settings(self) -> dict[str, Any]:
        """Plain values that a rollout must know about this stage (they go into model.json)."""
        return {}

    def trained_groups(self) -> list[dict[str, Any]]:
        """AdamW parameter groups; ``scale`` multiplies the learning rate."""
        return weight_groups(self.network.parameters(), self.optimization.weight_decay, scale=1.0)

    # optimisation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        first, second = self.optimization.betas
        if self.optimization.optimizer == "muon":
            return Muon(split_groups(self.trained_groups()), lr=self.optimization.lr, betas=(first, second))
        return torch.optim.AdamW(self.trained_groups(), lr=self.optimization.lr, betas=(first, second))

    def progress(self) -> float:
        """Share of training that is done, 0..1.

        Raises:
            UsageError: the cosine is to follow time, but no time box was set.
        """
        planned = self.trainer.max_steps if self.trainer.max_steps > 0 else self.trainer.estimated_stepping_batches
        by_steps = self.global_step / planned
        if self.optimization.decay != "time":
            return by_steps
        left = time_left_s(self.trainer)
        if left is None:
            raise UsageError("decay=time needs a time box: set max_minutes=N")
        spent = _timer(self.trainer).time_elapsed()  # type: ignore[union-attr]
        return max(by_steps, spent / max(spent + left, 1e-9))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        factor = self.optimization.factor(self.global_step, self.progress())
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.optimization.lr * factor * group["scale"]
        self.log("learning_rate", self.optimization.lr * factor)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.trainer.precision != "16-mixed":  # a gradient scaler skips the steps that overflow
            self.finite(norm, "gradient")
        self.log("train/gradient_norm", norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        decay = decay_at(self.global_step, self.ema_decay)
        super().optimizer_step(*args, **kwargs)
        update_average(self.average, self.network, decay)

    def counted(self, loss: Tensor) -> Tensor:
        """Close a training batch: check its loss and count it."""
        self.finite(loss, "loss")
        self.batches += 1
        return loss

    def finite(self, value: Tensor, what: str) -> Tensor:
        """The value, if it is a number. Raising here comes before the weights, the checkpoint or the exports change.

        Raises:
            NonFiniteLossError: NaN or infinity.
        """
        if torch.isfinite(value):
            return value
        saved = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or "none yet"
        raise NonFiniteLossError(
            f"the {what} is {float(value.detach())} at step {self.global_step}: training stopped and nothing was overwritten "
            f"(last good checkpoint: {saved}); try a lower module.optimization.lr or trainer.precision=32-true"
        )

    def draws(self, stream: str, index: int) -> torch.Generator:
        """Random numbers of this process's batch ``index``, which is number index * processes + rank of all."""
        processes = self.trainer.world_size if self._trainer else 1
        return generator_for(self.seed, stream, index * processes + self.global_rank)

    # checkpoints hold tensors and plain containers only

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches"] = self.batches
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if not self._is_helper(name)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches = int(checkpoint["batches"])
        helpers = {name: value for name, value in self.state_dict().items() if self._is_helper(name)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **helpers}

    def _is_helper(self, name: str) -> bool:
        return name.startswith(self._helpers) if self._helpers else False
