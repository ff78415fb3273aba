"""The command line: flags and their help, one function per command, and how errors become one line and an exit code.

Nothing heavy is imported before a command runs, so ``--help`` answers at once. Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted.
This file does not know what the commands do: that is in ``drivesim.commands``.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from drivesim import __version__
from drivesim.commands.data_flags import data
from drivesim.commands.flags import Words, flag
from drivesim.commands.scenario_flags import scenario
from drivesim.errors import UsageError

__all__ = ["app", "main"]

INTERRUPTED = 130
ABOUT = "Labels in, minutes of labelled driving video out."

app = typer.Typer(name="drivesim", no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=ABOUT)
app.add_typer(data, name="data")
app.add_typer(scenario, name="scenario")


@app.callback(invoke_without_command=True)
def _program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from; may stand anywhere.")] = False,
) -> None:
    if version:
        typer.echo(f"drivesim {__version__}")
        raise typer.Exit


@app.command()
def rollout(
    minutes: Annotated[float | None, flag("1", "Length of the video.")] = None,
    out: Annotated[Path | None, flag("rollouts/001, 002, ...", "Folder to write, a clip dataset.")] = None,
    time_of_day: Annotated[str | None, flag("sampled", "day or night.")] = None,
    crowdedness: Annotated[float | None, flag("sampled", "Mean number of vehicles in sight.")] = None,
    boxes: Annotated[str | None, flag("sampled from recorded tracks", "Parquet table of the boxes to drive among.")] = None,
    start: Annotated[str | None, flag("made up", "Picture or video to start from.")] = None,
    fps: Annotated[float | None, flag("the checkpoint's, 7.5 in mini", "Frames a second: 1.875, 7.5 or 30.")] = None,
    seed: Annotated[int | None, flag("0", "Same seed, same video.")] = None,
    checkpoint: Annotated[str | None, flag("mini", "Weights: a preset's name or a folder that `drivesim train` wrote.")] = None,
    device: Annotated[str | None, flag("auto", "auto, cpu, cuda, cuda:N or mps.")] = None,
    quality: Annotated[str | None, flag("fast where the checkpoint has it", "fast: networks of few calls. full: of many.")] = None,
    branches: Annotated[int | None, flag("1", "Futures of one start, the same until --branch-at.")] = None,
    branch_at: Annotated[float | None, flag("as soon as can be", "Seconds from which branches differ.")] = None,
    fit: Annotated[str | None, flag("no limit", "Memory to stay within, such as 16GB: sizes are chosen for it.")] = None,
    upsample: Annotated[bool, typer.Option("--upsample", help="Four times as high and wide: 512x1024 with mini.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier rollout in --out.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish the rollout in --out, or begin it; needs no other flag.")] = False,
    words: Words = None,
) -> int:
    """Make a labelled driving video."""
    from drivesim.commands.rollout import run

    flags = dict(minutes=minutes, out=out, time_of_day=time_of_day, crowdedness=crowdedness, boxes=boxes, start=start, fps=fps)
    flags |= dict(seed=seed, checkpoint=checkpoint, device=device, overwrite=overwrite or None, resume=resume or None)
    flags |= {"rollout.quality": quality, "upsample": upsample or None, "fit": fit, "branches": branches, "branch_at": branch_at}
    return run(flags, words or [])


@app.command()
def edit(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A rollout, a generated dataset, or recordings.")],
    out: Annotated[Path, typer.Option(help="Folder to write, a rollout like any other, with edit.json and edit.png.")],
    clip: Annotated[str | None, flag("the only one", "Which clip of DATASET.")] = None,
    time_of_day: Annotated[str | None, flag("as it is", "day or night.")] = None,
    boxes: Annotated[str | None, flag("as they are", "Parquet or CSV table of boxes instead of the clip's.")] = None,
    crowdedness: Annotated[float | None, flag("as it is", "Vehicles a frame: tracks are taken away or added to reach it.")] = None,
    ego_speed_mps: Annotated[float | None, flag("as it is", "Speed of the recording car, in m/s.")] = None,
    seed: Annotated[int | None, flag("the clip's, 0 for a recording", "Same seed, same noise.")] = None,
    start: Annotated[str | None, flag("as the clip began", "recorded, made (a new first frame), or a picture or video.")] = None,
    checkpoint: Annotated[str | None, flag("the one that made it, mini for a recording", "Weights: a preset's name or a folder.")] = None,
    device: Annotated[str | None, flag("auto", "auto, cpu, cuda, cuda:N or mps.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier rollout or edit in --out.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish the edit in --out; say everything else again.")] = False,
    words: Words = None,
) -> int:
    """Make a clip again with one label changed and the rest kept; measure what stays and what changes."""
    from drivesim.commands.edit import run

    flags = dict(dataset=dataset, out=out, clip=clip, time_of_day=time_of_day, boxes=boxes, crowdedness=crowdedness)
    flags |= dict(ego_speed_mps=ego_speed_mps, seed=seed, start=start, checkpoint=checkpoint, device=device)
    return run({**flags, "overwrite": overwrite or None, "resume": resume or None}, words or [])


@app.command()
def generate(
    scenarios: Annotated[str, typer.Argument(metavar="SCENARIOS", help="Table of scenarios, Parquet or CSV; a path or an fsspec URL.")],
    out: Annotated[str, typer.Option(help="Folder or fsspec URL to write, a clip dataset; the same command again makes what is missing.")],
    workers: Annotated[int | None, flag("1", "Processes on this machine, or actors on --ray.")] = None,
    shard: Annotated[str | None, flag("all", "I/N: make every Nth group of scenarios from the Ith on.")] = None,
    ray: Annotated[str | None, flag("none", "Address of a Ray cluster, or local.")] = None,
    min_agreement: Annotated[float | None, flag("none", "F1 of labels and detections below which a clip is remade or dropped.")] = None,
    fps: Annotated[float | None, flag("the checkpoint's, 7.5 in mini", "Of scenarios that name none: 1.875, 7.5 or 30.")] = None,
    checkpoint: Annotated[str | None, flag("mini", "Weights: a preset's name or a folder that `drivesim train` wrote.")] = None,
    device: Annotated[str | None, flag("auto", "auto, cpu, cuda, cuda:N or mps.")] = None,
    quality: Annotated[str | None, flag("fast where the checkpoint has it", "fast: networks of few calls. full: of many.")] = None,
    upsample: Annotated[bool, typer.Option("--upsample", help="Four times as high and wide: 512x1024 with mini.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin an earlier generation in --out anew.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Make what is missing; that is what happens without it, too.")] = False,
    words: Words = None,
) -> int:
    """Make a labelled dataset of many scenarios, on as many processes as there are."""
    from drivesim.commands.generate import run

    if resume and overwrite:
        raise UsageError("--resume goes on with a generation and --overwrite replaces it: give one of them")
    flags = dict(scenarios=scenarios, out=out, workers=workers, shard=shard, ray=ray, min_agreement=min_agreement, fps=fps)
    flags |= dict(checkpoint=checkpoint, device=device, upsample=upsample or None, overwrite=overwrite or None)
    return run({**flags, "rollout.quality": quality}, words or [])


@app.command()
def upsample(
    source: Annotated[str, typer.Argument(metavar="MP4|DATASET", help="A video of any kind, or a clip dataset.")],
    out: Annotated[Path, typer.Option(help="Folder to write, a clip dataset; the same command again goes on with what was cut off.")],
    seed: Annotated[int | None, flag("0", "Same seed, same video.")] = None,
    checkpoint: Annotated[str | None, flag("mini", "Weights: a preset's name or a folder that `drivesim train` wrote.")] = None,
    device: Annotated[str | None, flag("auto", "auto, cpu or cuda.")] = None,
    words: Words = None,
) -> int:
    """Make videos four times as high and wide, labels kept."""
    from drivesim.commands.upsample import run

    return run(dict(source=source, out=out, seed=seed, checkpoint=checkpoint, device=device), words or [])


@app.command()
def train(
    words: Words = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="One run for each combination of comma-separated values.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
) -> None:
    """Train one stage: experiment=PRESET/STAGE, for instance experiment=toy/1_autoencoder data=[clips] out=checkpoints/toy."""
    from drivesim.commands.train import run

    run(words or [], multirun=multirun, show=show)


@app.command()
def evaluate(
    real: Annotated[list[str], typer.Option(help="Recorded or simulated clips to compare with; may be given several times.")],
    generated: Annotated[list[str], typer.Option(help="Made clips: clip datasets or folders of MP4s; may be given several times.")],
    protocol: Annotated[list[str] | None, flag("the offline ones", "Named protocol; may be given several times.")] = None,
    split: Annotated[str | None, flag("test", "Which clips of --real.")] = None,
    train: Annotated[list[str] | None, flag("the train split of --real", "Training clips, for floors and memorisation.")] = None,
    checkpoint: Annotated[str | None, flag("none", "Its autoencoder's reconstruction is the ceiling: a preset or a folder.")] = None,
    parts: Annotated[list[str] | None, flag("all that apply", "distances, drift, labels, memorisation; repeatable.")] = None,
    out: Annotated[Path | None, flag("GENERATED/evaluation", "Folder for the result, its table and plots.")] = None,
    fetch_weights: Annotated[bool, typer.Option("--fetch-weights", help="Download published feature networks that are missing.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute every feature again.")] = False,
    words: Words = None,
) -> int:
    """Measure made clips against recorded ones by frozen, named protocols."""
    from drivesim.commands.evaluate import run

    flags = dict(real=real, generated=generated, protocol=protocol, split=split, train=train, checkpoint=checkpoint, parts=parts, out=out)
    return run({**flags, "fetch_weights": fetch_weights or None, "no_cache": no_cache or None}, words or [])


@app.command()
def report(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Rollouts or clip datasets, shown side by side.")],
    out: Annotated[Path | None, flag("DIR/report.html", "Page to write.")] = None,
    max_mb: Annotated[float | None, flag("200", "Largest page; longer videos are shortened.")] = None,
) -> int:
    """One HTML page that works offline: videos with boxes, label timelines, metrics, provenance."""
    from drivesim.commands.report import run

    return run(dict(folders=folders, out=out, max_mb=max_mb), [])


@app.command()
def doctor(
    device: Annotated[str | None, flag("auto", "auto, cpu, cuda or cuda:N.")] = None,
    checkpoint: Annotated[str | None, flag("none", "A checkpoint folder to tell of beside the presets.")] = None,
    words: Words = None,
) -> int:
    """What this machine has, which weights are found, what each preset needs and how fast it will be."""
    from drivesim.commands.doctor import run

    return run(dict(device=device, checkpoint=checkpoint), words or [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. Errors are printed as one line, with ``--debug`` also where they came from."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        result = app([word for word in words if word != "--debug"], prog_name="drivesim", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)
    if code == INTERRUPTED:
        print("error: interrupted", file=sys.stderr)
    return code


def _report(error: BaseException) -> int:
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__  # what a constructor said, not that Hydra called it
    if isinstance(error.__cause__, KeyboardInterrupt):
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return INTERRUPTED
    message = _usage_message(error)
    if message is not None:
        if message:
            print(f"error: {message}", file=sys.stderr)
        return 2
    print(f"error: {_message(error)}", file=sys.stderr)
    return 1


def _usage_message(error: BaseException) -> str | None:
    """What was wrong with the command line, or None when the command was good and something else failed."""
    from drivesim.labels import LabelError

    if isinstance(error, UsageError | LabelError):
        return _one_line(str(error))
    if not hasattr(error, "format_message"):  # every error of typer's parser has it, wherever this version of typer keeps the class
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return ""
    possible = getattr(error, "possibilities", None)
    if possible is not None and hasattr(error, "option_name"):
        known = f"; did you mean {possible[0]}?" if possible else ""
        return f"no option {error.option_name}{known}"
    return _one_line(error.format_message())


def _message(error: BaseException) -> str:
    from drivesim.errors import DrivesimError
    from drivesim.recipes import RecipeError

    text = _one_line(str(error))
    if isinstance(error, DrivesimError | RecipeError):
        return text
    if isinstance(error, OSError):
        return f"{error.strerror or text}: {error.filename}" if error.filename else text
    return f"{type(error).__name__}: {text} (a fault in drivesim; --debug shows where)"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
