"""The image network: a U-Net that is told the noise level, the labels and the boxes of single frames.

It knows nothing of video. What it publishes for that purpose are the names of the places where temporal layers may follow its own:
``sites`` (after residual blocks) and ``attention_sites`` (after spatial attention).

Legend: F frames   C channels   H height   W width   D embedding
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.models.blocks import (
    Downsample,
    NoiseEmbedding,
    ResBlock,
    SpatialAttention,
    Upsample,
    channels_last,
    norm_named,
    recompute,
    zeroed,
)
from drivesim.models.conditioning import BoxRaster, LabelEmbedder
from drivesim.recipes import recipe

__all__ = ["ImageNetwork", "ImageUNet", "fitted_context"]


class SpatialBlock(nn.Module):
    """A residual block, then spatial attention where the level has it."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, head_channels: int | None, norm: str = "group") -> None:
        super().__init__()
        self.residual = ResBlock(in_channels, out_channels, embedding, norm)
        self.attention = SpatialAttention(out_channels, head_channels) if head_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(x, embedding))


class ImageNetwork(nn.Module):
    """What a network of single frames offers, so that temporal layers can be put behind its own: x (F, C, H, W), sigma (F,), labels ->
    (F, C, H, W), and what follows. Names are paths of submodules whose output is a picture (or a tuple that begins with one)."""

    levels: int
    """Number of scales, each half the one before."""
    stem: int = 1
    """Its first scale is this much smaller than x."""
    context_channels: int = 0
    """Channels of c_S that it takes in beside x, as a fourth argument; 0 = it is told of known frames by x alone."""
    norm_kind: str = "group"
    """Normalisation of its residual blocks, and so of the temporal ones behind them (``blocks.norm_named``)."""

    def sites(self) -> dict[str, int]:
        """Path -> channels of every submodule after which a temporal convolution may stand, in the order they are called."""
        raise NotImplementedError

    def attention_sites(self) -> dict[str, int]:
        """Path -> channels of every submodule after which temporal attention may stand, in the order they are called."""
        raise NotImplementedError

    def enable_checkpointing(self) -> None:
        """Trade time for memory in training: the inside of every block, without its hooks, is computed again for the gradient."""
        raise NotImplementedError


class ImageUNet(ImageNetwork):
    """Video LDM's spatial network (Blattmann et al. 2023, Table 6), with labels in the embedding instead of cross-attention.

    Args:
        channels: C of the latents (or 3 for pixels).
        base: channels of the first level; ``multipliers``: channels of each level in units of it, every level at half the resolution.
        blocks: residual blocks a level on the way down (one more on the way up).
        attention: downsampling factors whose levels have spatial attention; none = the middle has none either, and the network is a
            convolution of any size.
        head_channels: channels of one attention head.
        embedding: D.
        labels: scalar labels it is told.   boxes: whether it is told boxes.
        stem: space-to-depth before the first level and back after the last.
        context_channels: channels of c_S, concatenated to the input at the first level's size (Sec. 3.4: low-resolution frames).
        norm: "group" or "pixel".
    """

    def __init__(
        self,
        channels: int,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 3),
        blocks: int = 1,
        attention: Sequence[int] = (2, 4),
        head_channels: int = 32,
        embedding: int = 256,
        labels: Sequence[str] = ("time_of_day", "crowdedness"),
        boxes: bool = True,
        stem: int = 1,
        context_channels: int = 0,
        norm: str = "group",
    ) -> None:
        super().__init__()
        self.recipe = recipe(
            self, channels=channels, base=base, multipliers=multipliers, blocks=blocks, attention=attention,
            head_channels=head_channels, embedding=embedding, labels=labels, boxes=boxes, stem=stem, context_channels=context_channels,
            norm=norm,
        )  # fmt: skip
        self.channels, self.levels = channels, len(multipliers)
        self.stem, self.context_channels, self.norm_kind = stem, context_channels, norm
        widths = [base * multiplier for multiplier in multipliers]
        heads = [head_channels if 2**level in attention else None for level in range(self.levels)]
        self.noise = NoiseEmbedding(embedding)
        self.labels = LabelEmbedder(labels, embedding)
        self.input = nn.Conv2d(channels * stem**2 + context_channels, base, 3, padding=1)
        self.boxes = BoxRaster(base) if boxes else None
        self.down, skips = _down_path(base, widths, blocks, embedding, heads, norm)
        in_the_middle = head_channels if attention else None
        self.middle = nn.ModuleList(
            [SpatialBlock(widths[-1], widths[-1], embedding, heads, norm) for heads in (in_the_middle, None)]
        )
        self.up = _up_path(skips, widths, blocks, embedding, heads, norm)
        self.norm = norm_named(norm, base)
        self.output = zeroed(nn.Conv2d(base, channels * stem**2, 3, padding=1))

    def forward(self, x: Tensor, sigma: Tensor, labels: Mapping[str, Tensor] | None = None, context: Tensor | None = None) -> Tensor:
        """x (F, C, H, W) at noise levels sigma (F,) in [0, 1], labels of F frames or None (all null) -> (F, C, H, W).

        Args:
            context: c_S (F, context_channels, h, w) of any size; None = nothing is known.

        Raises:
            ValueError: H or W is not divisible by stem * 2 ** (levels - 1).
        """
        self._check(x)
        embedding = nnf.silu(self.noise(sigma) + self.labels(labels, x))
        hidden = self.input(channels_last(self._with_context(nnf.pixel_unshuffle(x, self.stem), context)))
        if self.boxes is not None:
            hidden = self.boxes(hidden, labels)
        skips = [hidden]
        for layer in self.down:
            hidden = layer(hidden) if isinstance(layer, Downsample) else layer(hidden, embedding)
            skips.append(hidden)
        for layer in self.middle:
            hidden = layer(hidden, embedding)
        for layer in self.up:
            hidden = layer(hidden) if isinstance(layer, Upsample) else layer(_join(hidden, skips.pop()), embedding)
        return nnf.pixel_shuffle(self.output(nnf.silu(self.norm(hidden))), self.stem)

    def sites(self) -> dict[str, int]:
        return {name: module.conv2.out_channels for name, module in self.named_modules() if isinstance(module, ResBlock)}

    def attention_sites(self) -> dict[str, int]:
        return {name: module.norm.num_channels for name, module in self.named_modules() if isinstance(module, SpatialAttention)}

    def enable_checkpointing(self) -> None:
        for module in self.modules():
            if isinstance(module, ResBlock | SpatialAttention):
                recompute(module)

    def _with_context(self, x: Tensor, context: Tensor | None) -> Tensor:
        if not self.context_channels:
            return x
        if context is None:
            return torch.cat([x, x.new_zeros(len(x), self.context_channels, *x.shape[-2:])], dim=1)
        return torch.cat([x, fitted_context(context, *x.shape[-2:]).to(x.dtype)], dim=1)

    @property
    def multiple(self) -> int:
        """What height and width must be divisible by."""
        return int(self.stem * 2 ** (self.levels - 1))

    def _check(self, x: Tensor) -> None:
        if x.shape[-2] % self.multiple or x.shape[-1] % self.multiple:
            levels = f"a U-Net of {self.levels} levels"
            raise ValueError(f"height and width of {tuple(x.shape)} must be divisible by {self.multiple} for {levels}")


def fitted_context(context: Tensor, height: int, width: int) -> Tensor:
    """c_S (F, K, h, w) -> (F, K, height, width), bilinear; as it is where it fits."""
    if context.shape[-2:] == (height, width):
        return context
    return nnf.interpolate(context, size=(height, width), mode="bilinear", align_corners=False)


def _down_path(
    base: int, widths: list[int], blocks: int, embedding: int, heads: list[int | None], norm: str
) -> tuple[nn.ModuleList, list[int]]:
    """Layers from full to lowest resolution, and the channels of every skip they leave."""
    layers, skips = nn.ModuleList(), [base]
    for level, width in enumerate(widths):
        if level:
            layers.append(Downsample(skips[-1]))
            skips.append(skips[-1])
        for _ in range(blocks):
            layers.append(SpatialBlock(skips[-1], width, embedding, heads[level], norm))
            skips.append(width)
    return layers, skips


def _up_path(
    skips: list[int], widths: list[int], blocks: int, embedding: int, heads: list[int | None], norm: str
) -> nn.ModuleList:
    """Layers back to full resolution, taking the skips last first."""
    layers, channels, skips = nn.ModuleList(), widths[-1], list(skips)
    for level, width in reversed(list(enumerate(widths))):
        for _ in range(blocks + 1):
            layers.append(SpatialBlock(channels + skips.pop(), width, embedding, heads[level], norm))
            channels = width
        if level:
            layers.append(Upsample(channels))
    return layers


def _join(hidden: Tensor, skip: Tensor) -> Tensor:
    return channels_last(torch.cat([hidden, skip], dim=1))
