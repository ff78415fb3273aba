"""What edits keep and change: rollouts and recordings made again with one label changed, by the command, and its measures side by side.

    python benchmarks/editing.py measure --work WORK --recordings SIM --clips md00006 md00106 --out benchmarks/results/editing.json
    python benchmarks/editing.py picture --work WORK --seed 4 --out docs/images/edit.jpg
    python benchmarks/editing.py table benchmarks/results/editing.json

``measure`` makes a rollout by day for each seed and edits it in four ways: not at all, to night, to fewer vehicles, to a slower car; and
recordings to night and to fewer vehicles. ``picture``: the clip of one seed, at night, and with fewer vehicles, each plain and with boxes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import describe

from drivesim import cli
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.simulation.edits.measures import Side
from drivesim.simulation.edits.picture import edit_page

WAYS: dict[str, list[str]] = {
    "nothing": [], "night": ["--time-of-day", "night"], "fewer vehicles": ["--crowdedness", "2"], "slower": ["--ego-speed-mps", "2"],
}  # fmt: skip
OF_RECORDINGS = ("night", "fewer vehicles")


def run(*words: str) -> None:
    if cli.main(list(words)) != 0:
        raise SystemExit(f"failed: drivesim {' '.join(words)}")


def base_of(work: Path, seed: int, seconds: float) -> Path:
    """The rollout of a seed, made where it is not there yet."""
    out = work / f"seed_{seed}"
    if not (out / "dataset.json").is_file():
        words = ("--time-of-day", "day", "--crowdedness", "6", "--seed", str(seed), "--device", "cpu", "--out", str(out))
        run("rollout", "--minutes", str(seconds / 60), *words)
    return out


def edited(source: Path, clip: str | None, way: str, out: Path) -> dict[str, Any]:
    """The report of an edit, made where it is not there yet."""
    if not (out / "edit.json").is_file():
        named = [] if clip is None else ["--clip", clip]
        run("edit", str(source), *named, *WAYS[way], "--device", "cpu", "--overwrite", "--out", str(out))
    report: dict[str, Any] = json.loads((out / "edit.json").read_text(encoding="utf-8"))
    return report


def measure(arguments: argparse.Namespace) -> None:
    work: Path = arguments.work
    rows = []
    for seed in arguments.seeds:
        base = base_of(work, seed, arguments.seconds)
        for way in WAYS:
            out = work / f"seed_{seed}_{way.split()[0]}"
            report = edited(base, None, way, out)
            videos = [next((folder / "videos").glob("*.mp4")).read_bytes() for folder in (base, out)]
            rows.append({"of": "rollouts", "clip": seed, "way": way, "same_bytes": videos[0] == videos[1], **report["measures"]})
    for clip in arguments.clips:
        for way in OF_RECORDINGS:
            report = edited(arguments.recordings, clip, way, work / f"{clip}_{way.split()[0]}")
            rows.append({"of": "recordings", "clip": clip, "way": way, **report["measures"]})
    detector = report["detector"]
    page = {"seconds": arguments.seconds, "detector": detector, "machine": describe(), "rows": rows}
    arguments.out.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    table(arguments.out)


def table(path: Path) -> None:
    """Markdown: the mean over clips, and the lowest and highest of them."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    print("| of | changed | clips | layout: this seed | other seeds | recall before | after | removed boxes before | after | brightness | "
          "night |\n|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for of, way in dict.fromkeys((row["of"], row["way"]) for row in rows):
        some = [row for row in rows if (row["of"], row["way"]) == (of, way)]
        cells = [
            _spread([row["layout"]["between"] for row in some]), _spread([np.mean(row["layout"]["chance"]) for row in some]),
            *(_spread([row["boxes"][side]["recall"] for row in some]) for side in ("before", "after")),
            *(_spread([row["boxes"]["removed"][f"recall_{side}"] for row in some]) for side in ("before", "after")),
            *(" -> ".join(f"{np.mean([row['light'][side][name] for row in some]):.2f}" for side in ("before", "after"))
              for name in ("brightness", "night")),
        ]  # fmt: skip
        print(f"| {of} | {way} | {len(some)} | {' | '.join(cells)} |")


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.2f} [{min(known):.2f}, {max(known):.2f}]" if known else ""


def picture(arguments: argparse.Namespace) -> None:
    base = arguments.work / f"seed_{arguments.seed}"
    folders = {"the clip": base, "--time-of-day night": Path(f"{base}_night"), "--crowdedness 2": Path(f"{base}_fewer")}
    sides, times = [], np.zeros(0)
    for name, folder in folders.items():
        records = read_records(folder)
        labels = labels_of(records, records.clip_ids[0])
        numbers = np.linspace(0, len(labels) - 1, arguments.instants).round().astype(int)
        times = numbers / labels.fps
        frames = read_frames(records.video_path(records.clip_ids[0]), indices=numbers)
        sides.append((name, Side(frames, labels.take(numbers, labels.fps))))
    page = edit_page(sides, times, arguments.width)
    cv2.imwrite(str(arguments.out), np.ascontiguousarray(page[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    measuring = what.add_parser("measure")
    measuring.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6, 7])
    measuring.add_argument("--seconds", type=float, default=15.0)
    measuring.add_argument("--recordings", type=Path)
    measuring.add_argument("--clips", nargs="*", default=[])
    drawing = what.add_parser("picture")
    drawing.add_argument("--seed", type=int, default=4)
    drawing.add_argument("--instants", type=int, default=5)
    drawing.add_argument("--width", type=int, default=256)
    for one in (measuring, drawing):
        one.add_argument("--work", type=Path, required=True)
        one.add_argument("--out", type=Path, required=True)
    what.add_parser("table").add_argument("path", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "table":
        table(arguments.path)
    else:
        {"measure": measure, "picture": picture}[arguments.what](arguments)


if __name__ == "__main__":
    main()
