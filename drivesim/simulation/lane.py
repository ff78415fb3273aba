"""One rollout among those that are made side by side: its plan, what its networks are told, and where its noise comes from.

This file does not know networks, samplers or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from drivesim.labels import Scenario
from drivesim.simulation.plan import FACTOR, RolloutPlan
from drivesim.simulation.scenes.sampling import ScenarioLabels

__all__ = ["KeyframeJournal", "Lane", "NoJournal", "in_turn"]

Item = TypeVar("Item")


class KeyframeJournal(Protocol):
    """Where keyframe latents are kept as they are made. Number 0: what a rollout begins with; i + 1: what window i makes."""

    def load(self, number: int) -> Tensor | None:
        """Latents (n, c, h, w) as they were saved, or None."""

    def save(self, number: int, latents: Tensor) -> None:
        """Keep latents; when this returns, they are safe."""


class NoJournal:
    """Keeps nothing."""

    def load(self, number: int) -> Tensor | None:
        return None

    def save(self, number: int, latents: Tensor) -> None:
        return None


@dataclass(frozen=True)
class Lane:
    """shots: uint8 (n, H, W, 3), the keyframes up to frame 0, or None = made up.   max_boxes: per frame that networks are told of."""

    scenario: Scenario
    plan: RolloutPlan
    labels: ScenarioLabels
    shots: np.ndarray | None
    journal: KeyframeJournal
    max_boxes: int

    def told(self, frames: range, fps: float, rows: np.ndarray | None = None) -> dict[str, Tensor]:
        """What networks are told of ``frames``: tensors (b, t, ...). rows: (b, t) positions in ``frames``; None = one window of all."""
        arrays = self.labels.at(frames, fps).arrays(self.max_boxes)
        rows = np.arange(len(frames))[None] if rows is None else rows
        return {name: torch.from_numpy(values[rows]) for name, values in arrays.items()}

    def seeds(self, stage: str, windows: Iterable[int]) -> list[int]:
        """The seed of the noise of every window of the pass ``stage``: another one from where the scenario branches off."""
        branch = self.scenario.branch
        if branch is None or stage == "image":
            return [self.scenario.seed for _ in windows]
        window = self.plan.branching(branch.at_s)
        first = window.index
        if stage != "keyframes":
            first = (window.made.start - 1) * FACTOR ** (int(stage.rpartition("_")[2]) - 1)
        return [self.scenario.seed if number < first else branch.seed for number in windows]


def in_turn(rollouts: Sequence[Iterator[Item]]) -> Iterator[tuple[int, Item]]:
    """(number of the rollout, its next item), one of each in turn until all are through."""
    left = dict(enumerate(rollouts))
    while left:
        for row in list(left):
            item = next(left[row], None)
            if item is None:
                del left[row]
            else:
                yield row, item
