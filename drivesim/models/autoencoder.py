"""First stage: frames <-> latents, and the temporal layers that turn the image decoder into a video decoder.

``Autoencoder`` is a KL autoencoder (Rombach et al. 2022) whose decoder can be given temporal layers (Video LDM, section 3.1.1);
``IdentityAutoencoder`` stands in where diffusion runs on pixels. Latents are normalised per channel by ``latent_mean`` and
``latent_std``, which live in the autoencoder's own file. This file does not know noise levels, labels, losses or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from drivesim.models.blocks import Norm, SpatialAttention, zeroed
from drivesim.models.temporal import AlphaMix, TemporalConv
from drivesim.recipes import recipe
from drivesim.shapes import fold_time, unfold_time

__all__ = ["ALL_FRAMES", "Autoencoder", "IdentityAutoencoder"]


ALL_FRAMES = slice(None)
PIECE = 8
"""Frames that go through the decoder's last levels together. These are wide, and what they make should stay near the processor."""


class IdentityAutoencoder(nn.Module):
    """Latents are the pixels themselves: diffusion in pixel space through the same interface."""

    latent_channels = 3
    downsample = 1
    receptive_frames = 0

    def __init__(self) -> None:
        super().__init__()
        self.recipe = recipe(self)

    def encode(self, frames: Tensor) -> Tensor:
        """(f, 3, H, W) in [-1, 1] -> the same."""
        return frames

    def decode(self, latents: Tensor, kept: slice = ALL_FRAMES) -> Tensor:
        """(b, t, 3, H, W) -> the frames ``kept`` of them."""
        return latents[:, kept]


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "group":
        return Norm(width)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm must be group or none, not {kind!r}")


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a skip; the last one starts at zero, so a new block is the identity (or its 1x1 projection)."""

    def __init__(self, inputs: int, width: int, norm: str) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(norm, inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(norm, width), zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(_silu(self.norm2(h)))


def _silu(x: Tensor) -> Tensor:
    """SiLU of what nobody else holds: in its place, where no gradient will ask for it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class SpaceTimeConv(nn.Conv3d):
    """A 3x3x3 convolution, with the signature of ``TemporalConv``."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__(width, width, (3, kernel, kernel), padding=(1, kernel // 2, kernel // 2))

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """(b * t, c, h, w) -> the same."""
        return rearrange(super().forward(rearrange(x, "(b t) c h w -> b c t h w", t=frames)), "b c t h w -> (b t) c h w")


def _over_time(width: int, kernel: int) -> nn.Module:
    return TemporalConv(width, width) if kernel == 1 else SpaceTimeConv(width, kernel)


class TemporalBlock(nn.Module):
    """Residual convolutions over time, merged with the image path by a learned mix: out = a z + (1 - a) z' (Video LDM, section 3.1).

    z' = z + convolutions, whose last one starts at zero: identity at insertion, while a = sigmoid(0) = 0.5 lets gradients through.
    ``kernel`` is the size in the picture: 3 as in the paper's decoder (3x3x3), 1 where speed counts.
    """

    reach = 2
    """Frames on either side that one frame depends on: two kernels of three."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _over_time(width, kernel), zeroed(_over_time(width, kernel))
        self.mix = AlphaMix(None)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: (b * t, c, h, w) -> the same."""
        change = self.conv2(F.silu(self.conv1(F.silu(x), frames)), frames)
        return self.mix(x, change, frames)


class Decoder(nn.Module):
    """Latents -> frames, widest level first; with ``temporal`` every level below the last also mixes over time."""

    def __init__(self, latent_channels: int, widths: Sequence[int], blocks: int, stem: int, attention: bool, norm: str) -> None:
        super().__init__()
        levels = list(reversed(widths))
        self.conv_in = nn.Conv2d(latent_channels, levels[0], 3, padding=1)
        self.attention = SpatialAttention(levels[0], levels[0]) if attention else nn.Identity()
        self.levels = nn.ModuleList(nn.Sequential(*(ResBlock(w, w, norm) for _ in range(blocks))) for w in levels)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, 4 * narrow, 3, padding=1), nn.PixelShuffle(2))
            for wide, narrow in pairwise(levels)
        )
        self.norm_out = _norm(norm, levels[-1])
        self.conv_out = nn.Conv2d(levels[-1], 3 * stem**2, 3, padding=1)
        self.head = nn.PixelShuffle(stem)

    def forward(self, latents: Tensor, temporal: nn.ModuleList | None = None, frames: int = 1, kept: slice = ALL_FRAMES) -> Tensor:
        """Latents (b * t, c, h, w) of windows of t = ``frames`` -> frames (b * n, 3, H, W), those n that are ``kept`` of each window.

        The others are looked at by the temporal layers only, so every level works on as few of them as those behind it still need.
        """
        blocks, wanted = list(temporal or ()), range(frames)[kept]
        seen, x = range(frames), latents
        for index, block in enumerate(blocks):
            seen, x = _narrowed(x, seen, wanted, TemporalBlock.reach * (len(blocks) - index))
            x = self._up(index - 1, x) if index else self.attention(self.conv_in(x))
            x = block(self.levels[index](x), len(seen))
        _, x = _narrowed(x, seen, wanted, 0)
        if torch.is_grad_enabled() or len(x) <= PIECE:
            return self._frame_by_frame(x, len(blocks))
        return torch.cat([self._frame_by_frame(piece, len(blocks)) for piece in x.split(PIECE)])

    def _frame_by_frame(self, x: Tensor, first: int) -> Tensor:
        """Levels from ``first`` on, which do not look at other frames, and the head."""
        for index in range(first, len(self.levels)):
            x = self.levels[index](self._up(index - 1, x) if index else self.attention(self.conv_in(x)))
        return self.head(self.conv_out(_silu(self.norm_out(x))))

    def _up(self, index: int, x: Tensor) -> Tensor:
        """To the size of the next level."""
        larger: Tensor = self.up[index](x)
        return larger


def _narrowed(x: Tensor, seen: range, wanted: range, reach: int) -> tuple[range, Tensor]:
    """x (b * t, c, h, w) of the frames ``seen`` of each window -> those of them that lie at most ``reach`` from one ``wanted``."""
    near = range(max(wanted.start - reach, seen.start), min(wanted.stop + reach, seen.stop))
    if near == seen:
        return seen, x
    part = unfold_time(x, len(seen))[:, near.start - seen.start : near.stop - seen.start]
    return near, fold_time(part).contiguous(memory_format=torch.channels_last)


def _encoder(latent_channels: int, widths: Sequence[int], blocks: int, stem: int, attention: bool, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.PixelUnshuffle(stem), nn.Conv2d(3 * stem**2, widths[0], 3, padding=1)]
    for index, width in enumerate(widths):
        if index:
            layers.append(nn.Conv2d(widths[index - 1], width, 3, stride=2, padding=1))
        layers += [ResBlock(width, width, norm) for _ in range(blocks)]
    if attention:
        layers.append(SpatialAttention(widths[-1], widths[-1]))
    return nn.Sequential(*layers, _norm(norm, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], 2 * latent_channels, 3, padding=1))


class Autoencoder(nn.Module):
    """KL autoencoder with an optional temporal decoder.

    Args:
        latent_channels: C of the latents.
        widths: channels per level, from pixels to latents; each level halves height and width.
        blocks: residual blocks per level.
        stem: space-to-depth before the first level (a pixel-shuffle head after the last); f = stem * 2 ** (len(widths) - 1).
        attention: self-attention at the latent resolution.
        norm: "group" (the paper's) or "none" (faster, and crops decode as the whole does).
        temporal_levels: 0 = image decoder; n = temporal layers after the n lowest-resolution levels.
        temporal_kernel: their kernel in the picture, 3 (the paper's 3x3x3) or 1.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self, latent_channels: int = 8, widths: Sequence[int] = (32, 64, 128), blocks: int = 2, stem: int = 2, attention: bool = False,
        norm: str = "none", temporal_levels: int = 0, temporal_kernel: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.arguments = dict(
            latent_channels=latent_channels, widths=list(widths), blocks=blocks, stem=stem, attention=attention, norm=norm,
            temporal_levels=temporal_levels, temporal_kernel=temporal_kernel,
        )  # fmt: skip
        self.recipe = recipe(self, **self.arguments)
        self.latent_channels, self.downsample = latent_channels, stem * 2 ** (len(widths) - 1)
        self.encoder = _encoder(latent_channels, widths, blocks, stem, attention, norm)
        self.decoder = Decoder(latent_channels, widths, blocks, stem, attention, norm)
        low_first = list(reversed(widths))[:temporal_levels]
        self.decoder_temporal = nn.ModuleList(TemporalBlock(width, temporal_kernel) for width in low_first)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    @property
    def receptive_frames(self) -> int:
        """Frames on either side that one decoded frame depends on."""
        return TemporalBlock.reach * len(self.decoder_temporal)

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(f, 3, H, W) in [-1, 1] -> mean and log-variance (f, c, h, w) of the unnormalised latents.

        Raises:
            ValueError: H or W is not a multiple of the downsampling factor.
        """
        if frames.shape[-1] % self.downsample or frames.shape[-2] % self.downsample:
            raise ValueError(f"frames of {frames.shape[-2]}x{frames.shape[-1]} pixels do not divide by {self.downsample}")
        mean, log_variance = self.encoder(frames.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(self, frames: Tensor) -> Tensor:
        """(f, 3, H, W) in [-1, 1] -> normalised latents (f, c, h, w), the posterior's mean."""
        return self.normalise(self.posterior(frames)[0])

    def decode(self, latents: Tensor, kept: slice = ALL_FRAMES) -> Tensor:
        """Normalised latents (b, t, c, h, w) -> frames (b, t, 3, H, W), about [-1, 1] (not clipped); ``kept``: those n of each window only,
        (b, n, 3, H, W), the same as if all were decoded."""
        temporal = self.decoder_temporal if len(self.decoder_temporal) and latents.shape[1] > 1 else None
        frames = self.decode_raw(self.denormalise(fold_time(latents)), temporal, latents.shape[1], kept)
        return unfold_time(frames, len(range(latents.shape[1])[kept]))

    def decode_raw(
        self, latents: Tensor, temporal: nn.ModuleList | None = None, frames: int = 1, kept: slice = ALL_FRAMES
    ) -> Tensor:  # fmt: skip
        """Unnormalised latents (f, c, h, w) -> frames (f, 3, H, W): what the losses of the first stage see."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last), temporal, frames, kept)

    def normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)

    @torch.no_grad()
    def fit_normalisation(self, batches: Iterator[Tensor]) -> None:
        """Set latent_mean and latent_std so that latents of the given frames (f, 3, H, W) have mean 0 and deviation 1 per channel."""
        sums = torch.zeros(3, self.latent_channels, dtype=torch.float64)
        for frames in batches:
            latents = self.posterior(frames)[0].double().cpu()
            count = torch.full((self.latent_channels,), latents[:, 0].numel(), dtype=torch.float64)
            sums += torch.stack([count, latents.sum((0, 2, 3)), latents.square().sum((0, 2, 3))])
        mean = sums[1] / sums[0]
        self.latent_mean.copy_(mean)
        self.latent_std.copy_((sums[2] / sums[0] - mean.square()).clamp_min(1e-12).sqrt())

    def with_temporal(self, levels: int = 2, kernel: int = 1) -> Autoencoder:
        """A copy with temporal decoder layers that change nothing yet; encoder, image decoder and normalisation are carried over."""
        video = Autoencoder(**{**self.arguments, "temporal_levels": levels, "temporal_kernel": kernel})  # type: ignore[arg-type]
        missing, unexpected = video.load_state_dict(self.state_dict(), strict=False)
        if unexpected or any(not name.startswith("decoder_temporal.") for name in missing):
            raise ValueError(f"not the same image autoencoder: missing {missing}, unexpected {unexpected}")
        return video
