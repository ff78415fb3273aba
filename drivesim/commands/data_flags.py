"""Flags of ``drivesim data ...``: make, import, check, look at and export clip datasets.

Nothing heavy is imported before a command runs. What the commands do is in ``drivesim.commands.data`` and the files it names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivesim.commands.flags import Words, flag
from drivesim.commands.releases import add_releases

__all__ = ["data"]

Clips = Annotated[str, typer.Argument(metavar="DATASET", help="Folder of a clip dataset, or its fsspec URL.")]

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, import, check, look at and export clip datasets.")
imports = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Turn foreign recordings into a clip dataset.")
exports = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write a clip dataset in another project's format.")
data.add_typer(imports, name="import")
data.add_typer(exports, name="export")


@data.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    clips: Annotated[int | None, flag("8", "How many.")] = None,
    seconds: Annotated[float | None, flag("16", "Seconds of each.")] = None,
    fps: Annotated[float | None, flag("7.5", "Frames a second.")] = None,
    height: Annotated[int | None, flag("128", "Pixels.")] = None,
    width: Annotated[int | None, flag("256", "Pixels.")] = None,
    seed: Annotated[int | None, flag("0", "Same seed, same clips.")] = None,
    words: Words = None,
) -> int:
    """Draw a small labelled road world, for tests and first tries."""
    from drivesim.commands.data import run

    return run("synth", dict(out=out, clips=clips, seconds=seconds, fps=fps, height=height, width=width, seed=seed), words or [])


@imports.command()
def videos(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of videos.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    labels: Annotated[Path | None, flag("none", "CSV or Parquet table of labels.")] = None,
    boxes: Annotated[Path | None, flag("none", "CSV or Parquet table of boxes.")] = None,
    words: Words = None,
) -> int:
    """Any videos: long ones are cut at scene changes and into clips."""
    from drivesim.commands.data import run

    return run("import_videos", dict(source=source, out=out, labels=labels, boxes=boxes), words or [])


add_releases(imports)


@data.command()
def check(
    dataset: Clips,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Move bad clips aside into DATASET/quarantine.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every frame, not only the container.")] = False,
    words: Words = None,
) -> int:
    """List every fault; exit code 1 when there is one."""
    from drivesim.commands.data import run

    return run("check", dict(dataset=dataset, set_aside=quarantine, deep=deep), words or [])


@data.command()
def label(
    dataset: Clips,
    out: Annotated[Path | None, flag("in place", "Folder to write instead, with copies of the videos.")] = None,
    detector: Annotated[Path | None, flag("in the package", "ONNX file (YOLO, YOLOX), or folder of an exported detector.")] = None,
    threshold: Annotated[float | None, flag("the detector's", "Score from which a detection is sure.")] = None,
    every: Annotated[int | None, flag("1", "Look at every N-th frame; the others stay unknown.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite-labels", help="Replace labels that are there, whoever gave them.")] = False,
    words: Words = None,
) -> int:
    """Label what nobody labelled: time of day from light, boxes, tracks and crowdedness from a detector."""
    from drivesim.commands.data import run

    flags = dict(dataset=dataset, out=out, detector=detector, threshold=threshold, every=every, overwrite_labels=overwrite)
    return run("label", flags, words or [])


@data.command()
def agree(
    dataset: Clips,
    min_agreement: Annotated[float | None, flag("none", "Name clips whose F1 lies below it.")] = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Move those aside into DATASET/quarantine.")] = False,
    detector: Annotated[Path | None, flag("in the package", "Folder of another exported detector.")] = None,
    words: Words = None,
) -> int:
    """Hold labels against what a detector finds in the videos: overlap and score per box, precision, recall and F1 per clip."""
    from drivesim.commands.data import run

    return run("agree", dict(dataset=dataset, min_agreement=min_agreement, set_aside=quarantine, detector=detector), words or [])


@data.command()
def stats(
    dataset: Clips,
    out: Annotated[Path | None, flag("DATASET/stats.png", "Picture to write.")] = None,
    words: Words = None,
) -> int:
    """What is in it: hours, rates, labels, boxes, and how many clips serve each stage; a table and a picture."""
    from drivesim.commands.data import run

    return run("stats", dict(dataset=dataset, out=out), words or [])


def _export(form: str, text: str) -> None:
    """Add the command that writes a clip dataset in another project's form."""

    @exports.command(form, help=text)
    def export(dataset: Clips, out: Annotated[Path, typer.Option(help="Folder to write.")], words: Words = None) -> int:
        from drivesim.commands.data import run

        return run(f"export_{form}", dict(dataset=dataset, out=out), words or [])


_export("coco", "COCO detection: pictures and instances.json.")
_export("yolo", "YOLO detection (Ultralytics): pictures, text files of boxes, data.yaml.")
_export("kitti", "KITTI tracking: sequences of pictures and label_02; 2-D only.")
_export("bdd100k", "BDD100K JSON of 2020: box tracking, or detection with labels=det_20.")
_export("lerobot", "LeRobot v3: an episode per clip, videos as they are.")
