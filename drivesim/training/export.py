"""Between training and rollouts: averaged networks into a checkpoint folder, and the parts of earlier stages out of it.

The folder is the one that ``drivesim.io.checkpoints`` describes; every stage adds its network and its share of model.json.
This file does not know how networks are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from drivesim.io.checkpoints import STAGES, WEIGHTS, CheckpointError, load_checkpoint, load_network, save_network, save_settings
from drivesim.recipes import build
from drivesim.training.stage_module import StageModule

__all__ = ["export_parts", "trained_detector", "trained_network", "trained_video_autoencoder"]

TEACHER = "teacher"
"""Instead of a folder: the detector that generated frames may be trained against."""


def export_parts(
    folder: Path, module: StageModule, state: Mapping[str, Tensor], settings: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Write every part of a stage and update model.json; what that said of earlier networks of the same names is forgotten.

    The networks are rebuilt from their recipes and filled from ``state``, so it does not matter how a strategy has spread the originals.

    Args:
        state: a state_dict of ``module``, gathered. settings: merged over what model.json says. metadata: kept beside each network.

    Raises:
        CheckpointError: the folder cannot be written, or its model.json is no checkpoint's.
    """
    for name, part in module.parts().items():
        network = build(part.network.recipe)
        network.load_state_dict({key.removeprefix(part.prefix): value for key, value in state.items() if key.startswith(part.prefix)})
        folder.mkdir(parents=True, exist_ok=True)
        save_network(folder / name, network, metadata, without=part.without)
    known = load_checkpoint(folder, need=()).settings if (folder / "model.json").exists() else {}
    kept = {name: said for name, said in known.items() if name not in module.parts()}
    save_settings(folder, {**kept, **settings})


def trained_network(folder: str | Path, name: str) -> nn.Module:
    """A network that an earlier stage has exported.

    Raises:
        CheckpointError: it is not there, with the command that makes it, or its files do not fit.
    """
    folder = Path(folder)
    if not (folder / f"{name}.json").exists():
        raise CheckpointError(
            f"{folder}: no {name} network yet; train it first: drivesim train experiment=PRESET/{STAGES[name]} out={folder} (same PRESET)"
        )
    return load_network(folder / name)


def trained_detector(folder: str | Path | None) -> nn.Module | None:
    """The box detector that was trained into ``folder``, "teacher" = the one inside the package; None where no folder is named.

    Raises:
        CheckpointError: it is not there, with the command that makes it, or its files do not fit.
    """
    if folder is None:
        return None
    path = (WEIGHTS / "detector_teacher" if folder == TEACHER else Path(folder)) / "detector"
    if not path.with_suffix(".json").exists():
        raise CheckpointError(f"{folder}: no detector yet; train it first: drivesim train experiment=PRESET/detector out={folder}")
    return load_network(path)


def trained_video_autoencoder(folder: str | Path, levels: int = 2, kernel: int = 1) -> nn.Module:
    """The autoencoder of ``folder`` with a temporal decoder: as it is if it has one, else with new layers that change nothing yet.

    An identity autoencoder (pixel-space diffusion) stays as it is.
    """
    autoencoder = trained_network(folder, "autoencoder")
    if autoencoder.receptive_frames or not hasattr(autoencoder, "with_temporal"):
        return autoencoder
    return autoencoder.with_temporal(levels, kernel)  # type: ignore[operator]
