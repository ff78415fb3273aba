"""How right is ``drivesim data label``? Datasets without their labels are labelled again and held against the labels they had.

    python benchmarks/labelling.py --data SIM SIM_LONG REAL --splits test test all --out benchmarks/results/labelling.json

Boxes: vehicles of at least 12 px (of 128 rows) as one class at an IoU of 0.5, over frames that were looked at. Time of day: clips right,
wrong and left unknown by light, and clips where the detector's own night output says the same as light. Data sets are never pooled. The
boxes of REAL are another detector's: there it says how far two detectors agree.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from drivesim.datasets.finders import OWN
from drivesim.datasets.labelling import label_dataset
from drivesim.io.checkpoints import file_hash, load_network
from drivesim.io.records import DatasetRecords, empty_table, labels_of, read_records, write_records
from drivesim.io.video import read_frames
from drivesim.labels import VEHICLES
from drivesim.models.looking import look_at
from drivesim.simulation.agreement import Tally, held_against


def without_labels(records: DatasetRecords, root: Path) -> None:
    """The same clips in ``root``, with nothing said of them."""
    (root / "videos").mkdir()
    for clip_id in records.clip_ids:
        (root / "videos" / f"{clip_id}.mp4").write_bytes(records.video_path(clip_id).read_bytes())
    clips = records.clips.assign(time_of_day=None, crowdedness=float("nan"), video=[f"videos/{name}.mp4" for name in records.clip_ids])
    write_records(root, replace(records, root=root, clips=clips, boxes=empty_table("boxes"), frames=None))


def boxes_right(made: DatasetRecords, there: DatasetRecords) -> dict[str, Any]:
    """Precision and recall of the labels, and the correlation of crowdedness frame by frame."""
    tally, crowd = Tally(), list[tuple[float, float]]()
    for clip_id in made.clip_ids:
        ours, theirs = labels_of(made, clip_id), labels_of(there, clip_id)
        for frame in np.flatnonzero(ours.boxes_known & theirs.boxes_known):
            a, b = (track.boxes.where((track.boxes.frame == frame) & (track.boxes.category < len(VEHICLES))) for track in (ours, theirs))
            a = a.where(~a.ignore)
            tally += held_against(b.xyxy, b.ignore, a.xyxy, np.ones(len(a), np.float32), 0.5)[2]
            crowd.append((ours.values["crowdedness"][frame], theirs.values["crowdedness"][frame]))
    pairs = np.array(crowd).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(1)]
    shares = {"precision": tally.precision, "recall": tally.recall, "f1": tally.f1}
    correlation = float(np.corrcoef(pairs.T)[0, 1]) if len(pairs) > 2 else None
    means = {"crowdedness_made": float(pairs[:, 0].mean()), "crowdedness_there": float(pairs[:, 1].mean())} if len(pairs) else {}
    told = {**shares, "crowdedness_correlation": correlation, **means}
    counts = {"frames": tally.frames, "boxes": tally.right + tally.missed}
    return {**counts, **{name: None if value is None else round(value, 4) for name, value in told.items()}}


def light_right(made: DatasetRecords, there: DatasetRecords) -> dict[str, Any]:
    """Clips whose time of day light says right, wrong or not, and how often the detector's night output agrees with light."""
    network: Any = load_network(OWN)
    counts = dict.fromkeys(("right", "wrong", "unknown", "detector_agrees", "detector_asked"), 0)
    for clip_id in made.clip_ids:
        says, truth = made.clip(clip_id)["time_of_day"], there.clip(clip_id)["time_of_day"]
        says = says if isinstance(says, str) else None
        counts["unknown" if says is None else "right" if says == truth else "wrong"] += 1
        if says is not None:
            frames = np.linspace(0, int(made.clip(clip_id)["frames"]) - 1, 5).round().astype(int)
            found = look_at(network, read_frames(made.video_path(clip_id), indices=frames), 0.9)
            night = float(np.median([one.night for one in found])) >= 0.5
            counts["detector_asked"] += 1
            counts["detector_agrees"] += night == (says == "night")
    return counts


def measured(data: Path, split: str, detector: Path | None, every: int) -> dict[str, Any]:
    there = read_records(data)
    if split != "all":
        there = replace(there, clips=there.clips[there.clips["split"] == split].reset_index(drop=True))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        without_labels(there, root)
        label_dataset(root, detector=detector, every=every, progress=False)
        made = read_records(root)
        return {"clips": len(there.clips), "boxes": boxes_right(made, there), "time_of_day": light_right(made, there)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="labelled clip datasets, told one by one")
    parser.add_argument("--splits", nargs="+", required=True, help="of each; all = every clip")
    parser.add_argument("--detector", type=Path, help="ONNX file or folder (default: the filtering detector of the package)")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pairs = zip(args.data, args.splits, strict=True)
    tables = {f"{root.name} {split}": measured(root, split, args.detector, args.every) for root, split in pairs}
    named = file_hash(OWN.with_suffix(".safetensors")) if args.detector is None else args.detector.name
    table = {"detector": named, "every": args.every, "date": str(date.today()), "tables": tables}
    print(json.dumps(table, indent=1))
    if args.out:
        args.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
