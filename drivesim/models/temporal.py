"""Temporal layers: what turns an image network into a video network, one layer at a time.

A temporal layer follows one spatial layer. It reads that layer's output for all frames of a window, and adds what it has to say; a new one
adds nothing. The only file that sees time as an axis of pictures: outside it frames are folded into the batch. It does not know the
network around it: what the layers are told for one call (how many frames, which noise, which context) is handed to them as ``Call``.

Source: Blattmann et al. 2023 ("Align your Latents"), Section 3.1 and Appendix D.

Legend: B batch   T frames of a window   F = B * T   C channels   H height   W width   P = H * W positions   D embedding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.errors import DrivesimError
from drivesim.models.blocks import Attention, Norm, channels_last, from_tokens, norm_named, sinusoid, to_tokens, zeroed
from drivesim.models.convolution import Convolution

__all__ = ["AlphaMix", "Call", "ContextEncoder", "TemporalAttention", "TemporalConv", "TemporalConvBlock", "TemporalLayer"]


@dataclass(frozen=True)
class Call:
    """What temporal layers are told for one forward pass.

    frames: T.   embedding: (F, D) of noise level and labels, activated.   context: features of c_S (F, K, H, W), one per scale, or none.
    """

    frames: int
    embedding: Tensor
    context: Sequence[Tensor] = ()

    def context_like(self, x: Tensor) -> Tensor | None:
        """The context features at the scale of x (F, C, H, W)."""
        return next((features for features in self.context if features.shape[-2:] == x.shape[-2:]), None)


class AlphaMix(nn.Module):
    """out = a z + (1 - a) z' with a = sigmoid(raw), learned, half at the start (Section 3.1).

    Args:
        frames: one a per frame of a window of exactly this length, or None for one a at every frame of any window.
    """

    def __init__(self, frames: int | None) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(frames or 1))

    def forward(self, z: Tensor, change: Tensor, frames: int) -> Tensor:
        """z and change = z' - z, both (F, C, H, W). Written as z + (1 - a) change, so that no change leaves z exactly as it is."""
        if len(self.raw) not in (1, frames):
            raise DrivesimError(
                f"this network mixes windows of exactly {len(self.raw)} frames, not {frames}; build it with alpha='scalar' for any length"
            )
        share = torch.sigmoid(-self.raw).expand(frames).repeat(len(z) // frames)
        return z + share[:, None, None, None].to(change.dtype) * change


class TemporalConv(Convolution):
    """A (3, 1, 1) convolution over time, computed as a (3, 1) convolution of the picture whose rows are frames and columns positions.

    In channels-last memory that picture is a view, and two-dimensional kernels are several times faster on a CPU than
    three-dimensional ones.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, (3, 1))

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """(F, C, H, W) -> (F, C', H, W), frames before the first and after the last being zero."""
        height, width = x.shape[-2:]
        rows = to_tokens(channels_last(x)).unflatten(0, (-1, frames)).permute(0, 3, 1, 2)  # b c t p
        mixed = channels_last(super().forward(rows)).permute(0, 2, 3, 1)
        return from_tokens(mixed.flatten(0, 1), height, width)


class TemporalLayer(nn.Module):
    """A layer that follows a spatial one. Subclasses define ``change``: (z, call) -> what to add before mixing.

    ``hook`` is meant for ``register_forward_hook``: a bound method of a registered module is copied, compiled and moved with its network.
    While ``call`` is None (single images, or the image network used alone) the layer is not there.
    """

    def __init__(self, frames: int | None) -> None:
        super().__init__()
        self.mix = AlphaMix(frames)
        self.call: Call | None = None

    def change(self, z: Tensor, call: Call) -> Tensor:
        raise NotImplementedError

    def forward(self, z: Tensor, call: Call) -> Tensor:
        """(F, C, H, W) -> the same shape, every frame having seen its neighbours."""
        return self.mix(z, self.change(z, call), call.frames)

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Forward hook of the spatial layer: None leaves its output alone. Of a tuple the first part is the picture."""
        if self.call is None:
            return None
        if isinstance(output, tuple):
            return (self(output[0], self.call), *output[1:])
        return self(output, self.call)


class TemporalConvBlock(TemporalLayer):
    """Residual block of two temporal convolutions, modulated by the embedding; the context joins the input of the first.

    Args:
        channels: C of the spatial layer it follows.   embedding: D.
        context_channels: K of the context features, 0 for none.
        frames: see ``AlphaMix``.   norm: see ``norm_named``.
    """

    def __init__(
        self, channels: int, embedding: int, context_channels: int = 0, frames: int | None = None, norm: str = "group"
    ) -> None:
        super().__init__(frames)
        self.norm1, self.norm2 = norm_named(norm, channels), norm_named(norm, channels)
        self.conv1 = TemporalConv(channels + context_channels, channels)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv2 = zeroed(TemporalConv(channels, channels))

    def change(self, z: Tensor, call: Call) -> Tensor:
        hidden = nnf.silu(self.norm1(z))
        context = call.context_like(z)
        if context is not None:
            hidden = torch.cat([hidden, context.to(hidden.dtype)], dim=1)
        hidden = self.conv1(hidden, call.frames)
        scale, shift = self.modulation(call.embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        return self.conv2(nnf.silu(hidden), call.frames)


class TemporalAttention(TemporalLayer):
    """Every position looks at itself in the other frames of the window, told apart by sinusoidal frame numbers."""

    def __init__(self, channels: int, head_channels: int = 32, frames: int | None = None) -> None:
        super().__init__(frames)
        self.norm = Norm(channels)
        self.position = nn.Linear(channels, channels)
        self.attention = Attention(channels, head_channels)

    def change(self, z: Tensor, call: Call) -> Tensor:
        height, width = z.shape[-2:]
        place = self.position(sinusoid(torch.arange(call.frames, device=z.device), self.position.in_features))
        tokens = to_tokens(self.norm(z)).unflatten(0, (-1, call.frames)) + place[:, None].to(z.dtype)  # b t p c
        return from_tokens(self.attention(tokens).flatten(0, 1), height, width)


class ContextEncoder(nn.Module):
    """The paper's way to known frames: c_S (F, C + 2, H, W) -> K learned features at every scale of the U-Net (Section 3.2)."""

    def __init__(self, in_channels: int, channels: int, levels: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(levels - 1))

    def forward(self, context: Tensor) -> list[Tensor]:
        """Features from full to lowest resolution, each half the one before."""
        features = [nnf.silu(self.input(channels_last(context)))]
        for layer in self.down:
            features.append(nnf.silu(layer(features[-1])))
        return features
