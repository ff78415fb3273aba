"""The paper's ablations at a size that two CPU cores can train: what each part of the method is worth, its own numbers beside ours.

    python benchmarks/ablations.py list
    python benchmarks/ablations.py run --data SIM --held-out SIM SIM_LONG --out runs/ablations [--only NAME ...] [--seeds 0 1 2] [--steps N]
    python benchmarks/ablations.py table --out runs/ablations

``run`` trains and measures one variant with one seed after the other, through the committed stages of ``drivesim train``, in this process.
Each finished one is a file ``OUT/results/NAME-SEED.json`` and is not made again, so a run may be cut into pieces or stopped at any time.
``table`` makes the tables from what is there: JSON, Markdown and one plot.

Size: 64x128 pixels, 7.5 fps, latents 8 x 8 x 16 (f8), networks of about 1.2M weights, windows of 18 frames of which up to 2 are known.
Autoencoders of ``latents_*`` and upsamplers work at 128x256, on patches of 64 pixels.

Budget: every variant trains for equally many optimiser steps (``--steps``) on equally many windows. Operations are counted and told, since
they are not equal: pixels cost more, an attention layer costs less than a convolution. Shared, trained once with seed 0: the autoencoder
and its latents (2 x steps) and the image network (3 x steps) of everything on latents; the image network on pixels (3 x steps); the image
upsampler (2 x steps). Only ``end_to_end`` does without the shared image network and is given nothing in its place, as in the paper. A seed
decides the initial weights and draws of what is compared, the order of its windows and the noise of its samples. ``latents_*`` train an
image network on their latents afterwards (3 x steps, 128x256), for samples.

What is unlike the paper: see ``docs/ablations.md``, which ``table`` writes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ablations_judging import Bench, metric_names
from ablations_table import DIFFERS, compared, markdown, plot, rows_of
from ablations_training import Workshop
from ablations_variants import CONDITIONS, HEIGHT, VARIANTS, WIDTH, Plan, Variant
from held_out_windows import machine, without_nan

from drivesim.errors import UsageError
from drivesim.io.atomic import write_json

HERE = Path(__file__).parent
UPSAMPLERS = {"bicubic": None, "upsampler_image": "upsampler_image", "upsampler_video": "upsampler"}
"""Variant -> its network in a checkpoint folder."""
PAGE = """# The paper's ablations, small

{machine}, {date}. {steps} optimiser steps for every variant, {windows} held-out windows of {held_out}, trained on {data}.

Command: `python benchmarks/ablations.py run --data {data_words} --held-out {held_out_words} --out OUT --steps {steps} --windows {windows}`,
then `... table --out OUT`. How it is measured stands at the top of `benchmarks/ablations.py` and `benchmarks/ablations_judging.py`.

{verdicts}

![Relative differences, ours and the paper's]({plot})

Metrics: `fvd` = {fvd} (clips) and `fd` = {fd} (frames) are Frechet distances, `kvd` and `kd` unbiased kernel distances of
the same features, all of them the smaller the better. None is a frozen protocol (size, number of windows), nor FVD or FID. Upsamplers and
latent channels are judged at 128x256, on half as many windows. `flicker`: how far frames lie from the mean of their neighbours, over the
recorded ones' (1 is best). `ap50`: average precision of the shipped detector on reconstructed frames, or on frames that an image network
trained on these latents makes of labels (`samples`: label guidance 3, 12 calls), `ap50_recorded` on the recorded ones.
± is the 95% interval over seeds; "within noise" = the interval of the paired difference holds zero.

Unlike the paper: a window is 16 consecutive frames at 7.5 fps, with up to two true ones before them, which are not judged (the paper: 10
keyframes at 2 fps). {steps} steps of 4 windows stand beside its 60,000 of 36: what takes long training shows in neither column. Our
pixel network works over cells of 4x4 pixels and takes 1.6 times the operations of the one on latents. Its attention-only network has as
many trained weights as the full one, ours has 0.29M beside 0.42M (attention at every place that there is). Its full network gets its
context by encoder; ours, what the others are compared with, has it carried as well, except beside `attention_only`, where both have it in
frame slots. Our end-to-end network is small enough for all its weights to train in these steps. The diffusion upsampler starts from
bicubic frames.

{tables}
"""


def judged(bench: Bench, folder: Path, name: str, variant: Variant, seed: int) -> dict[str, dict[str, float]]:
    """How it was asked -> metric -> value."""
    if variant.kind == "video":
        return bench.video(folder, {asked: CONDITIONS[asked] for asked in variant.conditions}, variant.level, seed)
    if variant.kind == "decoder":
        return bench.decoder(folder)
    if variant.kind == "upsampler":
        return bench.upsampler(folder, UPSAMPLERS[name])
    return bench.latents(folder, seed)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    unknown = [name for name in args.only if name not in VARIANTS]
    if unknown:
        raise UsageError(f"no variant named {unknown[0]}; there are {', '.join(VARIANTS)}")
    told = {"steps": args.steps, "windows": args.windows, "data": [root.name for root in args.data],
            "held_out": [f"{root.name} {args.split}" for root in args.held_out or args.data]}  # fmt: skip
    workshop = Workshop(args.out.absolute(), tuple(args.data), Plan(args.steps))
    bench = Bench(args.held_out or args.data, args.split, args.windows)
    for seed in args.seeds:
        for name in args.only or VARIANTS:
            finish(workshop, bench, name, seed, told, args.keep)


def finish(workshop: Workshop, bench: Bench, name: str, seed: int, told: Mapping[str, Any], keep: bool) -> None:
    """Train and measure one variant with one seed, unless that is done. What has nothing of its own to train is measured once."""
    variant = VARIANTS[name]
    seed = seed if variant.stage else 0
    path = workshop.out / "results" / f"{name}-{seed}.json"
    if path.exists():
        _same(path, told)
        return
    began = time.process_time()
    folder, cost = workshop.made(name, variant, seed)
    trained = time.process_time()
    found = judged(bench, folder, name, variant, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = {"train": trained - began, "judge": time.process_time() - trained}
    write_json(path, without_nan({"variant": name, "seed": seed, **told, **machine(), "judged": found, "cost": cost, "cpu_s": seconds}))
    print(f"{name}, seed {seed}: {seconds['train']:.0f} s + {seconds['judge']:.0f} s of processor time, {found}", flush=True)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def _same(path: Path, told: Mapping[str, Any]) -> None:
    before = json.loads(path.read_text())
    for name, value in told.items():
        if before[name] != value:
            raise UsageError(f"{path}: was made with {name} = {before[name]}, not {value}; take another --out or the same settings")


def table(args: argparse.Namespace) -> None:
    results = [json.loads(path.read_text()) for path in sorted((args.out / "results").glob("*.json"))]
    found = rows_of(results)
    rows, costs = compared(found), _costs(results)
    names = metric_names(results[0]["windows"], HEIGHT, WIDTH)
    told = {name: results[0][name] for name in ("steps", "windows", "data", "held_out", "machine", "date")}
    values = [{"variant": name, "asked": asked, "seeds": seeds} for (name, asked), seeds in found.items()]
    for path in (args.results, args.page, args.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = {**told, "metrics": names, "values": values, "differences": rows, "cost": costs}
    args.results.write_text(json.dumps(without_nan(content), indent=1))
    plot(rows).savefig(args.plot, dpi=110)
    where = args.plot.relative_to(args.page.parent) if args.plot.is_relative_to(args.page.parent) else args.plot
    lists = {name: ", ".join(told[name]) for name in ("data", "held_out")}
    lists |= {"data_words": " ".join(told.pop("data"))}
    lists |= {"held_out_words": " ".join(name.split()[0] for name in told.pop("held_out"))}
    page = PAGE.format(**told, **lists, **names, plot=where, verdicts=verdicts(rows), tables=markdown(found, rows, costs))
    args.page.write_text(page)
    print(page)


def verdicts(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in one paragraph: where our direction is the paper's and where it is not."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        for metric, cell in row["metrics"].items():
            if cell["paper"] is not None:
                kinds.setdefault(cell["verdict"], []).append(f"{row['title']} ({metric})")
    order = sorted(kinds, key=lambda kind: (kind != DIFFERS, kind))
    return "\n".join(f"- Direction, beside the paper's: {kind}: {'; '.join(kinds[kind])}." for kind in order)


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the first seed of every variant, in the order of the table."""
    first = {result["variant"]: result["cost"] for result in sorted(results, key=lambda result: -result["seed"])}
    return {name: first[name] for name in VARIANTS if name in first}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="command", required=True)
    parts.add_parser("list", help="what there is to run")
    make = parts.add_parser("run", help="train and measure what is not there yet")
    make.add_argument("--data", nargs="+", type=Path, required=True, help="clip datasets to train on (split train)")
    make.add_argument("--held-out", nargs="+", type=Path, help="clip datasets to judge on; default: the same")
    make.add_argument("--split", default="test", help="split to judge on")
    make.add_argument("--only", nargs="+", default=[], metavar="NAME")
    make.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    make.add_argument("--steps", type=int, default=Plan().steps, help="optimiser steps of what is compared")
    make.add_argument("--windows", type=int, default=64, help="held-out windows of each measure")
    make.add_argument("--threads", type=int, default=1)
    make.add_argument("--keep", action="store_true", help="keep the trained networks")
    show = parts.add_parser("table", help="tables and plot from what is there")
    show.add_argument("--results", type=Path, default=HERE / "results" / "ablations.json")
    show.add_argument("--page", type=Path, default=HERE.parent / "docs" / "ablations.md")
    show.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "images" / "ablations.png")
    for part in (make, show):
        part.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if args.command == "list":
        print("\n".join(f"{name:16} {variant.kind:9} {variant.about}" for name, variant in VARIANTS.items()))
    else:
        {"run": run, "table": table}[args.command](args)


if __name__ == "__main__":
    main()
