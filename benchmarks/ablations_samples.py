"""Single frames that an image network makes of held-out labels, for ``ablations.py``: does a detector find the boxes that were asked for?

Recorded frames of the same moments are held against the same boxes. This file does not know how anything was trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drivesim.boxes import VEHICLES
from drivesim.diffusion.denoiser import window_denoiser
from drivesim.diffusion.noise import gaussian
from drivesim.diffusion.samplers import SAMPLERS
from drivesim.eval.boxes import JudgedFrame, average_precision, match
from drivesim.eval.label_fidelity import Judge
from drivesim.io.checkpoints import load_checkpoint
from drivesim.models.conditioning import EVERY_LABEL, null_labels
from drivesim.models.video_unet import FrameByFrame
from drivesim.recipes import build
from drivesim.shapes import as_bytes
from drivesim.training.stage_module import generator_for

__all__ = ["CALLS", "GUIDANCE", "ap50", "made_frames"]

BATCH, CALLS, GUIDANCE, LOWEST_SCORE = 16, 12, 3.0, 0.02
"""Frames at a time; network calls of DPM-Solver++ for each; scale of label guidance, the shipped one; detections below count nowhere."""

Labels = dict[str, Tensor]


@torch.inference_mode()
def made_frames(folder: Path, labels: Labels, size: tuple[int, int], seed: int) -> Tensor:
    """A frame for each row of labels (n, ...), uint8 (n, 3, height, width). Noise follows from the seed and the row."""
    checkpoint = load_checkpoint(folder, need=("autoencoder", "image"))
    autoencoder: Any = checkpoint.network("autoencoder")
    network: Any = FrameByFrame(checkpoint.network("image"))
    grid = build(checkpoint.settings["schedule"]).grid(CALLS)
    like = autoencoder.encode(torch.zeros(1, 3, *size))
    parts = []
    for first in range(0, len(labels["boxes"]), BATCH):
        told = {name: value[first : first + BATCH, None] for name, value in labels.items()}
        noise = torch.stack([gaussian(like, generator_for(seed, "pictures", first + row)) for row in range(len(told["boxes"]))])
        denoiser = window_denoiser(
            network, checkpoint.settings["parameterization"], told, label_scale=GUIDANCE, null_labels=null_labels(told, EVERY_LABEL)
        )
        parts.append(as_bytes(autoencoder.decode(SAMPLERS["dpmpp_2m"](denoiser, noise, grid)))[:, 0])
    return torch.cat(parts)


@torch.inference_mode()
def ap50(frames: Tensor, labels: Labels, drives: list[str]) -> float:
    """Average precision of the shipped detector at an IoU of 0.5: frames uint8 (n, 3, H, W), held against the boxes of the labels (n, ...).
    Frames of unknown boxes do not count."""
    found = Judge.load().detector.detect(frames, LOWEST_SCORE, 100)
    judged = []
    for boxes, known, drive, detections in zip(labels["boxes"].numpy(), labels["boxes_known"].tolist(), drives, found, strict=True):
        asked = boxes[(boxes[:, 0] >= 0) & (boxes[:, 0] < len(VEHICLES)), 1:5]
        vehicles = detections.vehicles
        ignored = np.zeros(len(asked), bool)  # those too low to count are told apart by ``match``
        judged.append(JudgedFrame(drive, asked, ignored, vehicles.xyxy.numpy(), vehicles.score.numpy(), known))
    return average_precision(match([frame for frame in judged if frame.known])["all"])
