"""Training and judging for ``downstream.py``: which clips one run sees, a small detector trained on them, average precision on others.

Two kinds of clips are all this file knows: recorded ones of a data set (simulated by a simulator, for instance), and extra ones. It does
not know where extra ones come from, nor what is compared.

Legend: F frames   H, W height and width
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from drivesim.datasets.augment import Augment
from drivesim.datasets.clips import ClipDataset, FrameReader, RandomWindows, table_of
from drivesim.datasets.windows import WindowSpec
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.boxes import JudgedFrame, average_precision, match
from drivesim.eval.footage import Footage, Shot
from drivesim.eval.label_fidelity import FRAMES_PER_SECOND, LOWEST_SCORE, resized
from drivesim.io.records import labels_of
from drivesim.labels import VEHICLES
from drivesim.models.detector import BoxDetector
from drivesim.shapes import as_floats, fold_time
from drivesim.training.detector_module import detector_losses, encode
from drivesim.training.ema import averaged_copy, decay_at, update_average
from drivesim.training.freeze import weight_groups
from drivesim.training.learning_rate import Optimization

__all__ = ["BATCH", "NETWORK", "Exam", "Kept", "Recipe", "Size", "drives_for", "train"]

BATCH = 4
NETWORK: dict[str, Any] = {"widths": (32, 48, 64, 96), "blocks": (1, 1, 1, 1), "neck": 32}
RATE, DECAY, AVERAGE, MOST_GRADIENT = 1e-3, 0.02, 0.98, 10.0
"""Learning rate, weight decay, decay of the running average, norm at which gradients are cut."""
PLAIN, AUGMENTED = Augment(), Augment(mirror=0.5, crop=0.3, colour=0.3)
"""The mirror, crop and colour that the judging detector was trained with."""
ENDLESS = 10**9


@dataclass(frozen=True)
class Size:
    """Height and width that frames are trained on and judged at."""

    height: int = 96
    width: int = 192


@dataclass(frozen=True)
class Recipe:
    """How one detector is trained.

    steps: optimiser steps of BATCH frames.   augmented: mirror, crop and colour, or none.   share: of extra frames in a batch, None = as
    there are frames.   first: share of the steps that is spent on extra frames alone, the rest then on the others alone; 0 = mixed.
    """

    steps: int
    augmented: bool = True
    share: float | None = None
    first: float = 0.0


class Kept(ClipDataset):
    """Some clips of a data set, their frames in memory once they were read.

    chosen: clip ids, None = all.   longest: frames of a clip that are used, the first ones; None = all.   memory: video -> its frames, to
    be shared.
    """

    def __init__(
        self, root: Path, split: str | None, chosen: Sequence[str] | None = None, longest: int | None = None,
        memory: dict[Path, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, split)
        self.memory = {} if memory is None else memory
        if chosen is not None:
            wanted = set(chosen)
            self.faults |= {clip: "not chosen" for clip, clip_id in enumerate(self.clip_ids) if clip_id not in wanted}
        if longest is not None:
            self.lengths: np.ndarray = np.minimum(self.lengths, longest)

    def frames(self, clip: int, indices: np.ndarray) -> np.ndarray:
        video = self.video(clip)
        if video not in self.memory:
            self.memory[video] = super().frames(clip, np.arange(int(self.records.clips.iloc[clip]["frames"])))
        return self.memory[video][indices]


def drives_for(dataset: ClipDataset, days: int, nights: int, seed: int) -> list[str]:
    """Ids of clips drawn at random, so many by day and by night; more of them are those and others.

    Raises:
        UsageError: there are too few.
    """
    table = dataset.records.clips
    found = list[str]()
    for light, wanted in (("day", days), ("night", nights)):
        ids = sorted(table[table["time_of_day"] == light]["clip_id"])
        if wanted > len(ids):
            raise UsageError(f"{dataset.name} holds {len(ids)} clips by {light}, and {wanted} are wanted; ask for fewer")
        order = np.random.default_rng([seed, 0xD21]).permutation(len(ids))
        found += [str(ids[place]) for place in order[:wanted]]
    return found


def train(clips: Kept, extra: Kept | None, recipe: Recipe, size: Size, seed: int) -> BoxDetector:
    """A detector after ``recipe.steps`` steps; its running average. The seed decides first weights, draws and views.

    The losses, the optimiser's course and the average are those of ``drivesim train experiment=mini/detector``, in a loop of a few lines:
    a step takes so little here that a trainer around it would take as much again.
    """
    torch.manual_seed(seed)
    network = BoxDetector(**NETWORK)
    average, course = averaged_copy(network), Optimization(RATE, max(1, min(50, recipe.steps // 4)))
    optimizer = torch.optim.AdamW(weight_groups(network.parameters(), DECAY, scale=1.0), lr=RATE, betas=course.betas, fused=True)
    for step, batch in enumerate(_batches(_samples(clips, extra, recipe, size, seed))):
        for group in optimizer.param_groups:
            group["lr"] = RATE * course.factor(step, step / recipe.steps)
        optimizer.zero_grad()
        loss = torch.stack(list(_losses(network, batch).values())).sum()
        if not torch.isfinite(loss):
            raise DrivesimError(f"the loss of step {step} with seed {seed} is not finite; take another seed")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MOST_GRADIENT)
        optimizer.step()
        update_average(average, network, decay_at(step, AVERAGE))
    return average


def _losses(network: BoxDetector, batch: dict[str, Any]) -> dict[str, Tensor]:
    frames = fold_time(as_floats(batch["frames"]))
    labels = {name: fold_time(batch["labels"][name]) for name in ("boxes", "boxes_known", "time_of_day")}
    targets = encode(labels["boxes"], labels["boxes_known"], frames.shape[2], frames.shape[3])
    return detector_losses(network(frames), targets, labels["time_of_day"])


def _batches(streams: Sequence[tuple[RandomWindows, int]]) -> Iterator[dict[str, Any]]:
    """Batches of streams one after the other: (samples, how many batches of them) each."""
    for samples, steps in streams:
        yield from islice(DataLoader(samples, batch_size=BATCH), steps)


def _samples(clips: Kept, extra: Kept | None, recipe: Recipe, size: Size, seed: int) -> list[tuple[RandomWindows, int]]:
    """What a training draws from, in turn, and for how many steps."""
    if extra is None:
        return [(_windows([clips], None, recipe, size, seed), recipe.steps)]
    if recipe.first:
        before = round(recipe.first * recipe.steps)
        alone = [(extra, seed + 1_000_000, before), (clips, seed, recipe.steps - before)]
        return [(_windows([dataset], None, recipe, size, number), steps) for dataset, number, steps in alone]
    weights = None if recipe.share is None else (1 - recipe.share, recipe.share)
    return [(_windows([clips, extra], weights, recipe, size, seed), recipe.steps)]


def _windows(datasets: Sequence[Kept], weights: Sequence[float] | None, recipe: Recipe, size: Size, seed: int) -> RandomWindows:
    spec = WindowSpec(1, size.height, size.width)
    reader = FrameReader(datasets, spec, AUGMENTED if recipe.augmented else PLAIN)
    return RandomWindows(reader, table_of(datasets, spec, weights), ENDLESS, seed)


# judging


@dataclass(frozen=True)
class Exam:
    """Labelled frames that detectors are shown: uint8 (F, 3, H, W), and what is asked of each, with nothing found yet."""

    name: str
    frames: Tensor
    asked: list[JudgedFrame] = field(repr=False)

    @classmethod
    def of(cls, name: str, data: Sequence[Path], split: str, size: Size, limit: int | None) -> Exam:
        """About two frames a second of held-out clips, as ``drivesim evaluate`` takes them, at most ``limit`` spread over drives."""
        footage = Footage.open(data, split, name)
        assert footage.records is not None
        clips = {clip.clip_id: clip for clip in footage.clips}
        shots = footage.shots(1, None, every_s=1 / FRAMES_PER_SECOND, limit=limit)
        pictures, asked = list[np.ndarray](), list[JudgedFrame]()
        for clip_id, group in groupby(shots, key=lambda shot: shot.clip_id):
            here = list(group)
            frames = clips[clip_id].read(np.array([shot.first_frame for shot in here]))
            pictures.append(resized(frames, size.height, size.width))
            asked += _asked(here, labels_of(footage.records, clip_id))
        return cls(name, torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).contiguous(), asked)

    def taken(self, detector: BoxDetector, batch: int = 32) -> list[JudgedFrame]:
        """The frames with what ``detector`` finds in them."""
        found = list[JudgedFrame]()
        for first in range(0, len(self.frames), batch):
            seen = detector.detect(self.frames[first : first + batch], LOWEST_SCORE, 100)
            for frame, detections in zip(self.asked[first : first + batch], seen, strict=True):
                vehicles = detections.vehicles
                found.append(replace(frame, found=vehicles.xyxy.numpy(), score=vehicles.score.numpy(), night_found=detections.night))
        return found

    def ap50(self, detector: BoxDetector) -> dict[str, float]:
        """Average precision of vehicles from 12 of 128 pixels at an IoU of 0.5: all, day, night; NaN where nothing was asked for."""
        found = self.taken(detector)
        lights = {"all": found, "day": [f for f in found if f.night == 0], "night": [f for f in found if f.night == 1]}
        return {light: average_precision(match(frames)["all"]) for light, frames in lights.items()}

    def size(self) -> Mapping[str, int]:
        """Frames, drives and boxes that count, of frames whose boxes are known."""
        known = [frame for frame in self.asked if frame.known]
        boxes = match(known)["all"].asked
        return {"frames": len(known), "drives": len({frame.drive for frame in known}), "boxes": int(boxes.sum())}


def _asked(shots: Sequence[Shot], track: Any) -> Iterator[JudgedFrame]:
    nothing = np.zeros((0, 4), np.float32)
    for shot in shots:
        frame = shot.first_frame
        boxes = track.boxes.where((track.boxes.frame == frame) & (track.boxes.category < len(VEHICLES)))
        yield JudgedFrame(
            shot.drive, boxes.xyxy, boxes.ignore, nothing, nothing[:, 0], bool(track.boxes_known[frame]),
            float(track.values["time_of_day"][frame]), float(track.values["crowdedness"][frame]), clip_id=shot.clip_id,
        )  # fmt: skip
