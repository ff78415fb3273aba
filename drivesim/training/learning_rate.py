"""Which optimizer takes the steps, and how its learning rate follows from how far training is: linear warm-up, then a cosine to a floor.

Knows numbers only: what "how far" means (steps or wall-clock) is decided by the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Optimization"]

DECAYS = ("steps", "time", "none")
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class Optimization:
    """AdamW, or Muon around it, with warm-up and a cosine.

    optimizer: "adamw", or "muon" (``training/muon.py``), which takes the same learning rate.
    decay: what the cosine follows. "steps" = optimizer steps out of the planned ones; "time" = the time box (``max_minutes``), for
    machines whose speed is not known beforehand; "none" = constant after the warm-up.
    final: share of ``lr`` left at the end. betas, weight_decay: AdamW's; biases, norms and scalars are never decayed.
    """

    lr: float = 3e-4
    warmup_steps: int = 500
    decay: str = "steps"
    final: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}")
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}, not {self.decay!r}")

    def factor(self, step: int, progress: float) -> float:
        """Share of ``lr`` to use for optimizer step ``step`` (0 = the first), ``progress`` in 0..1 being the share of training done."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        if self.decay == "none":
            return warm
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        return warm * (self.final + (1.0 - self.final) * cosine)
