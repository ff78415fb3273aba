"""The distances as torchmetrics objects, for training loops and for anybody who streams frames: update, compute, reset.

A metric holds its feature network beside itself, not as a part: the network is in no state_dict, among no optimizer's parameters, and stays
in eval mode whatever the training module that owns the metric is switched to. Right over several processes: each takes in its own
windows, ``compute`` merges them. This file does not know drives, protocols or where frames come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from drivesim.errors import DrivesimError
from drivesim.shapes import fold_time

from .features import FeatureNetwork
from .frechet import GaussianSums, frechet_distance
from .kernel import kernel_distance
from .networks.resize import check_bytes

__all__ = ["EachFrame", "FrechetDistance", "KernelDistance"]


class EachFrame(nn.Module):
    """A network of single frames, shown every frame of a window: uint8 (b, t, 3, h, w) -> (b * t, num_features)."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network, self.num_features, self.min_frames = network, network.num_features, 1
        self.name, self.hash, self.preprocessing = network.name, network.hash, network.preprocessing

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        check_bytes(frames, 5)
        return self.network(fold_time(frames)[:, None])


class _Distance(Metric):
    """What both distances share: a network that is none of their parts, and a real side that may outlive a reset.

    Args:
        network: a FeatureNetwork, or any module from uint8 frames to (n, d) with a ``num_features``.
        reset_real_features: False keeps the real side over ``reset``, for one reference and many epochs.
        more: of torchmetrics.Metric.

    Raises:
        DrivesimError: the network does not say its ``num_features``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, network: nn.Module | FeatureNetwork, reset_real_features: bool = True, **more: Any) -> None:
        super().__init__(**more)
        width = getattr(network, "num_features", None)
        if not isinstance(width, int):
            raise DrivesimError(f"{type(network).__name__} does not say how many features it gives; add an attribute num_features")
        self.width, self.reset_real_features = width, reset_real_features
        self._held = (network,)  # in a tuple, where nn.Module does not look for parts
        if isinstance(network, nn.Module):
            network.eval()

    @property
    def network(self) -> nn.Module | FeatureNetwork:
        """The feature network."""
        return self._held[0]

    def forward(self, frames: Tensor, real: bool) -> None:  # type: ignore[override]
        """Takes frames in, like ``update``: one batch of one side has no distance."""
        self.update(frames, real)

    def reset(self) -> None:
        """Forget the frames seen, but for the real side where that is to be kept."""
        kept = {} if self.reset_real_features else {name: getattr(self, name) for name in self._defaults if name.startswith("real")}
        kept = {name: list(value) if isinstance(value, list) else value for name, value in kept.items()}  # reset empties lists in place
        super().reset()
        for name, value in kept.items():
            setattr(self, name, value)

    def _apply(self, fn: Callable, exclude_state: Any = "") -> _Distance:
        """The network follows to another device, never to another type."""
        moved = super()._apply(fn, exclude_state)
        if isinstance(self.network, nn.Module):
            self.network.to(self.device)
        return cast(_Distance, moved)

    @torch.no_grad()
    def _features(self, frames: Tensor) -> Tensor:
        """Frames of one side -> (n, d).

        Raises:
            NetworkInputError: frames are not uint8 (b, t, 3, h, w) or (n, 3, h, w).
            DrivesimError: the network gave another shape than it says.
        """
        check_bytes(frames, 4 if frames.ndim == 4 else 5)
        if isinstance(self.network, nn.Module) and self.network.training:
            self.network.eval()
        features = self.network(frames.to(self.device))
        if features.ndim != 2 or features.shape[1] != self.width:
            raise DrivesimError(f"the network said (n, {self.width}) features and gave {tuple(features.shape)}; mend its num_features")
        return features


class FrechetDistance(_Distance):
    """Frechet distance of the windows seen on either side, from sums: memory does not grow with their number.

    Example:
        metric = FrechetDistance(feature_network("lite0-clips"))
        metric.update(recorded, real=True)      # uint8 (b, t, 3, h, w), as often as there are batches
        metric.update(made, real=False)
        metric.compute()

    Args: network, reset_real_features, more: see ``_Distance``; ddof: see ``frechet_distance``.

    Raises:
        DrivesimError: from ``compute``, with fewer than two rows of features on a side.
    """

    real_sums: Tensor
    generated_sums: Tensor

    def __init__(
        self, network: nn.Module | FeatureNetwork, reset_real_features: bool = True, ddof: int = 1, **more: Any
    ) -> None:
        super().__init__(network, reset_real_features, **more)
        self.ddof = ddof
        for name in ("real_sums", "generated_sums"):
            self.add_state(name, _packed(GaussianSums.empty(self.width)), dist_reduce_fx=_merged)

    def update(self, frames: Tensor, real: bool) -> None:
        """Take in frames of one side, uint8 (b, t, 3, h, w) or as the network wants them (n, 3, h, w).

        Raises:
            DrivesimError: frames or features of another type or shape, or features that are not finite.
        """
        name = "real_sums" if real else "generated_sums"
        seen = GaussianSums.of(self._features(frames))
        setattr(self, name, _packed(_unpacked(getattr(self, name)).merge(seen)))

    def compute(self) -> Tensor:
        """The distance so far, a float64 scalar."""
        value = frechet_distance(_unpacked(self.real_sums), _unpacked(self.generated_sums), self.ddof)
        return torch.tensor(value, dtype=torch.float64, device=self.device)


class KernelDistance(_Distance):
    """Kernel distance (unbiased MMD^2) of the windows seen on either side. Features of every window are kept, as it compares all pairs.

    Args: see ``_Distance``.

    Raises:
        DrivesimError: from ``compute``, with fewer than two rows of features on a side.
    """

    real_features: list[Tensor] | Tensor
    generated_features: list[Tensor] | Tensor

    def __init__(self, network: nn.Module | FeatureNetwork, reset_real_features: bool = True, **more: Any) -> None:
        super().__init__(network, reset_real_features, **more)
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("generated_features", [], dist_reduce_fx="cat")

    def update(self, frames: Tensor, real: bool) -> None:
        """As in ``FrechetDistance``; features that are not finite are found when it is computed.

        Rows are kept end to end: torchmetrics lets a process without any take part with an empty tensor of one axis and the metric's type.
        """
        kept = self.real_features if real else self.generated_features
        cast(list, kept).append(self._features(frames).flatten().to(self.dtype))

    def compute(self) -> Tensor:
        """The distance so far, a float64 scalar."""
        value = kernel_distance(self._rows(self.real_features), self._rows(self.generated_features))
        return torch.tensor(value, dtype=torch.float64, device=self.device)

    def _rows(self, kept: list[Tensor] | Tensor) -> Tensor:
        """All rows; none also where no process has seen any."""
        rows = dim_zero_cat(kept) if len(kept) else torch.empty(0, device=self.device)
        return rows.reshape(-1, self.width)


def _packed(sums: GaussianSums) -> Tensor:
    """Sums as one float64 (d + 1, d + 1) that processes can exchange: count and mean in row 0 and column 0, scatter in the rest."""
    packed = sums.scatter.new_empty(sums.width + 1, sums.width + 1)
    packed[0, 0], packed[0, 1:], packed[1:, 0], packed[1:, 1:] = sums.n, sums.mean, sums.mean, sums.scatter
    return packed


def _unpacked(packed: Tensor) -> GaussianSums:
    return GaussianSums(int(packed[0, 0]), packed[0, 1:], packed[1:, 1:])


def _merged(packed: Tensor) -> Tensor:
    """The states of all processes (ranks, d + 1, d + 1) -> of all their rows."""
    total = _unpacked(packed[0])
    for part in packed[1:]:
        total = total.merge(_unpacked(part))
    return _packed(total)
