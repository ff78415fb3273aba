"""Toy weights without training: a complete checkpoint folder of tiny random networks, written in a second."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.io.checkpoints import save_network, save_settings
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import VideoUNet
from drivesim.simulation.track_bank import COLUMNS

HEIGHT, WIDTH = 32, 64
STEPS = {"steps_image": 2, "steps_keyframes": 2, "steps_interpolation": 1}


def write_toy_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A folder that ``drivesim rollout --checkpoint`` takes: 32x64 pixels, two cars in its track bank. Its pictures are noise."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    image = ImageUNet(4, base=8, multipliers=(1, 2), attention=(2,), head_channels=8, embedding=16)
    networks = {
        "autoencoder": Autoencoder(latent_channels=4, widths=(8, 16), blocks=1, stem=2),
        "image": image,
        "prediction": VideoUNet(image, 4, frames=6, head_channels=8, embedding=16),
    }
    networks["interpolation"] = VideoUNet(_other(image), 4, frames=5, alpha="scalar", head_channels=8, embedding=16)
    for name, network in networks.items():
        save_network(folder / name, network, {"steps": 0})
    save_settings(folder, {
        "preset": "toy", "height": HEIGHT, "width": WIDTH, "keyframe_fps": 1.875, "schedule": zero_terminal_cosine().recipe,
        "parameterization": "velocity", "rollout": {"fps": 7.5, **STEPS}, "notes": "random weights",
    })  # fmt: skip
    track_bank().to_parquet(folder / "tracks.parquet")
    return folder


def _other(image: ImageUNet) -> ImageUNet:
    twin = ImageUNet(4, base=8, multipliers=(1, 2), attention=(2,), head_channels=8, embedding=16)
    twin.load_state_dict(image.state_dict())
    return twin


def track_bank(frames: int = 90) -> pd.DataFrame:
    """One recorded drive of two cars and a person, as tracks.parquet holds it."""
    road = {"clip_id": "drive", "time_of_day": "day", "ego_speed_mps": 10.0, "ego_yaw_rate_radps": 0.0}
    rows = [{**road, "frame": frame, "track_id": -1, "category": None} for frame in range(frames)]
    for track_id, (category, x1, size) in enumerate((("car", 0.1, 0.2), ("car", 0.6, 0.1), ("person", 0.4, 0.1))):
        box = {"category": category, "track_id": track_id, "x1": x1, "y1": 0.5, "x2": x1 + size, "y2": 0.5 + size}
        rows += [{**road, **box, "frame": frame} for frame in range(frames)]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))
