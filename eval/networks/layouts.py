"""State dicts that are not ours: other projects' names of tensors, complete or refused, and a hash over what is in them.

This file knows names, shapes and bytes; it does not know files, nor what a network computes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

from drivesim.errors import DrivesimError

__all__ = ["LAYOUTS", "WeightsError", "adapted", "weights_hash"]

COUNTER = "num_batches_tracked"
"""Training-time counters of batch normalisation: they decide no feature, and older files do not hold them."""


class WeightsError(DrivesimError):
    """Published weights that are missing or must not be used: the message names the file and the mend."""


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors in order of name; counters of batches left out."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state if not name.endswith(COUNTER)):
        values = state[name].detach().cpu()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def adapted(state: Mapping[str, Any], network: nn.Module, source: str) -> dict[str, Tensor]:
    """A foreign state dict under the network's own names, complete, of its shapes and types.

    Known layouts: the network's own names, and for I3D those of hassony2/kinetics_i3d_pytorch. Missing counters of batches become 0.

    source: what the message calls the file.

    Raises:
        WeightsError: no known layout; names missing or left over (both are listed); a tensor of another shape.
    """
    wanted = network.state_dict()
    candidates = ({rename(name): value for name, value in state.items()} for rename in LAYOUTS)
    renamed = max(candidates, key=lambda named: len(named.keys() & wanted.keys()))
    if not renamed.keys() & wanted.keys():
        raise WeightsError(f"{source}: unknown layout, its tensors are called {_some(state)}; use one of the published files")
    renamed = {name: value for name, value in wanted.items() if name.endswith(COUNTER)} | renamed
    _refuse_partial(renamed.keys(), wanted.keys(), source)
    for name, value in renamed.items():
        if not isinstance(value, Tensor) or value.shape != wanted[name].shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise WeightsError(f"{source}: {name} is {found}, the network needs {tuple(wanted[name].shape)}; download the file again")
    return {name: renamed[name].detach().to("cpu", wanted[name].dtype).contiguous().clone() for name in wanted}


def _refuse_partial(found: Set[str], wanted: Set[str], source: str) -> None:
    lists = (("lacks", sorted(wanted - found)), ("has left over", sorted(found - wanted)))
    parts = [f"{word} {_some(names)}" for word, names in lists if names]
    if parts:
        raise WeightsError(f"{source}: {' and '.join(parts)}, and weights are never loaded in part; download the file again")


def _own(name: str) -> str:
    return name


def _hassony2(name: str) -> str:
    """``mixed_3b.branch_1.0.batch3d.bias`` -> ``Mixed_3b.b1a.bn.bias``."""
    name = name.replace("conv3d_0c_1x1.", "logits.").replace(".batch3d.", ".bn.").replace(".branch_0.", ".b0.")
    name = re.sub(r"\.branch_([123])\.([01])\.", lambda found: f".b{found[1]}{'ab'[int(found[2])]}.", name)
    return re.sub(r"^(conv3d|mixed)_", lambda found: f"{found[1].capitalize()}_", name)


LAYOUTS: tuple[Callable[[str], str], ...] = (_own, _hassony2)


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
