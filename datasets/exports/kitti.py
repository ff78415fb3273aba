"""Our format -> the KITTI tracking benchmark: a folder of pictures and a text file of labels for every sequence.

    out/training/image_02/0000/000000.png           frames of a sequence, counted from 0
    out/training/label_02/0000.txt                  a row per box
    out/training/evaluate_tracking.seqmap.training  sequences and their lengths, for the benchmark's evaluation and TrackEval; where clips
                                                    are marked val also .val and .training_minus_val
    out/training/label_02_drivesim/0000.txt         a row per row of label_02: what its type does not say (our category, track, ignore,
                                                    hidden share, truncated, who says so; - where nobody knows)
    out/export.json                                 what KITTI has no place for: which clip and frames a sequence is, its rate, the mapping

Layout and columns: readme of the tracking devkit, cvlibs.net/datasets/kitti/eval_tracking.php. A row is: frame, track, type, truncated,
occluded, alpha, left, top, right, bottom (0-based pixels), height, width, length, x, y, z, rotation_y.

- Nothing three-dimensional is made up: alpha and rotation_y are -10, sizes -1, places -1000, and there is no ``calib``. These are the
  devkit's own values for what a label does not say; so is -1 where nobody knows how far a box is truncated or occluded. (Its code 3 for
  "occlusion unknown" would have the evaluation leave every box out.)
- KITTI has no buses and no motorcycles. They are Misc, as whatever else has no name there: called Truck they would teach and judge a
  wrong word, and the benchmark evaluates neither. ``drivesim data import kitti`` reads the true category from label_02_drivesim, so that
  every box comes back as it was; no other reader looks there.
- A sequence has no gaps. A clip is cut where frames are not known, so that one clip may become several sequences.
- Boxes marked ignore are DontCare regions, of track -1, which the evaluation neither asks for nor punishes.
- Whoever reads KITTI takes it for 10 frames a second; the true rate is in ``export.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.labels import CATEGORIES, LABELS

from ..folders import new_folder
from .footage import Footage, OutgoingClip, one_of

__all__ = ["MAPPING", "export_kitti"]

MAPPING = {"car": "Car", "truck": "Truck", "bus": "Misc", "motorcycle": "Misc", "bicycle": "Cyclist", "person": "Pedestrian"}
"""Our categories -> types of KITTI, which has no buses and no motorcycles; ignore boxes of any category become DontCare."""
PARTLY, LARGELY = 0.1, 0.5
"""Hidden share from which a box is partly (1) and largely (2) occluded. KITTI names the steps; the shares are ours."""
NO_3D = "-1 -1 -1 -1000 -1000 -1000 -10"
BESIDE = "label_02_drivesim"
PICTURES = ("png", "jpg", "none")


def export_kitti(dataset: str | Path, out: str | Path, split: str | None = None, every: int = 1, pictures: str = "png") -> dict[str, Any]:
    """Write the folder ``out`` with every ``every``-th frame of every clip whose boxes are known.

    Args:
        pictures: png (as the benchmark has them) | jpg | none (labels only, as for the evaluation).

    Returns:
        {"sequences", "frames", "boxes", "DontCare", "mapping", "frames without known boxes", "clips that cannot be read", "out"}.

    Raises:
        UsageError: an argument out of range.
        DatasetError: ``dataset`` is none, or has no frame to export.
        DrivesimError: ``out`` exists or cannot be written.
    """
    one_of("pictures", pictures, PICTURES)
    footage = Footage(dataset, split, every)
    with new_folder(out) as folder:
        writer = _Writer(folder / "training", pictures)
        for clip in footage.clips():
            writer.add_clip(footage, clip)
        frames = sum(len(sequence["frames"]) for sequence in writer.sequences)
        footage.require(frames)
        writer.write_maps()
        about = {"creator": "drivesim data export kitti", "dataset": footage.name, "every": every}
        about |= {"mapping": {**MAPPING, "ignore": "DontCare"}, "sequences": writer.sequences}
        (folder / "export.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    counts = {"sequences": len(writer.sequences), "frames": frames, "boxes": writer.boxes, "DontCare": writer.ignored, "mapping": MAPPING}
    return {**counts, **footage.left_out(), "out": str(out)}


class _Writer:
    """What has been written so far."""

    def __init__(self, folder: Path, pictures: str) -> None:
        self.folder, self.pictures = folder, pictures
        self.sequences: list[dict[str, Any]] = []
        self.boxes = self.ignored = 0

    def add_clip(self, footage: Footage, clip: OutgoingClip) -> None:
        runs = clip.runs()
        names = [f"{number:04d}" for number in range(len(self.sequences), len(self.sequences) + len(runs))]
        if self.pictures != "none" and not footage.write_pictures(clip, self._paths(names, runs)):
            for name in names:
                (self.folder / "image_02" / name).rmdir()
            return
        tracks = _track_numbers(clip)
        for folder in ("label_02", BESIDE):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        for name, run in zip(names, runs, strict=True):
            rows = [row for place, frame in enumerate(run.tolist()) for row in self._rows(clip, frame, place, tracks)]
            (self.folder / "label_02" / f"{name}.txt").write_text("".join(rows), encoding="utf-8")
            beside = [row for frame in run.tolist() for row in _beside(clip, frame)]
            (self.folder / BESIDE / f"{name}.txt").write_text("".join(beside), encoding="utf-8")
            about = {"clip_id": clip.clip_id, "split": clip.split, "fps": clip.fps, "licence": clip.licence}
            self.sequences.append({"name": name, **about, "time_of_day": _times(clip, run), "frames": run.tolist()})

    def _paths(self, names: list[str], runs: list[np.ndarray]) -> dict[int, Path]:
        return {
            frame: self.folder / "image_02" / name / f"{place:06d}.{self.pictures}"
            for name, run in zip(names, runs, strict=True) for place, frame in enumerate(run.tolist())
        }  # fmt: skip

    def _rows(self, clip: OutgoingClip, frame: int, place: int, tracks: np.ndarray) -> Iterator[str]:
        rows, boxes = clip.at(frame), clip.boxes(frame)
        states = zip(tracks[rows], clip.truncated[rows], clip.occlusion[rows], strict=True)
        for category, ignore, corners, state in zip(boxes.category, boxes.ignore, clip.corners(frame), states, strict=True):
            edges = " ".join(f"{edge:.6f}" for edge in corners)
            if ignore:
                self.ignored += 1
                yield f"{place} -1 DontCare -1 -1 -10 {edges} {NO_3D}\n"
            else:
                self.boxes += 1
                track, truncated, occlusion = state
                kind = MAPPING[CATEGORIES[category]]
                yield f"{place} {track} {kind} {_code(truncated)} {_occluded(occlusion)} -10 {edges} {NO_3D}\n"

    def write_maps(self) -> None:
        """The lists of sequences, under the names that evaluations ask for."""
        held_out = [sequence["split"] == "val" for sequence in self.sequences]
        maps = {"training": [True] * len(held_out)}
        if any(held_out):
            maps |= {"val": held_out, "training_minus_val": [not val for val in held_out]}
        for part, chosen in maps.items():
            lines = [
                f"{sequence['name']} empty 000000 {len(sequence['frames']):06d}\n"
                for sequence, keep in zip(self.sequences, chosen, strict=True) if keep
            ]  # fmt: skip
            (self.folder / f"evaluate_tracking.seqmap.{part}").write_text("".join(lines), encoding="utf-8")


def _track_numbers(clip: OutgoingClip) -> np.ndarray:
    """Track numbers of the clip's boxes: ours, or counted from 0 where one is negative, which in KITTI means "no track"."""
    numbers = clip.track.boxes.track_id
    return np.unique(numbers, return_inverse=True)[1] if (numbers < 0).any() else numbers


def _beside(clip: OutgoingClip, frame: int) -> Iterator[str]:
    rows, boxes = clip.at(frame), clip.boxes(frame)
    more = zip(clip.occlusion[rows], clip.truncated[rows], clip.provenance[rows], strict=True)
    for category, track, ignore, (occlusion, truncated, provenance) in zip(boxes.category, boxes.track_id, boxes.ignore, more, strict=True):
        hidden, cut = ("-" if np.isnan(value) else f"{value:g}" for value in (occlusion, truncated))
        yield f"{CATEGORIES[category]} {track} {int(ignore)} {hidden} {cut} {provenance or '-'}\n"


def _times(clip: OutgoingClip, run: np.ndarray) -> list[str | float | None]:
    """The time of day of every frame."""
    return [LABELS["time_of_day"].decode(float(code)) for code in clip.track.values["time_of_day"][run]]


def _code(truncated: float) -> int:
    return -1 if np.isnan(truncated) else int(truncated)


def _occluded(occlusion: float) -> int:
    return -1 if np.isnan(occlusion) else int(occlusion >= PARTLY) + int(occlusion >= LARGELY)
