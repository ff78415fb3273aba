"""A call that is only pretended: how many floating-point operations it is, and how many bytes of tensors it keeps alive at once.

Pretended means on the meta device, where tensors have shapes and no content. A multiplication and an addition are two operations. This file
does not know what is called.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Call", "trace"]

HEAVY = (nnf.conv2d, nnf.conv3d, nnf.linear, nnf.scaled_dot_product_attention)


@dataclass(frozen=True)
class Call:
    """flop: floating-point operations. live: bytes of the largest set of tensors alive at once, weights apart."""

    flop: float
    live: int


def trace(call: Callable[[], Any], precision: str = "float32") -> Call:
    """Run ``call`` on the meta device.

    precision: in which convolutions, linear layers and attention work; the networks' weights must have it already (see ``accelerate``).
    """
    counter, live, work = FlopCounterMode(display=False), _Live(), _Working(precision)
    with torch.inference_mode(), torch.device("meta"), counter, live, work:
        call()
    return Call(float(counter.get_total_flops()) + work.flop, live.peak)


class _Live(TorchDispatchMode):
    """Bytes of all storages that operations have made and nobody has let go of. A view of something older is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        older = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in older:
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _Working(TorchFunctionMode):
    """What autocast does, which knows no meta device; and attention as one operation, which keeps no table of weights."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.dtype: torch.dtype = getattr(torch, precision)
        self.flop = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HEAVY:
            args = tuple(value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value for value in args)
        if func is not nnf.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        self.flop += 2.0 * query.numel() * key.shape[-2] + 2.0 * query[..., 0].numel() * value.shape[-2] * value.shape[-1]
        return query.new_empty(*query.shape[:-1], value.shape[-1])
