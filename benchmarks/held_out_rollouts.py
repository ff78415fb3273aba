"""Drive held-out recordings again: a clip dataset made from the labels of test clips, to be judged against those clips.

    python benchmarks/held_out_rollouts.py --checkpoint mini --data SIM SIM_LONG --split test --context 0 --spans 128 --out DIR

A span is ``--frames`` frames at 7.5 fps (33: nine keyframes): the labels of the recording are told, its pictures are not (``--context 0``),
or only the two keyframes up to the span's first frame (``--context 2``). What was given is not written: clips hold made frames alone, so
33 frames give two disjoint windows of 16. ``--request nothing`` keeps light and motion and asks for an empty road. Spans come in one order,
drives and day and night in turn, of which the first ``--spans`` are taken; a span's seed is its place among all, so more spans can be asked
for later. Provenance names the recording (drive, clip, first frame), the context rule and the checkpoint.

A run that was stopped goes on where it was, and several processes share the work where they are given one folder. A folder that was made
by other weights or with other settings is refused. This file makes; it judges nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out_windows import drive_of
from tqdm import tqdm

from drivesim.datasets.clips import ClipDataset
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.footage import Footage
from drivesim.io.atomic import write_json
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.records import RecordsWriter
from drivesim.io.video import count_frames, write_video
from drivesim.labels import LabelTrack, Scenario
from drivesim.simulation.inputs import fit_frame
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.scenes.replay import replay
from drivesim.simulation.settings import QUALITIES
from drivesim.simulation.simulator import Simulator

FPS, FRAMES, KEYFRAME_STRIDE = 7.5, 33, 4
REQUESTS = ("recorded", "nothing")
STAMP, LOG = "asked.json", "made.jsonl"


@dataclass(frozen=True)
class Span:
    """``frames`` consecutive frames of one recording, the first of them ``first``."""

    dataset: ClipDataset
    clip: int
    first: int
    frames: int = FRAMES
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.dataset.name}_{self.dataset.clip_ids[self.clip]}_{self.first:05d}"

    @property
    def drive(self) -> str:
        return drive_of(self.dataset, self.clip)

    @property
    def video(self) -> Path:
        """Of the recording."""
        return self.dataset.video(self.clip)

    def labels(self) -> LabelTrack:
        return self.dataset.labels(self.clip).take(range(self.first, self.first + self.frames), FPS)

    def context(self, simulator: Simulator) -> np.ndarray:
        """The keyframes up to the first frame, uint8 (2, H, W, 3)."""
        frames = self.dataset.frames(self.clip, np.array([self.first - KEYFRAME_STRIDE, self.first]))
        return np.stack([fit_frame(frame, simulator.height, simulator.width) for frame in frames])


def spans(roots: Sequence[Path], split: str, frames: int = FRAMES) -> list[Span]:
    """Disjoint spans of every clip at 7.5 fps, each after a keyframe that could be given, in the order in which they are taken.

    Raises:
        UsageError: no clip is long enough.
    """
    found, nights = list[Span](), list[bool]()
    for root in roots:
        dataset = ClipDataset(root, split)
        for clip, (rate, length) in enumerate(zip(dataset.frame_rates, dataset.usable, strict=True)):
            if abs(rate / FPS - 1) < 0.01:
                firsts = range(KEYFRAME_STRIDE, length - frames + 1, frames)
                found += [Span(dataset, clip, first, frames) for first in firsts]
                nights += [dataset.records.clips.iloc[clip]["time_of_day"] == "night"] * len(firsts)
    if not found:
        raise UsageError(f"no clip of split {split!r} at {FPS:g} fps holds {frames + KEYFRAME_STRIDE} frames; take fewer frames a span")
    return [replace(found[place], seed=place) for place in in_turn([span.drive for span in found], nights)]


def in_turn(drives: Sequence[str], nights: Sequence[bool], seed: int = 0) -> list[int]:
    """All positions: one of each drive before a second of any, day and night by turns. Any first part of it is as even as can be."""
    shuffled = np.random.default_rng(seed).permutation(len(drives))
    seen, ranks = Counter[str](), Counter[tuple[int, bool]]()
    keys: dict[int, tuple[int, int, bool]] = {}
    for place in shuffled.tolist():
        turn, night = seen[drives[place]], bool(nights[place])
        keys[place] = (turn, ranks[turn, night], night)
        seen[drives[place]] += 1
        ranks[turn, night] += 1
    return sorted(keys, key=keys.__getitem__)


@dataclass(frozen=True)
class Task:
    """How spans are driven. context: recorded keyframes given.   frames: of a span.   request: one of REQUESTS."""

    context: int = 0
    frames: int = FRAMES
    request: str = "recorded"

    def scenario(self, span: Span) -> Scenario:
        scenario = replay(span.labels(), span.seed, span.name)
        return scenario if self.request == "recorded" else replace(scenario, tracks=(), crowdedness=0.0)


class Redriven:
    """A folder of driven spans of ``frames`` frames each. ``identity``: what fixes every pixel of them.

    Raises:
        UsageError: the folder holds spans of another identity.
    """

    def __init__(self, out: Path, simulator: Simulator, task: Task) -> None:
        self.out, self.simulator, self.task = out, simulator, task
        self.first = 1 if task.context else 0
        self.frames = simulator.plan(Scenario(task.frames / FPS), max(task.context, 1)).frames - self.first
        self.identity = {"checkpoint": simulator.checkpoint.hash, **asdict(task), "settings": asdict(simulator.settings)}
        with claimed(out / ".lock", wait=True):
            _require_same(out, self.identity)

    def video(self, span: Span) -> Path:
        return self.out / "videos" / f"{span.name}.mp4"

    def done(self, span: Span) -> bool:
        video = self.video(span)
        return video.is_file() and count_frames(video) == self.frames

    def make(self, wanted: Sequence[Span]) -> None:
        """Every span that is not there yet. What another process is at is waited for at the end."""
        waiting = [span for span in wanted if not self.done(span)]
        for wait in (False, True):
            waiting = [span for span in tqdm(waiting, desc=self.out.name, unit="span", disable=None) if not self._made(span, wait)]

    def _made(self, span: Span, wait: bool) -> bool:
        with claimed(self.out / "videos" / f".{span.name}.lock", wait) as mine:
            if mine and not self.done(span):
                self._drive(span)
        return mine

    def _drive(self, span: Span) -> None:
        """One span's video, whole or not at all, and how long it took."""
        began = time.perf_counter()
        start = span.context(self.simulator) if self.task.context else None
        frames = np.concatenate([step.frames for step in self.simulator.run(self.task.scenario(span), start)])
        write_video(self.video(span), frames[self.first :], self.simulator.settings.fps)
        seconds = round(time.perf_counter() - began, 3)
        with open(self.out / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps({"span": span.name, "seconds": seconds, "threads": torch.get_num_threads()}) + "\n")

    def opened(self, listed: Sequence[Span]) -> Footage:
        """The dataset, its tables written for the ``listed`` spans."""
        with claimed(self.out / ".lock", wait=True):
            (self.out / "dataset.json").unlink(missing_ok=True)
            with RecordsWriter(self.out, creator="drivesim benchmarks/held_out_rollouts.py") as writer:
                for span in listed:
                    self._rows(writer, span)
            return Footage.open([self.out])

    def _rows(self, writer: RecordsWriter, span: Span) -> None:
        """Labels as they were told, and where the clip comes from."""
        scenario, fps, size = self.task.scenario(span), self.simulator.settings.fps, (self.simulator.height, self.simulator.width)
        told = self.simulator.labels(scenario).at(range(self.first, self.first + self.frames), fps)
        origin: dict[str, Any] = {
            "kind": "generated", "drive": span.drive, "clip": span.dataset.clip_ids[span.clip], "dataset": span.dataset.name,
            "first_frame": span.first + self.first, "context_frames": self.task.context, "given_frames": 0, "seed": span.seed,
            "quality": self.simulator.settings.quality, "checkpoint": self.simulator.checkpoint.hash,
        }  # fmt: skip
        writer.append(told, span.name, "requested")
        writer.add_clip(span.name, f"videos/{span.name}.mp4", fps, *size, split="test", source="drivesim", provenance=json.dumps(origin))

    def seconds(self, of: Sequence[Span]) -> float:
        """What making these spans took, over all processes; the last time counts where one was made twice."""
        log = self.out / LOG
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        took = {line["span"]: line["seconds"] for line in lines}
        return float(sum(took.get(span.name, 0.0) for span in of))


def _require_same(out: Path, identity: dict[str, Any]) -> None:
    stamp = out / STAMP
    if not stamp.is_file():
        if any((out / "videos").glob("*.mp4")):
            raise UsageError(f"{out} holds videos, and nothing says how they were made; choose another folder")
        write_json(stamp, identity)
        return
    before = json.loads(stamp.read_text(encoding="utf-8"))
    differing = [name for name in identity if identity[name] != before.get(name)]
    if differing:
        raise UsageError(f"{out} holds clips that differ in {', '.join(differing)}; choose another folder, or remove it")


@contextmanager
def claimed(lock: Path, wait: bool) -> Iterator[bool]:
    """Hold ``lock`` while the block runs; False where another process holds it and ``wait`` is False. The system lets go in the end."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def short(identity: dict[str, Any]) -> str:
    """Eight characters that stand for an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini")
    parser.add_argument("--quality", choices=QUALITIES, default=None, help="default: the checkpoint's")
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--context", type=int, choices=(0, 2), default=0, help="recorded keyframes given before the first made one")
    parser.add_argument("--request", choices=REQUESTS, default="recorded", help="boxes that are asked for")
    parser.add_argument("--frames", type=int, default=FRAMES, help="of a span, at 7.5 fps")
    parser.add_argument("--spans", type=int, default=128)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoint = load_checkpoint(args.checkpoint)
    chosen = spans(args.data, args.split, args.frames)[: args.spans]
    simulator = Simulator(checkpoint, rollout_settings(checkpoint, args.quality, fps=FPS))
    redriven = Redriven(args.out, simulator, Task(args.context, args.frames, args.request))
    redriven.make(chosen)
    redriven.opened(chosen)
    print(f"{len(chosen)} clips of {redriven.frames} frames in {args.out}, {redriven.seconds(chosen):.0f} s of work")


if __name__ == "__main__":
    try:
        main()
    except DrivesimError as error:
        raise SystemExit(f"error: {error}") from None
