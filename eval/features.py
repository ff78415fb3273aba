"""The door to the feature networks: what a network must offer to be judged with, and the networks behind that face.

Frames go in as bytes; resizing, range and pooling are the network's own, because a distance depends on them. A network without its
published weights is named "random-...", so that no number made with it can pass for an FID or an FVD. This file does not know where weights
lie (``published``), nor what is done with features.

Legend: B batch   T frames   H height   W width
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from drivesim.errors import UsageError
from drivesim.shapes import fold_time, unfold_time

from .networks.i3d import I3D, MIN_FRAMES, SIDE
from .networks.inception import InceptionFID
from .networks.layouts import weights_hash
from .networks.lite0 import Lite0Clips, Lite0Frames
from .networks.published import published_weights
from .networks.resize import NetworkInputError, check_bytes, one_by_one, tf1_bilinear

__all__ = [
    "FeatureNetwork", "I3D", "I3DClips", "InceptionFID", "InceptionFrames", "Lite0Clips", "Lite0Frames", "feature_network",
    "random_weights",
]  # fmt: skip


@runtime_checkable
class FeatureNetwork(Protocol):
    """uint8 frames (b, t, 3, h, w) -> float features (b, num_features), always in eval mode and without gradients."""

    name: str
    """Says which network this is, e.g. "inception-2015-12-05"; begins with "random-" where no published weights are loaded."""
    hash: str
    """SHA-256 (hex) over everything that decides the features: weights, basis, scale."""
    preprocessing: str
    """One line, e.g. "resize tf1-bilinear 299x299, (x-128)/128"."""
    num_features: int
    """Length of a feature vector (torchmetrics asks for this name)."""
    min_frames: int
    """Fewest frames t it can see at once."""

    def __call__(self, frames: Tensor) -> Tensor: ...


class _Frozen(nn.Module):
    """A network that cannot be trained: always in eval mode, without gradients. Its hash is taken when it is wrapped."""

    def __init__(self, network: nn.Module, name: str, preprocessing: str, num_features: int, min_frames: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name, self.preprocessing = name, preprocessing
        self.num_features, self.min_frames = num_features, min_frames
        self.hash = weights_hash(network.state_dict())
        self.eval()

    def train(self, mode: bool = True) -> _Frozen:
        """Stays in eval mode whatever is asked: a metric inside a training module is switched with it."""
        return super().train(False)


class InceptionFrames(_Frozen):
    """Single frames, uint8 (b, 1, 3, h, w), through FID-Inception -> float32 (b, 2048).

    Raises:
        NetworkInputError: another type or shape, or more than one frame (a mean over frames would be no FID feature).
    """

    def __init__(self, network: InceptionFID, name: str) -> None:
        rule = {"tf1": "tf1-bilinear", "antialias": "antialiased bilinear"}[network.resize]
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter less CPU time, the same to 1e-6
        super().__init__(network, name, f"resize {rule} 299x299, (x-128)/128", network.num_features, min_frames=1)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        return self.network(one_by_one(frames, self.name))


class I3DClips(_Frozen):
    """Clips, uint8 (b, t, 3, h, w) with t >= 9, through I3D -> float32 (b, 400).

    Frames are squashed to 224x224, as google-research/frechet_video_distance does; ports that crop a square drop half of a 2:1 picture.

    Raises:
        NetworkInputError: another type or shape, or too few frames.
    """

    def __init__(self, network: I3D, name: str) -> None:
        preprocessing = f"resize tf1-bilinear {SIDE}x{SIDE} (squashed), x/127.5-1"
        super().__init__(network, name, preprocessing, network.num_features, MIN_FRAMES)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        check_bytes(frames, 5)
        if frames.shape[1] < MIN_FRAMES:
            raise NetworkInputError(f"{self.name} needs at least {MIN_FRAMES} frames at once, got {frames.shape[1]}; use longer clips")
        small = 2 * tf1_bilinear(fold_time(frames), SIDE, SIDE) / 255 - 1
        return self.network(unfold_time(small, frames.shape[1]).transpose(1, 2))


PUBLISHED_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., FeatureNetwork]]] = {
    "inception-2015-12-05": (InceptionFID, InceptionFrames),
    "i3d-kinetics-400": (I3D, I3DClips),
}
"""Name -> the plain network and what gives it the face above."""
OFFLINE_NETWORKS: dict[str, Callable[[], FeatureNetwork]] = {"lite0-frames": Lite0Frames, "lite0-clips": Lite0Clips}
"""Those that come with the installation."""
RANDOM = "random-"


def feature_network(name: str, weights: Path | None = None, fetch: bool = False) -> FeatureNetwork:
    """A feature network by name; with "random-" before the name of a published one, the same network with weights by rule (for tests).

    weights: a file or folder with the published weights; None: ``$DRIVESIM_WEIGHTS`` and the cache.   fetch: download what is missing.

    Raises:
        UsageError: no such network, or weights for one that takes none.
        WeightsError: published weights are missing or wrong; the sentence says which file, from which project, goes where.
    """
    plain = name.removeprefix(RANDOM)
    if name not in OFFLINE_NETWORKS and plain not in PUBLISHED_NETWORKS:
        raise UsageError(f"no feature network named {name}; known are {', '.join((*PUBLISHED_NETWORKS, *OFFLINE_NETWORKS))}")
    if weights is not None and name not in PUBLISHED_NETWORKS:
        raise UsageError(f"{name} brings its own weights; leave {weights} out, or ask for one of {', '.join(PUBLISHED_NETWORKS)}")
    if name in OFFLINE_NETWORKS:
        return OFFLINE_NETWORKS[name]()
    build, face = PUBLISHED_NETWORKS[plain]
    network = build()
    if plain != name:
        return face(random_weights(network), name)
    network.load_state_dict(published_weights(plain, network, weights, fetch), strict=True)
    return face(network, name)


def random_weights(network: nn.Module, salt: int = 0) -> nn.Module:
    """Fill a network by a rule that any language can repeat, from its tensors' names; activations keep their size through its depth.

    Each tensor draws from ``numpy.random.default_rng(crc32(f"{name}#{salt}"))``: running variances 0.5 + U(0, 1), means and biases
    0.1 N(0, 1), scales of normalisation 1, weights N(0, 2 / fan-in) (He et al. 2015).
    """
    state = network.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            drawn = _drawn(name, tuple(value.shape), salt)
            value.copy_(torch.from_numpy(drawn))
    return network


def _drawn(name: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{name}#{salt}".encode()))
    if name.endswith("running_var"):
        return 0.5 + rng.random(shape)
    if len(shape) == 1:
        scale = name.endswith(".weight")
        return np.ones(shape) if scale else 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
