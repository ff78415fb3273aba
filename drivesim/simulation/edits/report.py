"""An edit that was made, looked at: edit.json and edit.png beside it.

Before and after come from their videos; what an edit's labels leave to chance comes from other seeds of them, keyframes only. A recording
is also driven again without the change, so that what the edit did stands apart from what driving again did. This file does not know how
measures are computed (``measures``), nor the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.io.atomic import replacing, write_json
from drivesim.labels import Scenario
from drivesim.models.detector import BoxDetector
from drivesim.simulation.edits.edit import Edit
from drivesim.simulation.edits.measures import Side, agreement, box_measures, layout_measures, light_measures, watched
from drivesim.simulation.edits.picture import edit_page
from drivesim.simulation.edits.source import Original
from drivesim.simulation.simulator import Simulator

__all__ = ["Comparison", "write_report"]

FORMAT, VERSION = "drivesim-edit", 1
FILE, PICTURE = "edit.json", "edit.png"
LOOKS = 128


@dataclass(frozen=True)
class Comparison:
    """What is compared. before, after: clips on disk. start: as ``Simulator.run``. seconds: of the clip that are looked at.

    chance: how many other seeds of the edited scenario.
    """

    simulator: Simulator
    edit: Edit
    before: Original
    after: Original
    start: np.ndarray | None = None
    seconds: float = 60.0
    chance: int = 3

    @property
    def fps(self) -> float:
        return self.simulator.settings.fps

    @cached_property
    def frames(self) -> int:
        """Frames at the edit's rate that are compared: both clips have them, and they begin before ``seconds``."""
        longest = min(self.seconds, self.edit.before.duration_s, self.edit.after.duration_s)
        return max(1, round(longest * self.fps))

    def times(self, every: int) -> np.ndarray:
        """Seconds of every n-th frame."""
        return np.arange(0, self.frames, every) / self.fps

    def sides(self, timestamps_s: np.ndarray) -> tuple[Side, Side]:
        """Both at those times, in the simulator's size."""
        size = (self.simulator.height, self.simulator.width)
        both = ((self.before, self.edit.before), (self.after, self.edit.after))
        before, after = (Side(clip.frames(timestamps_s, *size), asked.labels_at(timestamps_s, self.fps)) for clip, asked in both)
        return before, after

    def measures(self, detector: BoxDetector) -> dict[str, Any]:
        """Boxes and light from up to about LOOKS frames, evenly spread; layout from keyframes."""
        every = -(-self.frames // LOOKS) | 1  # odd: keyframes lie a power of two apart, and what is between them is to be looked at, too
        before, after = (watched(detector, side) for side in self.sides(self.times(every)))
        told: dict[str, Any] = {"boxes": box_measures(before, after, detector.threshold)}
        told["light"] = {"before": light_measures(before), "after": light_measures(after)}
        keyframes = self.times(round(self.fps / self.simulator.keyframe_fps))
        old, new = self.sides(keyframes)
        others = [self._keyframes(replace(self.edit.after, seed=self.edit.after.seed + 1 + number)) for number in range(self.chance)]
        told["layout"] = layout_measures(old.frames, new.frames, others)
        if self.before.made is None:
            again = watched(detector, replace(old, frames=self._keyframes(self.edit.before)))
            layout = layout_measures(again.frames, new.frames, others)
            told["unedited"] = {"boxes": agreement(again, detector.threshold), "light": light_measures(again), "layout": layout}
        return told

    @cached_property
    def _keyframe_simulator(self) -> Simulator:
        settings = replace(self.simulator.settings, fps=self.simulator.keyframe_fps)
        return Simulator(self.simulator.checkpoint, settings, self.simulator.device)

    def _keyframes(self, scenario: Scenario) -> np.ndarray:
        """The keyframes among the frames that are compared, made anew: uint8 (n, H, W, 3)."""
        simulator, count = self._keyframe_simulator, len(self.times(round(self.fps / self.simulator.keyframe_fps)))
        shortened = replace(scenario, duration_s=count / simulator.keyframe_fps, branch=None)
        return np.concatenate([step.frames for step in simulator.run(shortened, self.start)])

    def page(self, instants: int) -> np.ndarray:
        """``edit_page`` of instants that are evenly spread."""
        chosen = np.unique(np.linspace(0, self.frames - 1, instants).round().astype(int)) / self.fps
        before, after = self.sides(chosen)
        return edit_page([("before", before), ("after: " + _words(self.edit.changed), after)], chosen)


def _words(changed: Mapping[str, Any]) -> str:
    return ", ".join(changed) if changed else "nothing changed"


def write_report(out: Path, comparison: Comparison, detector: BoxDetector, instants: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """Measure, and write ``out``'s edit.json and edit.png. told: entries that stand before the measures.

    Returns:
        What edit.json holds.
    """
    measures, seconds = comparison.measures(detector), comparison.frames / comparison.fps
    report = {"format": FORMAT, "version": VERSION, **told, "seconds": seconds, "measures": measures}
    page = cv2.cvtColor(comparison.page(instants), cv2.COLOR_RGB2BGR)
    with replacing(out / PICTURE) as part:
        part.write_bytes(cv2.imencode(".png", page)[1].tobytes())
    write_json(out / FILE, report)
    return report
