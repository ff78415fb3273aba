"""``--fit``: sizes for the memory there is, written into a rollout's configuration where the user gave none.

This file joins configuration and budget; it does not know how memory is predicted.
"""

from __future__ import annotations

from omegaconf import DictConfig

from drivesim.io.checkpoints import Checkpoint
from drivesim.simulation.budget import bytes_of, fit, shown
from drivesim.simulation.cost import Costs, described
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.upsample import UpsamplerSettings

__all__ = ["fit_config"]

SIZES = ("batch", "decode_frames", "precision")


def fit_config(
    config: DictConfig, checkpoint: Checkpoint, settings: RolloutSettings, upsampling: UpsamplerSettings | None, device: str
) -> str:
    """Set ``config.rollout`` and ``config.upsampling`` so that the rollout stays within ``config.fit``; returns what to tell the user.

    From then on they are settings like any other: a rollout that is resumed keeps them, and ``fit`` is empty.

    Raises:
        UsageError: ``fit`` is no amount of memory, or too little.
    """
    given = [name for name in SIZES if config.rollout[name] is not None]
    given += ["tile"] if config.upsampling.tile is not None else []
    room = bytes_of(str(config.fit))
    found = fit(Costs(described(checkpoint), checkpoint.settings, settings, upsampling), room, device, given)
    for name in SIZES:
        config.rollout[name] = getattr(found.settings, name)
    chosen = [f"rollout.{name}={config.rollout[name]}" for name in SIZES]
    if found.upsampling is not None:
        config.upsampling.tile = found.upsampling.tile
        chosen.append(f"upsampling.tile={found.upsampling.tile}")
    config.fit = None
    return f"about {shown(found.peak)} of {shown(room)}: {' '.join(chosen)}"
