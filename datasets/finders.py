"""Who finds boxes in a frame when a dataset is labelled: the package's own detector, or an ONNX file.

This file knows how a detector is loaded. It does not know videos, tracks or tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from drivesim.errors import UsageError
from drivesim.io.checkpoints import WEIGHTS, load_network
from drivesim.models.detector import BoxDetector
from drivesim.models.looking import look_at

from .onnx_detector import DOUBTFUL, OnnxDetector
from .tracking import Found

__all__ = ["OWN", "Finder", "OwnDetector", "finder"]

OWN = WEIGHTS / "detector_filter" / "detector"
"""The one that filters: the judging detector labels nothing that it may have to judge."""


class Finder(Protocol):
    """name: for the provenance of boxes.   threshold: score from which a detection is sure."""

    name: str
    threshold: float

    def find(self, frames: np.ndarray) -> list[Found]:
        """uint8 RGB (f, h, w, 3) -> detections of each frame, best first, doubtful ones included."""


class OwnDetector:
    """A BoxDetector as a Finder."""

    def __init__(self, detector: BoxDetector, name: str) -> None:
        self.detector, self.name, self.threshold = detector, name, detector.threshold

    def find(self, frames: np.ndarray) -> list[Found]:
        seen = look_at(self.detector, frames, DOUBTFUL * self.threshold)
        return [Found(one.xyxy.numpy(), one.score.numpy(), one.category.numpy()) for one in seen]


def finder(
    detector: str | Path | None, threshold: float | None = None, size: int = 640, classes: Sequence[str] | None = None,
    pixels: str = "auto",
) -> Finder:  # fmt: skip
    """None = the filtering detector of the package; a folder = an exported detector; else an ONNX file (see ``OnnxDetector``).

    threshold: None = the detector's own, 0.4 for ONNX files.

    Raises:
        UsageError: no such detector, or one that cannot be used.   CheckpointError: weights that do not fit.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"threshold must lie in 0..1, not {threshold}")
    if detector is not None and not Path(detector).is_dir():
        return OnnxDetector(detector, 0.4 if threshold is None else threshold, size, classes, pixels)
    network = load_network(OWN if detector is None else Path(detector) / "detector")
    if not isinstance(network, BoxDetector):
        raise UsageError(f"{detector} holds a {type(network).__name__}, not a BoxDetector; give a folder made by experiment=mini/detector")
    network.threshold = network.threshold if threshold is None else threshold
    return OwnDetector(network, "drivesim" if detector is None else Path(detector).resolve().name)
