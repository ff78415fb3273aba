"""Measures of a video that need no network: brightness, exposure, sharpness, colour, and how much the picture moves.

They say whether a night is dark and whether a road moves, not whether a picture is good. Frames come as an iterable of uint8 (h, w, 3)
RGB arrays and are looked at once, two at a time, so minutes of video cost the memory of two frames. This file does not know labels,
networks or where frames come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import cv2
import numpy as np

__all__ = [
    "Signals", "brightness", "change_error", "colourfulness", "exposure", "flicker", "flow_magnitude", "measure", "saturation", "sharpness",
    "temporal_difference",
]  # fmt: skip

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Rec. 709 weights of red, green and blue."""


@dataclass(frozen=True)
class Signals:
    """Measures of one video of T frames. The first five are float32 (T,), the last two (T - 1,): between a frame and the next.

    brightness: mean luma, 0..1.   sharpness: variance of the Laplacian of luma in 0..255.   colourfulness: Hasler and Suesstrunk's M3.
    saturation: mean saturation, 0..1.   exposure: log-average luma, 1/255..1.
    temporal_difference: mean absolute change of a pixel, 0..1.   flow_magnitude: mean optical flow, in frame widths.
    """

    brightness: np.ndarray
    sharpness: np.ndarray
    colourfulness: np.ndarray
    saturation: np.ndarray
    exposure: np.ndarray
    temporal_difference: np.ndarray
    flow_magnitude: np.ndarray

    def means(self) -> dict[str, float]:
        """Each measure averaged over the video; NaN where there is nothing to average."""
        return {name: float(values.mean()) if len(values) else float("nan") for name, values in asdict(self).items()}


def measure(frames: Iterable[np.ndarray]) -> Signals:
    """All measures in one pass over uint8 frames (h, w, 3)."""
    single: list[tuple[float, ...]] = []
    pairs: list[tuple[float, ...]] = []
    before: np.ndarray | None = None
    for frame in frames:
        single.append((brightness(frame), sharpness(frame), colourfulness(frame), saturation(frame), exposure(frame)))
        if before is not None:
            pairs.append((temporal_difference(before, frame), flow_magnitude(before, frame)))
        before = frame
    alone = np.array(single, np.float32).reshape(-1, 5)
    between = np.array(pairs, np.float32).reshape(-1, 2)
    return Signals(*alone.T, *between.T)


def brightness(frame: np.ndarray) -> float:
    """Mean luma of a uint8 frame (h, w, 3), 0..1."""
    return float((frame.reshape(-1, 3).mean(axis=0) @ LUMA) / 255)


def sharpness(frame: np.ndarray) -> float:
    """Variance of the Laplacian of luma (Pech-Pacheco et al., ICPR 2000): 0 for a flat picture, hundreds for a crisp one."""
    return float(cv2.Laplacian(_grey(frame), cv2.CV_32F).var())


def colourfulness(frame: np.ndarray) -> float:
    """M3 of Hasler and Suesstrunk ("Measuring colourfulness in natural images", 2003): 0 grey, 33 moderate, 82 high."""
    red, green, blue = frame.reshape(-1, 3).astype(np.float32).T
    red_green, yellow_blue = red - green, 0.5 * (red + green) - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    shift = np.hypot(red_green.mean(), yellow_blue.mean())
    return float(spread + 0.3 * shift)


def saturation(frame: np.ndarray) -> float:
    """Mean over the pixels of (max - min) / max of red, green and blue (the S of HSV): 0 grey or black, 1 pure colours."""
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return float(((high - low) / np.maximum(high, 1).astype(np.float32)).mean())


def exposure(frame: np.ndarray) -> float:
    """Log-average luma: exp of the mean of log(luma), luma in 1/255..1 (Reinhard et al., SIGGRAPH 2002, Eq. 1).

    Far below ``brightness`` where a few lamps light a black picture, close to it where everything has gone grey.
    """
    luma = np.maximum((frame.reshape(-1, 3) @ LUMA) / 255, 1 / 255)
    return float(np.exp(np.log(luma).mean(dtype=np.float64)))


def temporal_difference(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two uint8 frames of one size, 0..1."""
    return float(cv2.absdiff(before, after).mean() / 255)


def flicker(before: np.ndarray, frame: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute distance of a uint8 frame from the mean of its two neighbours in time, 0..1: half the second difference.

    A pixel that changes steadily has none, one that goes up and down has all. Moving edges have some, too: compare with recorded frames of
    the same scene.
    """
    second = before.astype(np.int16) - 2 * frame.astype(np.int16) + after
    return float(np.abs(second).mean() / (2 * 255))


def change_error(before: np.ndarray, after: np.ndarray, true_before: np.ndarray, true_after: np.ndarray) -> float:
    """Mean absolute error of the change from one uint8 frame to the next, against recorded ones, 0..2.

    An error that stands still counts nothing; one that comes and goes is what is seen as flicker.
    """
    change, true_change = after.astype(np.int16) - before, true_after.astype(np.int16) - true_before
    return float(np.abs(change - true_change).mean() / 255)


def flow_magnitude(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length of Farneback's dense optical flow from one uint8 frame to the next, in frame widths."""
    start = np.zeros((*before.shape[:2], 2), np.float32)
    flow = cv2.calcOpticalFlowFarneback(_grey(before), _grey(after), start, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean() / before.shape[1])


def _grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
