"""Keyframes of several rollouts side by side: one network call makes a window of each of them.

Rollouts may differ in length and in what they start from; each has its own noise, so who is beside it changes no more than the last bits.
This file does not know interpolation, decoding or files.

    B rollouts   n keyframes   c latent channels   h, w latent size
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from drivesim.simulation.anchor import led_back, look_of
from drivesim.simulation.fill import Context, Labels
from drivesim.simulation.lane import Lane
from drivesim.simulation.plan import Window

__all__ = ["KeyframePass"]

Fill = Callable[[str, Sequence[int], Sequence[int], Sequence[int], Labels, Context | None], Tensor]
"""(stage, seed of each window, number of each window, (t, c, h, w), labels, context) -> latents (b, t, c, h, w)."""


class KeyframePass:
    """Made once for all rollouts; ``pieces`` gives each its own.

    Args:
        lanes: the rollouts. fill: makes windows. encode: uint8 frames (n, H, W, 3) -> latents (n, c, h, w). shape: (c, h, w).
        timed: a context that counts the seconds spent in it under a pass's name.
        opening: keyframes of the window that a rollout's first one is made in; the others are thrown away.
        anchor: share of every window's deviation from the look of the first one that is taken back, see ``led_back``.
    """

    def __init__(
        self, lanes: Sequence[Lane], fill: Fill, encode: Callable[[np.ndarray], Tensor], shape: Sequence[int], device: torch.device,
        timed: Callable[[str], AbstractContextManager[object]], opening: int = 1, anchor: float = 0.0,
    ) -> None:  # fmt: skip
        self.lanes, self.fill, self.encode, self.shape, self.device, self.timed = lanes, fill, encode, tuple(shape), device, timed
        self.opening, self.anchor = opening, anchor
        self._windows = [lane.plan.windows() for lane in lanes]
        self._waiting: list[deque[tuple[Window, Tensor]]] = [deque() for _ in lanes]
        self._begun: tuple[Tensor, ...] = ()
        self._recent: list[Tensor] = []
        self._anchors: dict[int, Tensor] = {}

    def pieces(self, row: int, begin: int = 0) -> Iterator[Tensor]:
        """The keyframes of rollout ``row`` from ``begin`` on, which ends a window, in pieces (n, c, h, w); the first piece is that keyframe
        alone. Other rollouts' windows are made with this one's and wait for whoever asks for them."""
        if not self._begun:
            self._recent = self._first()
            self._begun = tuple(self._recent)
        if begin == 0:
            yield self._begun[row][-1:]
        while True:
            if not self._waiting[row]:
                self._advance()
            if not self._waiting[row]:
                return
            window, made = self._waiting[row].popleft()
            last = window.made.stop - 1
            if last >= begin:
                yield made if last > begin else made[-1:]

    def _first(self) -> list[Tensor]:
        """What every rollout begins with: kept, encoded from its start, or made up."""
        found = [self._kept(lane, 0) for lane in self.lanes]
        with self.timed("image"):
            for row, lane in enumerate(self.lanes):
                if found[row] is None and lane.shots is not None:
                    found[row] = self._saved(lane, 0, self.encode(lane.shots))
            rest = [row for row, latents in enumerate(found) if latents is None]
            if rest:
                lanes = [self.lanes[row] for row in rest]
                labels = _stacked([lane.told(range(self.opening), lane.plan.keyframe_fps) for lane in lanes], self.device)
                seeds = [seed for lane in lanes for seed in lane.seeds("image", [0])]
                made = self.fill("image", seeds, [0] * len(lanes), (self.opening, *self.shape), labels, None)[:, :1]
                for row, lane, latents in zip(rest, lanes, made, strict=True):
                    found[row] = self._saved(lane, 0, latents)
        return [latents for latents in found if latents is not None]

    def _advance(self) -> None:
        """Every rollout's next window, as far as it has one."""
        due = {row: window for row, windows in enumerate(self._windows) if (window := next(windows, None)) is not None}
        made = {row: self._kept(self.lanes[row], window.index + 1) for row, window in due.items()}
        rest = {row: window for row, window in due.items() if made[row] is None}
        if rest:
            for (row, window), latents in zip(rest.items(), self._made(rest), strict=True):
                made[row] = self._saved(self.lanes[row], window.index + 1, self._steady(row, latents[window.known :])[: window.kept])
        for row, window in due.items():
            latents = made[row]
            assert latents is not None
            if self.anchor and row not in self._anchors:
                self._anchors[row] = look_of(torch.cat([self._recent[row], latents]))
            self._recent[row] = torch.cat([self._recent[row], latents])[-2:]
            self._waiting[row].append((window, latents))

    def _made(self, rest: dict[int, Window]) -> Tensor:
        """Whole windows, (b, t, c, h, w), known frames included."""
        with self.timed("keyframes"):
            size = next(iter(rest.values())).size
            values = torch.zeros(len(rest), size, *self.shape, device=self.device)
            mask = torch.zeros(len(rest), size, dtype=torch.bool, device=self.device)
            told, seeds = [], []
            for place, (row, window) in enumerate(rest.items()):
                lane = self.lanes[row]
                values[place, : window.known] = self._recent[row][-window.known :]
                mask[place, : window.known] = True
                told.append(lane.told(range(window.first, window.first + size), lane.plan.keyframe_fps))
                seeds += lane.seeds("keyframes", [window.index])
            numbers = [window.index for window in rest.values()]
            return self.fill("keyframes", seeds, numbers, values.shape[1:], _stacked(told, self.device), Context(values, mask))

    def _steady(self, row: int, made: Tensor) -> Tensor:
        """All that a window adds, whichever of it is wanted, so that a longer rollout begins as a shorter one."""
        return led_back(made, self._anchors[row], self.anchor) if row in self._anchors else made

    def _kept(self, lane: Lane, number: int) -> Tensor | None:
        latents = lane.journal.load(number)
        return None if latents is None else latents.to(self.device)

    def _saved(self, lane: Lane, number: int, latents: Tensor) -> Tensor:
        lane.journal.save(number, latents)
        return latents


def _stacked(told: Sequence[Labels], device: torch.device) -> Labels:
    return {name: torch.cat([labels[name] for labels in told]).to(device) for name in told[0]}
