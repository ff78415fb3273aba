"""Training the refiner: made frames are to look filmed, to show what was asked for, and to stay the scene that they were.

Five wishes at once. A critic of clips and of frames beside their boxes wants what was filmed. A frozen detector wants vehicles where boxes
are, and nowhere else ("reward" or "consistency" feedback; Li et al. 2024, "ControlNet++"). Where something of a recording is left in what
was made, a perceptual distance draws to that recording, the more the more is left. Pixels are to be near the recording as far as it is
left, and otherwise as they were; and means over large cells stay what they were, so that neither colour nor light is made up.

Two guards. Networks that were trained before can be pleased with patterns of single pixels that no eye takes for a vehicle, so the detector
and the critic of features see everything blurred. And gradients of networks with strides have a grid, so critic and perceptual distance
look from a place of their own at every batch. This file does not know configuration, files, or how windows are made.

Legend: B batch   N frames of a stretch   F = B * N   H, W frame size
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.models.blocks import mean_around
from drivesim.models.conditioning import drop_labels
from drivesim.models.detector import BoxDetector
from drivesim.models.discriminator import ClipDiscriminator, FeatureDiscriminator, PatchDiscriminator3d
from drivesim.models.refiner import Refiner
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.training.adversarial import adversarial
from drivesim.training.autoencoder_module import perceptual_or_none
from drivesim.training.detector_module import detector_losses, encode
from drivesim.training.freeze import weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.stage_module import Batch, Part, StageModule
from drivesim.training.window_maker import MadeWindow, WindowMaker

__all__ = ["Glance", "RefinerModule", "blurred", "clip_critic"]

CELL = 16
"""Pixels of the cells whose means are to stay."""
REACH = 8
"""Pixels by which what is looked at may be shifted: the coarsest stride that leaves a grid which can be seen."""
BLURS = 2
"""Times that means over 3x3 pixels are taken before frames are shown to networks that were trained before: a deviation of 1.2 pixels."""


def clip_critic(width: int = 16, tower: int = 64) -> ClipDiscriminator | None:
    """A critic of clips and of features of their frames; a warning and None where the weights of the features are not installed."""
    perceptual = perceptual_or_none(stages=4)
    if perceptual is None:
        return None
    return ClipDiscriminator(PatchDiscriminator3d(width), FeatureDiscriminator(perceptual.features, width=tower), blurred)


@dataclass(frozen=True)
class Glance:
    """Frames as they are seen from a place of their own: without their first x columns and y rows, and as many of the last as are left."""

    x: int
    y: int

    @classmethod
    def drawn(cls, draws: torch.Generator) -> Glance:
        """Any place up to ``REACH`` pixels away."""
        return cls(*torch.randint(REACH + 1, (2,), generator=draws).tolist())

    def of(self, frames: Tensor) -> Tensor:
        """(..., H, W) -> (..., H - REACH, W - REACH)."""
        height, width = frames.shape[-2:]
        return frames[..., self.y : height - REACH + self.y, self.x : width - REACH + self.x]

    def labels(self, labels: dict[str, Tensor], size: Sequence[int]) -> dict[str, Tensor]:
        """The boxes of frames of size (H, W) as they lie in what is seen of them."""
        height, width = size
        moved = labels["boxes"].clone()
        moved[..., [1, 3]] = (moved[..., [1, 3]] * width - self.x) / (width - REACH)
        moved[..., [2, 4]] = (moved[..., [2, 4]] * height - self.y) / (height - REACH)
        return {**labels, "boxes": moved}


class RefinerModule(StageModule):
    """Train a Refiner on what a checkpoint makes of recorded windows (b, t, 3, H, W).

    Args:
        network: the refiner.   maker: makes frames from recordings.   optimization, ema_decay, seed: see StageModule.
        perceptual: distance of folded frames, or None.   critic: ClipDiscriminator, or None.
        detector: that confirms boxes, frozen; neither the one that judges nor the one that filters. None = no such wish.
        perceptual_weight, detector_weight, adversarial_weight, pixel_weight, mean_weight: of the five wishes.
        adversarial_from: step from which the critic pushes.   critic_from: step from which it learns.
        picked_frames: so many of each stretch, drawn anew each time, are held against the recording and judged one by one.
        critic_scale: the critic's learning rate in units of the refiner's.
        label_dropout: probability of dropping each label, boxes included.
    """

    def __init__(
        self, network: Refiner, maker: WindowMaker, optimization: Optimization, ema_decay: float = 0.995, seed: int = 0,
        perceptual: nn.Module | None = None, critic: nn.Module | None = None, detector: BoxDetector | None = None,
        perceptual_weight: float = 1.0, detector_weight: float = 0.1, adversarial_weight: float = 0.1, pixel_weight: float = 10.0,
        mean_weight: float = 1.0, adversarial_from: int = 0, critic_from: int = 0, picked_frames: int = 6, critic_scale: float = 3.0,
        label_dropout: float = 0.05,
    ) -> None:  # fmt: skip
        super().__init__(network, optimization, ema_decay, seed, helpers=("maker", "perceptual", "detector", "critic.frames.features"))
        self.maker, self.perceptual, self.critic = maker, perceptual, critic
        self.detector = None if detector is None else detector.requires_grad_(False).eval()
        self.perceptual_weight, self.detector_weight, self.mean_weight = perceptual_weight, detector_weight, mean_weight
        self.pixel_weight, self.adversarial_weight, self.picked_frames = pixel_weight, adversarial_weight, picked_frames
        self.adversarial_from, self.critic_from = adversarial_from, critic_from
        self.critic_scale, self.label_dropout = critic_scale, label_dropout

    def parts(self) -> dict[str, Part]:
        return {"refiner": Part("average.", self.average)}

    def trained_groups(self) -> list[dict[str, Any]]:
        learning = () if self.critic is None else (weight for weight in self.critic.parameters() if weight.requires_grad)
        return super().trained_groups() + weight_groups(learning, self.optimization.weight_decay, scale=self.critic_scale)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.detector is not None:
            self.detector.eval()  # its statistics are its own

    # steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws("train", self.batches)
        window = self._window(batch, draws)
        refined = self._refined(self.network, window, drop_labels(window.labels, self.label_dropout, draws))
        picked = self._picked(refined, draws)
        terms = self._wishes(refined, window, picked, Glance.drawn(draws))
        if self.critic is not None and self.global_step >= self.critic_from:
            seen = Glance.drawn(draws)
            sides, labels = (seen.of(refined), seen.of(window.recorded)), seen.labels(window.labels, refined.shape[-2:])
            displeased, terms["critic"] = adversarial(self.critic, *sides, labels, picked)
            pushes = self.global_step >= self.adversarial_from
            terms["adversarial"] = (self.adversarial_weight if pushes else 0.0) * displeased
        loss = sum(terms.values(), start=refined.new_zeros(()))
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        self.log("train/loss", loss, prog_bar=True)
        return self.counted(loss)

    def _window(self, batch: Batch, draws: torch.Generator) -> MadeWindow:
        window: MadeWindow = self.maker(as_floats(batch["frames"]), batch["labels"], draws)
        return window

    @staticmethod
    def _refined(network: nn.Module, window: MadeWindow, labels: dict[str, Tensor]) -> Tensor:
        told = {name: fold_time(value) for name, value in labels.items()}
        return unfold_time(network(fold_time(window.made), told), window.made.shape[1])

    def _picked(self, frames: Tensor, draws: torch.Generator) -> Tensor:
        """Numbers of frames of (b, n, ...)."""
        return torch.randperm(frames.shape[1], generator=draws)[: self.picked_frames].to(frames.device)

    def _wishes(self, refined: Tensor, window: MadeWindow, picked: Tensor, seen: Glance) -> dict[str, Tensor]:
        """All but the critic's, weighted, by name; scalars."""
        cell = min(CELL, *refined.shape[-2:])
        after, before = (F.avg_pool2d(fold_time(frames), cell) for frames in (refined, window.made))
        terms = {"mean": self.mean_weight * F.l1_loss(after, before), "pixels": self.pixel_weight * _apart(refined, window)}
        if self.perceptual is not None and self.perceptual_weight > 0:
            terms["perceptual"] = self.perceptual_weight * self._distance(refined, window, picked, seen)
        if self.detector is not None and self.detector_weight > 0:
            terms["detector"] = self.detector_weight * self._unconfirmed(refined, window)
        return terms

    def _distance(self, refined: Tensor, window: MadeWindow, picked: Tensor, seen: Glance) -> Tensor:
        """To the recordings, of the picked frames of each stretch, by how much of them is left."""
        assert self.perceptual is not None
        apart = [
            left * self.perceptual(seen.of(one[picked]), seen.of(wanted[picked])).float()
            for left, one, wanted in zip(window.left, refined, window.recorded, strict=True) if left > 0
        ]  # fmt: skip
        return torch.stack(apart).sum() / len(refined) if apart else refined.new_zeros(())

    def _unconfirmed(self, refined: Tensor, window: MadeWindow) -> Tensor:
        """What the detector misses of the boxes and the time of day that were asked for."""
        assert self.detector is not None
        labels = {name: fold_time(window.labels[name]) for name in ("boxes", "boxes_known", "time_of_day")}
        wanted = encode(labels["boxes"], labels["boxes_known"], *refined.shape[-2:])
        losses = detector_losses(self.detector(blurred(fold_time(refined))), wanted, labels["time_of_day"])
        return torch.stack(list(losses.values())).sum()

    # judging

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same draws at every validation. What a critic says means nothing over time; sharpness over that of recordings does."""
        draws = self.draws("validation", batch_idx)
        window = self._window(batch, draws)
        refined = self._refined(self.average, window, window.labels)
        terms = self._wishes(refined, window, self._picked(refined, draws), Glance(0, 0))
        loss = self.finite(sum(terms.values(), start=refined.new_zeros(())), "validation loss")
        sharp = [_sharpness(frames) for frames in (refined, window.recorded)]
        values = {"val/loss": loss, "val/sharpness": sharp[0] / sharp[1].clamp(min=1e-9)}
        values |= {f"val/{name}": value for name, value in terms.items()}
        self.log_dict(values, prog_bar=True, batch_size=len(refined), sync_dist=True)

    @torch.no_grad()
    def windows(self, batch: Batch, index: int) -> tuple[Tensor, Tensor]:
        """Stretches as recorded, and as made and refined."""
        window = self._window(batch, self.draws("pictures", index))
        return window.recorded, self._refined(self.average, window, window.labels).clamp(-1, 1)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Recorded, made, refined: rows in threes."""
        window = self._window(batch, self.draws("pictures", 0))
        rows = [window.recorded, window.made, self._refined(self.average, window, window.labels)]
        return {"samples": torch.stack(rows, dim=1).flatten(0, 1)}


def _apart(refined: Tensor, window: MadeWindow) -> Tensor:
    """L1 distance to recordings as far as they are left, and to what was made as far as they are not; scalar."""
    to_recorded, to_made = ((refined - frames).abs().mean((1, 2, 3, 4)) for frames in (window.recorded, window.made))
    return torch.lerp(to_made, to_recorded, window.left).mean()


def blurred(frames: Tensor) -> Tensor:
    """(f, 3, H, W) -> the same, soft."""
    for _ in range(BLURS):
        frames = mean_around(frames, 3)
    return frames


def _sharpness(frames: Tensor) -> Tensor:
    """Mean difference of neighbouring pixels."""
    return frames.diff(dim=-1).abs().mean() + frames.diff(dim=-2).abs().mean()
