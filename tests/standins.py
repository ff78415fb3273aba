"""A feature network that costs nothing, and footage made of coloured noise: what tests of comparisons judge with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class StandIn:
    """Features: mean and deviation of each colour over the shot, and the mean change between frames. ``seen``: shots it was shown."""

    name: str = "stand-in"
    hash: str = "0" * 64
    preprocessing: str = "none"
    num_features: int = 7
    min_frames: int = 1
    seen: int = 0
    batches: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, frames: Tensor) -> Tensor:
        assert frames.dtype == torch.uint8 and frames.ndim == 5 and frames.shape[2] == 3
        self.seen += len(frames)
        self.batches.append(tuple(frames.shape))
        x = frames.float() / 255
        change = x.diff(dim=1).abs().mean((1, 2, 3, 4)) if x.shape[1] > 1 else torch.zeros(len(x))
        return torch.cat([x.mean((1, 3, 4)), x.std((1, 3, 4)), change[:, None]], dim=1)


def noisy_clips(clips: int, frames: int = 16, size: tuple[int, int] = (16, 32), seed: int = 0, bright: float = 0.5) -> list[np.ndarray]:
    """Clips of their own colour and of moving noise: uint8 (frames, height, width, 3) each."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(clips):
        colour, spread = rng.uniform(0, 200 * bright, 3), rng.uniform(20, 55)
        made.append(np.clip(colour + spread * rng.random((frames, *size, 3)), 0, 255).astype(np.uint8))
    return made
