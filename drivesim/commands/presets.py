"""The networks of a preset as its training configurations describe them, untrained: to be counted, measured or written down.

Networks that a stage takes over from an earlier one are copies of what that stage builds. On the meta device they cost no memory, whatever
their size. This file joins configurations and recipes; it does not train.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from drivesim.commands.config import CONFIG_MODULE, choices, compose
from drivesim.diffusion.objective import DiffusionObjective
from drivesim.io.checkpoints import FAST, NETWORKS, UPSAMPLERS
from drivesim.models.video_unet import FrameByFrame
from drivesim.recipes import build

__all__ = ["DECODER", "Untrained", "untrained"]

DECODER = "5_decoder"
ORDER = tuple(dict.fromkeys([*NETWORKS.values(), *FAST.values(), DECODER, *UPSAMPLERS.values()]))
FOREIGN = {"drivesim.training.export.trained_network", "drivesim.training.export.trained_video_autoencoder"}


@dataclass
class Untrained:
    """A preset's networks by stage, and what its model.json would say. ``networks``: by the names of a checkpoint folder."""

    stages: dict[str, nn.Module] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def untrained(preset: str, device: torch.device | str = "meta", words: Sequence[str] = ()) -> Untrained:
    """Build every stage that ``preset`` has, on ``device``. words: ``key=value`` overrides for all of them.

    Raises:
        UsageError: there is no such preset or key.
    """
    made, known = Untrained(), choices("experiment")
    compose("train", [f"preset={preset}", *words])  # what there is not is answered here, with the nearest name
    for stage in (stage for stage in ORDER if f"{preset}/{stage}" in known):
        config = _composed(f"{preset}/{stage}", words)
        with torch.device(device):
            network = _network(config, made.networks)
        made.stages[stage] = network
        name, image = (config.module.get(key) for key in ("part", "image_part"))
        made.networks[name or "autoencoder"] = network.image if isinstance(network, FrameByFrame) else network
        if image:
            made.networks.setdefault(image, network.get_submodule("image"))
        made.settings |= _plain(config.callbacks.export.preset) | _told(config)
    return made


def _composed(experiment: str, words: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return hydra.compose("train", [f"experiment={experiment}", "data=[none]", "out=none", *words])


def _network(config: DictConfig, earlier: Mapping[str, nn.Module]) -> nn.Module:
    node = _plain(config.module)
    network = build(_taken_over(node.get("network", node.get("autoencoder")), earlier))
    assert isinstance(network, nn.Module)
    return network


def _taken_over(node: Any, earlier: Mapping[str, nn.Module]) -> Any:
    """``node`` with copies of earlier networks where it asks for trained ones."""
    if not isinstance(node, dict):
        return node
    if node.get("_target_") not in FOREIGN:
        return {name: _taken_over(value, earlier) for name, value in node.items()}
    network = copy.deepcopy(earlier[node.get("name", "autoencoder")])
    return network.with_temporal(node["levels"], node["kernel"]) if "levels" in node else network  # type: ignore[operator]


def _told(config: DictConfig) -> dict[str, Any]:
    """The noise that a diffusion stage learns, as its export would say it."""
    node = _plain(config.module)
    if "objective" not in node:
        return {}
    objective = build(node["objective"])
    assert isinstance(objective, DiffusionObjective)
    said = objective.described()
    if "lessons" in node:
        said |= build(node["lessons"]).described(taught=node.get("teacher") is not None)
        frozen = node["frozen"] == "spatial" and node.get("unfreeze_at_step") is None  # then the image network is an earlier one
        return {node[key]: said for key in ("part", *(() if frozen else ("image_part",))) if node.get(key)}
    return {node["told"]: said} if node.get("told") else {name: said[name] for name in ("schedule", "parameterization")}


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}
