"""``drivesim data import NAME``: one command for each adapter of a release; all take a folder and make a clip dataset of it.

Nothing heavy is imported before a command runs. What a release looks like is known in datasets/sources, one file each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivesim.commands.flags import Words

__all__ = ["RELEASES", "add_releases"]

RELEASES = {
    "kitti": "KITTI: the tracking benchmark (training/, testing/), or raw drives by day (2011_09_26/...).",
    "bdd100k": "BDD100K: videos with box tracks (MOT 2020) and time of day.",
    "nuscenes": "nuScenes: front camera, 3-D boxes projected into the picture.",
    "comma2k19": "comma2k19: road camera with speed, turn rate, poses and light; no boxes.",
    "lerobot": "LeRobot v3: episodes of one camera; our own export with all its labels.",
    "coco": "COCO detection: anybody's pictures and boxes; our own export with tracks.",
    "yolo": "YOLO detection (Ultralytics): anybody's pictures and boxes; our own export with tracks.",
}
"""Name of ``configs/command/data_import_NAME.yaml`` -> what its help says."""

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the release's archives were extracted.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]


def add_releases(imports: typer.Typer) -> None:
    """Add every release's command to ``drivesim data import``."""
    for name, text in RELEASES.items():
        _add(imports, name, text)


def _add(imports: typer.Typer, name: str, text: str) -> None:
    @imports.command(name, help=text)
    def release(source: Folder, out: Out, words: Words = None) -> int:
        from drivesim.commands.data import run

        return run(f"import_{name}", dict(source=source, out=out), words or [])
