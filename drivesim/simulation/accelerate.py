"""Make a network ready to be run, not trained: memory layout, number format, compilation. Values stay the same but for rounding.

Convolutions and linear layers hold their weights in the chosen format and work in it; norms, embeddings and everything outside the network
stay float32, as in mixed-precision training. This file does not know what a network computes.
"""

from __future__ import annotations

import copy
import types
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.errors import UsageError
from drivesim.models.autoencoder import Autoencoder

__all__ = ["COMPILE", "PRECISIONS", "accelerate", "check_choices"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COMPILE = ("none", "default", "reduce-overhead", "max-autotune")
HEAVY = (nn.Conv2d, nn.Conv3d, nn.Linear)


def check_choices(group: str, precision: str, compile: str) -> None:
    """Raises UsageError for a precision or a compile mode that there is not."""
    for name, value, known in (("precision", precision, tuple(PRECISIONS)), ("compile", compile, COMPILE)):
        if value not in known:
            raise UsageError(f"{group}.{name} must be one of {', '.join(known)}, not {value!r}")


def accelerate(network: nn.Module, precision: str = "float32", compile: str = "none") -> nn.Module:
    """The network frozen for evaluation: itself, or a copy where its numbers or calls are other ones.

    Args:
        network: a U-Net or an autoencoder; move it to its device afterwards.
        precision: of PRECISIONS; what comes out is float32 all the same.
        compile: of COMPILE: torch.compile's mode, or none.
    """
    plain = precision == "float32" and compile == "none"
    network = (network if plain else copy.deepcopy(network)).eval().requires_grad_(False)
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    for part in _entrances(network):
        if precision != "float32":
            _lower(part, PRECISIONS[precision])
        if compile != "none":
            part.compile(mode=None if compile == "default" else compile)
    return network


def _entrances(network: nn.Module) -> list[nn.Module]:
    """The modules that are called from outside."""
    return [network.encoder, network.decoder] if isinstance(network, Autoencoder) else [network]


def _lower(part: nn.Module, dtype: torch.dtype) -> None:
    for module in part.modules():
        if isinstance(module, HEAVY):
            module.to(dtype)
    part.forward = types.MethodType(_autocast, part)  # type: ignore[method-assign]


def _autocast(part: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    device, dtype = next((weight.device.type, weight.dtype) for weight in part.parameters() if weight.dtype != torch.float32)
    with torch.autocast(device, dtype):
        result: Tensor = type(part).forward(part, *args, **kwargs)
    return result.float()
