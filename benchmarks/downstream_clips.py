"""Clips for ``downstream.py``: generated ones made from the checkpoint's own track bank, and frames of any clips held in memory.

Generated clips are what ``drivesim rollout`` makes, with its defaults: a scenario sampled from the bank, half of them by night, with few
to many vehicles by turns, and the boxes asked for as labels. They are made one after the other in one process; what is there is not made
again, and a folder of another checkpoint or other settings is refused. This file does not know who trains on them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from drivesim.datasets.clips import ClipDataset
from drivesim.errors import UsageError
from drivesim.io.atomic import write_json
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.records import RecordsWriter
from drivesim.io.video import count_frames, write_video
from drivesim.labels import Scenario
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.scenes.sampling import TrackBank, sample_scenario
from drivesim.simulation.simulator import Simulator

__all__ = ["CROWDEDNESS", "FRAMES", "Wish", "make"]

FPS, FRAMES = 7.5, 37
"""A first keyframe and nine of one window, with what lies between them: 4.9 s; short, so that the same frames show more scenes."""
CROWDEDNESS = (1.0, 3.0, 5.0, 8.0, 12.0)
"""Vehicles asked for, by turns."""
STAMP = "asked.json"


@dataclass(frozen=True)
class Wish:
    """What fixes generated clips: which weights, how many calls, how many frames each."""

    checkpoint: str = "mini"
    quality: str | None = None
    frames: int = FRAMES


def _scenario(bank: TrackBank, number: int, duration_s: float) -> Scenario:
    """Day and night by turns; every crowdedness by day before the next one, and by night."""
    light, crowd = ("day", "night")[number % 2], CROWDEDNESS[number // 2 % len(CROWDEDNESS)]
    return sample_scenario(bank, duration_s, time_of_day=light, crowdedness=crowd, seed=number, name=f"generated_{number:04d}")


def make(out: Path, count: int, wish: Wish) -> ClipDataset:
    """The clip dataset of ``count`` generated clips in ``out``: what is missing is made.

    Raises:
        UsageError: ``out`` holds clips of another wish, or the checkpoint has no track bank.
    """
    checkpoint = load_checkpoint(wish.checkpoint)
    simulator = Simulator(checkpoint, rollout_settings(checkpoint, wish.quality, fps=FPS))
    if not checkpoint.tracks.is_file():
        raise UsageError(f"{checkpoint.folder} holds no track bank (tracks.parquet), so nobody says where its vehicles should be")
    _stamp(out, {"checkpoint": checkpoint.hash, "frames": wish.frames, "settings": asdict(simulator.settings)})
    bank = TrackBank.load(checkpoint.tracks)
    scenarios = [_scenario(bank, number, wish.frames / FPS) for number in range(count)]
    for scenario in tqdm(scenarios, desc=out.name, unit="clip", disable=None):
        video = out / "videos" / f"{scenario.name}.mp4"
        if not (video.is_file() and count_frames(video) == wish.frames):
            write_video(video, np.concatenate([step.frames for step in simulator.run(scenario)]), FPS)
    (out / "dataset.json").unlink(missing_ok=True)
    with RecordsWriter(out, creator="drivesim benchmarks/downstream.py") as writer:
        for scenario in scenarios:
            _rows(writer, simulator, scenario, wish)
    return ClipDataset(out)


def _rows(writer: RecordsWriter, simulator: Simulator, scenario: Scenario, wish: Wish) -> None:
    """Labels as they were asked for: nobody looked at the pictures."""
    writer.append(simulator.labels(scenario).at(range(wish.frames), FPS), scenario.name, "requested")
    origin = {
        "kind": "generated", "drive": scenario.name, "given_frames": 0, "seed": scenario.seed, "crowdedness": scenario.crowdedness,
        "checkpoint": simulator.checkpoint.hash, "quality": simulator.settings.quality,
    }  # fmt: skip
    video, size = f"videos/{scenario.name}.mp4", (simulator.height, simulator.width)
    writer.add_clip(scenario.name, video, FPS, *size, split="train", source="drivesim", provenance=json.dumps(origin))


def _stamp(out: Path, identity: dict[str, Any]) -> None:
    path = out / STAMP
    if not path.is_file():
        if any((out / "videos").glob("*.mp4")):
            raise UsageError(f"{out} holds videos, and nothing says how they were made; choose another folder")
        write_json(path, identity)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in identity if identity[name] != before.get(name)]
    if differing:
        raise UsageError(f"{out} holds clips that differ in {', '.join(differing)}; choose another folder, or remove it")
