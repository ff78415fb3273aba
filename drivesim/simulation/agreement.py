"""Do a clip's labels agree with its pictures? A detector looks at some of its frames; what it finds is held against the boxes.

``Agreement`` goes along while frames are made and ends as columns: for a box the overlap and the score of the detection matched to it, for
a clip precision, recall and F1. The detector is not the one that ``drivesim evaluate`` judges with, and the rules are the judge's:
vehicles are one class, boxes that are marked ``ignore`` or lower than 12 pixels (of 128 rows) are neither asked for nor punished. What the
same detector reaches on clips whose labels are known to be right stands in ``ceiling.json`` beside its weights. This file does not know
how frames were made or where rows are kept.

Legend: n boxes of a frame   m detections
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import WEIGHTS, load_network
from drivesim.labels import VEHICLES, LabelTrack
from drivesim.models.detector import BoxDetector
from drivesim.models.looking import ROWS, look_at

__all__ = [
    "BOX_COLUMNS", "CLIP_COLUMNS", "FILTER", "LOWEST_SCORE", "MIN_HEIGHT", "Agreement", "Tally", "ceiling", "held_against", "look_every",
    "overlaps",
]  # fmt: skip

FILTER = WEIGHTS / "detector_filter" / "detector"
LOOKS_PER_SECOND = 2.0
MIN_HEIGHT, HAIR = 12 / ROWS, 1e-3 / ROWS
OVERLAP, TOUCH = 0.5, 0.1
"""A detection is right from the first IoU on; down to the second one a box is told how far it lies from what was found there."""
LOWEST_SCORE = 0.02
BOX_COLUMNS = ("agreement_iou", "agreement_score")
CLIP_COLUMNS = ("agreement_precision", "agreement_recall", "agreement_f1", "agreement_frames")


def look_every(fps: float) -> int:
    """Every how many frames to look, about twice a second. An odd number: keyframes lie a power of two apart, and the frames between
    them are to be looked at as well."""
    return max(1, round(fps / LOOKS_PER_SECOND)) | 1


@dataclass(frozen=True)
class Tally:
    """Counts over the frames looked at: right detections, wrong ones, boxes missed, frames."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    frames: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.right + other.right, self.wrong + other.wrong, self.missed + other.missed, self.frames + other.frames)

    @property
    def precision(self) -> float | None:
        """Share of the detections that are right; None without any."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        """Share of the boxes that were found; None without any."""
        return self.right / (self.right + self.missed) if self.right + self.missed else None

    @property
    def f1(self) -> float | None:
        """2 right / (2 right + wrong + missed); 1 where nothing was asked for and nothing found, None where nobody looked."""
        total = 2 * self.right + self.wrong + self.missed
        return None if not self.frames else 2 * self.right / total if total else 1.0

    def columns(self) -> dict[str, float | int | None]:
        """The clip's columns."""
        return dict(zip(CLIP_COLUMNS, (self.precision, self.recall, self.f1, self.frames), strict=True))


class Agreement:
    """One clip's labels against a detector, piece by piece.

    Args:
        detector: what looks.
        every: look at each frame whose number this divides; None = about two a second (``look_every``).
    """

    def __init__(self, detector: BoxDetector, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.detector, self.every = detector, every
        self.frames = 0
        self.tally = Tally()
        self._rows: list[pd.DataFrame] = []

    @classmethod
    def load(cls, path: str | Path = FILTER, device: torch.device | str = "cpu", every: int | None = None) -> Agreement:
        """With the detector inside the package, or another exported one: its folder, or its files without their endings.

        Raises:
            CheckpointError: its files are missing or do not fit.   UsageError: another kind of network.
        """
        network = load_network(Path(path) / "detector" if Path(path).is_dir() else path, device)
        if not isinstance(network, BoxDetector):
            raise UsageError(f"{path} holds a {type(network).__name__}, not a BoxDetector; give a folder made by experiment=mini/detector")
        return cls(network, every)

    def another(self) -> Agreement:
        """The same detector before another clip."""
        return Agreement(self.detector, self.every)

    def look(self, frames: np.ndarray, labels: LabelTrack) -> pd.DataFrame:
        """Take the clip's next frames, uint8 (t, h, w, 3), and their labels.

        Returns:
            A row for each of ``labels.boxes``, in the order of ``rows_of``: frame (of the clip), track_id, agreement_iou, agreement_score.
            Null: nobody looked, or no box that counts. Score 0: nothing was found there. IoU below 0.5: found, but elsewhere.

        Raises:
            ValueError: not as many labels as frames.
        """
        if len(frames) != len(labels):
            raise ValueError(f"{len(frames)} frames have labels for {len(labels)}")
        boxes, every = labels.boxes, self.every or look_every(labels.fps)
        iou, score = np.full((2, len(boxes)), np.nan, np.float32)
        chosen = np.flatnonzero(((self.frames + np.arange(len(frames))) % every == 0) & labels.boxes_known)
        for frame, found in zip(chosen, look_at(self.detector, frames[chosen], LOWEST_SCORE), strict=True):
            vehicles = found.vehicles
            rows = np.flatnonzero((boxes.frame == frame) & (boxes.category < len(VEHICLES)))
            held = held_against(
                boxes.xyxy[rows], boxes.ignore[rows], vehicles.xyxy.numpy(), vehicles.score.numpy(), self.detector.threshold
            )  # fmt: skip
            iou[rows], score[rows], tally = held
            self.tally += tally
        found_rows = {"frame": self.frames + boxes.frame, "track_id": boxes.track_id, **dict(zip(BOX_COLUMNS, (iou, score), strict=True))}
        table = pd.DataFrame(found_rows)
        self.frames += len(frames)
        self._rows.append(table)
        return table

    def boxes(self) -> pd.DataFrame:
        """What ``look`` returned so far, in one table."""
        rows = [table for table in self._rows if len(table)]
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["frame", "track_id", *BOX_COLUMNS])

    def clip(self) -> dict[str, float | int | None]:
        """The clip's columns: agreement_precision, agreement_recall, agreement_f1 (see ``Tally``) and agreement_frames."""
        return self.tally.columns()


def held_against(
    boxes: np.ndarray, ignore: np.ndarray, found: np.ndarray, score: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, Tally]:
    """One frame's boxes (n, 4) with ``ignore`` (n,) against detections (m, 4) with scores (m,), best first.

    COCO's matching: the best detection chooses first, among boxes that count before regions that do not, from an IoU of 0.5 on.
    Boxes left over are then told of detections left over that lie within an IoU of 0.1; these count as wrong and missed all the same.

    Returns:
        IoU and score of the detection matched to each box, (n,): NaN for boxes that do not count, 0 where nothing was found; and the
        counts among detections with a score of at least ``threshold``.
    """
    counts = ~ignore & (boxes[:, 3] - boxes[:, 1] >= MIN_HEIGHT - HAIR)
    asked = boxes[counts]
    iou = overlaps(found, asked)
    pairs = _greedy(iou, OVERLAP)
    excused = (overlaps(found, boxes[~counts], of_first=True) >= OVERLAP).any(1) | (found[:, 3] - found[:, 1] < MIN_HEIGHT - HAIR)
    right, above = pairs >= 0, score >= threshold
    hits = int((right & above).sum())
    tally = Tally(hits, int((above & ~right & ~excused).sum()), len(asked) - hits, 1)
    free = np.where(right[:, None] | np.isin(np.arange(len(asked)), pairs[right])[None], 0.0, iou)
    pairs = np.where(right, pairs, _greedy(free, TOUCH))
    best_iou, best_score = np.full((2, len(boxes)), np.nan, np.float32)
    best_iou[counts], best_score[counts] = 0.0, 0.0
    matched = np.flatnonzero(pairs >= 0)
    places = np.flatnonzero(counts)[pairs[matched]]
    best_iou[places], best_score[places] = iou[matched, pairs[matched]], score[matched]
    return best_iou, best_score, tally


def _greedy(iou: np.ndarray, least: float) -> np.ndarray:
    """Row by row of (m, n) the free column with the largest overlap of at least ``least``: int (m,), -1 = none."""
    free, taken = iou.copy(), np.full(len(iou), -1)
    for row in range(len(iou) if iou.shape[1] else 0):
        column = int(free[row].argmax())
        if free[row, column] >= least:
            taken[row] = column
            free[:, column] = -1.0
    return taken


def overlaps(first: np.ndarray, second: np.ndarray, of_first: bool = False) -> np.ndarray:
    """Boxes (m, 4) and (n, 4) -> intersection over union (m, n); of_first: over the first box's area."""
    low, high = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0.0, None).prod(-1)
    area = [np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(-1) for boxes in (first, second)]
    whole = area[0][:, None] + (0.0 if of_first else area[1][None] - both)
    return both / np.maximum(whole, 1e-12)


def ceiling(path: str | Path = FILTER) -> Mapping[str, Any]:
    """What the detector at ``path`` reaches on held-out clips with right labels: ``ceiling.json``, written by benchmarks/agreement.py.

    Raises:
        DrivesimError: missing or unreadable.
    """
    file = Path(path).with_name("ceiling.json")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DrivesimError(f"{file}: cannot be read ({error}); measure it with benchmarks/agreement.py") from error
