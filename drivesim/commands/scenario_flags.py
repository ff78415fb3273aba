"""Flags of ``drivesim scenario ...``: make, sample and draw the tables that ``drivesim generate`` reads.

Nothing heavy is imported before a command runs. What the commands do is in the files that ``configs/command/scenario_*.yaml`` name.
"""

from __future__ import annotations

from typing import Annotated

import typer

from drivesim.commands.flags import Words, flag

__all__ = ["scenario"]

Out = Annotated[str, typer.Option(metavar="SCENARIOS", help="Table to write: Parquet, or CSV by its name's ending; a path or a URL.")]
Count = Annotated[int | None, flag("8", "How many scenarios.")]
Seconds = Annotated[float | None, flag("10", "Length of each.")]
Fps = Annotated[float | None, flag("the checkpoint's", "Frames a second that clips of it are to have.")]
Seed = Annotated[int | None, flag("0", "Of the first scenario; the others count up.")]
Speed = Annotated[float | None, flag("as drawn, over time", "Speed of the recording car, in m/s.")]

scenario = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, sample and draw tables of scenarios.")


@scenario.command()
def make(
    out: Out,
    count: Count = None,
    seconds: Seconds = None,
    manoeuvres: Annotated[str | None, flag("all", "What vehicles do, such as cut_in,overtake.")] = None,
    crowdedness: Annotated[float | None, flag("drawn, 0.5 to 8", "Mean number of vehicles in sight.")] = None,
    time_of_day: Annotated[str | None, flag("drawn", "day or night.")] = None,
    ego_speed_mps: Speed = None,
    fps: Fps = None,
    seed: Seed = None,
    words: Words = None,
) -> int:
    """Traffic that nobody recorded: vehicles follow, brake, overtake, fall behind, cut in, come towards, cross and park."""
    from drivesim.commands.scenario import run

    flags = dict(out=out, count=count, seconds=seconds, manoeuvres=manoeuvres, crowdedness=crowdedness, time_of_day=time_of_day)
    return run("make", {**flags, "ego_speed_mps": ego_speed_mps, "fps": fps, "seed": seed}, words or [])


@scenario.command()
def sample(
    out: Out,
    bank: Annotated[str | None, flag("mini", "Recorded tracks: a preset, a checkpoint's folder or a clip dataset.", metavar="BANK")] = None,
    count: Count = None,
    seconds: Seconds = None,
    crowdedness: Annotated[float | None, flag("as recorded", "Mean number of vehicles in sight.")] = None,
    time_of_day: Annotated[str | None, flag("as recorded", "day or night.")] = None,
    ego_speed_mps: Speed = None,
    split: Annotated[str | None, flag("train where there is one", "Which clips of a dataset.")] = None,
    fps: Fps = None,
    seed: Seed = None,
    words: Words = None,
) -> int:
    """Recorded traffic, recombined: pieces of drives chained, mirrored, shifted, thinned and filled up."""
    from drivesim.commands.scenario import run

    flags = dict(out=out, bank=bank, count=count, seconds=seconds, crowdedness=crowdedness, time_of_day=time_of_day)
    return run("sample", {**flags, "ego_speed_mps": ego_speed_mps, "split": split, "fps": fps, "seed": seed}, words or [])


@scenario.command()
def show(
    table: Annotated[str, typer.Argument(metavar="SCENARIOS", help="Table of scenarios, Parquet or CSV.")],
    out: Annotated[str, typer.Option(metavar="PNG|MP4", help="Picture or video to write.")],
    id: Annotated[list[str] | None, flag("the first 8", "scenario_id to draw; may be given several times.")] = None,
    words: Words = None,
) -> int:
    """Draw the boxes over time: instants and timelines as PNG, moving as MP4."""
    from drivesim.commands.scenario import run

    return run("show", dict(table=table, out=out, ids=None if not id else ",".join(id)), words or [])
