"""Everything that drift wants to know of each frame of a shot, as one row of numbers: features, weight-free signals, a fingerprint.

``FrameRows`` dresses a network of single frames as one of whole shots, so that shots go through the same door as everywhere (decoded
ahead, resized, coded, kept in the cache). This file does not know clips, bins or distances.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from torch import Tensor

from drivesim.errors import UsageError

from .events import CELLS, fingerprint
from .features import FeatureNetwork
from .signals import Signals, measure

__all__ = ["SIGNALS", "FrameRows", "Seen"]

SIGNALS = tuple(field.name for field in fields(Signals))
BATCH = 8
"""Frames the network sees at once."""
VERSION = 1
"""Raised when signals or fingerprints change: what was kept in a cache is then computed again."""


@dataclass(frozen=True)
class Seen:
    """What is known of the t frames of a shot.

    features: float32 (judged frames, d).   cells: fingerprints, float32 (t, 512).   signals: name -> float32 (t,), (t - 1,) for what
    lies between two frames.
    """

    features: np.ndarray
    cells: np.ndarray
    signals: dict[str, np.ndarray]


class FrameRows:
    """A feature network of shots of ``frames`` frames, whose features are all that is known of them, one after the other.

    every: ``network`` judges every so many-th frame; signals and fingerprints are of all.

    Raises:
        UsageError: ``network`` does not judge single frames, or ``frames`` < 2.
    """

    def __init__(self, network: FeatureNetwork, frames: int, every: int = 1) -> None:
        if network.min_frames > 1:
            raise UsageError(f"drift is judged by a network of single frames; {network.name} needs {network.min_frames}")
        if frames < 2:
            raise UsageError(f"shots need at least 2 frames, not {frames}")
        self.network, self.frames, self.every = network, frames, every
        self.name, self.preprocessing, self.min_frames = f"{network.name} and signals", network.preprocessing, frames
        told = f"{network.hash} {frames} {every} {SIGNALS} {CELLS} {VERSION} opencv {cv2.__version__}"
        self.hash = hashlib.sha256(told.encode()).hexdigest()
        self.judged = len(range(0, frames, every))
        self.num_features = self.judged * network.num_features + frames * (math.prod(CELLS) + len(SIGNALS))

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 (b, t, 3, h, w) -> float32 (b, num_features).

        Raises:
            UsageError: not ``frames`` frames.
        """
        if frames.shape[1] != self.frames:
            raise UsageError(f"shots of {self.frames} frames are judged here, not of {frames.shape[1]}")
        return torch.stack([self._row(shot) for shot in frames])

    def seen(self, row: np.ndarray) -> Seen:
        """One row of features, float32 (num_features,), taken apart."""
        features, table = np.split(row, [self.judged * self.network.num_features])
        cells, signals = np.split(table.reshape(self.frames, -1), [math.prod(CELLS)], axis=1)
        lengths = {name: self.frames - (name in ("temporal_difference", "flow_magnitude")) for name in SIGNALS}
        return Seen(features.reshape(self.judged, -1), cells, {name: signals[: lengths[name], place] for place, name in enumerate(SIGNALS)})

    def _row(self, shot: Tensor) -> Tensor:
        """uint8 (t, 3, h, w) -> float32 (num_features,)."""
        features = torch.cat([self.network(part[:, None]).float().cpu() for part in shot[:: self.every].split(BATCH)])
        pictures = np.ascontiguousarray(shot.permute(0, 2, 3, 1).cpu().numpy())
        signals = measure(pictures)
        columns = [getattr(signals, name) for name in SIGNALS]
        padded = [np.pad(values, (0, self.frames - len(values)), mode="edge") for values in columns]
        cells = np.stack([fingerprint(picture) for picture in pictures])
        table = np.concatenate([cells, np.stack(padded, axis=1)], axis=1)
        return torch.from_numpy(np.concatenate([features.numpy().reshape(-1), table.reshape(-1)]).astype(np.float32))
