"""Drive held-out recordings again: a clip dataset made from the labels of test clips, to be judged against those clips.

    python benchmarks/held_out_rollouts.py --checkpoint mini --data SIM SIM_LONG --split test --context 0 --spans 128 --out DIR

Every span is 33 frames at 7.5 fps (nine keyframes): the labels of the recording are told, its pictures are not (``--context 0``), or only
the two keyframes up to the span's first frame (``--context 2``). What was given is not written: clips hold made frames alone, so a span
gives two disjoint windows of 16 frames. Provenance names the recording (drive, clip, first frame), the context rule and the checkpoint.
A run that was stopped goes on where it was. This file makes; it judges nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out_windows import drive_of
from tqdm import tqdm

from drivesim.datasets.clips import ClipDataset
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.io.records import RecordsWriter
from drivesim.io.video import count_frames, write_video
from drivesim.labels import LabelTrack
from drivesim.simulation.inputs import fit_frame
from drivesim.simulation.replay import replay
from drivesim.simulation.scenarios import ScenarioLabels
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator

FPS, FRAMES, KEYFRAME_STRIDE = 7.5, 33, 4


@dataclass(frozen=True)
class Span:
    """FRAMES consecutive frames of one recording, the first of them ``first``."""

    dataset: ClipDataset
    clip: int
    first: int

    @property
    def name(self) -> str:
        return f"{self.dataset.name}_{self.dataset.clip_ids[self.clip]}_{self.first:05d}"

    @property
    def drive(self) -> str:
        return drive_of(self.dataset, self.clip)

    def labels(self) -> LabelTrack:
        return self.dataset.labels(self.clip).take(range(self.first, self.first + FRAMES), FPS)

    def context(self, simulator: Simulator) -> np.ndarray:
        """The keyframes up to the first frame, uint8 (2, H, W, 3)."""
        frames = self.dataset.frames(self.clip, np.array([self.first - KEYFRAME_STRIDE, self.first]))
        return np.stack([fit_frame(frame, simulator.height, simulator.width) for frame in frames])


def spans(roots: list[Path], split: str, limit: int) -> list[Span]:
    """Disjoint spans of every clip at 7.5 fps, each after a keyframe that could be given; at most ``limit``, evenly spread."""
    found = []
    for root in roots:
        dataset = ClipDataset(root, split)
        for clip, (rate, length) in enumerate(zip(dataset.frame_rates, dataset.usable, strict=True)):
            if abs(rate / FPS - 1) < 0.01:
                found += [Span(dataset, clip, first) for first in range(KEYFRAME_STRIDE, length - FRAMES + 1, FRAMES)]
    chosen = np.linspace(0, len(found) - 1, min(limit, len(found))).round().astype(int)
    return [found[number] for number in chosen]


def drive(simulator: Simulator, span: Span, context: int, seed: int, video: Path) -> None:
    """Make one span's video, whole or not at all."""
    scenario = replay(span.labels(), seed, span.name)
    start = span.context(simulator) if context else None
    frames = np.concatenate([step.frames for step in simulator.run(scenario, start)])
    write_video(video, frames[1:] if context else frames, FPS)


def rows(writer: RecordsWriter, span: Span, context: int, seed: int, checkpoint: Checkpoint, size: tuple[int, int]) -> None:
    """Labels as they were told, and where the clip comes from."""
    scenario = replay(span.labels(), seed, span.name)
    first = 1 if context else 0
    told = ScenarioLabels(scenario, (FRAMES - 1) / FPS).at(range(first, FRAMES), FPS)
    origin: dict[str, Any] = {
        "kind": "generated", "drive": span.drive, "clip": span.dataset.clip_ids[span.clip], "dataset": span.dataset.name,
        "first_frame": span.first + first, "context_frames": context, "given_frames": 0, "seed": seed, "checkpoint": checkpoint.hash,
    }  # fmt: skip
    writer.append(told, span.name, "requested")
    writer.add_clip(span.name, f"videos/{span.name}.mp4", FPS, *size, split="test", source="drivesim", provenance=json.dumps(origin))


def unfinished(found: list[Span], out: Path, frames: int) -> Iterator[tuple[int, Span, Path]]:
    for seed, span in enumerate(tqdm(found, unit="span")):
        video = out / "videos" / f"{span.name}.mp4"
        if not video.is_file() or count_frames(video) != frames:
            yield seed, span, video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--context", type=int, choices=(0, 2), default=0, help="recorded keyframes given before the first made one")
    parser.add_argument("--spans", type=int, default=128)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoint = load_checkpoint(args.checkpoint)
    simulator = Simulator(checkpoint, RolloutSettings.of(checkpoint.settings.get("rollout", {}), fps=FPS))
    found, frames = spans(args.data, args.split, args.spans), FRAMES - bool(args.context)
    (args.out / "videos").mkdir(parents=True, exist_ok=True)
    for seed, span, video in unfinished(found, args.out, frames):
        drive(simulator, span, args.context, seed, video)
    with RecordsWriter(args.out, creator="drivesim benchmarks/held_out_rollouts.py") as writer:
        for seed, span in enumerate(found):
            rows(writer, span, args.context, seed, checkpoint, (simulator.height, simulator.width))
    print(f"{len(found)} clips of {frames} frames in {args.out}")


if __name__ == "__main__":
    main()
