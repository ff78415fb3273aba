"""Found boxes against requested ones: COCO's matching, average precision, recall and precision at a threshold, by height.

All vehicles are one class here. Boxes that are marked ``ignore`` and boxes lower than 12 pixels (of a frame of 128) are ignore regions:
neither missing nor finding something there counts. Matching is pycocotools' (``iscrowd`` regions; its area ranges are given heights), the
precision-recall curve its 101-point one, kept here in a form that can be resampled by drive. This file does not know videos or networks.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = [
    "HEIGHT", "MIN_HEIGHT", "SIZES", "JudgedFrame", "Matches", "average_precision", "counted", "drive_interval", "match",
    "precise_threshold", "precision", "recall",
]  # fmt: skip

HEIGHT, WIDTH = 128.0, 256.0
"""Pixels of the frame in which heights are told."""
MIN_HEIGHT = 12.0
SIZES = {"all": (MIN_HEIGHT, 1e5), "small": (MIN_HEIGHT, 24.0), "medium": (24.0, 48.0), "large": (48.0, 1e5)}
"""Name -> heights in pixels at 128x256, the lower bound belonging to the range and the upper one not."""
OVERLAP = 0.5
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class JudgedFrame:
    """Vehicles that were asked for and vehicles that were found in one frame.

    asked: float32 (n, 4), x1, y1, x2, y2 in 0..1.   ignore: bool (n,).   found: float32 (m, 4).   score: float32 (m,).
    known: whether anybody said which boxes there are; frames without are never matched.   night, crowdedness: as requested, NaN = unknown.
    night_found: probability of night that the detector gives.   clip_id: whose frame it is.
    """

    drive: str
    asked: np.ndarray
    ignore: np.ndarray
    found: np.ndarray
    score: np.ndarray
    known: bool = True
    night: float = float("nan")
    crowdedness: float = float("nan")
    night_found: float = float("nan")
    clip_id: str = ""


@dataclass(frozen=True)
class Matches:
    """Detections that count, of many frames, and how many boxes were asked for.

    score, right: float (d,), bool (d,), in any order.   frame: int (d,), the frame of each.   asked: int (frames,), boxes that count.
    drives: str (frames,).
    """

    score: np.ndarray
    right: np.ndarray
    frame: np.ndarray
    asked: np.ndarray
    drives: np.ndarray

    def of(self, frames: np.ndarray) -> Matches:
        """The matches of the given frames; a frame named twice counts twice."""
        order = np.argsort(self.frame, kind="stable")
        first = np.searchsorted(self.frame[order], np.arange(len(self.asked) + 1))
        rows = [order[first[frame] : first[frame + 1]] for frame in frames]
        picked = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        number = np.repeat(np.arange(len(frames)), [len(part) for part in rows]) if rows else np.zeros(0, np.int64)
        return Matches(self.score[picked], self.right[picked], number, self.asked[frames], self.drives[frames])


def counted(frame: JudgedFrame) -> np.ndarray:
    """bool (n,): the requested boxes of a frame that are no ignore region."""
    return ~frame.ignore & ((frame.asked[:, 3] - frame.asked[:, 1]) * HEIGHT >= MIN_HEIGHT - 1e-3)


def match(frames: Sequence[JudgedFrame]) -> dict[str, Matches]:
    """Match every frame whose boxes are known -> matches at an IoU of 0.5 for each of ``SIZES``."""
    known = [frame for frame in frames if frame.known]
    drives = np.array([frame.drive for frame in known], dtype=object)
    if not known:
        nothing = np.zeros(0)
        return {name: Matches(nothing, nothing.astype(bool), nothing.astype(int), nothing.astype(int), drives) for name in SIZES}
    judged = _evaluated(known)
    count = len(known)
    return {name: _gathered(judged[k * count : (k + 1) * count], drives) for k, name in enumerate(SIZES)}


def _evaluated(frames: Sequence[JudgedFrame]) -> list[dict | None]:
    """COCOeval's finding for each size range and frame, range by range."""
    truth, made = COCO(), COCO()
    images = [{"id": number} for number in range(len(frames))]
    for coco, rows in ((truth, _asked_rows(frames)), (made, _found_rows(frames))):
        coco.dataset = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "vehicle"}]}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth.createIndex()
        made.createIndex()
        judge = COCOeval(truth, made, "bbox")
        judge.params.iouThrs, judge.params.maxDets = np.array([OVERLAP]), [1000]
        judge.params.areaRng = [[low, np.nextafter(high, 0)] for low, high in SIZES.values()]
        judge.evaluate()
    return list(judge.evalImgs)


def _asked_rows(frames: Sequence[JudgedFrame]) -> list[dict]:
    rows: list[dict] = []
    for image, frame in enumerate(frames):
        for box, counts in zip(frame.asked, counted(frame), strict=True):
            rows.append({**_box(box), "image_id": image, "id": len(rows) + 1, "iscrowd": int(not counts)})
    return rows


def _found_rows(frames: Sequence[JudgedFrame]) -> list[dict]:
    rows: list[dict] = []
    for image, frame in enumerate(frames):
        for box, score in zip(frame.found, frame.score, strict=True):
            rows.append({**_box(box), "image_id": image, "id": len(rows) + 1, "score": float(score)})
    return rows


def _box(xyxy: np.ndarray) -> dict:
    """COCO's form; "area", by which COCOeval picks its ranges, is the height in pixels (a hair taller, lest 12 be rounded to less)."""
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    high = (y2 - y1) * HEIGHT
    return {"category_id": 1, "bbox": [x1 * WIDTH, y1 * HEIGHT, (x2 - x1) * WIDTH, high], "area": high + 1e-3}


def _gathered(judged: Sequence[dict | None], drives: np.ndarray) -> Matches:
    scores, rights, numbers, asked = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, np.int64)], np.zeros(len(judged), np.int64)
    for number, found in enumerate(judged):
        if found is None:
            continue
        counts = ~found["dtIgnore"][0].astype(bool)
        scores.append(np.asarray(found["dtScores"], np.float64)[counts])
        rights.append((found["dtMatches"][0] > 0)[counts])
        numbers.append(np.full(int(counts.sum()), number))
        asked[number] = int((np.asarray(found["gtIgnore"]) == 0).sum())
    return Matches(np.concatenate(scores), np.concatenate(rights), np.concatenate(numbers), asked, drives)


def average_precision(matches: Matches) -> float:
    """COCO's average precision (mean of the envelope's precision at 101 recalls); NaN when nothing was asked for."""
    total = int(matches.asked.sum())
    if not total:
        return float("nan")
    right = matches.right[np.argsort(-matches.score, kind="mergesort")]
    hits = np.cumsum(right)
    precisions = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precisions[::-1])[::-1]
    place = np.searchsorted(hits / total, _RECALLS, side="left")
    return float(np.concatenate([envelope, [0.0]])[np.minimum(place, len(envelope))].mean())


def recall(matches: Matches, threshold: float) -> float:
    """Share of the requested boxes that are found with a score of at least ``threshold``; NaN when nothing was asked for."""
    total = int(matches.asked.sum())
    return float((matches.right & (matches.score >= threshold)).sum() / total) if total else float("nan")


def precision(matches: Matches, threshold: float) -> float:
    """Share of the detections with a score of at least ``threshold`` that are right; NaN when there is none."""
    above = matches.score >= threshold
    return float(matches.right[above].mean()) if above.any() else float("nan")


def precise_threshold(matches: Matches, wanted: float = 0.9) -> float:
    """The lowest score at and above which at least ``wanted`` of the detections are right; 1 when there is no such score."""
    order = np.argsort(-matches.score, kind="mergesort")
    score, precisions = matches.score[order], np.cumsum(matches.right[order]) / np.arange(1, len(order) + 1)
    whole = np.append(score[1:] < score[:-1], True)[: len(score)]  # equal scores stand or fall together
    good = np.flatnonzero((precisions >= wanted) & whole)
    return float(score[good[-1]]) if len(good) else 1.0


def _joined(parts: Sequence[Matches]) -> Matches:
    """Frames of the first part, then those of the second, and so on."""
    first = np.cumsum([0, *(len(part.asked) for part in parts)])
    frame = [part.frame + start for part, start in zip(parts, first, strict=False)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("score", "right", "asked", "drives")}
    return Matches(**columns, frame=np.concatenate(frame))


def drive_interval(
    matches: Matches, statistic: Callable[[Matches], float], resamples: int = 200, seed: int = 0, level: float = 0.95
) -> tuple[float | None, float | None]:
    """Percentile bootstrap over drives (not frames) of a statistic; (None, None) with fewer than three drives."""
    names, drive = np.unique(matches.drives.astype(str), return_inverse=True)
    if len(names) < 3:
        return None, None
    parts = [matches.of(np.flatnonzero(drive == number)) for number in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(parts), len(parts)) for _ in range(resamples))
    values = np.array([statistic(_joined([parts[k] for k in numbers])) for numbers in drawn])
    if not np.isfinite(values).any():
        return None, None
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
