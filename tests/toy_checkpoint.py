"""A checkpoint folder of tiny networks with random weights: rolls out a second of 32x64 video in well under a second."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import EndPoints, FirstFrames, LowFrames
from drivesim.io.checkpoints import UPSAMPLERS, Checkpoint, load_checkpoint, save_network, save_settings
from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.models.frame_interpolator import FrameInterpolator
from drivesim.models.refiner import Refiner
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import VideoUNet

HEIGHT, WIDTH = 32, 64
STEPS = {"steps_image": 2, "steps_keyframes": 2, "steps_interpolation": 1}


def make_checkpoint(folder: Path, pixels: bool = False, **rollout: object) -> Checkpoint:
    """Write and open it; ``pixels``: diffusion in pixel space.

    Zero-initialised layers are given small weights, so that labels, context and time all matter.
    """
    torch.manual_seed(0)
    latent = Autoencoder(latent_channels=4, widths=(8, 16), blocks=1, stem=2, temporal_levels=1)
    autoencoder, channels = (IdentityAutoencoder(), 3) if pixels else (latent, 4)
    networks: dict[str, nn.Module] = {
        "autoencoder": autoencoder, "image": _image(channels), "prediction": _video(channels, 10), "interpolation": _video(channels, 5),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        _shake(network)
        save_network(folder / name, network, {"stage": "toy"})
    save_settings(folder, {
        "preset": "toy", "height": HEIGHT, "width": WIDTH, "keyframe_fps": 1.875, "schedule": zero_terminal_cosine().recipe,
        "parameterization": "velocity", "rollout": {**STEPS, **rollout}, "notes": "random weights",
    })  # fmt: skip
    return load_checkpoint(folder)


def make_upsampler(folder: Path) -> Checkpoint:
    """Add the three networks of stage 6, with random weights, to a checkpoint folder."""
    torch.manual_seed(1)
    image = ImageUNet(3, 8, (1, 2), 1, (), embedding=16, labels=(), boxes=False, stem=4, context_channels=5, norm="pixel")
    video = VideoUNet(image, 3, frames=4, context="encoder", alpha="scalar", labels=(), context_channels=4, embedding=16)
    _shake(video)
    told = {"schedule": zero_terminal_cosine().recipe, "parameterization": "velocity", "known": LowFrames().recipe}
    for name in UPSAMPLERS:
        save_network(folder / name, image if name == "upsampler_image" else video, {"stage": "toy"})
    save_settings(folder, {**load_checkpoint(folder).settings, **dict.fromkeys(UPSAMPLERS, told)})
    return load_checkpoint(folder)


def make_fast(folder: Path, interpolation: dict[str, object] | None = None) -> Checkpoint:
    """Add the three networks of few calls, with random weights; prediction_fast borrows its spatial weights from image_fast.

    interpolation: what model.json says of interpolation_fast beside its noise.
    """
    torch.manual_seed(2)
    between = {"known": EndPoints().recipe, "calls": 1, "noise": 0} if interpolation is None else interpolation
    video = {"prediction_fast": _video(4, 10), "interpolation_fast": _video(4, 5)}
    for name, network in video.items():
        _shake(network)
        save_network(folder / name, network, {"stage": "toy"}, without={"image.": "image_fast"} if name == "prediction_fast" else None)
    save_network(folder / "image_fast", video["prediction_fast"].image, {"stage": "toy"})
    noise = {"schedule": zero_terminal_cosine().recipe, "parameterization": "velocity"}
    frames = {**noise, "known": FirstFrames().recipe, "calls": 4, "noise": 1.0}
    told = {"image_fast": frames, "prediction_fast": frames, "interpolation_fast": noise | between}
    save_settings(folder, {**load_checkpoint(folder).settings, **told})
    return load_checkpoint(folder)


def make_moving(folder: Path) -> Checkpoint:
    """Replace the interpolation network by one that moves frames."""
    torch.manual_seed(3)
    network = toy_interpolator()
    _shake(network)
    save_network(folder / "interpolation", network, {"stage": "toy"})
    save_settings(folder, {**load_checkpoint(folder).settings, "interpolation": {"calls": 1, "noise": 0.0}})
    return load_checkpoint(folder)


def make_refining(folder: Path) -> Checkpoint:
    """Add a refiner."""
    torch.manual_seed(4)
    network = toy_refiner()
    _shake(network)
    save_network(folder / "refiner", network, {"stage": "toy"})
    return load_checkpoint(folder)


def toy_refiner() -> Refiner:
    return Refiner(8, (1, 2), 1, (2,), head_channels=8, embedding=16)


def toy_interpolator() -> FrameInterpolator:
    return FrameInterpolator(8, (1, 2), 1, (2,), head_channels=8, embedding=16)


def _image(channels: int) -> ImageUNet:
    return ImageUNet(channels, base=8, multipliers=(1, 2), blocks=1, attention=(2,), head_channels=8, embedding=16)


def _video(channels: int, frames: int) -> VideoUNet:
    return VideoUNet(_image(channels), channels, frames=frames, head_channels=8, embedding=16)


@torch.no_grad()
def _shake(network: nn.Module) -> None:
    for weight in network.parameters():
        if weight.ndim > 1 and not weight.any():
            weight.normal_(std=0.05)
