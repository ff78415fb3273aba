"""Are the requested labels in the picture? A small detector looks at generated frames; what it finds is held against what was asked for.

Its figures on generated frames mean little alone, so they stand beside the same detector's on held-out frames (what it can do), on their
reconstructions (what the autoencoder leaves) and on generated frames held against other boxes (chance). Everything about the detector
itself is in docs/model-card-detector.md. This file does not know how frames were made, nor how the detector was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from drivesim.errors import UsageError
from drivesim.io.checkpoints import WEIGHTS, Checkpoint, file_hash, load_network
from drivesim.io.records import DatasetRecords, labels_of
from drivesim.io.video import VideoError
from drivesim.labels import VEHICLES, LabelTrack
from drivesim.models.detector import BoxDetector
from drivesim.models.looking import fitted
from drivesim.shapes import as_bytes, as_floats

from .boxes import HEIGHT, MIN_HEIGHT, SIZES, JudgedFrame, Matches, average_precision, drive_interval, match, recall
from .footage import Footage, Shot
from .label_plot import plot_labels

__all__ = ["JUDGE", "Judge", "label_report", "look", "other_boxes", "reconstruction", "summary", "table_rows", "tall"]

JUDGE = WEIGHTS / "detector" / "detector"
FRAMES_PER_SECOND = 1.875
LOWEST_SCORE = 0.02
"""Detections below it change no average precision that anybody would believe."""
BATCH = 16

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Judge:
    """A detector, the SHA-256 of its weights, and the score from which its detections count: 90% of those were right on held-out clips."""

    detector: BoxDetector
    hash: str

    @classmethod
    def load(cls, path: str | Path = JUDGE) -> Judge:
        """The detector inside the package, or another exported one.

        Raises:
            CheckpointError: its files are missing or do not fit.   UsageError: another kind of network.
        """
        network = load_network(path)
        if not isinstance(network, BoxDetector):
            raise UsageError(f"{path} holds a {type(network).__name__}, not a BoxDetector; give a folder made by experiment=mini/detector")
        return cls(network, file_hash(Path(path).with_suffix(".safetensors")))

    @property
    def threshold(self) -> float:
        return self.detector.threshold


@dataclass
class Seen:
    """Judged frames of one side. skipped: clip id -> why its frames could not be read."""

    frames: list[JudgedFrame] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def look(footage: Footage, judge: Judge, limit: int | None = 600, seed: int = 0, change: Change | None = None) -> Seen:
    """Run the judge over frames of labelled footage, about two a second, at most ``limit``, spread over drives.

    change: uint8 (n, h, w, 3) -> the same, before the judge sees it (the autoencoder's reconstruction, say).

    Raises:
        UsageError: the footage has no labels.
    """
    if footage.records is None:
        raise UsageError(f"{footage.name} has no labels to hold its frames against; give a clip dataset instead of plain videos")
    seen, clips = Seen(), {clip.clip_id: clip for clip in footage.clips}
    shots = footage.shots(1, None, every_s=1 / FRAMES_PER_SECOND, limit=limit, seed=seed)
    for clip_id, of_clip in groupby(shots, key=lambda shot: shot.clip_id):
        try:
            track = labels_of(footage.records, clip_id)
            here = list(of_clip)
            for first in range(0, len(here), BATCH):
                part = here[first : first + BATCH]
                frames = clips[clip_id].read(np.array([shot.first_frame for shot in part]))  # one pass through the video, not one a shot
                seen.frames += _judged(part, frames, track, judge, change)
        except VideoError as error:
            seen.skipped[clip_id] = str(error)
    return seen


def _judged(
    shots: Sequence[Shot], frames: np.ndarray, track: LabelTrack, judge: Judge, change: Change | None
) -> Iterator[JudgedFrame]:  # fmt: skip
    frames = fitted(change(frames) if change is not None else frames, judge.detector.downsample)
    found = judge.detector.detect(torch.from_numpy(frames).permute(0, 3, 1, 2), LOWEST_SCORE, 100)
    for shot, detections in zip(shots, found, strict=True):
        frame, vehicles = shot.first_frame, detections.vehicles
        boxes = track.boxes.where((track.boxes.frame == frame) & (track.boxes.category < len(VEHICLES)))
        yield JudgedFrame(
            shot.drive, boxes.xyxy, boxes.ignore, vehicles.xyxy.numpy(), vehicles.score.numpy(), bool(track.boxes_known[frame]),
            float(track.values["time_of_day"][frame]), float(track.values["crowdedness"][frame]), detections.night, shot.clip_id,
        )  # fmt: skip


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (n, h, w, 3) -> (n, height, width, 3), by area where it shrinks."""
    if frames.shape[1:3] == (height, width):
        return np.ascontiguousarray(frames)
    way = cv2.INTER_AREA if frames.shape[1] >= height else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (width, height), interpolation=way) for frame in frames])


def reconstruction(checkpoint: Checkpoint) -> Change:
    """Frames as the checkpoint's autoencoder gives them back, at its own size, each frame by itself."""
    autoencoder: Any = checkpoint.network("autoencoder")
    height, width = int(checkpoint.settings["height"]), int(checkpoint.settings["width"])

    @torch.no_grad()
    def change(frames: np.ndarray) -> np.ndarray:
        small: Tensor = torch.from_numpy(resized(frames, height, width)).permute(0, 3, 1, 2)
        made = autoencoder.decode(autoencoder.encode(as_floats(small))[:, None])[:, 0]
        return as_bytes(made).permute(0, 2, 3, 1).numpy()

    return change


def other_boxes(frames: Sequence[JudgedFrame], seed: int = 0) -> tuple[list[JudgedFrame], str]:
    """Every frame with the boxes that were asked of another: the level of chance, and where those boxes are from.

    They are a random frame's of another drive; of a single drive, those of the frame half the drive away.
    """
    rng = np.random.default_rng(seed)
    drives = np.array([frame.drive for frame in frames], dtype=object)
    several = len(set(drives)) > 1
    partners = []
    for number, frame in enumerate(frames):
        others = np.flatnonzero(drives != frame.drive) if several else np.array([(number + len(frames) // 2) % len(frames)])
        partners.append(frames[int(rng.choice(others))])
    swapped = [replace(f, asked=p.asked, ignore=p.ignore, known=p.known) for f, p in zip(frames, partners, strict=True)]
    return swapped, "another drive" if several else "another time of the same drive"


def table_rows(who: str, frames: Sequence[JudgedFrame], threshold: float, resamples: int = 200) -> list[dict[str, Any]]:
    """Average precision at an IoU of 0.5 and recall at ``threshold``, with intervals over drives: all, by day, by night, by height."""
    sizes = match(frames)
    day, night = (match([frame for frame in frames if frame.night == value])["all"] for value in (0.0, 1.0))
    subsets = {"all": sizes["all"], "day": day, "night": night, **{name: sizes[name] for name in SIZES if name != "all"}}
    return [{"who": who, "subset": name, **_measured(found, threshold, resamples)} for name, found in subsets.items()]


def _measured(matches: Matches, threshold: float, resamples: int) -> dict[str, Any]:
    def recalled(some: Matches) -> float:
        return recall(some, threshold)

    ap, found = drive_interval(matches, average_precision, resamples), drive_interval(matches, recalled, resamples)
    return {
        "ap50": _number(average_precision(matches)), "ap50_low": ap[0], "ap50_high": ap[1],
        "recall": _number(recalled(matches)), "recall_low": found[0], "recall_high": found[1],
        "boxes": int(matches.asked.sum()), "frames": len(matches.asked), "drives": len(set(matches.drives)),
    }  # fmt: skip


def summary(frames: Sequence[JudgedFrame], threshold: float) -> dict[str, float | None]:
    """What is not average precision, each None where nothing can be said.

    false_per_empty_frame: vehicles of at least 12 px found per frame of which it is known that it holds none.   time_of_day_agreement:
    share of frames whose time of day the detector agrees with.   crowdedness_correlation: Pearson's, requested against counted.
    """
    empty = [tall(frame, threshold) for frame in frames if frame.known and not len(frame.asked)]
    told = [(frame.night_found > 0.5) == (frame.night == 1) for frame in frames if np.isfinite(frame.night)]
    pairs = np.array([(f.crowdedness, (f.score >= threshold).sum()) for f in frames if np.isfinite(f.crowdedness)], np.float64)
    varied = len(pairs) > 2 and bool((np.ptp(pairs, axis=0) > 0).all())
    return {
        "false_per_empty_frame": float(np.mean(empty)) if empty else None,
        "time_of_day_agreement": float(np.mean(told)) if told else None,
        "crowdedness_correlation": float(np.asarray(np.corrcoef(pairs.T))[0, 1]) if varied else None,
    }


def tall(frame: JudgedFrame, threshold: float) -> int:
    """Vehicles of at least MIN_HEIGHT pixels that are found in a frame with a score of at least ``threshold``."""
    high = (frame.found[:, 3] - frame.found[:, 1]) * HEIGHT >= MIN_HEIGHT
    return int((high & (frame.score >= threshold)).sum())


def label_report(
    generated: Footage, real: Footage, checkpoint: Checkpoint | None, out: Path, limit: int | None = 600, judge: Judge | None = None
) -> dict[str, Any]:
    """The "label_fidelity" part of a result, and ``out``/labels.png.

    Args:
        generated: footage with the labels that were asked for.   real: held-out footage with its own; without labels it is left out.
        checkpoint: whose autoencoder reconstructs held-out frames; None = no such rows.   limit: frames of each side.
        judge: None = the one inside the package.

    Returns: "rows" as ``table_rows`` gives them for generated, held-out, reconstruction and chance; the quantities of ``summary`` for
    generated frames, and for the others with their name behind (``_held_out``, ``_reconstruction``); "detector" (hash), "threshold",
    "boxes_from" and "boxes_from_held_out" (who says where the boxes are), "chance" (whose boxes), "marks".

    Raises:
        UsageError: generated has no labels, or none of its frames can be read.   CheckpointError: no detector.
    """
    judge = judge or Judge.load()
    seen = {"generated": look(generated, judge, limit)}
    if not seen["generated"].frames:
        raise UsageError(f"{generated.name}: no frame could be read, so its labels cannot be judged")
    if real.records is not None:
        seen["held-out"] = look(real, judge, limit)
        if checkpoint is not None:
            seen["reconstruction"] = look(real, judge, limit, change=reconstruction(checkpoint))
    sides = {who: part.frames for who, part in seen.items()}
    swapped, origin = other_boxes(sides["generated"])
    report = _reported({**sides, "chance": swapped}, judge)
    report |= {"boxes_from": _origin(generated.records), "boxes_from_held_out": _origin(real.records)}
    report |= {"chance": f"boxes of {origin}", "marks": _marks(seen, real)}
    out.mkdir(parents=True, exist_ok=True)
    plot_labels(report, out / "labels.png")
    return report


def _reported(sides: dict[str, list[JudgedFrame]], judge: Judge) -> dict[str, Any]:
    rows = [row for who, frames in sides.items() for row in table_rows(who, frames, judge.threshold)]
    beside: dict[str, float | None] = {}
    for who, frames in sides.items():
        if who != "chance":
            ending = "" if who == "generated" else f"_{who.replace('-', '_')}"
            beside |= {name + ending: value for name, value in summary(frames, judge.threshold).items()}
    return {"rows": rows, **beside, "detector": judge.hash, "threshold": judge.threshold, "frames_per_second": FRAMES_PER_SECOND}


def _origin(records: DatasetRecords | None) -> str:
    """Where boxes come from: requested, simulated, detector:NAME, ...; "" when nobody says."""
    if records is None or "provenance" not in records.boxes:
        return ""
    return ", ".join(sorted({str(name) for name in records.boxes["provenance"].dropna()}))


def _marks(seen: dict[str, Seen], real: Footage) -> list[str]:
    marks = [f"{who}: frames of {clip_id} could not be read: {reason}" for who, part in seen.items() for clip_id, reason in _few(part)]
    few = [who for who, part in seen.items() if len({frame.drive for frame in part.frames}) < 3]
    if few:
        marks.append(f"no intervals for {', '.join(few)}: fewer than three drives")
    if real.records is None:
        marks.append(f"{real.name} has no labels: what the detector can do on recorded frames is not known here")
    if real.kind == "real":
        marks.append("the judging detector was trained on simulated clips only: on recorded and recorded-looking frames it finds less")
    if "detector:" in _origin(real.records):
        marks.append(f"the boxes of {real.name} are another detector's ({_origin(real.records)}), not the truth")
    return marks


def _few(part: Seen) -> Iterable[tuple[str, str]]:
    return list(part.skipped.items())[:8]


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
