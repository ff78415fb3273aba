"""Stable-Diffusion networks of the diffusers library, behind the signatures of our own (optional extra ``drivesim[pretrained]``).

The foreign network is built from its own configuration and reached by the names of its parts, never copied. This is the only file that
imports diffusers, and only when one of its classes is built. It does not know which noise schedule samples it: it turns a noise level
into the nearest integer timestep of the schedule the weights were trained with.

Legend: B batch   T frames   F frames, T folded in   C channels   H height   W width
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError
from drivesim.models.autoencoder import ALL_FRAMES
from drivesim.models.blocks import channels_last, recompute
from drivesim.models.conditioning import BoxRaster, LabelEmbedder
from drivesim.models.unet import ImageNetwork
from drivesim.recipes import recipe
from drivesim.shapes import fold_time, unfold_time

__all__ = ["PretrainedAutoencoder", "PretrainedUNet", "noise_table"]


def noise_table(beta_start: float, beta_end: float, steps: int) -> Tensor:
    """float32 (steps,), rising: sigma after each step of Stable Diffusion's schedule (betas linear in their square root)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    return (1 - torch.cumprod(1 - betas, dim=0)).sqrt().float()


class PretrainedUNet(ImageNetwork):
    """A diffusers ``UNet2DConditionModel``. Labels arrive as one cross-attention token, boxes after the first convolution.

    Args:
        config: the network's diffusers configuration; its weights are random until a state dict is loaded.
        labels: scalar labels it is told.   boxes: whether it is told boxes.
        beta_start, beta_end, steps: the schedule its weights were trained with.

    Raises:
        DrivesimError: diffusers is not installed, or the network has no cross-attention to tell labels through.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        labels: Sequence[str] = ("time_of_day", "crowdedness"),
        boxes: bool = True,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        steps: int = 1000,
    ) -> None:
        super().__init__()
        config = _public(config)
        self.recipe = recipe(
            self, config=config, labels=labels, boxes=boxes, beta_start=beta_start, beta_end=beta_end, steps=steps
        )  # fmt: skip
        width = config.get("cross_attention_dim", 1280)
        if not isinstance(width, int):
            raise DrivesimError(f"labels need one cross-attention width, but this configuration has cross_attention_dim = {width}")
        self.unet = _diffusers("UNet2DConditionModel").from_config(config)
        self.channels, self.levels = self.unet.config.in_channels, len(self.unet.config.block_out_channels)
        self.labels = LabelEmbedder(labels, width)
        self.boxes = BoxRaster(self.unet.conv_in.out_channels) if boxes else None
        self.register_buffer("table", noise_table(beta_start, beta_end, steps), persistent=False)
        self._told: Mapping[str, Tensor] | None = None
        self.unet.conv_in.register_forward_hook(self._add_boxes)

    @classmethod
    def from_folder(cls, folder: str | Path, **options: Any) -> PretrainedUNet:
        """Read configuration and weights from a local diffusers folder; ``options`` as for the class."""
        foreign = _read("UNet2DConditionModel", folder)
        network = cls(dict(foreign.config), **options)
        network.unet.load_state_dict(foreign.state_dict())
        return network

    def forward(self, x: Tensor, sigma: Tensor, labels: Mapping[str, Tensor] | None = None) -> Tensor:
        """As ``ImageUNet``: x (F, C, H, W), sigma (F,) in [0, 1], labels or None (all null) -> (F, C, H, W)."""
        token = self.labels(labels, x)[:, None]
        self._told = labels
        try:
            return self.unet(channels_last(x), self.timestep(sigma), encoder_hidden_states=token, return_dict=False)[0]
        finally:
            self._told = None

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma (F,) -> int64 (F,): the timestep whose noise level is nearest."""
        return (sigma.float()[:, None] - self.get_buffer("table")).abs().argmin(dim=1)

    def sites(self) -> dict[str, int]:
        return {name: module.out_channels for name, module in self._named("ResnetBlock2D")}

    def attention_sites(self) -> dict[str, int]:
        return {name: module.in_channels for name, module in self._named("Transformer2DModel")}

    def enable_checkpointing(self) -> None:
        for _, module in [*self._named("ResnetBlock2D"), *self._named("Transformer2DModel")]:
            recompute(module)

    def _named(self, kind: str) -> list[tuple[str, Any]]:
        return [(name, module) for name, module in self.named_modules() if type(module).__name__ == kind]

    def _add_boxes(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if self.boxes is None else self.boxes(output, self._told)


class PretrainedAutoencoder(nn.Module):
    """A diffusers ``AutoencoderKL`` as first stage: every frame by itself, latents scaled to unit deviation by its own factor.

    Args:
        config: the network's diffusers configuration; its weights are random until a state dict is loaded.
    """

    receptive_frames = 0

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        config = _public(config)
        self.recipe = recipe(self, config=config)
        self.autoencoder = _diffusers("AutoencoderKL").from_config(config)
        settings = self.autoencoder.config
        self.latent_channels, self.downsample = settings.latent_channels, 2 ** (len(settings.block_out_channels) - 1)
        self.scale, self.shift = settings.scaling_factor, settings.shift_factor or 0.0

    @classmethod
    def from_folder(cls, folder: str | Path) -> PretrainedAutoencoder:
        """Read configuration and weights from a local diffusers folder."""
        foreign = _read("AutoencoderKL", folder)
        network = cls(dict(foreign.config))
        network.autoencoder.load_state_dict(foreign.state_dict())
        return network

    def encode(self, frames: Tensor) -> Tensor:
        """(F, 3, H, W) in [-1, 1] -> the most likely latents (F, C, H / downsample, W / downsample)."""
        return (self.autoencoder.encode(frames).latent_dist.mode() - self.shift) * self.scale

    def decode(self, latents: Tensor, kept: slice = ALL_FRAMES) -> Tensor:
        """(B, T, C, h, w) -> (B, T, 3, H, W), about [-1, 1]; ``kept``: those frames of each window only."""
        wanted = latents[:, kept]
        return unfold_time(self.autoencoder.decode(fold_time(wanted) / self.scale + self.shift).sample, wanted.shape[1])


def _diffusers(name: str) -> Any:
    try:
        return getattr(importlib.import_module("diffusers"), name)
    except ImportError as error:
        raise DrivesimError(f"{name} needs the diffusers library ({error}): pip install 'drivesim[pretrained]'") from error


def _read(name: str, folder: str | Path) -> Any:
    if not (Path(folder) / "config.json").is_file():
        raise DrivesimError(f"no diffusers network in {folder}: there is no config.json")
    return _diffusers(name).from_pretrained(str(folder))


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the library's own notes (class, version, where it was read)."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
