"""What the parts of mini_quality share: the clips that were made for them, the stretches of recordings beside them, and where results lie.

A set of made clips has a folder named by what fixes its pixels, so it is made once, whichever part or process asks first. A result is kept
with the options and data that it came from, and computed again only where these have changed. This file does not know how anything is
judged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from held_out_rollouts import FPS, Redriven, Span, Task, short, spans
from held_out_windows import without_nan
from machine import describe

from drivesim.errors import DrivesimError
from drivesim.eval.cache import FeatureCache
from drivesim.eval.extract import Features, features_of
from drivesim.eval.features import FeatureNetwork, feature_network
from drivesim.eval.footage import Footage, Shot
from drivesim.eval.protocols import PROTOCOLS, Protocol
from drivesim.io.atomic import write_json
from drivesim.io.checkpoints import Checkpoint, file_hash
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator

__all__ = ["CLIPS", "FRAMES", "JUDGES", "VERSION", "Aligned", "Bench", "Pair", "beside"]

CLIPS, FRAMES = (PROTOCOLS[name] for name in ("fvd_lite0_256x16_h264crf18", "fd_lite0_h264crf18"))
JUDGES = {"fvd_lite0": CLIPS, "fd_lite0": FRAMES}
VERSION = 1
"""Raised when what a part computes has changed: results that were kept are then computed again."""


@dataclass(frozen=True)
class Pair:
    """Made clips and the recordings that their labels are from: clip i of both shows the same moments of the same drive.

    settings: how they were made.   seconds: of work that making them took, over all processes.
    """

    made: Footage
    recorded: Footage
    settings: RolloutSettings
    seconds: float

    def first(self, seconds: float) -> Pair:
        """Their first seconds only."""
        sides = (replace(side, clips=tuple(_cut(clip, seconds) for clip in side.clips)) for side in (self.made, self.recorded))
        return replace(self, made=next(sides), recorded=next(sides))

    @property
    def length_s(self) -> float:
        """Of the longest clip."""
        return max((clip.frames - clip.given) / clip.fps for clip in self.made.clips)


@dataclass(frozen=True)
class Aligned:
    """Features of both sides of a pair: row i of both shows the same moments."""

    made: Features
    recorded: Features


@dataclass
class Bench:
    """One checkpoint, the data that it is held against, and a folder for everything that is made. train: clips for floor and copies."""

    checkpoint: Checkpoint
    data: Sequence[Path]
    split: str
    train: Sequence[Path]
    work: Path
    resamples: int = 1000
    cache: FeatureCache | None = None
    progress: bool = False
    took: dict[str, float] = field(default_factory=dict)
    """Folder of made clips -> seconds of work that went into those asked for, since a part began."""
    _networks: dict[str, FeatureNetwork] = field(default_factory=dict)

    def settings(self, quality: str | None, **wishes: Any) -> RolloutSettings:
        return rollout_settings(self.checkpoint, quality, **{"fps": FPS, **wishes})

    def pair(self, task: Task, count: int, quality: str | None = None, **wishes: Any) -> Pair:
        """The first ``count`` spans (all, where there are fewer), made if they are not there yet.

        Raises:
            UsageError: a quality that the checkpoint has not, or no recording of that length.   DrivesimError: a clip cannot be read.
        """
        settings = self.settings(quality, **wishes)
        simulator, everything = Simulator(self.checkpoint, settings), spans(self.data, self.split, task.frames)
        name = f"{settings.quality}_{task.context}_{task.frames}_{task.request}"
        key = {"checkpoint": self.checkpoint.hash, **asdict(task), "settings": asdict(settings)}
        redriven = Redriven(self.work / "made" / f"{name}_{short(key)}", simulator, task)
        chosen = everything[:count]
        redriven.make(chosen)
        made = _opened(redriven, everything, chosen)
        self.took[redriven.out.name] = redriven.seconds(chosen)
        return Pair(made, beside(made, self.recordings, chosen, redriven.first), settings, redriven.seconds(chosen))

    def spans_for(self, windows: int, task: Task) -> int:
        """How many spans hold so many windows of the video protocol."""
        return math.ceil(windows / ((task.frames - bool(task.context)) // CLIPS.frames))

    @property
    def recordings(self) -> Footage:
        """The held-out recordings, whole."""
        return Footage.open(self.data, self.split)

    def features(self, shots: Sequence[Shot], protocol: Protocol, title: str) -> Features:
        network = self._networks.setdefault(protocol.network, feature_network(protocol.network))
        return features_of(
            shots, network, size=protocol.size, codec=protocol.codec, fps=protocol.fps, cache=self.cache,
            progress=f"{protocol.name}: {title}" if self.progress else None,
        )  # fmt: skip

    def aligned(self, pair: Pair, protocol: Protocol, limit: int | None = None) -> Aligned:
        """Both sides by one protocol.

        Raises:
            DrivesimError: a shot of either side cannot be read, so that rows would not belong together.
        """
        made, recorded = (self.features(protocol.shots(side, limit), protocol, side.name) for side in (pair.made, pair.recorded))
        for side in (made, recorded):
            if side.skipped:
                clip_id, reason = next(iter(side.skipped.items()))
                raise DrivesimError(f"clip {clip_id} cannot be judged: {reason}; remove its video, so that it is made again")
        if made.drives != recorded.drives:
            raise DrivesimError(f"{pair.made.name}: its clips do not show the recordings' moments; remove that folder")
        return Aligned(made, recorded)

    # results

    def inputs(self, part: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that a part's result follows from."""
        tables = [Path(root) / "clips.parquet" for root in (*self.data, *self.train)]
        data = {f"{path.parent.name}/{path.name}": file_hash(path) for path in tables if path.is_file()}
        told = {name: [str(item) for item in value] if isinstance(value, list) else value for name, value in options.items()}
        return {"part": part, "version": VERSION, "checkpoint": self.checkpoint.hash, "split": self.split, "data": data,
                "resamples": self.resamples, "options": told}  # fmt: skip

    def result(self, part: str) -> Path:
        return self.work / "results" / f"{part}.json"

    def kept(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of an earlier run with the same inputs."""
        path = self.result(str(inputs["part"]))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found if found.get("inputs") == json.loads(json.dumps(inputs, default=str)) else None

    def keep(self, inputs: Mapping[str, Any], found: Mapping[str, Any], seconds: float, command: str) -> dict[str, Any]:
        about = {"machine": describe(), "date": str(date.today()), "command": command, "seconds": round(seconds, 1),
                 "made_s": {name: round(took, 1) for name, took in self.took.items()}}  # fmt: skip
        result = json.loads(json.dumps(without_nan({"inputs": dict(inputs), **about, "found": found}), default=str))
        write_json(self.result(str(inputs["part"])), result)
        return result


def beside(made: Footage, recordings: Footage, chosen: Sequence[Span], first: int) -> Footage:
    """The stretch of a recording that each made clip shows, as clips; ``first``: frames of a span that were given and are not in it."""
    by_video = {Path(str(clip.content)).resolve(): clip for clip in recordings.clips}
    views = []
    for clip, span in zip(made.clips, chosen, strict=True):
        source, begin = by_video[span.video.resolve()], span.first + first
        stride = round(source.fps / clip.fps)
        views.append(replace(source, given=begin, frames=begin + (clip.frames - 1) * stride + 1))
    return replace(recordings, name="recorded", clips=tuple(views))


def _opened(redriven: Redriven, everything: Sequence[Span], chosen: Sequence[Span]) -> Footage:
    """The chosen clips, in their order. The tables list all that are finished: another process may have asked for more."""
    footage = redriven.opened([span for span in everything if redriven.done(span)])
    clips = {clip.clip_id: clip for clip in footage.clips}
    lost = [span.name for span in chosen if span.name not in clips]
    if lost:
        raise DrivesimError(f"{redriven.out}: {lost[0]} cannot be read ({footage.skipped.get(lost[0], 'not made')}); remove its video")
    return replace(footage, clips=tuple(clips[span.name] for span in chosen))


def _cut(clip: Any, seconds: float) -> Any:
    return replace(clip, frames=min(clip.frames, clip.given + math.floor(seconds * clip.fps + 1e-6)))
