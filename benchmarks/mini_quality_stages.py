"""The part ``stages`` of mini_quality: which stage brings how much of the distance.

The same held-out spans are shown several times, each time with one more stage that makes instead of being given: recordings decoded from
their own latents; recorded keyframes with a linear mix of latents between them; recorded keyframes with the interpolation network between
them; everything made, from labels alone; the last two once more, refined, where there is a refiner. Beside the distance stand what it
hides: PSNR where there is a truth, and sharpness and change from frame to frame by place between keyframes, because a picture that is sharp
at keyframes only pulses; and what the distance is made of. This file does not know which numbers are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from held_out_rollouts import FPS, Span, Task, spans
from mini_quality_sets import CLIPS, Bench
from torch import Tensor

from drivesim.eval.extract import Features
from drivesim.eval.footage import Footage
from drivesim.eval.intervals import frechet_over_drives
from drivesim.eval.networks.lite0 import TRACK
from drivesim.shapes import as_bytes, as_floats
from drivesim.simulation.inputs import fit_frame
from drivesim.simulation.plan import FACTOR, RolloutPlan
from drivesim.simulation.simulator import Simulator

__all__ = ["RUNGS", "by_place", "linear_between", "made_of", "recorded_frames", "stages"]


class Given:
    """A journal in which all keyframes stand already: latents (k, c, h, w)."""

    def __init__(self, plan: RolloutPlan, keyframes: Tensor) -> None:
        self.pieces = [keyframes[:1], *(keyframes[window.made.start : window.made.stop] for window in plan.windows())]

    def load(self, number: int) -> Tensor | None:
        return self.pieces[number]

    def save(self, number: int, latents: Tensor) -> None:
        raise AssertionError("every keyframe is given")


class _Maker:
    """Frames of a span, uint8 (t, H, W, 3), with more and more of them made. whole: with the refiner, ``simulator`` without."""

    def __init__(self, whole: Simulator, task: Task) -> None:
        self.whole, self.task = whole, task
        self.simulator = whole
        if whole.refiner is not None:
            self.simulator = Simulator(whole.checkpoint, replace(whole.settings, refine=False), whole.device)

    @property
    def rungs(self) -> list[str]:
        """Those that differ."""
        return [name for name in RUNGS if self.whole.refiner is not None or name not in REFINED]

    def recorded(self, span: Span) -> np.ndarray:
        return recorded_frames(span, self.simulator.height, self.simulator.width)

    def decoder(self, span: Span) -> np.ndarray:
        return self._decoded(self._latents(span))

    def linear(self, span: Span) -> np.ndarray:
        return self._decoded(linear_between(self._latents(span)[::FACTOR]))

    def crossfade(self, span: Span) -> np.ndarray:
        latents = self._latents(span)[::FACTOR]
        frames = torch.cat([self.simulator.autoencoder.decode(one[None, None])[0] for one in latents])
        return as_bytes(linear_between(frames)).permute(0, 2, 3, 1).numpy()

    def interpolation(self, span: Span) -> np.ndarray:
        return self._run(self.simulator, span, keyframes=self._latents(span)[::FACTOR])

    def interpolation_refined(self, span: Span) -> np.ndarray:
        return self._run(self.whole, span, keyframes=self._latents(span)[::FACTOR])

    def everything(self, span: Span) -> np.ndarray:
        return self._run(self.simulator, span)

    def everything_refined(self, span: Span) -> np.ndarray:
        return self._run(self.whole, span)

    def _run(self, simulator: Simulator, span: Span, keyframes: Tensor | None = None) -> np.ndarray:
        scenario = self.task.scenario(span)
        journal = None if keyframes is None else Given(simulator.plan(scenario), keyframes)
        return np.concatenate([step.frames for step in simulator.run(scenario, journal=journal)])

    def _latents(self, span: Span) -> Tensor:
        frames = as_floats(torch.from_numpy(self.recorded(span))).permute(0, 3, 1, 2)
        return torch.cat([self.simulator.autoencoder.encode(piece) for piece in frames.split(16)])

    def _decoded(self, latents: Tensor) -> np.ndarray:
        return as_bytes(self.simulator.autoencoder.decode(latents[None])[0]).permute(0, 2, 3, 1).numpy()


RUNGS: dict[str, Callable[[_Maker, Span], np.ndarray]] = {
    "decoder": _Maker.decoder, "linear": _Maker.linear, "crossfade": _Maker.crossfade,
    "interpolation": _Maker.interpolation, "interpolation_refined": _Maker.interpolation_refined,
    "everything": _Maker.everything, "everything_refined": _Maker.everything_refined,
}  # fmt: skip
REFINED = ("interpolation_refined", "everything_refined")


def recorded_frames(span: Span, height: int, width: int) -> np.ndarray:
    """uint8 (t, height, width, 3)."""
    frames = span.dataset.frames(span.clip, np.arange(span.first, span.first + span.frames))
    return np.stack([fit_frame(frame, height, width) for frame in frames])


def linear_between(keyframes: Tensor) -> Tensor:
    """Latents or frames (k, ...) -> (FACTOR * (k - 1) + 1, ...): neighbours mixed linearly in time."""
    shares = (torch.arange(FACTOR) / FACTOR).view(-1, *[1] * (keyframes.ndim - 1))
    return torch.cat([*(torch.lerp(a[None], b[None], shares.to(a)) for a, b in pairwise(keyframes)), keyframes[-1:]])


def stages(bench: Bench, count: int, frames: int, quality: str | None) -> dict[str, Any]:
    """Every rung over the first ``count`` spans of ``frames`` frames (one more than a multiple of FACTOR)."""
    maker = _Maker(Simulator(bench.checkpoint, bench.settings(quality)), Task(0, frames))
    chosen = spans(bench.data, bench.split, frames)[:count]
    recorded = [maker.recorded(span) for span in chosen]
    test = _features(bench, "recorded", recorded, chosen)
    found: dict[str, Any] = {"recorded": by_place(recorded)}
    for name in maker.rungs:
        with torch.inference_mode():
            made = [RUNGS[name](maker, span) for span in chosen]
        seen = _features(bench, name, made, chosen)
        far = frechet_over_drives(seen.values, seen.drives, test.values, test.drives, resamples=bench.resamples, paired=True)
        of_it = made_of(seen.values, test.values, far.value)
        found[name] = {"frechet": asdict(far), "of_it": of_it, "psnr": psnr(made, recorded), **by_place(made)}
    settings = maker.whole.settings
    return {"rungs": found, "quality": settings.quality, "n": len(test), "spans": len(chosen), "passes": maker.whole.passes()}


def made_of(made: np.ndarray, recorded: np.ndarray, frechet: float) -> dict[str, float]:
    """A distance of clip features (n, CLIP_FEATURES) in parts that add up to it: how far the means are apart in what frames look like, in
    how they change, and in which way; and ``spread``, what the covariances add (Frechet 1957: |m - m'|^2 and a trace)."""
    apart = np.square(made.mean(0, dtype=np.float64) - recorded.mean(0, dtype=np.float64))
    parts = {"look": apart[:TRACK], "motion": apart[TRACK : 2 * TRACK], "way": apart[2 * TRACK :]}
    told = {name: float(values.sum()) for name, values in parts.items()}
    return {**told, "spread": frechet - sum(told.values())}


def _features(bench: Bench, name: str, clips: list[np.ndarray], chosen: list[Span]) -> Features:
    footage = Footage.from_frames(name, clips, FPS, [span.drive for span in chosen])
    return bench.features(CLIPS.shots(footage), CLIPS, name)


def psnr(made: list[np.ndarray], recorded: list[np.ndarray]) -> float:
    """dB over all frames together."""
    squares = [float(np.square(a.astype(np.float32) - b).mean()) for a, b in zip(made, recorded, strict=True)]
    return float(10 * np.log10(255**2 / max(np.mean(squares), 1e-9)))


def by_place(clips: list[np.ndarray]) -> dict[str, list[float]]:
    """Sharpness (mean difference of neighbouring pixels, range 0 to 1) of frames 0, 1, .. FACTOR - 1 after a keyframe, and the mean change
    from each to the next, in the same units."""
    floats = [clip.astype(np.float32) / 255 for clip in clips]
    sharp = [np.mean([_edges(clip[place::FACTOR]) for clip in floats]) for place in range(FACTOR)]
    change = [np.mean([np.abs(np.diff(clip, axis=0))[place::FACTOR].mean() for clip in floats]) for place in range(FACTOR)]
    return {"sharpness": [round(float(value), 5) for value in sharp], "change": [round(float(value), 5) for value in change]}


def _edges(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames, axis=1)).mean() + np.abs(np.diff(frames, axis=2)).mean()) / 2
