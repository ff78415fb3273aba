"""Does the offline judge see what is wrong with a video? Held-out clips are damaged in graded ways and judged against undamaged ones.

    python benchmarks/metric_validity.py SIM SIM_LONG --smoke REAL --out benchmarks/results/metric_validity.json \\
        --plot docs/images/metric_validity.png --table docs/metric-validity.md

Held-out clips are cut into disjoint windows of 16 frames at 7.5 fps. Their drives are split into halves at random, several times; half A
is the reference, half B is damaged. The floor is half B undamaged against half A: what other drives alone amount to. Damaged pictures
have to go through the network again, so only every fourth window of a clip is (with a floor of its own); a change of order costs nothing.
Frames are judged about once a second (the first and the ninth of a window), windows as a whole. The smoke datasets hold too little for
halves: there the damaged windows are judged against the same windows undamaged. ``--table`` replaces what stands between the markers of
that page. Raw features are kept in ``--cache``; empty that folder when a corruption or a dataset has changed.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from metric_validity_page import between_markers, plot, smoke_table, table

from drivesim.datasets.clips import ClipDataset
from drivesim.eval.corruptions import CORRUPTIONS, OrderCorruption, PictureCorruption
from drivesim.eval.frechet import frechet_distance
from drivesim.eval.kernel import kernel_distance
from drivesim.eval.networks.lite0 import CLIP_FRAMES, FRAME_FEATURES, Lite0, Lite0Clips, Lite0Frames

FPS = 7.5
SPLITS = 10
JUDGED = (0, 8)
"""Frames of a window that the frame metric sees."""
DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"frechet": frechet_distance, "kernel": kernel_distance}
METRICS = ("fd_lite0 frechet", "fd_lite0 kernel", "fvd_lite0 frechet", "fvd_lite0 kernel")
EVERY = 4
"""Of the windows of a clip, every so many-th has its pictures damaged."""
PICTURES = tuple(name for name, corruption in CORRUPTIONS.items() if isinstance(corruption, PictureCorruption))
CLAIMS = {
    "fd_lite0": ("blur", "noise", "jpeg", "colour"),
    "fvd_lite0": ("noise", "jpeg", "jitter", "shuffle", "freeze", "hold", "timelapse", "splice", "reversal"),
}
"""What each metric has to grow with, and see in every split. Blur and colour are left to the frame metric: the video metric grows with
them, too, but the motion of other drives hides them in some splits."""
Found = dict[tuple[str, int], dict[str, float]]
"""(corruption, grade) -> distances by the names of METRICS."""


@dataclass(frozen=True)
class Clip:
    """What is known of a clip's frames, float32 (n, 64 + 96) each: the frame features and the tracks.

    clean: of all its frames.   damaged: (corruption, grade) -> of every ``every``-th window.
    """

    name: str
    drive: str
    clean: np.ndarray
    damaged: dict[tuple[str, int], np.ndarray]
    every: int


@dataclass(frozen=True)
class Window:
    clip: Clip
    number: int

    @property
    def has_pictures(self) -> bool:
        return self.number % self.clip.every == 0

    def known(self, key: tuple[str, int] | None = None) -> np.ndarray:
        """(16, 160), undamaged or with damaged pictures."""
        rows, number = (self.clip.clean, self.number) if key is None else (self.clip.damaged[key], self.number // self.clip.every)
        return rows[number * CLIP_FRAMES : (number + 1) * CLIP_FRAMES]


class Judges:
    """Both feature networks on the same raw features, which are kept in a folder: they cost minutes, everything after them seconds."""

    def __init__(self, cache: Path) -> None:
        self.lite0, self.frames, self.clips, self.cache = Lite0(), Lite0Frames(), Lite0Clips(), cache

    def known(self, place: str, frames: Callable[[], np.ndarray]) -> np.ndarray:
        """Of uint8 frames (n, h, w, 3), which are asked for only where the folder does not hold their raw features."""
        path = self.cache / f"{place}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pooled, grid = self.lite0(torch.from_numpy(np.ascontiguousarray(frames().transpose(0, 3, 1, 2))))
            np.savez(path, pooled=pooled.numpy(), grid=grid.numpy())
        with np.load(path) as raw:
            pooled, grid = torch.from_numpy(raw["pooled"]), torch.from_numpy(raw["grid"])
        return torch.cat([self.frames.project(pooled), self.clips.project(pooled, grid)], 1).numpy()

    def features(self, windows: np.ndarray) -> dict[str, np.ndarray]:
        """What is known of the frames of windows (b, 16, 64 + 96) -> fd_lite0 (2 b, 64) and fvd_lite0 (b, 33)."""
        tracks = torch.from_numpy(windows[..., FRAME_FEATURES:])
        frames = windows[:, JUDGED, :FRAME_FEATURES].reshape(-1, FRAME_FEATURES)
        return {"fd_lite0": frames, "fvd_lite0": self.clips.describe(tracks).numpy()}


def clips_of(root: Path, split: str | None, judges: Judges, every: int) -> list[Clip]:
    """Every clip that holds a window, with all picture corruptions. The stride is the whole number nearest to 7.5 fps."""
    dataset = ClipDataset(root, split)
    clips = []
    for number, name in enumerate(dataset.clip_ids):
        places = np.arange(0, dataset.lengths[number], max(1, round(dataset.frame_rates[number] / FPS)))
        windows = places[: len(places) // CLIP_FRAMES * CLIP_FRAMES].reshape(-1, CLIP_FRAMES)
        if not len(windows):
            continue
        read = partial(dataset.frames, number)
        place = f"{dataset.name}/{name}"
        damaged = {
            (corruption, grade): judges.known(
                f"{place}-{corruption}-{CORRUPTIONS[corruption].at(grade)}-every{every}",
                partial(pictures, read, windows[::every].ravel(), corruption, grade, name),
            )
            for corruption in PICTURES for grade in range(1, len(CORRUPTIONS[corruption].grades) + 1)
        }  # fmt: skip
        drive = json.loads(dataset.records.clips.iloc[number]["provenance"]).get("drive", name)
        clips.append(Clip(name, drive, judges.known(f"{place}-clean", partial(read, places)), damaged, every))
    return clips


def pictures(read: Callable[[np.ndarray], np.ndarray], places: np.ndarray, name: str, grade: int, clip: str) -> np.ndarray:
    """Frames of a clip, damaged by a draw that follows from the clip's name."""
    corruption = CORRUPTIONS[name]
    assert isinstance(corruption, PictureCorruption)
    return corruption.change(read(places), corruption.at(grade), np.random.default_rng([zlib.crc32(clip.encode()), grade]))


def damaged(windows: Sequence[Window], name: str, grade: int, rng: np.random.Generator) -> np.ndarray:
    """(b, 16, 160) of the windows after a corruption; those without pictures or frames enough for it are left out."""
    corruption = CORRUPTIONS[name]
    if isinstance(corruption, PictureCorruption):
        return np.stack([window.known((name, grade)) for window in windows if window.has_pictures])
    assert isinstance(corruption, OrderCorruption)
    needs = corruption.source_frames(CLIP_FRAMES, grade)
    shown = []
    for window in windows:
        clean = window.clip.clean
        if len(clean) < needs:
            continue
        start = min(window.number * CLIP_FRAMES, len(clean) - needs)
        source = clean[start : start + needs]
        if corruption.clips == 2:
            others = [other for other in windows if other.clip.drive != window.clip.drive]
            source = np.concatenate([source, others[rng.integers(len(others))].known()])
        shown.append(source[corruption.indices(CLIP_FRAMES, grade, rng)])
    return np.stack(shown)


def distances(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, float]:
    """By the names of METRICS."""
    return {metric: float(DISTANCES[metric.split()[1]](first[metric.split()[0]], second[metric.split()[0]])) for metric in METRICS}


def halves(windows: Sequence[Window], split: int) -> tuple[list[Window], list[Window]]:
    """Two halves that share no drive, drives drawn at random, windows as even as the drives allow (largest first)."""
    drives = sorted({window.clip.drive for window in windows})
    order = [drives[number] for number in np.random.default_rng(split).permutation(len(drives))]
    count = {drive: sum(window.clip.drive == drive for window in windows) for drive in drives}
    sides: tuple[list[str], list[str]] = ([], [])
    for drive in sorted(order, key=lambda name: count[name] < 30):  # long drives first, each kind in drawn order
        sizes = [sum(count[name] for name in side) for side in sides]
        sides[int(np.argmin(sizes))].append(drive)
    first, second = ([window for window in windows if window.clip.drive in side] for side in sides)
    return first, second


def hurt(windows: Sequence[Window], seed: int, judges: Judges) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """(corruption, grade) -> features of the damaged windows."""
    keys = [(name, grade) for name, corruption in CORRUPTIONS.items() for grade in range(1, len(corruption.grades) + 1)]
    rngs = {key: np.random.default_rng([seed, zlib.crc32(key[0].encode()), key[1]]) for key in keys}
    return {key: judges.features(damaged(windows, *key, rng)) for key, rng in rngs.items()}


def one_split(windows: Sequence[Window], split: int, judges: Judges) -> Found:
    """(corruption, grade) -> distances of the damaged half B from half A; of the floors ("order", 0) and ("pictures", 0)."""
    first, second = halves(windows, split)
    reference = judges.features(np.stack([window.known() for window in first]))
    sides = {"order": second, "pictures": [window for window in second if window.has_pictures]}
    clean = {(kind, 0): judges.features(np.stack([window.known() for window in side])) for kind, side in sides.items()}
    return {key: distances(reference, features) for key, features in {**clean, **hurt(second, split, judges)}.items()}


def smoke(windows: Sequence[Window], judges: Judges) -> Found:
    """The damaged windows against the same windows undamaged."""
    clean = judges.features(np.stack([window.known() for window in windows]))
    return {key: distances(clean, features) for key, features in hurt(windows, 0, judges).items()}


def floor_of(name: str) -> tuple[str, int]:
    return ("pictures" if name in PICTURES else "order", 0)


def summary(splits: Sequence[Found]) -> dict[str, dict[str, object]]:
    """Metric -> floors and, for each corruption, by grade: distance, how many floors that is, splits in which it is above the floor.

    grows: the mean over splits is larger with each grade, and the first above the floor.   seen: above the floor in every split at the
    highest grade.   frechet and kernel distances are squared lengths; a kernel distance can be below 0.
    """
    kinds = ("pictures", "order")
    floors = {metric: {kind: _spread([split[kind, 0][metric] for split in splits]) for kind in kinds} for metric in METRICS}
    return {metric: {"floor": floors[metric], **_rows(splits, metric)} for metric in METRICS}


def _rows(splits: Sequence[Found], metric: str) -> dict[str, object]:
    rows = {}
    for name, corruption in CORRUPTIONS.items():
        floors = np.array([split[floor_of(name)][metric] for split in splits])
        values = np.array([[split[name, grade][metric] for split in splits] for grade in range(1, len(corruption.grades) + 1)])
        means = [floors.mean(), *values.mean(1)]
        rows[name] = {
            "grades": list(corruption.grades),
            "distance": [_spread(row) for row in values],
            "floors": [round(float(mean / floors.mean()), 3) for mean in means[1:]],
            "above_floor": [int((row > floors).sum()) for row in values],
            "grows": bool((np.diff(means) > 0).all()),
            "seen": bool((values[-1] > floors).all()),
        }
    return rows


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {"mean": round(float(np.mean(values)), 5), "sd": round(float(np.std(values, ddof=1)), 5)}


def failing(result: dict[str, dict]) -> list[str]:
    """Claims that do not hold: not larger with each grade, or not above the floor in some split."""
    rows = [(metric, name, result[metric][name]) for metric in METRICS for name in CLAIMS[metric.split()[0]]]
    return [f"{metric}: {name}" for metric, name, row in rows if not (row["grows"] and row["seen"])]


def windows_of(clips: Sequence[Clip]) -> list[Window]:
    return [Window(clip, number) for clip in clips for number in range(len(clip.clean) // CLIP_FRAMES)]


def counted(windows: Sequence[Window]) -> dict[str, int]:
    clips, drives = {window.clip.name for window in windows}, {window.clip.drive for window in windows}
    with_pictures = sum(window.has_pictures for window in windows)
    return {"clips": len(clips), "drives": len(drives), "windows": len(windows), "windows_with_damaged_pictures": with_pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="clip datasets, their test splits are used")
    parser.add_argument("--smoke", nargs="*", type=Path, default=[], help="small clip datasets, every split, judged apart")
    parser.add_argument("--cache", type=Path, default=Path("runs/metric_validity"), help="folder for raw features")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    judges = Judges(arguments.cache)
    windows = windows_of([clip for root in arguments.data for clip in clips_of(root, "test", judges, EVERY)])
    small = windows_of([clip for root in arguments.smoke for clip in clips_of(root, None, judges, 1)])
    result = summary([one_split(windows, split, judges) for split in range(arguments.splits)])
    tiny = smoke(small, judges) if small else {}
    record = {
        "networks": {network.name: network.hash for network in (judges.frames, judges.clips)},
        "data": {"datasets": [root.name for root in arguments.data], "split": "test", **counted(windows)},
        "splits": arguments.splits, "metrics": result, "claims": CLAIMS, "claims_that_fail": failing(result),
        "smoke": {"datasets": [root.name for root in arguments.smoke], **counted(small), "distances": _named(tiny)},
    }  # fmt: skip
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(result, arguments.plot)
    if arguments.table:
        page = between_markers(arguments.table.read_text(encoding="utf-8"), "table", table(result))
        arguments.table.write_text(between_markers(page, "smoke", smoke_table(tiny, METRICS)) if tiny else page, encoding="utf-8")
    print(table(result))
    print("claims that fail:", failing(result) or "none")


def _named(found: Found) -> dict[str, dict[str, float]]:
    return {f"{name} {grade}": {metric: round(value, 5) for metric, value in row.items()} for (name, grade), row in found.items()}


if __name__ == "__main__":
    main()
