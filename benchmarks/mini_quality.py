"""How good is a checkpoint? Distances, few calls against many, labels, minutes, each beside its target, from committed commands.

    python benchmarks/mini_quality.py --checkpoint mini --data SIM SIM_LONG --train SIM --real REAL --work DIR
    python benchmarks/mini_quality.py ... --part good labels --threads 1 &
    python benchmarks/mini_quality.py ... --part fast long --threads 1

``good``: held-out spans driven again from their labels, from none and from two recorded keyframes, and how much farther they are from test
clips than train clips are; copies; real clips apart. ``stages``: which stage brings how much of that distance. ``fast``: the same spans and
seeds in few calls and in many. ``labels``: is what was asked for in the picture? ``guidance``: what the scale of label guidance buys and
costs, over keyframes alone (it touches nothing else). ``long``: minutes by day and night; ``--compare`` draws the drift of another --work
folder beside. ``table``: all as Markdown and JSON.

Everything is kept in --work: clips and rollouts by what fixes their pixels, results by what they follow from. What is there is not made
again, so a run that was stopped goes on, and processes that are given one folder share the work. A part says what its clips took to make
and what judging took. This file joins the parts; it does not know how any of them works.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from held_out_rollouts import Task
from mini_quality_distances import against_floor, relative
from mini_quality_distances import good as good_of
from mini_quality_labels import differences, empty_roads, fidelity, look_at_all, sweep
from mini_quality_long import long_rollouts
from mini_quality_look import look as look_of
from mini_quality_plots import plot_before_after, plot_guidance
from mini_quality_sets import Bench, Pair
from mini_quality_stages import stages as stages_of
from mini_quality_table import cost, markdown, rows_of, written

from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.cache import FeatureCache
from drivesim.eval.label_fidelity import Judge
from drivesim.io.checkpoints import load_checkpoint
from drivesim.simulation.quality import qualities_of
from drivesim.simulation.settings import QUALITIES

CONTEXTS = (0, 2)


def good(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    contexts = {}
    for context in args.contexts:
        entry = good_of(bench, _pair(bench, args, context, args.frames, args.windows), _plots(bench, f"good_{context}"), args.real)
        if args.longer_windows:
            entry["spans"]["longer"] = against_floor(bench, _pair(bench, args, context, args.longer_frames, args.longer_windows))
        contexts[str(context)] = entry
    return {"contexts": contexts}


def fast(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    task = Task(0, args.frames)
    few, many = (bench.pair(task, bench.spans_for(args.fast_windows, task), quality) for quality in QUALITIES)
    seen = look_at_all([few, many], Judge.load(), args.judged_frames)
    costs = {pair.settings.quality: {**cost(bench.checkpoint, pair.settings), "made_s": pair.seconds} for pair in (few, many)}
    return {"distances": relative(bench, few, many), "labels": differences(*seen), "frames": len(seen[0].frames), "cost": costs}


def labels(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    judge = Judge.load()
    found = fidelity(bench, _pair(bench, args, 0, args.frames, args.windows), judge, args.judged_frames)
    empty = bench.pair(Task(0, args.frames, "nothing"), args.empty_spans, args.quality)
    return {**found, "empty": empty_roads(empty, judge, args.judged_frames)}


def guidance(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Keyframes only, and no guidance once."""
    keyframe_fps, task = float(bench.checkpoint.settings["keyframe_fps"]), Task(0, args.frames)
    wishes = {(scale, args.guided[0] if scale == 1 else guided): None for guided in args.guided for scale in args.scales}
    pairs = [
        bench.pair(task, args.guidance_spans, "full", fps=keyframe_fps, label_guidance=scale, guided_labels=guided)
        for scale, guided in wishes
    ]  # fmt: skip
    rows = sweep(bench, pairs, Judge.load(), args.judged_frames)
    plot_guidance(rows, _plots(bench, "guidance.png"))
    return {"rows": rows}


def stages(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    return stages_of(bench, bench.spans_for(args.stage_windows, Task(0, args.frames)), args.frames, args.quality)


def look(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    task = Task(0, args.frames)
    return look_of(bench, _pair(bench, args, 0, args.frames, args.stage_windows), task)


def long(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    return long_rollouts(bench, args.seeds, args.minutes, args.quality, _plots(bench, ""))


@dataclass(frozen=True)
class Part:
    """judge: makes and judges.   options: those that its result follows from."""

    judge: Callable[[Bench, argparse.Namespace], dict[str, Any]]
    options: tuple[str, ...]


PARTS = {
    "good": Part(good, ("quality", "contexts", "windows", "frames", "longer_windows", "longer_frames", "real")),
    "fast": Part(fast, ("fast_windows", "frames", "judged_frames")),
    "labels": Part(labels, ("quality", "windows", "frames", "judged_frames", "empty_spans")),
    "guidance": Part(guidance, ("scales", "guided", "guidance_spans", "frames", "judged_frames")),
    "stages": Part(stages, ("quality", "stage_windows", "frames")),
    "look": Part(look, ("quality", "stage_windows", "frames")),
    "long": Part(long, ("quality", "seeds", "minutes")),
}


def _pair(bench: Bench, args: argparse.Namespace, context: int, frames: int, windows: int) -> Pair:
    task = Task(context, frames)
    return bench.pair(task, bench.spans_for(windows, task), args.quality)


def _plots(bench: Bench, name: str) -> Path:
    return bench.work / "plots" / name


def run(bench: Bench, name: str, args: argparse.Namespace) -> None:
    """One part, or what an earlier run found."""
    inputs = bench.inputs(name, {option: getattr(args, option) for option in PARTS[name].options})
    kept, began = bench.kept(inputs), time.perf_counter()
    if kept is not None:
        print(f"{name}: kept from {kept['date']}, {bench.result(name)}")
        return
    bench.took.clear()
    result = bench.keep(inputs, PARTS[name].judge(bench, args), time.perf_counter() - began, shlex.join(["python", *sys.argv]))
    made = sum(result["made_s"].values())
    print(f"{name}: {result['seconds']:.0f} s in this process, its clips took {made:.0f} s of work (all processes), {bench.result(name)}")


def compared(bench: Bench, before: Path) -> Path:
    """The drift of another --work folder and of this one in one picture.

    Raises:
        UsageError: one of them holds no result of ``long``.
    """
    sides = {}
    for who, folder in (("before", before), ("after", bench.work)):
        path = folder / "results" / "long.json"
        if not path.is_file():
            raise UsageError(f"{folder} holds no results/long.json to compare; run --part long there first")
        told = json.loads(path.read_text(encoding="utf-8"))
        sides[f"{who}, weights {told['inputs']['checkpoint'][:8]}"] = told["found"]["lights"]["all"]
    path = _plots(bench, "drift_before_after.png")
    plot_before_after(sides, path)
    return path


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=(*PARTS, "table"), help="default: all that the checkpoint allows")
    parser.add_argument("--checkpoint", default="mini", help="a preset inside the package or a checkpoint folder")
    parser.add_argument("--quality", choices=QUALITIES, help="of good, labels and long; default: the checkpoint's")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets with held-out clips")
    parser.add_argument("--split", default="test")
    parser.add_argument("--train", nargs="+", type=Path, help="clip datasets with the training clips; default: the first of --data")
    parser.add_argument("--real", type=Path, help="recordings of the real world, judged apart; default: none")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made and found")
    counts = parser.add_argument_group("how much")
    counts.add_argument("--contexts", nargs="+", type=int, choices=CONTEXTS, default=list(CONTEXTS), help="keyframes given, for good")
    counts.add_argument("--windows", type=int, default=256, help="of 16 frames, for good and labels")
    counts.add_argument("--frames", type=int, default=65, help="of a span at 7.5 fps: 65 hold four windows, all in the first 10 s")
    counts.add_argument("--longer-windows", type=int, default=64, help="of longer spans, for good; 0 = none")
    counts.add_argument("--longer-frames", type=int, default=193)
    counts.add_argument("--fast-windows", type=int, default=64, help="in each quality")
    counts.add_argument("--stage-windows", type=int, default=64, help="for each stage, and for look")
    counts.add_argument("--judged-frames", type=int, default=300, help="most frames of each side that the detector looks at")
    counts.add_argument("--empty-spans", type=int, default=8, help="with nothing requested")
    counts.add_argument("--guidance-spans", type=int, default=16, help="for each scale")
    counts.add_argument("--scales", nargs="+", type=float, default=[1.0, 1.5, 2.0, 3.0], help="of label guidance")
    counts.add_argument("--guided", nargs="+", default=["all", "boxes+crowdedness"], help="labels that guidance is about, each in turn")
    counts.add_argument("--seeds", type=int, default=16, help="long rollouts, by day and night in turn")
    counts.add_argument("--minutes", type=float, default=5.0, help="of each long rollout")
    counts.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--cache", type=Path, help="folder for features of clips; default: the one of drivesim evaluate")
    parser.add_argument("--compare", type=Path, help="--work folder of an earlier version, for a plot of both drifts")
    parser.add_argument("--out", type=Path, help="JSON that the table goes to, too")
    args = parser.parse_args(words)
    counted = ("windows", "fast_windows", "stage_windows", "judged_frames", "empty_spans", "guidance_spans", "seeds", "resamples")
    small = [name for name in counted if getattr(args, name) < 1]
    small += [name for name in ("frames", "longer_frames") if getattr(args, name) < 17]
    if small:
        parser.error(f"--{small[0].replace('_', '-')} is too small; the help says what it counts, and a span holds at least 17 frames")
    return args


def main(words: Sequence[str] | None = None) -> None:
    args = parse(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoint = load_checkpoint(args.checkpoint)
    bench = Bench(checkpoint, args.data, args.split, args.train or args.data[:1], args.work, args.resamples, FeatureCache(args.cache),
                  progress=sys.stderr.isatty())  # fmt: skip
    args.quality = bench.settings(args.quality).quality
    offered = [name for name in PARTS if name != "fast" or "fast" in qualities_of(list(checkpoint.networks))]
    for name in (part for part in args.part or offered if part != "table"):
        run(bench, name, args)
    if args.compare:
        print(compared(bench, args.compare))
    if args.part is None or "table" in args.part:
        found = {name: json.loads(bench.result(name).read_text(encoding="utf-8")) for name in PARTS if bench.result(name).is_file()}
        rows = rows_of(found, checkpoint.hash)
        print(markdown(found, rows))
        if args.out:
            written(args.out, found, rows, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    try:
        main()
    except DrivesimError as error:
        raise SystemExit(f"error: {error}") from None
