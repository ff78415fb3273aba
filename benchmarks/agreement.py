"""What does the filtering detector's agreement reach where labels are right? The ceiling that stands beside the agreement of made clips.

    python benchmarks/agreement.py --data SIM --split test --out drivesim/weights/detector_filter/ceiling.json

The same code as ``drivesim generate`` and ``drivesim data agree``: the same frames a second, the same matching, over held-out clips that
the detector was not trained on. Shares are of all boxes and detections together; quantiles are over clips. ``chance``: every clip's labels
held against the pictures of another clip, which is what --min-agreement has to tell apart from the ceiling.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.io.checkpoints import file_hash
from drivesim.io.records import DatasetRecords, labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.simulation.agreement import FILTER, Agreement, Tally, look_every

QUANTILES = (0.05, 0.25, 0.5)


def of_clip(records: DatasetRecords, pictures: str, labels: str, agreement: Agreement) -> Agreement:
    """Labels of one clip held against the pictures of another (or the same): the frames that would be looked at, and no others."""
    track, every = labels_of(records, labels), look_every(float(records.clip(labels)["fps"]))
    frames = np.arange(0, min(len(track), int(records.clip(pictures)["frames"])), every)
    one = Agreement(agreement.detector, every=1)  # it is shown those only
    one.look(read_frames(records.video_path(pictures), indices=frames), track.take(frames, track.fps))
    return one


def summary(clips: Sequence[Agreement]) -> dict[str, Any]:
    """Shares over all clips together, and how low the F1 of single clips lies."""
    whole = sum((clip.tally for clip in clips), Tally())
    f1 = np.array([clip.tally.f1 for clip in clips if clip.tally.f1 is not None])
    iou = np.concatenate([clip.boxes()["agreement_iou"].to_numpy(np.float64) for clip in clips])
    found = iou[np.nan_to_num(iou) >= 0.5]
    return {
        "precision": rounded(whole.precision), "recall": rounded(whole.recall), "f1": rounded(whole.f1),
        "frames": whole.frames, "boxes": whole.right + whole.missed, "mean_iou": rounded(float(found.mean()) if len(found) else None),
        "f1_of_clips": {f"{q:g}": rounded(float(np.quantile(f1, q))) for q in QUANTILES},
    }  # fmt: skip


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def measured(root: Path, split: str, path: Path) -> dict[str, Any]:
    """The ceiling, night and day apart, and chance."""
    records = read_records(root)
    records = replace(records, clips=records.clips[records.clips["split"] == split].reset_index(drop=True))
    agreement, names = Agreement.load(path), records.clip_ids
    right = {name: of_clip(records, name, name, agreement) for name in names}
    light = records.clips.set_index("clip_id")["time_of_day"]
    parts = {value: summary([right[name] for name in names if light[name] == value]) for value in ("day", "night")}
    other = names[len(names) // 2 :] + names[: len(names) // 2]
    chance = [of_clip(records, pictures, labels, agreement) for pictures, labels in zip(names, other, strict=True)]
    return {**summary(list(right.values())), "clips": len(names), **parts, "chance": summary(chance)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="clip dataset whose labels are right")
    parser.add_argument("--split", default="test", help="one that the detector was not trained on")
    parser.add_argument("--detector", type=Path, default=FILTER, help="files without their endings")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    command = f"python benchmarks/agreement.py --data {args.data.name.upper()} --split {args.split}"
    head = {"data": f"{args.data.name} {args.split}", "date": str(date.today()), "command": command,
            "detector": file_hash(args.detector.with_suffix(".safetensors"))}  # fmt: skip
    table = {**head, **measured(args.data, args.split, args.detector)}
    print(json.dumps(table, indent=1))
    if args.out:
        args.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
