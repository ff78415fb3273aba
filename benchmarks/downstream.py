"""Does training on generated clips help a detector? A few labelled clips, against the same with generated ones added.

    python benchmarks/downstream.py clips --out runs/downstream/generated
    python benchmarks/downstream.py run --split val --counts 4 --seeds 100 101 102 103 --data SIM --generated runs/downstream/generated \\
        --only augmented generated generated_quarter generated_half generated_first nights_half nights_quarter --work runs/downstream/val
    python benchmarks/downstream.py run --data SIM --held-out SIM SIM_LONG --real REAL --generated runs/downstream/generated \\
        --work runs/downstream/test
    python benchmarks/downstream.py run --counts 4 --seeds 5 6 7 8 9 10 11 --only augmented nights_half simulated --data SIM \\
        --held-out SIM SIM_LONG --real REAL --generated runs/downstream/generated --work runs/downstream/test
    python benchmarks/downstream.py run --steps 3000 --counts 4 --seeds 0 1 2 --only augmented nights_half --data SIM \\
        --held-out SIM SIM_LONG --generated runs/downstream/generated --work runs/downstream/long
    python benchmarks/downstream.py table --work runs/downstream/test --val runs/downstream/val --longer runs/downstream/long

``run`` trains one small detector after the other from first weights of its own: ``--counts`` N labelled drives, a quarter of them by
night, and what ``downstream_arms`` adds to them. All see equally many frames in equally many steps. A seed draws the drives, the first
weights and the order; every arm of a seed has the same ones. Each finished one is a file ``WORK/results/ARM-N-SEED.json`` and is not
made again, so a run may be stopped at any time, and several processes may share the seeds. How generated frames are mixed in follows
from the validation split (``--val``) and seeds that the table does not hold. ``table`` makes JSON, Markdown and a plot from what is there.

Simulated and recorded clips are judged apart, recorded ones that the generator was trained on apart from those that it was not. The
detector that judges generated video (docs/model-card-detector.md) plays no part here: nothing is filtered and nothing is scored by it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import cv2
import numpy as np
import torch
from downstream_arms import ARMS, SHOWN, Arm, nights_of
from downstream_clips import Wish, make
from downstream_table import page, plot, rows_of, tabled
from downstream_training import BATCH, NETWORK, Exam, Kept, Recipe, Size, drives_for, train
from held_out_windows import machine, without_nan
from machine import processor

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import write_json
from drivesim.models.detector import BoxDetector

HERE = Path(__file__).parent
REAL_SPLITS = {"real, unseen": "val", "real, seen by the generator": "train"}


@dataclass(frozen=True)
class Plan:
    """What every run has in common. extra: generated clips that are added.   extra_frames: of all of them; of simulated ones as many."""

    steps: int
    extra: int
    extra_frames: int
    size: Size


class Workshop:
    """Clips and exams, opened once and kept in memory."""

    def __init__(self, data: Path, generated: Path, exams: Sequence[Exam], plan: Plan) -> None:
        self.data, self.generated, self.exams, self.plan = data, generated, tuple(exams), plan
        self.memory: dict[Path, np.ndarray] = {}
        self.listed = Kept(data, "train", (), memory=self.memory)

    def clips(self, count: int, seed: int) -> Kept:
        """The ``count`` labelled drives of a seed; more of them hold those of fewer."""
        nights = nights_of(count)
        return Kept(self.data, "train", drives_for(self.listed, count - nights, nights, seed), memory=self.memory)

    def extra(self, arm: Arm, most: int, seed: int) -> Kept | None:
        """Added clips. most: of the labelled drives that are compared; simulated drives are all others, with as many frames in all as are
        generated: a few frames of every drive less, rather than fewer drives."""
        if arm.extra is None:
            return None
        if arm.extra == "generated":
            return Kept(self.generated, None, self._generated_by(arm.light), memory=self.memory)
        nights = nights_of(most)
        labelled = set(drives_for(self.listed, most - nights, nights, seed))
        others = [name for name in self.listed.clip_ids if name not in labelled]
        if not others:
            raise UsageError(f"{self.data}: no drive is left to add beside {most} labelled ones; ask for a smaller --most")
        return Kept(self.data, "train", others, math.ceil(self.plan.extra_frames / len(others)), self.memory)

    def _generated_by(self, light: str | None) -> list[str] | None:
        """Clip ids; None = all."""
        if light is None:
            return None
        table = Kept(self.generated, None).records.clips
        return [str(name) for name in table[table["time_of_day"] == light]["clip_id"]]

    def made(self, name: str, count: int, seed: int, most: int) -> dict[str, Any]:
        """Train one and judge it: exam -> light -> average precision, and what it saw and took."""
        began, arm = time.process_time(), ARMS[name]
        clips, extra = self.clips(count, seed), self.extra(arm, most, seed)
        recipe = Recipe(self.plan.steps, arm.augmented, arm.share, arm.first)
        detector = train(clips, extra, recipe, self.plan.size, seed)
        trained = time.process_time()
        found = {exam.name: exam.ap50(detector) for exam in self.exams}
        frames = {"labelled": int(clips.usable.sum()), "extra": 0 if extra is None else int(extra.usable.sum())}
        seconds = {"train": trained - began, "judge": time.process_time() - trained}
        return {"ap50": found, "frames": frames, "cpu_s": seconds}


def exams_of(args: argparse.Namespace, size: Size) -> list[Exam]:
    """Held-out simulated clips, and recorded ones split by split."""
    exams = [Exam.of("simulated", args.held_out or [args.data], args.split, size, args.frames)]
    return exams + [Exam.of(name, [args.real], split, size, args.frames) for name, split in REAL_SPLITS.items() if args.real]


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)
    unknown = [name for name in args.only if name not in ARMS]
    if unknown:
        raise UsageError(f"no arm named {unknown[0]}; there are {', '.join(ARMS)}")
    size = Size(*args.size)
    generated = Kept(args.generated, None)
    plan = Plan(args.steps, len(generated), int(generated.usable.sum()), size)
    exams = exams_of(args, size)
    roots = [f"{root.name} {args.split}" for root in args.held_out or [args.data]]
    told = {"split": args.split, "data": args.data.name, "held_out": roots, "most": args.most, **asdict(plan),
            "generator": json.loads(generated.records.clips.iloc[0]["provenance"])["checkpoint"],
            "network": {"weights": sum(weight.numel() for weight in BoxDetector(**NETWORK).parameters()), "batch": BATCH},
            "exams": {exam.name: dict(exam.size()) for exam in exams}}  # fmt: skip
    shop = Workshop(args.data, args.generated, exams, plan)
    for count in args.counts:
        for seed in args.seeds:
            for name in args.only or SHOWN:
                finish(shop, args.work, name, count, seed, told)


def finish(shop: Workshop, work: Path, name: str, count: int, seed: int, told: Mapping[str, Any]) -> None:
    """Train and judge one arm with one count and seed, unless that is done."""
    path = work / "results" / f"{name}-{count}-{seed}.json"
    if path.exists():
        _same(path, told)
        return
    found = shop.made(name, count, seed, told["most"])
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {"arm": name, "count": count, "seed": seed, **told, **machine(), "processor": processor()}
    write_json(path, without_nan({**head, **found}))
    print(f"{name}, {count} drives, seed {seed}: {found['ap50']['simulated']}, {sum(found['cpu_s'].values()):.0f} s", flush=True)


def _same(path: Path, told: Mapping[str, Any]) -> None:
    before = json.loads(path.read_text(encoding="utf-8"))
    for name, value in json.loads(json.dumps(told)).items():
        if before.get(name) != value:
            raise UsageError(f"{path}: was made with {name} = {before.get(name)}, not {value}; take another --work or the same settings")


def table(args: argparse.Namespace) -> None:
    found = rows_of(args.work)
    chosen = rows_of(args.val) if args.val else []
    content = tabled(found, chosen, rows_of(args.longer) if args.longer else [])
    for path in (args.results, args.page, args.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(without_nan(content), indent=1) + "\n", encoding="utf-8")
    plot(content).savefig(args.plot, dpi=110)
    where = args.plot.relative_to(args.page.parent) if args.plot.is_relative_to(args.page.parent) else args.plot
    text = page(content, str(where), _commands(args.longer is not None))
    args.page.write_text(text, encoding="utf-8")
    print(text)


def _commands(longer: bool) -> str:
    """Those at the head of this file, without the run of more steps where there was none."""
    told = dedent((__doc__ or "").split("\n\n")[1])
    if longer:
        return told
    first, *others = told.split("\npython ")
    kept = [command for command in others if "--steps" not in command]
    return "\npython ".join([first, *kept]).replace(" --longer runs/downstream/long", "")


def clips(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    made = make(args.out, args.clips, Wish(args.checkpoint, args.quality, args.frames))
    print(f"{len(made)} clips of {args.frames} frames in {args.out}")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="command", required=True)
    first = parts.add_parser("clips", help="make generated clips that are not there yet")
    first.add_argument("--out", type=Path, required=True)
    first.add_argument("--clips", type=int, default=240)
    first.add_argument("--frames", type=int, default=Wish().frames, help="of each, at 7.5 fps")
    first.add_argument("--checkpoint", default=Wish().checkpoint)
    first.add_argument("--quality", default=None, help="default: the checkpoint's")
    second = parts.add_parser("run", help="train and judge what is not there yet")
    second.add_argument("--data", type=Path, required=True, help="labelled clips to train on (split train)")
    second.add_argument("--generated", type=Path, required=True, help="what clips made")
    second.add_argument("--held-out", nargs="+", type=Path, help="simulated clips to judge on; default: --data")
    second.add_argument("--split", default="test", help="split of them")
    second.add_argument("--real", type=Path, help="recorded clips to judge on: splits val and train, apart")
    second.add_argument("--counts", nargs="+", type=int, default=[4, 10, 24], help="labelled drives")
    second.add_argument("--most", type=int, default=24, help="drives that are kept apart from added simulated ones")
    second.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    second.add_argument("--only", nargs="+", default=[], metavar="ARM", help=f"of {', '.join(ARMS)}")
    second.add_argument("--steps", type=int, default=1000)
    second.add_argument("--size", nargs=2, type=int, default=(96, 192), metavar=("HEIGHT", "WIDTH"))
    second.add_argument("--frames", type=int, default=600, help="most frames of an exam")
    second.add_argument("--work", type=Path, required=True, help="folder of the results")
    for part in (first, second):
        part.add_argument("--threads", type=int, default=1)
    last = parts.add_parser("table", help="table and plot from what is there")
    last.add_argument("--work", type=Path, required=True)
    last.add_argument("--val", type=Path, help="folder of a run on the validation split, by which the way of mixing was chosen")
    last.add_argument("--longer", type=Path, help="folder of a run with more steps, told in a sentence")
    last.add_argument("--results", type=Path, default=HERE / "results" / "downstream.json")
    last.add_argument("--page", type=Path, default=HERE.parent / "docs" / "downstream.md")
    last.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "images" / "downstream.png")
    return parser.parse_args(words)


def main() -> None:
    args = parsed()
    {"clips": clips, "run": run, "table": table}[args.command](args)


if __name__ == "__main__":
    try:
        main()
    except DrivesimError as error:
        raise SystemExit(f"error: {error}") from None
