"""Video networks: temporal layers inserted into an image network that is left as it is.

``VideoUNet`` puts temporal layers behind the layers that any image network publishes as its ``sites``; the image network keeps its own
names and weights under ``image``, so another fine-tune of it drops in. ``FrameByFrame`` is the same signature without temporal layers.
This file does not know which image network it holds, nor how noise, masks and losses are made.

Legend: B batch   T frames   C channels   H height   W width   F = B * T   D embedding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch.nn.functional as nnf
from torch import Tensor, nn

from drivesim.models.blocks import NoiseEmbedding, recompute
from drivesim.models.conditioning import LabelEmbedder
from drivesim.models.temporal import Call, ContextEncoder, TemporalAttention, TemporalConvBlock, TemporalLayer
from drivesim.models.unet import ImageNetwork, fitted_context
from drivesim.recipes import recipe
from drivesim.shapes import fold_time, unfold_time

__all__ = ["FrameByFrame", "TemporalLayers", "VideoUNet"]

Labels = Mapping[str, Tensor]


class FrameByFrame(nn.Module):
    """An image network with the signature of a video network: every frame by itself."""

    def __init__(self, image: ImageNetwork) -> None:
        super().__init__()
        self.recipe = recipe(self, image=image)
        self.image = image
        self.context = "encoder" if image.context_channels else "none"

    def forward(self, x: Tensor, sigma: Tensor, labels: Labels | None = None, context: Tensor | None = None) -> Tensor:
        """x (B, T, C, H, W), sigma (B,) or (B, T), labels of (B, T) frames, c_S (B, T, K, h, w) where the image network takes it in
        -> (B, T, C, H, W)."""
        return _by_frames(self.image, x, _per_frame(sigma, x), labels, context)

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        return self.image.parameters()

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    def enable_checkpointing(self) -> None:
        self.image.enable_checkpointing()


class TemporalLayers(nn.Module):
    """All temporal weights of a video network: the layers by site, and what tells them noise level, labels and context."""

    def __init__(self, layers: Mapping[str, TemporalLayer], labels: Sequence[str], embedding: int, encoder: ContextEncoder | None) -> None:
        super().__init__()
        self.noise = NoiseEmbedding(embedding)
        self.labels = LabelEmbedder(labels, embedding)
        self.encoder = encoder
        self.layers = nn.ModuleDict({path.replace(".", "_"): layer for path, layer in layers.items()})

    def forward(self, sigma: Tensor, labels: Labels | None, context: Tensor | None) -> Call:
        """sigma (B, T), labels, context (B, T, C + 2, H, W) or None -> what the layers are told for this pass."""
        levels = fold_time(sigma)
        embedding = nnf.silu(self.noise(levels) + self.labels(_fold(labels), levels))
        features = self.encoder(fold_time(context)) if self.encoder is not None and context is not None else ()
        return Call(sigma.shape[1], embedding, features)

    def tell(self, call: Call | None) -> None:
        """Hand ``call`` to every layer; None makes them stand aside."""
        for layer in self.layers.values():
            assert isinstance(layer, TemporalLayer)
            layer.call = call


class VideoUNet(nn.Module):
    """Video LDM (Blattmann et al. 2023): an image network with temporal layers behind its own. New, it equals the image network exactly.

    Args:
        image: any image network that satisfies ``ImageNetwork``.
        channels: C.
        frames: T of a window; with alpha "scalar" other lengths work too.
        context: how known frames come in. "slots": in their own frame slots of x, at their own noise level; "encoder": the paper's way,
            as c_S through learned downsampling into every temporal convolution; "carried": both, with c_S carried on into unknown frames.
        alpha: one mix per "frame" (the paper's driving models) or one "scalar" a layer.
        labels: scalar labels the temporal layers are told.
        conv_sites: paths that get a temporal convolution; None for all that the image network offers.
        attention_sites: paths that get temporal attention: None for all that the image network offers for it; any site without a
            convolution may be named besides.
        context_channels: channels of the encoded context.   head_channels: of one attention head.   embedding: D.
    """

    def __init__(
        self,
        image: ImageNetwork,
        channels: int,
        frames: int = 10,
        context: Literal["slots", "encoder", "carried"] = "slots",
        alpha: Literal["frame", "scalar"] = "frame",
        labels: Sequence[str] = ("ego_speed_mps", "ego_yaw_rate_radps", "fps"),
        conv_sites: Sequence[str] | None = None,
        attention_sites: Sequence[str] | None = None,
        context_channels: int = 64,
        head_channels: int = 32,
        embedding: int = 256,
    ) -> None:
        super().__init__()
        _check_choice("context", context, ("slots", "encoder", "carried"))
        _check_choice("alpha", alpha, ("frame", "scalar"))
        self.recipe = recipe(
            self, image=image, channels=channels, frames=frames, context=context, alpha=alpha, labels=labels, conv_sites=conv_sites,
            attention_sites=attention_sites, context_channels=context_channels, head_channels=head_channels, embedding=embedding,
        )  # fmt: skip
        self.context, self.frames = context, frames
        self.image = image
        fixed = frames if alpha == "frame" else None
        width = context_channels if context != "slots" else 0
        sites, offered = self.image.sites(), self.image.attention_sites()
        layers: dict[str, TemporalLayer] = {
            path: TemporalConvBlock(size, embedding, width, fixed, image.norm_kind)
            for path, size in _chosen("convolution", sites, conv_sites).items()
        }
        if context == "encoder" and not layers:
            raise ValueError("context 'encoder' comes in through temporal convolutions: leave some in conv_sites, or take 'slots'")
        free = {path: size for path, size in sites.items() if path not in layers}
        wanted = list(offered) if attention_sites is None else attention_sites
        for path, size in _chosen("attention", {**free, **offered}, wanted).items():
            layers[path] = TemporalAttention(size, head_channels, fixed)
        encoder = ContextEncoder(channels + 2, context_channels, self.image.levels) if width else None
        self.temporal = TemporalLayers(layers, labels, embedding, encoder)
        for path, layer in layers.items():
            self.image.get_submodule(path).register_forward_hook(layer.hook)

    def forward(self, x: Tensor, sigma: Tensor, labels: Labels | None = None, context: Tensor | None = None) -> Tensor:
        """x (B, T, C, H, W) at noise levels sigma (B,) or (B, T); labels name -> (B, T, ...) or None for all null.

        Args:
            context: c_S (B, T, C + 2, h, w) unless context is "slots", as large as x or smaller (low-resolution frames); None there means
                that no frame is known. An image network that takes in c_S is given it too.

        Returns:
            (B, T, C, H, W). With T = 1 the temporal layers stand aside and this is the image network.
        """
        sigma = _per_frame(sigma, x)
        if x.shape[1] == 1:
            return _by_frames(self.image, x, sigma, labels, context)
        told = None if self.context == "slots" else self._fitted(x, context)
        self.temporal.tell(self.temporal(sigma, labels, told))
        try:
            return _by_frames(self.image, x, sigma, labels, context)
        finally:
            self.temporal.tell(None)

    def _fitted(self, x: Tensor, context: Tensor | None) -> Tensor:
        """c_S at the size of the image network's first scale, where its features are joined; all zero where there is none."""
        height, width = (size // self.image.stem for size in x.shape[-2:])
        if context is None:
            return x.new_zeros(*x.shape[:2], x.shape[2] + 2, height, width)
        return unfold_time(fitted_context(fold_time(context), height, width), x.shape[1])

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the image network."""
        return self.image.parameters()

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        """Weights that the image network did not have."""
        return self.temporal.parameters()

    def enable_checkpointing(self) -> None:
        """Trade time for memory in training: the inside of every spatial block and temporal layer is computed again for the gradient."""
        self.image.enable_checkpointing()
        for layer in self.temporal.layers.values():
            recompute(layer)


def _by_frames(image: ImageNetwork, x: Tensor, sigma: Tensor, labels: Labels | None, context: Tensor | None) -> Tensor:
    more = (fold_time(context),) if image.context_channels and context is not None else ()
    return unfold_time(image(fold_time(x), fold_time(sigma), _fold(labels), *more).contiguous(), x.shape[1])


def _fold(labels: Labels | None) -> dict[str, Tensor] | None:
    return None if labels is None else {name: fold_time(value) for name, value in labels.items()}


def _per_frame(sigma: Tensor, x: Tensor) -> Tensor:
    """(B,) or (B, T) -> (B, T)."""
    return sigma if sigma.ndim == 2 else sigma[:, None].expand(x.shape[:2])


def _chosen(what: str, offered: dict[str, int], wanted: Sequence[str] | None) -> dict[str, int]:
    missing = [path for path in wanted or () if path not in offered]
    if missing:
        raise ValueError(f"no {what} site {missing[0]!r}: there are {', '.join(offered)}")
    return offered if wanted is None else {path: offered[path] for path in wanted}


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
