"""The part ``look`` of mini_quality: what is it that makes made frames look unlike recorded ones?

The distance of clips says how far the mean looks of made and of recorded ones lie apart, and in which direction, but not what it means. So
recordings are damaged in known ways, and each damage moves their mean look in a direction of its own. The cosine between the two says how
like the fault is to that damage: 1 = the same fault, 0 = another one altogether. Beside it stands how various clips are left, and, without
any network, how strong waves of which length are over those of recordings. This file does not know how clips are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from held_out_rollouts import FPS, Span, Task, spans
from mini_quality_sets import CLIPS, Bench, Pair
from mini_quality_stages import recorded_frames

from drivesim.eval.corruptions import CORRUPTIONS, PictureCorruption, corrupt
from drivesim.eval.footage import Footage
from drivesim.eval.networks.lite0 import TRACK
from drivesim.eval.signals import LUMA

__all__ = ["DAMAGE", "OCTAVES", "beside_damage", "look", "wave_powers"]

OCTAVES = ((2, 4), (4, 8), (8, 16), (16, 32), (32, 64))
"""Lengths of waves in pixels, from and below, whatever their direction."""

Damage = Callable[[np.ndarray], np.ndarray]
"""uint8 frames (t, h, w, 3) -> the same, damaged."""


def _lighter(frames: np.ndarray, times: float) -> np.ndarray:
    return np.rint(frames * np.float32(times)).clip(0, 255).astype(np.uint8)


def _contrast(frames: np.ndarray, times: float) -> np.ndarray:
    mean = frames.mean((1, 2), keepdims=True, dtype=np.float32)
    return np.rint((frames - mean) * times + mean).clip(0, 255).astype(np.uint8)


def _colour(frames: np.ndarray, times: float) -> np.ndarray:
    grey = frames.mean(-1, keepdims=True, dtype=np.float32)
    return np.rint((frames - grey) * times + grey).clip(0, 255).astype(np.uint8)


def _graded() -> Iterator[tuple[str, Damage]]:
    for name, corruption in CORRUPTIONS.items():
        if isinstance(corruption, PictureCorruption):
            for grade, parameter in enumerate(corruption.grades, 1):
                yield f"{name} {parameter:g}", partial(_corrupted, name, grade)


def _corrupted(name: str, grade: int, frames: np.ndarray) -> np.ndarray:
    return corrupt(name, frames, grade, np.random.default_rng(0))


DAMAGE: dict[str, Damage] = {
    **dict(_graded()), "light times 1.15": partial(_lighter, times=1.15), "light times 0.85": partial(_lighter, times=0.85),
    "contrast times 0.8": partial(_contrast, times=0.8), "contrast times 1.2": partial(_contrast, times=1.2),
    "saturation times 0.7": partial(_colour, times=0.7),
}  # fmt: skip
"""By name: the picture corruptions of ``drivesim.eval`` at each grade, and changes of light and colour."""


def look(bench: Bench, pair: Pair, task: Task) -> dict[str, Any]:
    """Every damage beside what is wrong with the made clips of ``pair``, which are the first spans of ``task``."""
    chosen = spans(bench.data, bench.split, task.frames)[: len(pair.made.clips)]
    size = (int(bench.checkpoint.settings["height"]), int(bench.checkpoint.settings["width"]))
    sides, recorded = bench.aligned(pair, CLIPS), [recorded_frames(span, *size) for span in chosen]
    told = {name: beside_damage(sides.made.values, sides.recorded.values, _seen(bench, name, chosen, recorded, damage))
            for name, damage in DAMAGE.items()}  # fmt: skip
    rest = beside_damage(sides.made.values, sides.recorded.values, sides.recorded.values)
    made, filmed = (np.mean([wave_powers(frames) for frames in side], axis=0)
                    for side in ([shot.read() for shot in CLIPS.shots(pair.made)], recorded))  # fmt: skip
    waves = {f"{low} to {high}": float(ratio) for (low, high), ratio in zip(OCTAVES, np.sqrt(made / filmed), strict=True)}
    return {"look": rest["look"], "various": rest["made_various"], "damage": told, "waves": waves, "n": len(sides.made),
            "quality": pair.settings.quality}  # fmt: skip


def wave_powers(frames: np.ndarray) -> np.ndarray:
    """Mean square of the waves of each of ``OCTAVES`` in the luma of uint8 frames (t, h, w, 3): float64 (5,). Frames fade to grey at their
    borders (Hann), which would otherwise be edges themselves."""
    luma = frames.astype(np.float32) @ LUMA
    height, width = luma.shape[1:]
    faded = (luma - luma.mean((1, 2), keepdims=True)) * np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    power = (np.abs(np.fft.fft2(faded)) ** 2).mean(0) / (height * width) ** 2
    waves = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    return np.array([power[(waves > 1 / high) & (waves <= 1 / low)].sum() for low, high in OCTAVES])


def _seen(bench: Bench, name: str, chosen: list[Span], recorded: list[np.ndarray], damage: Damage) -> np.ndarray:
    footage = Footage.from_frames(name, [damage(frames) for frames in recorded], FPS, [span.drive for span in chosen])
    return bench.features(CLIPS.shots(footage), CLIPS, name).values


def beside_damage(made: np.ndarray, recorded: np.ndarray, damaged: np.ndarray) -> dict[str, float | None]:
    """Clip features, (n, CLIP_FEATURES) each.

    Returns:
        look: squared distance of the mean looks of made and recorded clips.   moved: of damaged and recorded ones.   cosine: between these
        two ways, None where one of them has no length.   various, made_various: deviation of the features of looks over that of recorded
        ones, the median of all, in damaged and in made clips.
    """
    looks = [side[:, :TRACK].astype(np.float64) for side in (made, recorded, damaged)]
    ours, theirs = (side.mean(0) - looks[1].mean(0) for side in (looks[0], looks[2]))
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    spread = [float(np.median(side.std(0) / np.maximum(looks[1].std(0), 1e-9))) for side in (looks[2], looks[0])]
    return {"look": float(ours @ ours), "moved": float(theirs @ theirs), "cosine": float(ours @ theirs) / lengths if lengths else None,
            "various": spread[0], "made_various": spread[1]}  # fmt: skip
